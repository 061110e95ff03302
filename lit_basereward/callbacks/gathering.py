"""What a model gave the rows of a source: kept batch by batch, taken up from disk, gathered over devices."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from torch import Tensor

from lit_basereward.benchmarks.base import Benchmark
from lit_basereward.benchmarks.evidence import Account, Evidence, entry_evidence, evidence_figures, evidence_of
from lit_basereward.benchmarks.report import strict
from lit_basereward.benchmarks.types import Rewards
from lit_basereward.callbacks.reward_log import plain
from lit_basereward.data.batch import Batch
from lit_basereward.data.sources.base import Source
from lit_basereward.losses.functional import comparisons
from lit_basereward.modules.cost import Cost

# Per response: row_index, reward, rating, length. One such block per batch, so that a row is never cut in two.
_COLUMNS = 4


@dataclass
class Gathered:
    """What all devices gave one source, in the order of its rows. Shape legend: N responses.

    Args:
        index: [N] row of each response.
        rewards: [N]
        ratings: [N] NaN is unrated.
        lengths: [N] tokens.
        dropped: a message for each row that was left out when it was opened.
        cut: responses that were scored without their ends.
        evidence: what rewards rest on, by row, of models that have something to show.
        cost: of all rows.
    """

    index: Tensor
    rewards: Tensor
    ratings: Tensor
    lengths: Tensor
    dropped: list[str] = field(default_factory=list)
    cut: int = 0
    evidence: dict[int, Evidence] = field(default_factory=dict)
    cost: Cost = field(default_factory=Cost)

    def rows(self) -> dict[int, np.ndarray]:
        """Rewards [K] of each row."""
        rows, counts = torch.unique_consecutive(self.index, return_counts=True)
        parts = self.rewards.double().split(counts.tolist())
        return {int(row): part.numpy() for row, part in zip(rows, parts, strict=True)}

    def compared(self) -> tuple[Tensor, Tensor]:
        """Rewards of the better response and of the worse, [C] each, of each comparison."""
        better, worse = comparisons(torch.unique_consecutive(self.index, return_inverse=True)[1], self.ratings)
        return self.rewards[better], self.rewards[worse]

    def margins(self) -> Tensor:
        """[C] reward of the better response less that of the worse, of each comparison."""
        better, worse = self.compared()
        return better - worse

    def account(self, benchmark: Benchmark, comparable_across_rows: bool) -> Account:
        """What the report shows beside the rewards of a benchmark's entries.

        Args:
            benchmark: whose rows were scored.
            comparable_across_rows: of the model.
        """
        responses = {row: len(rewards) for row, rewards in self.rows().items()}
        return Account(
            entry_evidence(benchmark, self.evidence, responses) if self.evidence else (),
            evidence_figures(self.evidence.values()),
            self.cost.per_row(),
            comparable_across_rows,
        )


class Gathering:
    """What this device gave one source so far."""

    def __init__(self) -> None:
        self._blocks: list[Tensor] = [torch.empty(_COLUMNS, 0, dtype=torch.float64)]
        self._dropped: list[str] = []
        self._cut = 0
        self._evidence: dict[int, Evidence] = {}
        self._cost = Cost()

    def add(self, rewards: Tensor, batch: Batch, evidence: list[Evidence], cost: Cost) -> list[dict[str, Any]]:
        """Keep a batch.

        Args:
            rewards: [N] of its responses, on the CPU.
            batch: that they are of.
            evidence: of each of its rows; empty for a model without.
            cost: of the batch.

        Returns:
            what is to be written of each row: ``row``, ``rewards``, ``tokens``, ``cost`` and the evidence.
        """
        self._dropped += batch.dropped
        self._cut += int(batch.truncated.sum())
        self._cost += cost
        own = evidence_by_row(batch, evidence)
        self._evidence |= {row: each for row, each in own.items() if each}
        columns = (batch.row_index[batch.row], rewards, batch.ratings, batch.lengths)
        block = torch.stack([column.detach().cpu().double() for column in columns])
        block = block[:, block[0] >= 0]
        self._blocks.append(block)
        rows, counts = block[0].unique_consecutive(return_counts=True)
        return [
            {"row": int(row), "rewards": plain(part[1]), "tokens": part[3].long().tolist()}
            | own[int(row)]
            | {"cost": cost.per_row()}
            for row, part in zip(rows, block.split(counts.tolist(), dim=1), strict=True)
        ]

    def take_up(self, line: dict[str, Any], source: Source) -> None:
        """Keep a row as an earlier run wrote it.

        Args:
            line: of :meth:`add`.
            source: of the row.
        """
        row, tokens = line["row"], line["tokens"]
        rewards = line["rewards"] or [math.nan] * len(tokens)
        columns = ([float(row)] * len(rewards), rewards, source[row].ratings, tokens)
        self._blocks.append(torch.tensor(columns, dtype=torch.float64))
        if evidence := evidence_of(line):
            self._evidence[row] = evidence
        self._cost += Cost(1, **line["cost"])

    def gather(self, trainer: pl.Trainer) -> Gathered:
        """Of all devices together; each of them gets it."""
        own = (torch.cat(self._blocks, dim=1), self._dropped, self._cut, self._evidence, self._cost)
        parts: list[Any] = [own]
        if trainer.world_size > 1:
            parts = [None] * trainer.world_size
            torch.distributed.all_gather_object(parts, own)
        block = torch.cat([part[0] for part in parts], dim=1)
        index, rewards, ratings, lengths = block[:, block[0].argsort(stable=True)]
        evidence = {row: each for part in parts for row, each in part[3].items()}
        return Gathered(
            index.long(),
            rewards.float(),
            ratings.float(),
            lengths,
            dropped=[message for part in parts for message in part[1]],
            cut=sum(part[2] for part in parts),
            evidence=dict(sorted(evidence.items())),
            cost=sum((part[4] for part in parts), Cost()),
        )


def evidence_by_row(batch: Batch, evidence: list[Evidence]) -> dict[int, Evidence]:
    """Evidence of a batch's rows by their number in the source, without fillers.

    Args:
        batch: that was scored.
        evidence: of the module; empty for a paradigm that has none.
    """
    assert len(evidence) in (0, len(batch)), "a module's evidence has one dict for each row of the batch"
    rows = batch.row_index.tolist()
    return {row: strict(each) for row, each in zip(rows, evidence or [{}] * len(rows), strict=True) if row >= 0}


def benchmark_rewards(benchmark: Benchmark, found: Gathered, limited: bool) -> Rewards:
    """Rewards of a benchmark's entries. A row that was left out counts as wrong, so that totals stay the official ones.

    Args:
        benchmark: whose rows were scored.
        found: by the model.
        limited: rows without rewards were not asked for; they leave the figures.
    """
    given = benchmark.entry_rewards(found.rows())
    if limited:
        return given
    lost = [np.full(len(entry.responses), np.nan) for entry in benchmark.entries]
    return [nothing if rewards is None else rewards for rewards, nothing in zip(given, lost, strict=True)]
