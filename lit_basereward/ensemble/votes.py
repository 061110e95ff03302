"""Arithmetic of members' scores, of which some are not there because their member does not vote.

Shape legend: M members, N responses.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

Pairs = tuple[Tensor, Tensor]
"""``(better, worse)``, [C] each: positions of the responses that are compared."""


def weighted_mean(scores: Tensor, weights: Tensor) -> Tensor:
    """Mean over the members that vote.

    Args:
        scores: [M, N] NaN where a member does not vote.
        weights: [M] not negative.

    Returns:
        [N] float64. A member that does not vote leaves no trace: bit for bit the mean of the others.

    Raises:
        ValueError: if nobody votes on a response, or nobody whose weight is above 0.
    """
    votes = ~scores.isnan()
    weight = weights.to(scores.device, torch.float64)[:, None] * votes
    total = weight.sum(0)
    if not (total > 0).all():
        raise ValueError("a response has no vote with a weight above 0; look at the routes, or leave out such members")
    return (torch.where(votes, scores.double(), 0.0) * weight).sum(0) / total


def disagreement(scores: Tensor) -> Tensor:
    """Standard deviation over the members that vote, of the population: 0 for one voter.

    Args:
        scores: [M, N] NaN where a member does not vote.

    Returns:
        [N] float64.
    """
    mean = weighted_mean(scores, torch.ones(len(scores)))
    return weighted_mean((scores.double() - mean) ** 2, torch.ones(len(scores))).sqrt()


def voted_on(scores: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
    """What each member gave the responses that it votes on, float64."""
    found = {name: each[~each.isnan()].double() for name, each in zip(names, scores, strict=True)}
    for name, each in found.items():
        if not len(each):
            raise ValueError(f"member {name!r} votes on none of the held-out rows; give rows that it votes on")
    return found


def all_pairs(rows: Sequence[Sequence[tuple[int, int]]], sizes: Sequence[int]) -> Pairs:
    """Pairs of each row as pairs of all rows together.

    Args:
        rows: ``(better, worse)`` pairs of positions in each row.
        sizes: how many responses each row has.
    """
    starts = itertools.accumulate(sizes, initial=0)
    found = [(start + i, start + j) for start, pairs in zip(starts, rows, strict=False) for i, j in pairs]
    better, worse = torch.tensor(found, dtype=torch.long).reshape(-1, 2).unbind(1)
    return better, worse


def held_out_margins(scores: Tensor, pairs: Pairs, names: Sequence[str]) -> list[Tensor]:
    """Better less worse in the comparisons that each member votes on, float64."""
    better, worse = pairs
    found = []
    for name, each in zip(names, scores.double(), strict=True):
        margins = each[better] - each[worse]
        found.append(margins[~margins.isnan()])
        if not len(found[-1]):
            raise ValueError(f"member {name!r} votes on no comparison of the held-out rows; give rows that it votes on")
    return found
