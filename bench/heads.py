"""What several heads on one backbone cost beside one: seconds of a training step, the same batches, interleaved.

    python bench/heads.py [--json FILE] [--heads 4] [--pairs 8] [--repeats 9]

A step is forward, loss of each head, backward, clipping and AdamW's step. Seconds are those of the processor at one
thread, so that other work on the machine counts little; the order of the two changes from step to step.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
import warnings
from functools import partial
from pathlib import Path

import torch
from train_throughput import make_rows, write_backbone

from lit_basereward.data.batch import Batch, StepCounts
from lit_basereward.modules.naive import NaiveRM
from lit_basereward.nn.backbone import Backbone
from lit_basereward.nn.heads import HeadFactory, MLPHead, MultiHead

TARGET = 1.1


def make(folder: Path, head: HeadFactory) -> tuple[NaiveRM, torch.optim.Optimizer]:
    """The tiny Qwen2.5-VL of the training comparison, everything trainable."""
    torch.manual_seed(0)
    module = NaiveRM(Backbone(str(folder), init="random", freeze=[], max_length=4096), head=head)
    module.configure_model()
    return module, torch.optim.AdamW(module.parameters(), lr=1e-5)


def step(module: NaiveRM, optimizer: torch.optim.Optimizer, batch: Batch) -> float:
    """Seconds of one step."""
    start = time.process_time()
    optimizer.zero_grad()
    loss, _ = module.loss(batch)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
    optimizer.step()
    return time.process_time() - start


def main() -> None:
    """Measure and print the ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="also write the figures there")
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--pixels", type=int, default=280)
    parser.add_argument("--pairs", type=int, default=8, help="comparisons of the step")
    parser.add_argument("--repeats", type=int, default=9)
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    with tempfile.TemporaryDirectory() as name:
        write_backbone(Path(name))
        models = [make(Path(name), head) for head in (MLPHead, partial(MultiHead, num_heads=args.heads))]
        rows = make_rows(args.pairs, 2, args.pixels, ranked=True)
        counts = StepCounts(rows=len(rows), comparisons=args.pairs)
        batch = models[0][0].collator(training=True)(list(enumerate(rows)), counts)
        for model in models:  # warm
            step(*model, batch)
        seconds: list[list[float]] = [[], []]
        for n in range(args.repeats):
            for m in (n % 2, 1 - n % 2):
                seconds[m].append(step(*models[m], batch))
    ratios = [several / one for one, several in zip(*seconds, strict=True)]
    medians = [statistics.median(each) for each in seconds]
    print(f"{args.pairs} pairs, {args.pixels} px, one thread, load {os.getloadavg()[0]:.1f}")
    print(f"one head {medians[0]:.4f} s, {args.heads} heads {medians[1]:.4f} s a step")
    print(f"ratio of each round {', '.join(f'{r:.3f}' for r in ratios)}")
    print(f"ratio: median {statistics.median(ratios):.3f} (target <= {TARGET})")
    if args.json:
        args.json.write_text(json.dumps({"seconds": seconds, "ratios": ratios}, indent=2) + "\n")


if __name__ == "__main__":
    main()
