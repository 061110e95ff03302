"""Which rows make up a step, and which device computes which of them.

A step is a set of rows that holds about ``global_batch_size`` comparisons. It depends on the seed, the epoch and its
number alone; only then is it dealt out to devices and accumulated micro-batches. Training on one device or on eight
therefore takes the same steps.
"""

from __future__ import annotations

import heapq
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from torch.utils.data import Sampler

from lit_basereward.data.batch import StepCounts
from lit_basereward.data.types import Preference

FILLER = -1
"""Index of a row that stands in where a device has none: it has no rating and adds exactly zero to the loss."""

IMAGE_COST = 300.0
"""Tokens that an image is taken for when work is shared out (our choice; about 480 x 480 pixels in Qwen2.5-VL)."""


def row_cost(row: Preference) -> float:
    """About how many tokens a row has: 4 characters a token, ``IMAGE_COST`` an image, 1 for each end-of-turn.

    A relative measure, our choice: it only has to rank rows by the work they make, before anything is tokenised.
    """
    prompt = sum(len(part) for message in row.prompt for part in message.content if isinstance(part, str))
    responses = sum(map(len, row.responses))
    return (prompt + responses) / 4 + IMAGE_COST * len(row.images) + len(row.responses)


@dataclass(frozen=True)
class RowStats:
    """What the plans know of the rows. Shape legend: R rows.

    Args:
        comparisons: [R] strictly ordered pairs of responses.
        ties: [R] pairs of equal rating.
        cost: [R] relative work, above zero; see :func:`row_cost`.
    """

    comparisons: np.ndarray
    ties: np.ndarray
    cost: np.ndarray

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.cost)

    @classmethod
    def join(cls, parts: Sequence[RowStats]) -> RowStats:
        """The statistics of several sources, one after the other."""
        return cls(
            np.concatenate([part.comparisons for part in parts]),
            np.concatenate([part.ties for part in parts]),
            np.concatenate([part.cost for part in parts]),
        )

    def counts(self, rows: np.ndarray) -> StepCounts:
        """How much the given rows hold."""
        comparisons, ties = self.comparisons[rows], self.ties[rows]
        return StepCounts(
            rows=int((comparisons > 0).sum()),
            comparisons=int(comparisons.sum()),
            tied_rows=int((ties > 0).sum()),
            ties=int(ties.sum()),
        )

    def checksum(self) -> int:
        """Changes when rows are added, removed, reordered or (nearly always) edited."""
        return zlib.crc32(self.comparisons.tobytes() + self.ties.tobytes() + self.cost.tobytes())


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """Rows that one device computes together.

    Args:
        indices: positions of the rows, or the single index ``FILLER``.
        counts: how much the whole optimizer step holds; in evaluation, how much this batch holds.
    """

    indices: list[int]
    counts: StepCounts


