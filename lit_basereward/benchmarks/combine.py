"""Rewards files of several models as those of one ensemble, for models that do not fit into memory together.

Shape legend: M members, N responses of all entries.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from lit_basereward.benchmarks.base import Benchmark
from lit_basereward.benchmarks.evidence import COST, Account, Evidence
from lit_basereward.benchmarks.rewards import RewardsFile, read_rewards
from lit_basereward.benchmarks.rows import SourceRows
from lit_basereward.data.routing import Route, check_routes, voters
from lit_basereward.data.sources.jsonl import JSONLSource
from lit_basereward.ensemble.combiners import (
    FITTED_HERE,
    AccuracyWeighted,
    Combiner,
    ConfidenceWeighted,
    LowerConfidenceBound,
    Mean,
    Minimum,
    StandardisedMean,
    check_fits,
    check_takes,
)
from lit_basereward.ensemble.folder import digest

CombinerName = Literal[
    "mean", "standardised_mean", "accuracy_weighted", "confidence_weighted", "minimum", "lower_confidence_bound"
]
COMBINERS: dict[str, type[Combiner]] = {
    "mean": Mean,
    "standardised_mean": StandardisedMean,
    "accuracy_weighted": AccuracyWeighted,
    "confidence_weighted": ConfidenceWeighted,
    "minimum": Minimum,
    "lower_confidence_bound": LowerConfidenceBound,
}


def combine_files(
    benchmark: Benchmark, files: dict[str, RewardsFile], combiner: Combiner, routes: Sequence[Route] = ()
) -> RewardsFile:
    """What an ensemble of the models would give.

    Args:
        benchmark: that the rewards are of.
        files: by the models' names.
        combiner: from the models' rewards to one.
        routes: which models vote on which entries.

    Raises:
        ValueError: naming a model that has no reward where it votes, or that the combiner cannot take.
    """
    names = list(files)
    check_routes(routes, names)
    check_takes(combiner, {name: file.account.comparable_across_rows for name, file in files.items()})
    scores, row = _matrix(benchmark, files, routes)
    combined = combiner(scores, row, names).double()
    sizes = [len(entry.responses) for entry in benchmark.entries]
    evidence: list[Evidence] = [
        {"members": {n: own.tolist() for n, own in zip(names, part, strict=True) if not own.isnan().any()}}
        for part in scores.split(sizes, dim=1)
    ]
    costs = {name: file.account.cost for name, file in files.items()}
    share = {name: sum(name in each["members"] for each in evidence) / len(evidence) for name in names}
    return RewardsFile(
        Path(),
        [part.numpy() for part in combined.split(sizes)],
        text_only=all(file.text_only for file in files.values()),
        failed=0,
        account=Account(
            evidence,
            cost={key: math.fsum(cost[key] * share[name] for name, cost in costs.items()) for key in COST}
            if all(costs.values())
            else {},
            comparable_across_rows=all(file.account.comparable_across_rows for file in files.values()),
        ),
    )


def fit_on_files(
    combiner: Combiner,
    benchmark: Benchmark,
    names: Sequence[str],
    fit_on: str,
    rewards: Sequence[str],
    routes: Sequence[Route] = (),
    force: bool = False,
) -> Combiner:
    """The combiner, fitted on what the models gave held-out rows.

    Args:
        combiner: to be fitted.
        benchmark: that is reported.
        names: of the models.
        fit_on: JSON lines with the held-out rows and their ratings, or the benchmark's own file.
        rewards: what each model gave them, in the models' order.
        routes: which models vote on which rows.
        force: fit on the very benchmark that is reported, and mark it.

    Raises:
        ValueError: if the files do not fit together, or the rows are the benchmark's.
    """
    check_fits(combiner)
    if len(rewards) != len(names):
        raise ValueError(f"{len(names)} rewards files, but {len(rewards)} fit_rewards; give what each gave {fit_on}")
    if not Path(fit_on).exists():
        raise ValueError(f"there is no {fit_on}; give the file of the held-out rows")
    held: Benchmark = SourceRows(JSONLSource(fit_on)) if Path(fit_on).is_file() else benchmark
    if digest(Path(fit_on)) == digest(Path(str(benchmark.path))):
        if not force:
            raise ValueError(
                f"--fit_on is the file that is reported: {benchmark.title}; a combiner is fitted on other rows, or "
                "with --force true, which marks the report"
            )
        benchmark.remark(FITTED_HERE)
        held = benchmark
    files = {name: read_rewards(path, held, member=True) for name, path in zip(names, rewards, strict=True)}
    scores, row = _matrix(held, files, routes)
    return combiner.fit(scores, row, _ratings(held), names)


def _matrix(
    benchmark: Benchmark, files: dict[str, RewardsFile], routes: Sequence[Route]
) -> tuple[torch.Tensor, torch.Tensor]:
    """[M, N] rewards, NaN where a model does not vote, and [N] the entry of each response."""
    columns = []
    blind = all(file.text_only for file in files.values())  # as a run without the images goes by its text
    for e, entry in enumerate(benchmark.entries):
        modality: Literal["text", "image"] = "image" if benchmark.has_images(e) and not blind else "text"
        votes = voters(routes, list(files), modality, entry.group, benchmark.name)
        block = np.full((len(files), len(entry.responses)), np.nan)
        for m, file in enumerate(files.values()):
            given = file.rewards[e]
            if m not in votes:
                continue
            if given is None or np.isnan(given).any():
                raise ValueError(
                    f"{file.path} has no rewards of {benchmark.records.where(e)}, on which it votes; score that row, "
                    "or keep it from the model by --routes"
                )
            block[m] = given
        columns.append(torch.from_numpy(block))
    sizes = torch.tensor([column.shape[1] for column in columns])
    return torch.cat(columns, dim=1), torch.arange(len(columns)).repeat_interleave(sizes)


def _ratings(benchmark: Benchmark) -> torch.Tensor:
    """[N] how many responses of its entry each is better than: ordered as the ratings are."""
    return torch.tensor(
        [
            float(sum(better == k for better, _ in entry.better))
            for entry in benchmark.entries
            for k in range(len(entry.responses))
        ]
    )
