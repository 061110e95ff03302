"""Confidence interval of an accuracy whose comparisons come in rows."""

from __future__ import annotations

import math
from statistics import NormalDist

from torch import Tensor


def accuracy_interval(correct: Tensor, total: Tensor, level: float = 0.95) -> tuple[float, float, float]:
    """Accuracy over comparisons and its confidence interval: Wilson's, on an effective number of comparisons.

    Comparisons of one row share its prompt, its images and most of its responses, so they count as fewer than n
    independent ones. With R rows that have m_r comparisons, c_r of them right, n = sum of m_r and p = sum of c_r / n:

    - the variance of p, with rows as clusters (the linearised ratio estimator; Cochran, "Sampling Techniques", ch. 6):
      V = R / (R - 1) * sum of (c_r - p m_r)^2 / n^2
    - the design effect (Kish), V over the variance of independent comparisons:
      deff = max(1, V / (p (1 - p) / (n - 1))), exactly 1 for pairs (all m_r = 1), and never below: our choice
    - the effective number: n_eff = n / deff
    - Wilson's interval (1927), z the normal quantile of the level:
      (p + z^2 / (2 n_eff) ± z sqrt(p (1 - p) / n_eff + z^2 / (4 n_eff^2))) / (1 + z^2 / n_eff)

    Where V says nothing, since all comparisons are right, all are wrong or there is one row, n_eff = R: as if a row's
    comparisons always went the same way (our choice; a single wrong one can so narrow the interval).

    Args:
        correct: [R] right comparisons of each row.
        total: [R] comparisons of each row; rows with none are left out.
        level: how often such intervals are to hold the truth, between 0 and 1.

    Returns:
        ``(accuracy, low, high)``; NaN each without a comparison.

    Raises:
        ValueError: if ``level``, a count or a shape is out of range.

    Example:
        >>> import torch
        >>> accuracy, low, high = accuracy_interval(torch.tensor([1] * 80 + [0] * 20), torch.tensor([1] * 100))
        >>> f"{accuracy:.3f} [{low:.3f}, {high:.3f}]"
        '0.800 [0.711, 0.867]'
    """
    if not 0 < level < 1:
        raise ValueError(f"level is {level}; use a number between 0 and 1, such as 0.95")
    if correct.shape != total.shape or (correct < 0).any() or (correct > total).any():
        raise ValueError("correct must have the shape of total and lie between 0 and total")
    compared = total > 0
    c, m = correct[compared].double(), total[compared].double()
    rows, n = len(m), float(m.sum())
    if rows == 0:
        return math.nan, math.nan, math.nan
    p = float(c.sum()) / n
    if p in (0, 1) or rows == 1:
        n_eff = float(rows)
    else:
        clustered = rows / (rows - 1) * float(((c - p * m) ** 2).sum()) / n**2
        independent = p * (1 - p) / (n - 1)
        n_eff = n / max(1.0, clustered / independent)

    z = NormalDist().inv_cdf((1 + level) / 2)
    centre = p + z**2 / (2 * n_eff)
    half = z * math.sqrt(p * (1 - p) / n_eff + z**2 / (4 * n_eff**2))
    scale = 1 + z**2 / n_eff
    # Wilson's interval holds p; at p = 0 and 1 rounding could put it outside by 1e-17.
    return p, min(p, (centre - half) / scale), max(p, (centre + half) / scale)
