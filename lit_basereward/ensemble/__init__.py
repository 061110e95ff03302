"""Ensembles of reward models: how members' scores become one, how that is fitted, and an ensemble on disk."""

from lit_basereward.ensemble.combiners import (
    AccuracyWeighted,
    Combiner,
    ConfidenceWeighted,
    LowerConfidenceBound,
    Mean,
    Minimum,
    StandardisedMean,
)

__all__ = [
    "AccuracyWeighted",
    "Combiner",
    "ConfidenceWeighted",
    "LowerConfidenceBound",
    "Mean",
    "Minimum",
    "StandardisedMean",
]
