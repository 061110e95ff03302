"""What rewards are judged by; plain functions of tensors."""

from lit_basereward.metrics.accuracy import (
    PairAccuracy,
    pair_accuracy,
    pair_accuracy_by_row,
    reward_length_correlation,
)
from lit_basereward.metrics.interval import accuracy_interval

__all__ = [
    "PairAccuracy",
    "accuracy_interval",
    "pair_accuracy",
    "pair_accuracy_by_row",
    "reward_length_correlation",
]
