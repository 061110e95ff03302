"""Ranking losses and regularizers: plain modules, injected by class. ``functional`` holds their arithmetic."""

from lit_basereward.losses.bradley_terry import BradleyTerry, RankingLoss
from lit_basereward.losses.regularizers import Regularizer, TieSquared, ZeroCoefficient
from lit_basereward.losses.weighting import Pairs, PairWeighting, step_weight

__all__ = [
    "BradleyTerry",
    "PairWeighting",
    "Pairs",
    "RankingLoss",
    "Regularizer",
    "TieSquared",
    "ZeroCoefficient",
    "step_weight",
]
