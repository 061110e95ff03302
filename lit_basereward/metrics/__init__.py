"""What rewards are judged by; plain functions of tensors, and torchmetrics twins."""

from lit_basereward.metrics.accuracy import (
    PairAccuracy,
    pair_accuracy,
    pair_accuracy_by_row,
    reward_length_correlation,
)
from lit_basereward.metrics.breakdown import GroupAccuracy, accuracy_by, quantile_bins
from lit_basereward.metrics.calibration import (
    Calibration,
    cross_fitted_temperatures,
    fit_offset,
    fit_temperature,
)
from lit_basereward.metrics.distribution import Distribution, RewardOverlap, RewardSummary, reward_summary
from lit_basereward.metrics.interval import accuracy_interval
from lit_basereward.metrics.judges import (
    OrderSwap,
    OrderSwapConsistency,
    VoteAccuracy,
    majority_vote,
    order_swap_consistency,
    vote_accuracy,
)
from lit_basereward.metrics.length import LengthControlledAccuracy, length_controlled_accuracy
from lit_basereward.metrics.reliability import PairCalibration, PairCalibrationError, pair_calibration
from lit_basereward.metrics.selective import AreaUnderRiskCoverage, error_auroc, risk_coverage

__all__ = [
    "AreaUnderRiskCoverage",
    "Calibration",
    "Distribution",
    "GroupAccuracy",
    "LengthControlledAccuracy",
    "OrderSwap",
    "OrderSwapConsistency",
    "PairAccuracy",
    "PairCalibration",
    "PairCalibrationError",
    "RewardOverlap",
    "RewardSummary",
    "VoteAccuracy",
    "accuracy_by",
    "accuracy_interval",
    "cross_fitted_temperatures",
    "error_auroc",
    "fit_offset",
    "fit_temperature",
    "length_controlled_accuracy",
    "majority_vote",
    "order_swap_consistency",
    "pair_accuracy",
    "pair_accuracy_by_row",
    "pair_calibration",
    "quantile_bins",
    "reward_length_correlation",
    "reward_summary",
    "risk_coverage",
    "vote_accuracy",
]
