"""What each member gave the responses of a batch, as the evidence that stands beside the rewards."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def members_by_row(
    scores: Tensor, row: Tensor, names: Sequence[str], judges: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """Evidence of each row: ``{"members": {name: rewards of its responses}}`` of those that vote on it.

    Args:
        scores: [M, N] NaN where a member does not vote; float32 is told in 9 digits, float64 as it is.
        row: [N] row of each response, ascending.
        names: of the members.
        judges: those whose scores mean something inside their row only; told where there are any.
    """
    told = {"judges": list(judges)} if judges else {}
    sizes, digits = torch.bincount(row).tolist(), 9 if scores.dtype == torch.float32 else 17
    return [
        {
            "members": {
                name: [float(f"{value:.{digits}g}") for value in each.tolist()]
                for name, each in zip(names, part, strict=True)
                if not each.isnan().any()
            },
            **told,
        }
        for part in scores.cpu().split(sizes, dim=1)
    ]
