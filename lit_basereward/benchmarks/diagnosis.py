"""What lies behind a model's figures: calibration, distributions, length, confidence, and accuracy by slices.

Results are plain JSON: the report writes them as they are, and its pages and plots read nothing else.

Shape legend: E entries, C comparisons.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lit_basereward.benchmarks.base import Benchmark
from lit_basereward.benchmarks.types import Rewards
from lit_basereward.data.images import image_size
from lit_basereward.data.types import RowError
from lit_basereward.metrics import (
    Calibration,
    PairCalibration,
    accuracy_by,
    cross_fitted_temperatures,
    length_controlled_accuracy,
    pair_calibration,
    quantile_bins,
    reward_length_correlation,
    reward_summary,
    risk_coverage,
)

HISTOGRAM_BINS = 40
CURVE_POINTS = 100
"""Points that a risk-coverage curve is thinned to."""


@dataclass(frozen=True)
class Compared:
    """Comparisons in which both responses have a reward.

    Args:
        entry: [C]
        better: [C] position of the better response in its entry.
        worse: [C]
        rewards: [C, 2] of the better and of the worse.
        lengths: [C, 2] characters of the better and of the worse.
    """

    entry: np.ndarray
    better: np.ndarray
    worse: np.ndarray
    rewards: np.ndarray
    lengths: np.ndarray

    @property
    def margins(self) -> Tensor:
        """[C] reward of the better response less that of the worse."""
        return torch.from_numpy(self.rewards[:, 0] - self.rewards[:, 1])


def compare_responses(benchmark: Benchmark, rewards: Rewards) -> Compared:
    """Every comparison of a benchmark that rewards have something to say on.

    Args:
        benchmark: the suite.
        rewards: of its entries.
    """
    found, pairs, lengths = [], [], []
    for e, (entry, given) in enumerate(zip(benchmark.entries, rewards, strict=True)):
        if given is None:
            continue
        for i, j in entry.better:
            if math.isfinite(given[i]) and math.isfinite(given[j]):
                found.append((e, i, j))
                pairs.append((given[i], given[j]))
                lengths.append((len(entry.responses[i]), len(entry.responses[j])))
    places = np.array(found, dtype=np.int64).reshape(-1, 3)
    return Compared(
        entry=places[:, 0],
        better=places[:, 1],
        worse=places[:, 2],
        rewards=np.array(pairs, dtype=np.float64).reshape(-1, 2),
        lengths=np.array(lengths, dtype=np.int64).reshape(-1, 2),
    )


def calibrate(benchmark: Benchmark, compared: Compared, given: Calibration | None) -> dict[str, Any]:
    """How far pair probabilities can be trusted, before (T = 1) and after a temperature.

    Args:
        benchmark: whose clusters decide what is held out.
        compared: the model's comparisons.
        given: fitted on other data. Without one, the temperature of each half of the clusters is fitted on the other
            half, so that no comparison has a say in its own.
    """
    margins = compared.margins
    found: dict[str, Any] = {"comparisons": len(margins), "before": _reliability(pair_calibration(margins))}
    if given is not None:
        after = pair_calibration(margins, given.temperature)
        rule = f"fitted on {given.source or 'held-out rows'}, {given.comparisons:,} comparisons"
        return found | {"rule": rule, "temperatures": [given.temperature], "after": _reliability(after)}
    try:
        temperatures = cross_fitted_temperatures(margins, torch.from_numpy(benchmark.clusters[compared.entry]))
    except ValueError as error:
        return found | {"rule": f"none: {error}", "temperatures": [], "after": None}
    return found | {
        "rule": "cross-fitted: each half of the prompts with the temperature of the other half",
        "temperatures": sorted(set(temperatures.tolist())),
        "after": _reliability(pair_calibration(margins, temperatures)),
    }


def _reliability(result: PairCalibration) -> dict[str, Any]:
    bins = {key: getattr(result, key).tolist() for key in ("edges", "count", "confidence", "accuracy")}
    return {"ece": result.ece, "brier": result.brier, "log_loss": result.log_loss, "bins": bins}


def diagnose(
    benchmark: Benchmark,
    rewards: Rewards,
    compared: Compared,
    keys: dict[str, Sequence[str]],
    comparable_across_rows: bool = True,
) -> dict[str, Any]:
    """Distributions of rewards, their dependence on length, risk against coverage, and accuracy by slices.

    Args:
        benchmark: the suite.
        rewards: of its entries.
        compared: their comparisons.
        keys: of :func:`slice_keys`.
        comparable_across_rows: False where a reward means something only beside the others of its row: then
            ``distribution`` and ``reward_length_correlation`` are None, the rest is on margins.
    """
    margins = compared.margins
    controlled = length_controlled_accuracy(margins, torch.from_numpy(compared.lengths[:, 0] - compared.lengths[:, 1]))
    return {
        "distribution": _distribution(compared) if comparable_across_rows else None,
        "reward_length_correlation": _length_correlation(benchmark, rewards) if comparable_across_rows else None,
        "length_controlled": dict(zip(("accuracy", "better_is_longer", "better_is_shorter"), controlled, strict=True)),
        "risk_coverage": thinned_curve(margins.abs(), margins > 0),
        "slices": {name: _slice(benchmark, compared, labels) for name, labels in keys.items()},
    }


def _length_correlation(benchmark: Benchmark, rewards: Rewards) -> float:
    scored = [
        (reward, len(text))
        for entry, given in zip(benchmark.entries, rewards, strict=True)
        if given is not None
        for reward, text in zip(given, entry.responses, strict=True)
        if math.isfinite(reward)
    ]
    values = torch.tensor(scored, dtype=torch.float64).reshape(-1, 2)
    return float(reward_length_correlation(values[:, 0], values[:, 1]))


def _distribution(compared: Compared) -> dict[str, Any]:
    better, worse = torch.from_numpy(compared.rewards).unbind(1)
    summary = reward_summary(better, worse)
    spread: tuple[float, float] = (0.0, 1.0)
    if len(better):  # the tails would flatten everything else
        low, high = np.quantile(compared.rewards, [0.005, 0.995]).tolist()
        spread = (low, high) if high > low else (low - 0.5, high + 0.5)
    clipped = np.clip(compared.rewards, *spread)
    edges = np.histogram_bin_edges([], HISTOGRAM_BINS, spread)
    histogram = {side: np.histogram(clipped[:, n], edges)[0].tolist() for n, side in enumerate(("better", "worse"))}
    return {
        "better": summary.better._asdict(),
        "worse": summary.worse._asdict(),
        "overlap": summary.overlap,
        "histogram": {"edges": edges.tolist(), **histogram},
    }


def thinned_curve(confidence: Tensor, right: Tensor) -> dict[str, Any]:
    """A risk-coverage curve of at most ``CURVE_POINTS`` points, and the area under all of it.

    Args:
        confidence: [C]
        right: [C]
    """
    coverage, risk, area = risk_coverage(confidence, right)
    kept = torch.linspace(0, max(0, len(risk) - 1), min(len(risk), CURVE_POINTS)).round().long()
    return {"coverage": coverage[kept].tolist(), "risk": risk[kept].tolist(), "aurc": area}


def _slice(benchmark: Benchmark, compared: Compared, labels: Sequence[str]) -> dict[str, Any]:
    num = len(benchmark.entries)
    right = np.bincount(compared.entry, weights=compared.margins.numpy() > 0, minlength=num)
    asked = np.bincount(compared.entry, minlength=num)
    groups = accuracy_by(torch.from_numpy(right).long(), torch.from_numpy(asked), list(labels))
    return {
        key: {
            "accuracy": each.accuracy,
            "correct": each.correct,
            "total": each.total,
            "interval": [each.low, each.high],
        }
        for key, each in groups.items()
        if each.total
    }


def slice_keys(benchmark: Benchmark) -> dict[str, Sequence[str]]:
    """Names of slices, and the [E] slice of each entry in them; what is the same for all entries is left out."""
    entries = benchmark.entries
    lengths = [sum(map(len, entry.responses)) / len(entry.responses) for entry in entries]
    images, sides = zip(*(_images(benchmark, e) for e in range(len(entries))), strict=True)
    keys: dict[str, Sequence[str]] = {
        "subset": [entry.subset or "none" for entry in entries],
        "number of images": images,
        "longer side of the largest image, pixels": quantile_bins(torch.tensor(sides)),
        "mean length of the responses, characters": quantile_bins(torch.tensor(lengths).round()),
    }
    return {name: labels for name, labels in keys.items() if len(set(labels)) > 1}


def _images(benchmark: Benchmark, index: int) -> tuple[str, float]:
    """Number of images of an entry, and the longer side of the largest, from the headers of those that are there."""
    try:
        refs = benchmark.image_refs(index)
        sides = [max(image_size(ref, benchmark.records.where(index))) for ref in refs]
    except RowError:
        return "missing", math.nan
    return str(len(refs)), max(sides, default=math.nan)


def worst_errors(compared: Compared, num: int) -> list[int]:
    """Comparisons that the model got most wrong, one per entry: the largest margin for the worse response first.

    Args:
        compared: the model's comparisons.
        num: at most so many.
    """
    margins = compared.margins.numpy()
    seen: set[int] = set()
    found: list[int] = []
    for c in np.argsort(margins, kind="stable").tolist():
        if margins[c] > 0 or len(found) == num:
            break
        if compared.entry[c] not in seen:
            seen.add(int(compared.entry[c]))
            found.append(c)
    return found
