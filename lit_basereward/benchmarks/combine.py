"""Rewards files of several models as those of one ensemble, for models that do not fit into memory together.

Shape legend: M members, N responses of all entries.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from lit_basereward.benchmarks.base import Benchmark
from lit_basereward.benchmarks.evidence import COST, Account
from lit_basereward.benchmarks.rewards import RewardsFile, read_rewards
from lit_basereward.benchmarks.rows import SourceRows
from lit_basereward.data.routing import Modality, Route, check_routes, check_used, voters
from lit_basereward.data.sources.jsonl import JSONLSource
from lit_basereward.ensemble.checks import check_takes
from lit_basereward.ensemble.combiners import (
    AccuracyWeighted,
    Combiner,
    ConfidenceWeighted,
    LowerConfidenceBound,
    Mean,
    Minimum,
    StandardisedMean,
    check_fits,
)
from lit_basereward.ensemble.evidence import members_by_row
from lit_basereward.ensemble.names import refuse_twice
from lit_basereward.ensemble.origin import FITTED_HERE, marked, origin, path_origin
from lit_basereward.ensemble.votes import all_pairs

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
    rows = {e: _routed_by(benchmark, e) for e in range(len(benchmark.entries))}
    check_used(routes, {(category, source) for _, category, source in rows.values()})
    judges = [name for name, file in files.items() if not file.account.comparable_across_rows]
    check_takes(combiner, {name: name not in judges for name in names})
    scores, row = _matrix(benchmark, files, routes, rows)
    combined = combiner(scores, row, names).double()
    sizes = [len(entry.responses) for entry in benchmark.entries]
    evidence = members_by_row(scores, row, names, judges)
    costs = {name: file.account.cost for name, file in files.items()}
    share = {name: sum(name in each["members"] for each in evidence) / len(evidence) for name in names}
    for name in names:
        if not share[name]:
            benchmark.remark(f"member {name} votes on none of the rows")
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
    refuse_twice(rewards)
    held = _held_out(benchmark, fit_on, force)
    files = {name: read_rewards(path, held, member=True) for name, path in zip(names, rewards, strict=True)}
    asked = {e: _routed_by(held, e) for e, entry in enumerate(held.entries) if entry.better}
    if not asked:
        raise ValueError(f"{fit_on} has no row with a comparison; give rows whose responses are rated differently")
    scores, row = _matrix(held, files, routes, asked)
    entries = [held.entries[e] for e in asked]
    pairs = all_pairs([entry.better for entry in entries], [len(entry.responses) for entry in entries])
    return marked(combiner.fit(scores, row, pairs, names), held)


def _held_out(benchmark: Benchmark, fit_on: str, force: bool) -> Benchmark:
    """The rows to fit on: those of a file; or those of the benchmark itself, where its files are given, and forced."""
    if not Path(fit_on).exists():
        raise ValueError(f"there is no {fit_on}; give the file of the held-out rows")
    if path_origin(fit_on).isdisjoint(origin(benchmark)):
        if not Path(fit_on).is_file():
            raise ValueError(f"{fit_on} is a folder, and not that of {benchmark.title}; give the held-out rows' file")
        return SourceRows(JSONLSource(fit_on))
    if not force:
        raise ValueError(
            f"--fit_on is the file that is reported: {benchmark.title}; a combiner is fitted on other rows, or "
            "with --force true, which marks the report"
        )
    benchmark.remark(FITTED_HERE)
    return benchmark


def _routed_by(benchmark: Benchmark, entry: int) -> tuple[Modality, str, str]:
    """Modality, category and source of an entry: the row's own, as in a run."""
    if isinstance(benchmark, SourceRows):
        row = benchmark.row_of(entry)
        return "image" if row.images else "text", row.category, row.source
    return "image" if benchmark.has_images(entry) else "text", benchmark.entries[entry].group, benchmark.name


def _matrix(
    benchmark: Benchmark,
    files: dict[str, RewardsFile],
    routes: Sequence[Route],
    rows: Mapping[int, tuple[Modality, str, str]],
) -> tuple[torch.Tensor, torch.Tensor]:
    """[M, N] rewards of entries, NaN where a model does not vote, and [N] the entry of each response, from 0.

    ``rows`` is what these entries are routed by.
    """
    columns = []
    blind = all(file.text_only for file in files.values())  # as a run without the images goes by its text
    for e, (modality, category, source) in rows.items():
        votes = voters(routes, list(files), "text" if blind else modality, category, source)
        block = np.full((len(files), len(benchmark.entries[e].responses)), np.nan)
        for m, file in enumerate(files.values()):
            if m in votes:
                block[m] = _given(file, e, benchmark)
        columns.append(torch.from_numpy(block))
    sizes = torch.tensor([column.shape[1] for column in columns])
    return torch.cat(columns, dim=1), torch.arange(len(columns)).repeat_interleave(sizes)


def _given(file: RewardsFile, entry: int, benchmark: Benchmark) -> np.ndarray:
    """[K] what a model gave an entry on which it votes."""
    given = file.rewards[entry]
    if given is None or np.isnan(given).any():
        raise ValueError(
            f"{file.path} has no rewards of {benchmark.records.where(entry)}, on which it votes; score that row, "
            "or keep it from the model by --routes"
        )
    if np.abs(given).max() > np.finfo(np.float32).max:
        raise ValueError(
            f"{file.path} has a reward of {np.abs(given).max():g} for {benchmark.records.where(entry)}, which is too "
            "large for float32; score that row again"
        )
    return given
