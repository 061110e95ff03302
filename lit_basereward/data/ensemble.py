"""Rows as batches for several models at once: each member has its own processor, its own collator and its own batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from lit_basereward.data.batch import Batch, StepCounts
from lit_basereward.data.collator import Collator, Item
from lit_basereward.data.routing import Route, voters
from lit_basereward.data.sampler import FILLER
from lit_basereward.data.types import Preference, RowError, TooLong
from lit_basereward.nn.layout import Layout

if TYPE_CHECKING:
    from lit_basereward.data.scan import Scan


@dataclass
class EnsembleBatch(Batch):
    """A batch of rows for every member. Its own ``inputs`` are empty; ``lengths`` are those of a row's first voter.

    Args:
        members: [M] batch of the rows that each member votes on; None for one that votes on none of them.
        votes: [M, N] True where a member votes.
    """

    members: list[Batch | None] = field(default_factory=list)
    votes: torch.Tensor = field(default_factory=lambda: torch.zeros(0, 0, dtype=torch.bool))


@dataclass
class EnsembleItem(Item):
    """One row, opened and tokenised by each member that votes on it. ``prefix`` and ``lengths`` are the first voter's.

    Args:
        parts: what each voter made of it, by the member's position.
    """

    parts: dict[int, Item] = field(default_factory=dict)


class EnsembleCollator(Collator):
    """Has every member that votes on a row prepare it, and lays out one batch per member.

    Args:
        members: collators by the members' names.
        routes: which members vote on which rows.
    """

    def __init__(self, members: dict[str, Collator], routes: Sequence[Route] = ()) -> None:
        self.names, self.members, self.routes = list(members), list(members.values()), list(routes)
        self.too_long = "drop" if any(each.too_long == "drop" for each in self.members) else "error"

    def estimate(self, rows: Scan) -> np.ndarray:
        """See :meth:`Collator.estimate`: of all members together, as if each voted on every row."""
        total = np.zeros(len(rows), np.float32)
        for each in self.members:
            total += each.estimate(rows)
        return total

    def remark(self, rows: Scan, used: np.ndarray) -> str:
        """What each member has to say."""
        told = {name: each.remark(rows, used) for name, each in zip(self.names, self.members, strict=True)}
        return "; ".join(f"member {name}: {remark}" for name, remark in told.items() if remark)

    def prepare(self, index: int, row: Preference) -> EnsembleItem:
        """Open and tokenise one row for every voter.

        Raises:
            RowError: naming the member that cannot read the row; TooLong where that member leaves such rows out.
        """
        parts = {m: self._prepare(m, index, row) for m in self.voters(index, row)}
        first = next(iter(parts.values()))
        truncated = [any(each) for each in zip(*(part.truncated for part in parts.values()), strict=True)]
        return EnsembleItem(
            index, first.prefix, [], first.lengths, truncated, first.ratings, first.weight, first.images, parts=parts
        )

    def num_tokens(self, item: Item) -> int:
        """Those of all voters."""
        assert isinstance(item, EnsembleItem)
        return sum(self.members[m].num_tokens(part) for m, part in item.parts.items())

    def voters(self, index: int, row: Preference) -> list[int]:
        """Positions of the members that vote on a row; all of them compute a filler, which has no category."""
        if index == FILLER:
            return list(range(len(self.names)))
        return voters(self.routes, self.names, "image" if row.images else "text", row.category, row.source)

    def _prepare(self, member: int, index: int, row: Preference) -> Item:
        collator, name = self.members[member], self.names[member]
        try:
            return collator.prepare(index, row)
        except RowError as error:
            kind = TooLong if isinstance(error, TooLong) and collator.too_long == "drop" else RowError
            raise kind(
                f"member {name!r} of the ensemble: {error}; rows that a member is not for are kept from it by a route"
            ) from error

    def collate(self, items: Sequence[Any], counts: StepCounts | None = None, dropped: Sequence[str] = ()) -> Batch:
        """Lay prepared rows out, once for each member that votes on any of them."""
        members = []
        for m, collator in enumerate(self.members):
            own = [item.parts[m] for item in items if m in item.parts]
            members.append(collator.collate(own) if own else None)

        def flat(values: Callable[[EnsembleItem], Sequence[Any]]) -> torch.Tensor:
            return torch.tensor([value for item in items for value in values(item)])

        sizes = torch.tensor([len(item.lengths) for item in items])
        votes = torch.tensor([[m in item.parts for item in items] for m in range(len(members))])
        return EnsembleBatch(
            inputs={},
            layout=Layout(
                pooled=torch.zeros(0, dtype=torch.long),
                num_tokens=sum(part.layout.num_tokens for part in members if part is not None),
            ),
            row=torch.arange(len(items)).repeat_interleave(sizes),
            ratings=flat(lambda item: item.ratings).float(),
            lengths=flat(lambda item: item.lengths),
            row_index=torch.tensor([item.index for item in items]),
            weight=torch.tensor([item.weight for item in items], dtype=torch.float32),
            truncated=flat(lambda item: item.truncated),
            counts=counts or StepCounts(),
            dropped=list(dropped),
            members=members,
            votes=votes.repeat_interleave(sizes, dim=1),
        )
