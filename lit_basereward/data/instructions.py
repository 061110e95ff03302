"""What critics and judges share: a row as one user turn of instructions, and the tokens that a text is learnt from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lit_basereward.data.batch import Batch
from lit_basereward.data.collator import Collator, Item
from lit_basereward.data.images import image_key
from lit_basereward.data.templates import Template, question_text
from lit_basereward.data.types import ImagePart, Message, Preference
from lit_basereward.nn.language import Targets


class Turn(NamedTuple):
    """A user turn of instructions, open at the first response.

    Args:
        prefix: ids of images, instructions and question.
        vision: what the image processor returned.
        close: ids that end the user's turn, begin the model's, and open its text where the chat template does.
        end: ids that end the model's turn.
    """

    prefix: list[int]
    vision: dict[str, Tensor]
    close: list[int]
    end: list[int]


@dataclass
class WrittenItem(Item):
    """A row whose branches may end with text to be learnt.

    Args:
        written: of each branch, how many of its last tokens are such text; 0 for none.
    """

    written: list[int] = field(default_factory=list)


class InstructionCollator(Collator):
    """Lays rows out as one user turn: images, then a template's text with the row's texts in it.

    All of the template is encoded as text from data is: it holds no structure, and each of its pieces is encoded by
    itself, as are the texts between them.

    Args:
        processor: of the backbone; a tokenizer for a text-only one.
        template: the instructions.
        **settings: as for :class:`Collator`. ``system_prompt`` is the critic's or judge's own; a row's system turn is a
            part of what is judged.
    """

    def __init__(self, processor: Any, template: Template, **settings: Any) -> None:
        super().__init__(processor, **settings)
        self.template = template
        self._pieces = [self.chat.text(piece) for piece in template.pieces]

    def _turn(self, row: Preference) -> Turn:
        self._check_images(row)
        messages = self._with_system((Message("user", (*(ImagePart() for _ in row.images), "")),))
        before, behind = self.chat.around_last_text(messages)
        opening, end = self.chat.around_response(messages)
        asked = [*self._pieces[0], *self.chat.text(question_text(row.prompt)), *self._pieces[1]]
        prefix, vision = self._with_images(row, before + asked)
        return Turn(prefix, vision, behind + opening, end)

    @staticmethod
    def _of_row(index: int, row: Preference, turn: Turn) -> dict[str, Any]:
        """Fields of an item that do not depend on its branches, which are still to come."""
        return {
            "index": index,
            "prefix": turn.prefix,
            "branches": [],
            "ratings": list(row.ratings) or [float("nan")] * len(row.responses),
            "weight": row.weight,
            "images": tuple(map(image_key, row.images)),
            "vision": turn.vision,
        }


def targets(batch: Batch, items: Sequence[WrittenItem]) -> Targets | None:
    """The text at the ends of the branches as targets; None where there is none. Branches are pooled at their ends."""
    written = torch.tensor([count for item in items for count in item.written])
    if not written.any():
        return None
    branch = torch.arange(len(written)).repeat_interleave(written)
    nth = torch.arange(len(branch)) - (written.cumsum(0) - written)[branch]  # 0, 1, ... in each text
    return Targets(
        position=batch.layout.pooled[branch] - written[branch] + nth,  # of the token before each
        token=torch.tensor(
            [i for item in items for b, n in zip(item.branches, item.written, strict=True) for i in b[len(b) - n :]]
        ),
        branch=branch,
    )
