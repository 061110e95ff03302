"""Rows as a critic sees them: each response behind the question, and a critique of it behind the response."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from lit_basereward.data.batch import Batch, StepCounts
from lit_basereward.data.collator import tokens_in
from lit_basereward.data.instructions import InstructionCollator, Turn, WrittenItem, targets
from lit_basereward.data.templates import CRITIC_FIELDS, Template
from lit_basereward.data.types import Preference
from lit_basereward.nn.language import Targets

if TYPE_CHECKING:
    from lit_basereward.data.scan import Scan

Critique = Literal["generate", "given", "none"]
"""Where critiques come from: the model writes them, the rows have them, or none are used."""


@dataclass
class CriticItem(WrittenItem):
    """One row for a critic.

    Args:
        critiqued: its branches end with its critiques.
        to_write: its branches end where critiques are to be written.
        incomplete: some of its responses have a critique and some do not, so that none is used.
    """

    critiqued: bool = False
    to_write: bool = False
    incomplete: bool = False


@dataclass(kw_only=True)
class CriticBatch(Batch):
    """A batch of which each branch is one response, with or without a critique. Shape legend: N responses.

    Args:
        targets: tokens of the critiques, their end of turn included; None without critiques.
        critiqued: [N] True where the branch ends with the row's own critique, and is scored behind it. Where neither
            this nor ``to_write`` holds, the branch is that of NaiveRM.
        to_write: [N] True where the branch ends where a critique is to be generated.
        incomplete: rows laid out as NaiveRM does although some of their responses have a critique.
    """

    targets: Targets | None
    critiqued: Tensor
    to_write: Tensor
    incomplete: int


class CriticCollator(InstructionCollator):
    """Images, instructions and question as prefix; as branch a response, the rest of the instructions and a critique.

    MM-RLHF's form: the critique of one response is the model's turn, and the reward is read at its end. A row has this
    form only if each of its responses has a critique that is not blank, so that its rewards come from the same kind of
    text; other rows are laid out as by :class:`Collator`, and a batch may hold both. A response that was cut off at
    generation stands in the instructions as it is.

    Args:
        processor: of the backbone; a tokenizer for a text-only one.
        template: the instructions, with ``CRITIC_FIELDS``.
        critique: ``given`` lays the rows' critiques out, in training too; ``generate`` ends every branch where one is
            to be written; ``none`` lays all rows out as NaiveRM does.
        **settings: as for :class:`Collator`. ``max_length`` counts critiques that are given; those written come on top.
    """

    def __init__(self, processor: Any, template: Template, critique: Critique, **settings: Any) -> None:
        super().__init__(processor, template, **settings)
        assert template.fields == CRITIC_FIELDS, template.fields
        self.critique = critique

    def estimate(self, rows: Scan) -> np.ndarray:
        """See :meth:`Collator.estimate`: the instructions and given critiques come on top. Those that are to be written
        are not counted, since nobody knows how long they will be."""
        plain = super().estimate(rows)
        if self.critique == "none":
            return plain
        before, between, behind = map(len, self._pieces)
        told = plain + before + between + behind * rows.responses.astype(np.float32)
        if self.critique == "generate":
            return told
        return np.where(rows.critiques, told + tokens_in(rows.critiques), plain)

    def remark(self, rows: Scan, used: np.ndarray) -> str:
        """How many rows lack critiques that are to be read."""
        without = int((rows.critiques[used] == 0).sum())
        if self.critique != "given" or not without:
            return ""
        return (
            f"{without:,} of {len(used):,} rows do not have a critique of each response (`critiques`): "
            "these are laid out as by NaiveRM, without any"
        )

    def prepare(self, index: int, row: Preference) -> CriticItem:
        """See :meth:`Collator.prepare`."""
        given = sum(bool(critique.strip()) for critique in row.critiques)
        if self.critique == "none" or (self.critique == "given" and given < len(row.responses)):
            plain = super().prepare(index, row)
            return CriticItem(
                **vars(plain), written=[0] * len(plain.branches), incomplete=self.critique == "given" and given > 0
            )
        turn = self._turn(row)
        item = CriticItem(
            **self._of_row(index, row, turn),
            lengths=[],
            truncated=[],
            critiqued=self.critique == "given",
            to_write=self.critique == "generate",
        )
        for k in range(len(row.responses)):
            self._add_branch(item, row, turn, k)
        return item

    def _add_branch(self, item: CriticItem, row: Preference, turn: Turn, k: int) -> None:
        critique = [*self.chat.text(row.critiques[k]), *turn.end] if item.critiqued else []
        behind = [*self._pieces[2], *turn.close, *critique]
        tokens = self.chat.text(row.responses[k])
        fixed = len(item.prefix) + len(behind)
        room = self.max_length - fixed
        if cut := len(tokens) > room:
            self._check_room(row, fixed, len(tokens), room, "prompt and critique" if critique else "prompt")
            tokens = tokens[:room]
        item.branches.append(tokens + behind)
        # as NaiveRM counts them, so that losses normalised by length do not depend on the paradigm
        item.lengths.append(len(tokens) + (len(turn.end) if not row.finished or row.finished[k] else 0))
        item.truncated.append(cut)
        item.written.append(len(critique))

    def collate(  # type: ignore[override]  # of its own items
        self, items: Sequence[CriticItem], counts: StepCounts | None = None, dropped: Sequence[str] = ()
    ) -> CriticBatch:
        """Lay prepared rows out as one batch, with and without critiques."""
        batch = super().collate(items, counts, dropped)
        return CriticBatch(
            **vars(batch),
            targets=targets(batch, items),
            critiqued=torch.tensor([item.critiqued for item in items])[batch.row],
            to_write=torch.tensor([item.to_write for item in items])[batch.row],
            incomplete=sum(item.incomplete for item in items),
        )
