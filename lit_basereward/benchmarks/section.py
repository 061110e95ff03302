"""One or two models on a benchmark: everything that the report says, before it is laid out.

Shape legend: E entries, C comparisons.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import asdict, dataclass
from typing import Any

from lit_basereward.benchmarks.base import Benchmark
from lit_basereward.benchmarks.diagnosis import Compared, calibrate, compare_responses, diagnose, slice_keys
from lit_basereward.benchmarks.evidence import Account
from lit_basereward.benchmarks.judge import JudgeFigures, Votes, judge_figures
from lit_basereward.benchmarks.members import member_figures, member_notes
from lit_basereward.benchmarks.score import Difference, Figure, Result, compare, score
from lit_basereward.benchmarks.types import Rewards
from lit_basereward.metrics import Calibration


@dataclass(frozen=True)
class ModelReport:
    """A model on a benchmark.

    Args:
        name: of the model.
        rewards: of the benchmark's entries.
        result: official figures.
        compared: the comparisons that ``calibration`` and ``diagnostics`` are on.
        calibration: see :func:`calibrate`.
        diagnostics: see :func:`diagnose`.
        judge: votes and verdicts, of a pairwise judge.
        account: evidence and cost, if known.
        ensemble: see :func:`member_figures`, of an ensemble.
    """

    name: str
    rewards: Rewards
    result: Result
    compared: Compared
    calibration: dict[str, Any]
    diagnostics: dict[str, Any]
    judge: JudgeFigures | None
    account: Account
    ensemble: dict[str, Any] | None = None

    def to_json(self) -> dict[str, Any]:
        """All figures of the model."""
        own = self.result.to_json() | {"calibration": self.calibration, "diagnostics": self.diagnostics}
        own |= {"cost": self.account.cost or None, "evidence": self.account.figures or None}
        if self.ensemble is not None:
            own["ensemble"] = self.ensemble
        return own if self.judge is None else own | {"judge": self.judge.to_json()}

    def table(self) -> list[tuple[str, Figure]]:
        """Figures with their labels, in a table's order: each group and its second figures, then the whole suite's."""
        figures, groups = self.result.figures, self.result.groups
        rows = []
        for group in groups:
            if math.isnan(figures[group].value):  # no entries
                continue
            rows.append((group, figures[group]))
            rows += [
                (f"  {key[len(group) + 1 :]}", each) for key, each in figures.items() if key.startswith(f"{group}/")
            ]
        own = [key for key, each in figures.items() if "/" not in key and not math.isnan(each.value)]
        rows += [(key, figures[key]) for key in own if key not in (*groups, "overall")]
        return [*rows, ("overall", figures["overall"])]

    def notes(self) -> list[str]:
        """What stands below the table: ties three ways, what was left out, and what the evidence comes to."""
        result = self.result
        found = [
            f"{result.ties:,} ties: overall {result.figures['overall'].value:.4f} with ties wrong (official), "
            f"{result.overall_ties_half:.4f} with ties half right, {result.overall_ties_out:.4f} without them"
        ]
        if result.without_reward:
            found.append(
                f"{result.without_reward:,} responses have no reward; what they are compared in counts as wrong"
            )
        if self.judge is not None:
            found.append(
                f"{self.judge.unparsed:,} of {self.judge.votes:,} votes were not parsed; {self.judge.undecided:,} rows "
                "without a majority leave the figures (official rule)"
            )
        elif result.unscored:
            found.append(f"{result.unscored:,} of {result.rows:,} rows were not scored and are in no figure")
        return found + self.account.notes() + (member_notes(self.ensemble) if self.ensemble else [])


@dataclass(frozen=True)
class Section:
    """One or two models on a benchmark.

    Args:
        benchmark: the suite.
        models: what each reached.
        comparison: the first less the second, by figure; empty for one model.
    """

    benchmark: Benchmark
    models: tuple[ModelReport, ...]
    comparison: dict[str, Difference]

    def title(self, model: ModelReport) -> str:
        """Heading of a model's table."""
        return f"{self.benchmark.title}, {model.name}{' (text only)' if model.result.text_only else ''}"

    def to_json(self) -> dict[str, Any]:
        """The first model's figures at the top, the published ones, and with two models both and their comparison."""
        first = self.models[0]
        found = first.to_json() | {"title": self.benchmark.title, "model": first.name}
        found["remarks"] = self.benchmark.remarks
        found["published"] = [asdict(line) for line in self.benchmark.published]
        if len(self.models) > 1:
            found["models"] = {model.name: model.to_json() for model in self.models}
            found["comparison"] = {
                key: {"difference": each.value, "interval": [each.low, each.high], "p": each.p}
                for key, each in self.comparison.items()
            }
        return found


def section(
    benchmark: Benchmark,
    rewards_by_model: dict[str, Rewards],
    text_only: bool | Collection[str] = False,
    calibration: Calibration | None = None,
    votes: dict[str, Votes] | None = None,
    accounts: dict[str, Account] | None = None,
) -> Section:
    """Everything the report says about models on a benchmark.

    Args:
        benchmark: the suite.
        rewards_by_model: rewards of its entries, of one or two models by name.
        text_only: the models were not shown the images: all of them, or those that are named.
        calibration: of the models, fitted on other data; without one temperatures are cross-fitted.
        votes: by name, of the models that are pairwise judges.
        accounts: by name, what models give beside rewards.

    Raises:
        ValueError: for another number of models, and for rewards that do not fit the benchmark.
    """
    if not 1 <= len(rewards_by_model) <= 2:
        raise ValueError(f"a report compares one or two models, not {len(rewards_by_model)}; make several reports")
    keys = slice_keys(benchmark)
    models = []
    for name, rewards in rewards_by_model.items():
        blind = text_only if isinstance(text_only, bool) else name in text_only
        result = score(benchmark, rewards, blind)
        compared = compare_responses(benchmark, rewards)
        own_votes, account = (votes or {}).get(name), (accounts or {}).get(name, Account())
        is_ensemble = any("members" in each for each in account.evidence)
        models.append(
            ModelReport(
                name,
                rewards,
                result,
                compared,
                calibrate(benchmark, compared, calibration),
                diagnose(benchmark, rewards, compared, keys, account.comparable_across_rows),
                None if own_votes is None else judge_figures(benchmark, own_votes),
                account,
                member_figures(benchmark, rewards, compared, account.evidence) if is_ensemble else None,
            )
        )
    comparison = compare(models[0].result, models[1].result) if len(models) == 2 else {}
    return Section(benchmark, tuple(models), comparison)
