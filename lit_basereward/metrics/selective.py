"""What is gained by answering only where the model is confident.

Shape legend: C comparisons.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat


def risk_coverage(confidence: Tensor, correct: Tensor) -> tuple[Tensor, Tensor, float]:
    """Error rate among the most confident comparisons, for every share of them (El-Yaniv & Wiener 2010).

    The area under the curve (AURC) is the mean of the risk over all C coverages (Geifman et al. 2019): between 0 and 1,
    lower is better, and the error rate itself where confidence says nothing. Comparisons of equal confidence come in
    together, each with their common error rate: the mean over all their orders, so that the order of the input never
    matters.

    Args:
        confidence: [C] such as ``|margin|``; any number that grows with confidence.
        correct: [C] true or 1 where the comparison is right.

    Returns:
        ``(coverage, risk, aurc)``: [C] float64 each, coverage being 1/C, 2/C, ..., 1, and the area; NaN without
        comparisons.

    Raises:
        ValueError: if a confidence is NaN or the shapes differ.

    Example:
        >>> coverage, risk, aurc = risk_coverage(torch.tensor([0.1, 3.0]), torch.tensor([False, True]))
        >>> coverage.tolist(), risk.tolist(), aurc
        ([0.5, 1.0], [0.0, 0.5], 0.25)
    """
    if confidence.shape != correct.shape or confidence.dim() != 1:
        raise ValueError(f"confidence {tuple(confidence.shape)} and correct {tuple(correct.shape)} must be [C] both")
    if confidence.isnan().any():
        raise ValueError("confidence holds NaN, which has no place in an order; give 0 where there is none")
    # blocks of equal confidence, the highest first
    _, block, size = torch.unique(-confidence.detach().cpu(), return_inverse=True, return_counts=True)
    errors = torch.bincount(block, weights=1 - correct.cpu().double(), minlength=len(size))
    steps = torch.arange(1, len(block) + 1, dtype=torch.float64)
    risk = (errors / size).repeat_interleave(size).cumsum(0) / steps
    return steps / len(block), risk, float(risk.mean())


def error_auroc(uncertainty: Tensor, correct: Tensor) -> float:
    """How well an uncertainty tells errors: how often it is higher in a wrong comparison than in a right one.

    Ties count half (the rank statistic of Mann and Whitney); 0.5 is chance.

    Args:
        uncertainty: [C] any number that grows with doubt, such as the disagreement of an ensemble's members.
        correct: [C] true or 1 where the comparison is right.

    Returns:
        NaN where all are right, or all wrong.

    Raises:
        ValueError: if an uncertainty is NaN or the shapes differ.

    Example:
        >>> error_auroc(torch.tensor([0.1, 0.4, 0.4, 0.9]), torch.tensor([True, True, False, False]))
        0.875
    """
    if uncertainty.shape != correct.shape or uncertainty.dim() != 1:
        raise ValueError(f"uncertainty {tuple(uncertainty.shape)} and correct {tuple(correct.shape)} must be [C] both")
    if uncertainty.isnan().any():
        raise ValueError("uncertainty holds NaN, which has no place in an order; leave such comparisons out")
    _, place, size = torch.unique(uncertainty.detach().cpu(), return_inverse=True, return_counts=True)
    rank = (size.double().cumsum(0) - (size.double() - 1) / 2)[place]  # from 1, equal values share theirs
    wrong = ~correct.cpu().bool()
    num, others = int(wrong.sum()), int((~wrong).sum())
    if not num or not others:
        return float("nan")
    return float((rank[wrong].sum() - num * (num + 1) / 2) / (num * others))


class AreaUnderRiskCoverage(Metric):
    """AURC over all comparisons seen, on all devices: the module twin of :func:`risk_coverage`, for margins.

    Confidence is ``|margin|``, and a comparison is right where its margin is above 0. NaN before the first comparison.

    Example:
        >>> metric = AreaUnderRiskCoverage()
        >>> metric.update(torch.tensor([-0.1]))
        >>> metric.update(torch.tensor([3.0]))
        >>> metric.compute()
        tensor(0.2500)
    """

    is_differentiable = False
    higher_is_better = False
    full_state_update = False

    margins: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.add_state("margins", [], dist_reduce_fx="cat")

    def update(self, margins: Tensor) -> None:
        """Add a batch of margins, [C], better minus worse."""
        self.margins.append(margins)

    def compute(self) -> Tensor:
        """The area, a scalar."""
        margins = dim_zero_cat(self.margins) if len(self.margins) else torch.zeros(0)
        return torch.tensor(risk_coverage(margins.abs(), margins > 0)[2], device=self.device)