class StepPlan(Sampler[MicroBatch]):
    """The training steps of one device, micro-batch by micro-batch.

    An epoch is a permutation of the usable rows, laid end to end with each row as long as it has comparisons, and cut
    every ``global_batch_size``; a row belongs to the step in which it ends. So every epoch has the same number of
    steps, whatever the order (Lightning needs that, and so does a learning-rate schedule). With one comparison a row
    every step holds exactly ``global_batch_size`` of them, but the last, which holds the rest. With rankings a step
    holds ``global_batch_size`` on average and differs from it by less than one row has. A row that alone has more
    counts as ``global_batch_size`` here, a row that has only ties as 1.

    A step is dealt into ``world_size * accumulate`` micro-batches of near-equal cost, costliest row first to the
    micro-batch that has least. Those that run at the same time on different devices are neighbours in cost.

    Args:
        stats: of all rows.
        global_batch_size: comparisons per optimizer step, over all devices and accumulated micro-batches.
        seed: of the permutations.
        world_size: number of data-parallel devices.
        rank: this device among them.
        accumulate: micro-batches per device and step.
        shuffle: False keeps the rows in their order, in every epoch.
        use_ties: rows that have ties but no comparison take part.

    Attributes:
        done: micro-batches handed out so far over all epochs; iteration starts there.

    Raises:
        ValueError: if no row is usable.
    """

    def __init__(
        self,
        stats: RowStats,
        global_batch_size: int,
        seed: int = 0,
        world_size: int = 1,
        rank: int = 0,
        accumulate: int = 1,
        shuffle: bool = True,
        use_ties: bool = False,
    ) -> None:
        if global_batch_size < 1:
            raise ValueError(f"global_batch_size is {global_batch_size}; it counts comparisons, so use 1 or more")
        self.stats, self.global_batch_size, self.seed, self.shuffle = stats, global_batch_size, seed, shuffle
        self.world_size, self.rank, self.accumulate = world_size, rank, accumulate
        only_ties = (stats.comparisons == 0) & (stats.ties > 0) & use_ties
        self._load = np.minimum(stats.comparisons + only_ties, global_batch_size)
        self._rows = np.flatnonzero(self._load)
        if not len(self._rows):
            raise ValueError("no row has a comparison: training needs rows with two responses rated differently")
        self.steps_per_epoch = -(-int(self._load.sum()) // global_batch_size)
        self.done = 0

    def __len__(self) -> int:
        """Micro-batches per epoch and device: the same in every epoch, and a multiple of ``accumulate``."""
        return self.steps_per_epoch * self.accumulate

    def __iter__(self) -> Iterator[MicroBatch]:
        """The rest of the epoch in which ``done`` lies."""
        epoch, start = divmod(self.done, len(self))
        first, skip = divmod(start, self.accumulate)
        for rows in self.steps(epoch)[first:]:
            counts = self.stats.counts(rows)
            for indices in self._mine(rows)[skip:]:
                yield MicroBatch(indices, counts)
            skip = 0

    def steps(self, epoch: int) -> list[np.ndarray]:
        """The rows of each step of an epoch: the same on every device and for any number of them."""
        order = self._rows
        if self.shuffle:
            order = np.random.default_rng((self.seed, epoch)).permutation(order)
        step = (np.cumsum(self._load[order]) - 1) // self.global_batch_size
        return np.split(order, np.searchsorted(step, np.arange(1, self.steps_per_epoch)))

    def _mine(self, rows: np.ndarray) -> list[list[int]]:
        """This device's micro-batches of a step, one for each accumulation index."""
        dealt = deal(rows, self.stats.cost, self.world_size * self.accumulate)
        mine = []
        for a in range(self.accumulate):
            # back and forth, so that no device always has the costliest of the group
            place = self.rank if a % 2 == 0 else self.world_size - 1 - self.rank
            mine.append(dealt[a * self.world_size + place] or [FILLER])
        return mine

    def filler_share(self) -> float:
        """Share of the first epoch's micro-batches, over all devices, that have no row."""
        slots = self.world_size * self.accumulate
        empty = sum(max(0, slots - len(rows)) for rows in self.steps(0))
        return empty / (slots * self.steps_per_epoch)

    def signature(self) -> dict[str, int]:
        """What must not change between a run and its continuation: the order of the rows hangs on it."""
        return {
            "global_batch_size": self.global_batch_size,
            "accumulate_grad_batches": self.accumulate,
            "seed": self.seed,
            "shuffle": int(self.shuffle),
            "rows": len(self._rows),
            "checksum of the rows": self.stats.checksum(),
        }


def deal(rows: np.ndarray, cost: np.ndarray, num: int) -> list[list[int]]:
    """Split ``rows`` into ``num`` lists of near-equal cost, costliest list first (longest processing time first)."""
    dealt: list[list[int]] = [[] for _ in range(num)]
    heap = [(0.0, m) for m in range(num)]
    for row in rows[np.argsort(-cost[rows], kind="stable")]:
        total, m = heapq.heappop(heap)
        dealt[m].append(int(row))
        heapq.heappush(heap, (total + float(cost[row]), m))
    totals = dict((m, total) for total, m in heap)
    return [dealt[m] for m in sorted(range(num), key=lambda m: (-totals[m], m))]


class EvalPlan(Sampler[MicroBatch]):
    """The evaluation batches of one device. Over all devices every row comes exactly once: none repeated, none padded.

    Every device has the same number of batches, which sharded models need, and at least one, since Lightning skips
    the closing hooks of an empty run. Where rows are short the batch is the single index ``FILLER``, which whoever
    reads the rewards leaves out (``row_index < 0``).

    Args:
        stats: of all rows.
        rows: [R] positions of the rows to evaluate, ascending.
        batch_size: most rows of a batch.
        world_size: number of data-parallel devices.
        rank: this device among them.
        order: ``cost`` puts rows of like cost together, and spreads the costly batches over the run so that a part of
            it is a fair sample; ``input`` keeps the rows' order, all devices together going through them once.
    """

    def __init__(
        self,
        stats: RowStats,
        rows: np.ndarray,
        batch_size: int,
        world_size: int = 1,
        rank: int = 0,
        order: Literal["cost", "input"] = "cost",
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"eval_batch_size is {batch_size}; it counts rows, so use 1 or more")
        self.stats, self.rank, self.world_size = stats, rank, world_size
        self._num = max(1, -(-len(rows) // (batch_size * world_size)))  # batches per device
        if order == "cost":
            rows = rows[np.argsort(-stats.cost[rows], kind="stable")]
        self._batches = np.array_split(rows, self._num * world_size)
        self._turns = np.random.default_rng(0).permutation(self._num) if order == "cost" else np.arange(self._num)

    def __len__(self) -> int:
        """Batches per device."""
        return self._num

    def __iter__(self) -> Iterator[MicroBatch]:
        for turn in self._turns:
            rows = self._batches[turn * self.world_size + self.rank]
            yield MicroBatch(rows.tolist() or [FILLER], self.stats.counts(rows))
