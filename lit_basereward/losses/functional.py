"""The arithmetic of ranking losses as pure functions.

Shape legend: N responses, C comparisons or ties.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def _same_row(row: Tensor) -> tuple[Tensor, Tensor]:
    """All ordered pairs of responses of one row, a response with itself included, in row-major order.

    The sum over rows of K^2 entries and nothing else, so that a whole evaluation set fits.
    """
    if (row[1:] < row[:-1]).any():
        raise ValueError("row must be ascending; sort rewards, ratings and row by it")
    _, place, size = torch.unique_consecutive(row, return_inverse=True, return_counts=True)
    start = size.cumsum(0) - size  # [rows] first response of each row
    partners = size[place]  # [N] how many pairs each response comes first in
    first = torch.arange(len(row), device=row.device).repeat_interleave(partners)
    nth = torch.arange(len(first), device=row.device) - (partners.cumsum(0) - partners)[first]
    return first, start[place[first]] + nth


def comparisons(row: Tensor, ratings: Tensor) -> tuple[Tensor, Tensor]:
    """Strictly ordered pairs of responses inside each row; a NaN rating is in none.

    Args:
        row: [N] row of each response, ascending.
        ratings: [N] higher is better, NaN is unrated.

    Returns:
        ``(better, worse)``, [C] each: positions in ``ratings``, row by row, by ``better``, then by ``worse``.

    Raises:
        ValueError: if ``row`` is not ascending.

    Example:
        >>> better, worse = comparisons(torch.tensor([0, 0, 1, 1, 1]), torch.tensor([0.0, 1.0, 3.0, 2.0, 2.0]))
        >>> better.tolist(), worse.tolist()
        ([1, 2, 2], [0, 3, 4])
    """
    first, second = _same_row(row)
    ordered = ratings[first] > ratings[second]
    return first[ordered], second[ordered]


def ties(row: Tensor, ratings: Tensor) -> tuple[Tensor, Tensor]:
    """Pairs ``(i, j)``, ``i < j``, of responses of one row with equal ratings; a NaN rating is in none.

    Args and order are those of :func:`comparisons`.

    Example:
        >>> i, j = ties(torch.tensor([0, 0, 1, 1, 1]), torch.tensor([0.0, 1.0, 3.0, 2.0, 2.0]))
        >>> i.tolist(), j.tolist()
        ([3], [4])
    """
    first, second = _same_row(row)
    equal = (ratings[first] == ratings[second]) & (first < second)
    return first[equal], second[equal]


def bradley_terry(better: Tensor, worse: Tensor, margin: Tensor | float = 0.0, label_smoothing: float = 0.0) -> Tensor:
    """Negative log likelihood of each comparison (the paper's loss; margin and smoothing are not in it).

    With ``d = better - worse - margin`` it is ``-(1 - s) * log sigmoid(d) - s * log sigmoid(-d)``: ``s`` is the
    probability that a label is the wrong way round.

    Args:
        better: [C] rewards of the better responses.
        worse: [C] rewards of the worse ones.
        margin: [C] or a number: by how much better must be ahead.
        label_smoothing: ``s``.

    Returns:
        [C] losses.

    Example:
        >>> bradley_terry(torch.tensor([0.0, 1.0]), torch.tensor([0.0, 0.0]))
        tensor([0.6931, 0.3133])
    """
    difference = better - worse - margin
    return -(1 - label_smoothing) * F.logsigmoid(difference) - label_smoothing * F.logsigmoid(-difference)


def length_normalise(rewards: Tensor, lengths: Tensor) -> Tensor:
    """Rewards divided by ``log(length + 1)`` (paper, Figure 1; natural logarithm our choice).

    Args:
        rewards: [N]
        lengths: [N] response tokens, end-of-turn included, at least 1.

    Returns:
        [N]
    """
    return rewards / torch.log1p(lengths.to(rewards.dtype))
