"""Attention alone at K = 16: one shared prompt against sixteen padded sequences, forward and backward.

    python bench/attention.py [--threads 2] [--repeats 7]

`padded` is SDPA over [16, prompt + longest response] with the mask that padding needs, and the causal kernel without a
mask where all responses have one length; the faster counts. `shared` is `branch_attention`. Medians, runs interleaved.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
import torch.nn.functional as F

from lit_basereward.nn.attention import branch_attention
from lit_basereward.nn.layout import Layout

HEADS, KEY_HEADS, DIM, K = 8, 4, 64, 16


def padded(prompt: int, lengths: list[int]):
    """A closure that runs padded attention forward and backward."""
    longest = prompt + max(lengths)
    q, k, v = (torch.randn(K, h, longest, DIM, requires_grad=True) for h in (HEADS, KEY_HEADS, KEY_HEADS))
    real = torch.arange(longest) < (prompt + torch.tensor(lengths))[:, None]
    mask = None
    if len(set(lengths)) > 1:
        mask = (real[:, None] & torch.ones(longest, longest, dtype=torch.bool).tril())[:, None]
        mask |= torch.eye(longest, dtype=torch.bool)

    def run() -> None:
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None, enable_gqa=True)
        out.sum().backward()

    return run


def shared(prompt: int, lengths: list[int]):
    """A closure that runs branch attention forward and backward."""
    layout = Layout.shared_prefix([prompt], lengths, [0] * K)
    q, k, v = (torch.randn(layout.num_tokens, h, DIM, requires_grad=True) for h in (HEADS, KEY_HEADS, KEY_HEADS))
    return lambda: branch_attention(q, k, v, layout).sum().backward()


def seconds(run) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=7)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    print(f"K = {K}, {HEADS} heads of {DIM}, {args.threads} threads, torch {torch.__version__}, ms")
    print(f"{'prompt':>7}{'responses':>14}{'padded':>9}{'shared':>9}{'ratio':>8}")
    for prompt in (16, 128, 512, 1024):
        for low, high in ((8, 8), (64, 64), (32, 256), (256, 256)):
            lengths = torch.randint(low, high + 1, (K,)).tolist()
            ways = padded(prompt, lengths), shared(prompt, lengths)
            times = [[seconds(way) for way in ways] for _ in range(args.repeats + 1)][1:]
            a, b = (statistics.median(column) * 1e3 for column in zip(*times, strict=True))
            print(f"{prompt:>7}{f'{low} to {high}':>14}{a:>9.1f}{b:>9.1f}{a / b:>8.2f}")


if __name__ == "__main__":
    main()
