"""From planned micro-batches to batches: rows are read, opened and tokenised in the workers."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from lit_basereward.data.batch import Batch
from lit_basereward.data.collator import Collator, Item
from lit_basereward.data.sampler import FILLER, EvalPlan, MicroBatch, StepPlan
from lit_basereward.data.sources.base import Source
from lit_basereward.data.types import Message, Preference, RowError, TooLong
from lit_basereward.nn.layout import Movable

FILLER_ROW = Preference(id="filler", prompt=(Message("user", ("filler",)),), responses=("a", "b"))
"""What a device computes where it has no row: unrated, so that it adds exactly zero."""


class BatchDataset(Dataset["Batch | RowError"]):
    """``dataset[micro_batch]`` is the collated batch. An error that is the user's to mend is returned, not raised:
    the data loader would wrap its message in a traceback of the worker.

    Args:
        sources: their rows, one source after the other, are what a plan's indices count.
        collator: of the module.
        on_bad_row: ``skip`` leaves a bad row out and puts its message into ``Batch.dropped``.
    """

    def __init__(self, sources: Sequence[Source], collator: Collator, on_bad_row: Literal["raise", "skip"]) -> None:
        self.sources, self.collator, self.on_bad_row = sources, collator, on_bad_row
        self._ends = np.cumsum([len(source) for source in sources])

    def __getitem__(self, micro_batch: MicroBatch) -> Batch | RowError:
        items: list[Item] = []
        dropped: list[str] = []
        for index in micro_batch.indices:
            try:
                items.append(self._prepare(index))
            except RowError as error:
                if not self._may_drop(error):
                    return error
                dropped.append(str(error))
        if not items:
            items.append(self._prepare(FILLER))
        return self.collator.collate(items, micro_batch.counts, dropped)

    def _prepare(self, index: int) -> Item:
        if index == FILLER:
            return self.collator.prepare(FILLER, FILLER_ROW)
        number = int(np.searchsorted(self._ends, index, side="right"))
        position = index - (int(self._ends[number - 1]) if number else 0)
        return self.collator.prepare(position, self.sources[number][position])

    def _may_drop(self, error: RowError) -> bool:
        return self.on_bad_row == "skip" or (isinstance(error, TooLong) and self.collator.too_long == "drop")


class _Slot(NamedTuple):
    """Stands for a tensor: where it begins among the bytes of all, and what it is."""

    start: int
    dtype: torch.dtype
    shape: torch.Size


@dataclass
class PackedBatch:
    """A batch on its way from a worker: its small tensors as one, since each costs a file in shared memory (0.4 ms).

    Args:
        skeleton: the batch with a slot in the place of each tensor that is not in shared memory yet.
        content: their bytes.
    """

    skeleton: Batch
    content: Tensor

    @classmethod
    def of(cls, batch: Batch) -> PackedBatch:
        """The same batch, packed."""
        parts: list[Tensor] = []
        size = 0

        def take(tensor: Tensor) -> _Slot | Tensor:
            nonlocal size
            if tensor.is_shared():  # joined there, and large
                return tensor
            size += -size % 16  # where any type may begin
            slot = _Slot(size, tensor.dtype, tensor.shape)
            parts.append(tensor.contiguous().view(-1).view(torch.uint8))
            size += len(parts[-1])
            return slot

        skeleton = _replaced(batch, Tensor, take)
        content = torch.empty(size, dtype=torch.uint8)
        start = 0
        for part in parts:
            start += -start % 16
            content[start : start + len(part)] = part
            start += len(part)
        return cls(skeleton, content)

    def unpack(self) -> Batch:
        """The batch; its tensors are views of one."""

        def give(slot: _Slot) -> Tensor:
            size = slot.shape.numel() * slot.dtype.itemsize
            return self.content[slot.start : slot.start + size].view(slot.dtype).view(slot.shape)

        return _replaced(self.skeleton, _Slot, give)

    def pin_memory(self) -> Batch:
        """The batch in page-locked memory; the data loader calls it."""
        return self.unpack().pin_memory()


def _replaced(value: Any, kind: type, by: Callable[[Any], Any]) -> Any:
    """A copy of a batch or of a part of it, with everything of a kind replaced."""
    if isinstance(value, kind):
        return by(value)
    if isinstance(value, Movable):
        return type(value)(**{f.name: _replaced(getattr(value, f.name), kind, by) for f in fields(value)})
    if isinstance(value, dict):
        return {key: _replaced(item, kind, by) for key, item in value.items()}
    return [_replaced(item, kind, by) for item in value] if isinstance(value, list) else value


def _pack(batch: Any) -> Any:
    """What a worker sends; the main process has nothing to send."""
    return PackedBatch.of(batch) if isinstance(batch, Batch) and get_worker_info() else batch


def _outlive(worker: int) -> None:
    """A SIGTERM for the whole group, as schedulers send it, reaches workers too, but the step that the run finishes
    needs their batches. They end with the run; a second one ends them at once."""
    signal.signal(signal.SIGTERM, lambda *_: signal.signal(signal.SIGTERM, signal.SIG_DFL))


class Loader:
    """Batches in the order of a plan, read ahead by workers.

    Not a ``DataLoader`` on purpose: Lightning leaves other loaders as they are, but puts a sampler of its own into a
    ``DataLoader`` on several devices, which repeats rows, and again in ``predict``.

    Args:
        dataset: makes the batches.
        plan: says which.
        num_workers: processes that read ahead; 0 reads in the main process. They end with the epoch: kept ones would
            end whenever the garbage collector finds them, which takes 5 seconds each and stalls the next run.
        pin_memory: copy batches to page-locked memory.
    """

    def __init__(
        self, dataset: BatchDataset, plan: StepPlan | EvalPlan, num_workers: int = 0, pin_memory: bool = False
    ) -> None:
        self.plan = plan
        self._batches: DataLoader[Any] = DataLoader(
            dataset,
            batch_size=None,
            sampler=plan,
            num_workers=num_workers,
            pin_memory=pin_memory,
            collate_fn=_pack,
            worker_init_fn=_outlive,
        )

    def __len__(self) -> int:
        """Batches of this device per epoch."""
        return len(self.plan)

    def __iter__(self) -> Iterator[Batch]:
        for batch in self._batches:
            if isinstance(batch, RowError):
                raise batch
            yield batch.unpack() if isinstance(batch, PackedBatch) else batch


class TrainLoader(Loader):
    """A loader that starts where training stands, in the middle of an epoch too.

    Args:
        dataset: makes the batches.
        plan: says which.
        position: gives the micro-batches that training has seen. Asked when the first batch is (Lightning makes the
            iterator before it has restored its counters).
        **settings: as for :class:`Loader`.
    """

    plan: StepPlan

    def __init__(self, dataset: BatchDataset, plan: StepPlan, position: Callable[[], int], **settings: Any) -> None:
        super().__init__(dataset, plan, **settings)
        self._position = position

    def __iter__(self) -> Iterator[Batch]:
        self.plan.done = self._position()
        for batch in super().__iter__():
            self.plan.done += 1  # handed out; what workers have read ahead does not count
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """Empty: the position is Lightning's. That the method exists tells Lightning that resuming is provided for."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Nothing to load."""
