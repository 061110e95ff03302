"""Processor time of scoring a row, paradigm by paradigm, on the demo's validation rows.

    python bench/paradigms.py runs/demo/checkpoints/best.ckpt runs/demo_critic/checkpoints/best.ckpt ...

One thread, batches of 16 rows that are prepared before; the better of two rounds.
"""

from __future__ import annotations

import sys
import time

import torch

import lit_basereward
from lit_basereward.demo import Digits, Scenes, Sums

ROWS = 80


def measure(path: str) -> None:
    """Milliseconds of processor time a row, source by source."""
    scorer = lit_basereward.load(path, device="cpu")
    for kind in (Digits, Scenes, Sums):
        source = kind("val")
        rows = [source[i] for i in range(0, len(source), len(source) // ROWS)][:ROWS]
        batches = [scorer.collator(list(enumerate(rows[i : i + 16]))) for i in range(0, ROWS, 16)]
        best = float("inf")
        with torch.no_grad():
            scorer.module.score(batches[0])
            for _ in range(2):
                started = time.process_time()
                for batch in batches:
                    scorer.module.score(batch)
                best = min(best, time.process_time() - started)
        print(f"{type(scorer.module).__name__:14} {source.name:8} {1000 * best / ROWS:6.2f} ms a row", flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    for each in sys.argv[1:]:
        measure(each)
