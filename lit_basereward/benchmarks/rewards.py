"""The rewards of any model on a benchmark, read from JSON lines; whatever does not fit the benchmark is an error."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from lit_basereward.benchmarks.base import Benchmark
from lit_basereward.benchmarks.evidence import (
    Account,
    entry_evidence,
    evidence_figures,
    is_inside_row,
    read_cost,
    read_evidence,
)
from lit_basereward.benchmarks.judge import Vote, Votes
from lit_basereward.benchmarks.types import Rewards
from lit_basereward.data.records.lines import json_kind


@dataclass(frozen=True)
class RewardsFile:
    """What a model gave on a benchmark.

    Args:
        path: the file.
        rewards: of the benchmark's entries. An entry that the model failed on has NaN: it is counted, and never right.
        text_only: the model was not shown the images.
        failed: lines without rewards, which say an ``error`` instead.
        votes: of a pairwise judge whose votes the file holds instead of rewards; None of others.
        account: what stands beside the rewards: critiques, verdicts, cost.
    """

    path: Path
    rewards: Rewards
    text_only: bool
    failed: int
    votes: Votes | None = None
    account: Account = field(default_factory=Account)


@dataclass(frozen=True, slots=True)
class _Row:
    """What a line is about: an entry of the benchmark, or one of its rows to score."""

    id: str
    responses: int


def read_rewards(path: str | Path, benchmark: Benchmark, member: bool = False) -> RewardsFile:
    """Read one JSON object a line, one line for every entry of the benchmark, in its order.

    - ``{"rewards": [r1, r2, ...]}`` in the entry's own order of responses, finite numbers
    - ``{"rewards": null, "error": "..."}`` for an entry that the model failed on
    - ``{"votes": [0, 1, null]}`` of a pairwise judge: the position of the response that each vote prefers, null where
      it could not be parsed; ``votes_swapped`` holds those asked with the responses the other way round, still as
      positions in the entry's own order
    - ``id``, where given, is checked; ``"text_only": true`` says that images were not shown
    - beside ``rewards``: the row's evidence, see :mod:`lit_basereward.benchmarks.evidence`, and its ``cost``; other
      keys are not read

    Where the benchmark's rows to score are others than its entries (the 46 rankings of MM-RLHF-RewardBench), a file
    with one line for each of those is read as well.

    Args:
        path: JSON lines.
        benchmark: that the rewards are of.
        member: the model is a member of an ensemble, in which an entry that it failed on is not simply wrong: no
            warning of those.

    Raises:
        ValueError: if there are more or fewer lines, or one is not as said; names file, line and mend.
    """
    path, entries = Path(path), benchmark.entries
    lines = _lines(path)
    by_row = len(lines) == len(benchmark) != len(entries)
    rows = _rows_to_score(benchmark) if by_row else [_Row(entry.id, len(entry.responses)) for entry in entries]
    if len(lines) != len(rows):
        other = f" (or {len(benchmark):,}, its rows to score)" if len(benchmark) != len(rows) else ""
        raise ValueError(
            f"{path} ends at line {len(lines):,}, but {benchmark.name} has {len(rows):,} rows{other}; give one line "
            "for each, in the benchmark's order"
        )
    where = [f"{path}:{n}" for n in range(1, len(lines) + 1)]
    records = [_record(line, place) for line, place in zip(lines, where, strict=True)]
    for n, (record, row) in enumerate(zip(records, rows, strict=True)):
        _check_id(record, row, rows, where[n])
    text_only = [_flag(record, "text_only", place) for record, place in zip(records, where, strict=True)]
    if any("votes" in record and "rewards" not in record for record in records):
        votes = _read_votes(records, rows, where)
        return RewardsFile(path, votes.rewards(), any(text_only), 0, votes, Account(comparable_across_rows=False))
    given = [_rewards(record, row, place) for record, row, place in zip(records, rows, where, strict=True)]
    failed = sum(record["rewards"] is None for record in records)
    if failed and not member:
        print(
            f"warning: {path} has no rewards in {failed:,} of {len(rows):,} lines; they count as wrong", file=sys.stderr
        )
    rewards = benchmark.entry_rewards(dict(enumerate(given))) if by_row else given
    return RewardsFile(path, rewards, any(text_only), failed, account=_account(benchmark, records, rows, where, by_row))


def _account(
    benchmark: Benchmark, records: Sequence[dict[str, Any]], rows: Sequence[_Row], where: Sequence[str], by_row: bool
) -> Account:
    lines = zip(records, rows, where, strict=True)
    given = {n: read_evidence(record, row.responses, place) for n, (record, row, place) in enumerate(lines)}
    responses = {n: row.responses for n, row in enumerate(rows)}
    costs = [read_cost(record, place) for record, place in zip(records, where, strict=True) if "cost" in record]
    evidence = entry_evidence(benchmark, given, responses) if by_row else list(given.values())
    return Account(
        evidence if any(given.values()) else (),
        evidence_figures(given.values()),
        {key: math.fsum(cost[key] for cost in costs) / len(costs) for key in costs[0]} if costs else {},
        comparable_across_rows=not any(map(is_inside_row, given.values())),
    )


def _lines(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except FileNotFoundError as error:
        raise ValueError(f"there is no {path}; give the file with one line of rewards a row") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text ({error}); give JSON lines") from error
    while lines and not lines[-1].strip():
        lines.pop()
    if not lines:
        raise ValueError(f"{path} is empty; give one line of rewards a row")
    return lines


def _rows_to_score(benchmark: Benchmark) -> list[_Row]:
    scored = (benchmark[index] for index in range(len(benchmark)))
    return [_Row(row.id, len(row.responses)) for row in scored]


def _record(line: str, where: str) -> dict[str, Any]:
    def refuse(name: str) -> NoReturn:
        raise ValueError(f"{where} has {name}, which is no number of JSON; give finite rewards")

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(found := dict(pairs)) < len(pairs):
            raise ValueError(f"{where} has a key twice; give it once")
        return found

    try:
        record = json.loads(line, parse_constant=refuse, object_pairs_hook=unique)
    except json.JSONDecodeError as error:
        raise ValueError(f"{where} is not JSON ({error.msg}); give one object a line") from error
    except RecursionError as error:
        raise ValueError(f"{where} is nested too deep; give one object a line") from error
    if not isinstance(record, dict):
        raise ValueError(f'{where} is a JSON {json_kind(record)}; give an object such as {{"rewards": [1.5, -0.2]}}')
    return record


def _check_id(record: dict[str, Any], row: _Row, rows: Sequence[_Row], where: str) -> None:
    given = record.get("id")
    if given is None or str(given) == row.id:
        return
    elsewhere = next((n for n, other in enumerate(rows, 1) if other.id == str(given)), None)
    known = "which the benchmark does not have" if elsewhere is None else f"which is that of its row {elsewhere:,}"
    raise ValueError(
        f"{where} has the id {str(given)!r}, {known}, where the benchmark has {row.id!r}; give the lines in the "
        "benchmark's order, of the same benchmark"
    )


def _flag(record: dict[str, Any], key: str, where: str) -> bool:
    value = record.get(key, False)
    if not isinstance(value, bool):
        raise ValueError(f"{where} has `{key}` that is a JSON {json_kind(value)}; give true or false")
    return value


def _rewards(record: dict[str, Any], row: _Row, where: str) -> np.ndarray:
    """[K] of a row's responses."""
    if "rewards" not in record:
        raise ValueError(f"{where} has no `rewards`, but {', '.join(record) or 'nothing'}; give a list of numbers")
    rewards = record["rewards"]
    if rewards is None and record.get("error"):
        return np.full(row.responses, np.nan)
    if not isinstance(rewards, list):
        raise ValueError(
            f"{where} has `rewards` that are a JSON {json_kind(rewards)}; give a list of numbers, or null with an "
            "`error` that says why there are none"
        )
    if len(rewards) != row.responses:
        raise ValueError(
            f"{where} has {len(rewards)} rewards, but row {row.id!r} has {row.responses} responses; give one for "
            "each, in their order"
        )
    return np.array([_number(reward, where) for reward in rewards], dtype=np.float64)


