"""Memory of the critiques' loss: chunked against full logits.

    python bench/language_loss.py [--tokens 4096] [--vocabulary 151936] [--hidden 256]

Each form runs in a process of its own, forward and backward; printed is the peak of resident memory above what stood
before it, less one gradient of the weight, which any form computes.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time

import torch
import torch.nn.functional as F

from lit_basereward.losses.language import chunked_cross_entropy


def measure(form: str, tokens: int, vocabulary: int, hidden: int) -> None:
    """One form, once; prints its peak in MiB, its time in seconds and its loss."""
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(tokens, hidden, generator=generator, requires_grad=True)
    weight = torch.nn.Parameter(torch.randn(vocabulary, hidden, generator=generator) * 0.02)
    targets = torch.randint(vocabulary, (tokens,), generator=generator)
    weight.grad = torch.zeros_like(weight)
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    if form == "full":
        loss = F.cross_entropy(states @ weight.T, targets)
    else:
        loss = chunked_cross_entropy(states, weight, targets).mean()
    loss.backward()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - before / 1024 - weight.numel() * 4 / 2**20
    print(f"{peak:.0f} {time.perf_counter() - started:.1f} {loss.item():.6f}")


def main() -> None:
    """Run both forms and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--vocabulary", type=int, default=151_936)
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--form", choices=("full", "chunked"))
    given = parser.parse_args()
    sizes = [given.tokens, given.vocabulary, given.hidden]
    if given.form:
        measure(given.form, *sizes)
        return
    logits = given.tokens * given.vocabulary * 4 / 2**20
    print(f"{given.tokens} tokens, {given.vocabulary} words: logits in float32 are {logits:.0f} MiB")
    names = ("--tokens", "--vocabulary", "--hidden")
    options = [part for pair in zip(names, map(str, sizes), strict=True) for part in pair]
    for form in ("full", "chunked"):
        command = [sys.executable, __file__, "--form", form, *options]
        peak, seconds, loss = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
        print(f"{form:8} peak {peak:>6} MiB ({float(peak) / logits:.1%} of the logits), {seconds} s, loss {loss}")


if __name__ == "__main__":
    main()
