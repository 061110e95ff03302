"""How often the better response gets the higher reward, and whether rewards follow length.

Shape legend: R rows, N responses.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torchmetrics import Metric

from lit_basereward.losses.functional import comparisons


def pair_accuracy_by_row(rewards: Tensor, row: Tensor, ratings: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Right, tied and all comparisons of each row; what :func:`accuracy_interval` needs.

    A comparison is right when the better response scores strictly higher. Equal rewards, and NaN, are wrong.

    Args:
        rewards: [N]
        row: [N] row of each response, ascending, numbered from 0.
        ratings: [N] higher is better, NaN is unrated.

    Returns:
        ``(correct, ties, total)``, [R] each. ``ties`` counts equal rewards, which are wrong, too.

    Example:
        >>> rewards, ratings = torch.tensor([2.0, 1.0, 0.5, 0.5, 0.0]), torch.tensor([1.0, 0.0, 2.0, 1.0, 0.0])
        >>> pair_accuracy_by_row(rewards, torch.tensor([0, 0, 1, 1, 1]), ratings)
        (tensor([1, 2]), tensor([0, 1]), tensor([1, 3]))
    """
    better, worse = comparisons(row, ratings)
    num_rows = int(row[-1]) + 1 if len(row) else 0

    def per_row(chosen: Tensor) -> Tensor:
        return torch.bincount(row[better[chosen]], minlength=num_rows)

    right, tied = rewards[better] > rewards[worse], rewards[better] == rewards[worse]
    return per_row(right), per_row(tied), per_row(torch.ones_like(right))


def pair_accuracy(rewards: Tensor, row: Tensor, ratings: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Right, tied and all comparisons; args and rules are those of :func:`pair_accuracy_by_row`.

    Returns:
        ``(correct, ties, total)``, scalars; the accuracy is ``correct / total``.

    Example:
        >>> rewards, ratings = torch.tensor([2.0, 1.0, 0.5, 0.5, 0.0]), torch.tensor([1.0, 0.0, 2.0, 1.0, 0.0])
        >>> correct, ties, total = pair_accuracy(rewards, torch.tensor([0, 0, 1, 1, 1]), ratings)
        >>> int(correct), int(ties), int(total)
        (3, 1, 4)
    """
    correct, ties, total = pair_accuracy_by_row(rewards, row, ratings)
    return correct.sum(), ties.sum(), total.sum()


class PairAccuracy(Metric):
    """Accuracy over all comparisons seen, on all devices: the module twin of :func:`pair_accuracy`.

    NaN before the first comparison. The counts are attributes: ``correct``, ``ties`` and ``total``.

    Example:
        >>> metric = PairAccuracy()
        >>> metric.update(torch.tensor([2.0, 1.0]), torch.tensor([0, 0]), torch.tensor([1.0, 0.0]))
        >>> metric.update(torch.tensor([1.0, 1.0]), torch.tensor([0, 0]), torch.tensor([1.0, 0.0]))
        >>> metric.compute()
        tensor(0.5000)
        >>> metric.ties
        tensor(1)
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    correct: Tensor
    ties: Tensor
    total: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name in ("correct", "ties", "total"):
            self.add_state(name, torch.tensor(0), dist_reduce_fx="sum")

    def update(self, rewards: Tensor, row: Tensor, ratings: Tensor) -> None:
        """Add a batch; args are those of :func:`pair_accuracy`."""
        correct, ties, total = pair_accuracy(rewards, row, ratings)
        self.correct += correct
        self.ties += ties
        self.total += total

    def compute(self) -> Tensor:
        """Right comparisons over all comparisons."""
        return self.correct / self.total


def reward_length_correlation(rewards: Tensor, lengths: Tensor) -> float:
    """Pearson's correlation of rewards and response lengths: does the model reward length?

    Args:
        rewards: [N]
        lengths: [N] response tokens.

    Returns:
        -1 to 1; NaN for fewer than two responses, for constant rewards or lengths, and for NaN among them.

    Example:
        >>> round(reward_length_correlation(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([10, 20, 30])), 6)
        1.0
        >>> reward_length_correlation(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([10, 10, 10]))
        nan
    """
    # Constancy is asked of the values: the variance of equal numbers can come out as rounding noise.
    if len(rewards) < 2 or any(bool((values == values[0]).all()) for values in (rewards, lengths)):
        return math.nan
    x, y = (values.double() - values.double().mean() for values in (rewards, lengths))
    correlation = float((x @ y) / (x.norm() * y.norm()))
    return correlation if math.isnan(correlation) else max(-1.0, min(1.0, correlation))