def _number(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{where} has a reward that is a JSON {json_kind(value)}; give a number")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):  # 1e999 is JSON
        raise ValueError(f"{where} has a reward that is too large for a number; give finite rewards")
    return number


def _read_votes(records: Sequence[dict[str, Any]], rows: Sequence[_Row], where: Sequence[str]) -> Votes:
    given, swapped = [], []
    for record, row, place in zip(records, rows, where, strict=True):
        if "votes" not in record or "rewards" in record:
            raise ValueError(f"{place} has {', '.join(record)} among lines with `votes`; give `votes` alone in all")
        if row.responses != 2:
            raise ValueError(f"{place} has `votes`, but row {row.id!r} has {row.responses} responses; give `rewards`")
        given.append(_vote_list(record["votes"], "votes", place))
        swapped.append(_vote_list(record.get("votes_swapped", []), "votes_swapped", place))
    return Votes(given, swapped)


def _vote_list(value: Any, key: str, where: str) -> list[Vote]:
    if not isinstance(value, list) or any(vote not in (0, 1, None) or isinstance(vote, bool | float) for vote in value):
        raise ValueError(
            f"{where} has {json.dumps(value)[:80]} as `{key}`; give a list of 0 and 1, the position of the preferred "
            "response, and null where a vote could not be parsed"
        )
    return value
