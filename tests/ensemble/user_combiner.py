"""Combiners of a user's own, without dataclasses."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from lit_basereward.ensemble import Combiner


class Trimmed(Combiner):
    """The mean, less a share of itself."""

    def __init__(self, share: float = 0.5) -> None:
        self.share = share

    def combine(self, scores: Tensor, row: Tensor, names: Sequence[str]) -> Tensor:
        return scores.nanmean(0) * (1 - self.share)


class Fitted(Trimmed):
    """One that is fitted, and says so."""

    def __init__(self, fitted_on: dict[str, str] | None = None) -> None:
        self.share, self.fitted_on = 0.0, fitted_on or {}


class Broken(Combiner):
    """Forgets one response."""

    def combine(self, scores: Tensor, row: Tensor, names: Sequence[str]) -> Tensor:
        return scores[0, 1:]
