"""Learning-rate schedule, one value per optimizer step."""

from __future__ import annotations

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


class WarmupCosine(LambdaLR):
    """Linear warm-up, then a cosine to ``floor`` (our choice; the paper states the peak rate alone).

    Args:
        optimizer: whose rates are scaled.
        total_steps: optimizer steps of the whole run.
        warmup: share of the steps that warm up.
        floor: last factor on the peak rate.
    """

    def __init__(self, optimizer: Optimizer, total_steps: int, warmup: float = 0.05, floor: float = 0.0) -> None:
        if not 0 <= warmup < 1:
            raise ValueError(f"warmup is a share of the steps, 0 <= warmup < 1, not {warmup}")
        warmup_steps = round(warmup * total_steps)

        def factor(step: int) -> float:
            if step < warmup_steps:
                return (step + 1) / (warmup_steps + 1)
            progress = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
            return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress))

        super().__init__(optimizer, factor)
