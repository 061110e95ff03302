"""The one row type: a prompt, its images, K responses and how good each is said to be."""

from __future__ import annotations

import math
from dataclasses import dataclass


class RowError(ValueError):
    """A row that cannot be used. The message names the file, the row and the mend."""


class TooLong(RowError):
    """A row with more tokens than ``max_length``."""


@dataclass(frozen=True, slots=True)
class ImagePart:
    """The place in a message where the next of the row's images stands."""


@dataclass(frozen=True, slots=True)
class Message:
    """One chat turn: text and image parts in reading order.

    Args:
        role: ``system``, ``user`` or ``assistant``.
        content: strings and :class:`ImagePart`. A string is text and nothing else: special tokens in it stay text.
    """

    role: str
    content: tuple[str | ImagePart, ...]


@dataclass(frozen=True, slots=True)
class ImageRef:
    """An image that is opened in the worker, not before. Exactly one of ``path`` and ``data`` is set.

    Args:
        path: file on disk, already checked to lie inside the source's ``image_root``.
        data: the encoded bytes (PNG, JPEG, ...).
    """

    path: str = ""
    data: bytes = b""


@dataclass(frozen=True, slots=True)
class Preference:
    """One prompt, K candidate responses and how good each is said to be (K = 1 is scoring, K > 2 a ranking).

    Args:
        id: the source's own name of the row; need not be unique.
        prompt: turns up to the last user turn, image parts in place.
        responses: K >= 1 candidate answers.
        ratings: K numbers, comparable inside the row only; higher is better, equal is a tie, NaN is unrated.
            Empty is unlabelled.
        images: the prompt's images, one per image part, in order.
        critiques: per response, ``""`` where missing; empty when the row has none.
        judgement: a comparison of ``responses[0]``, called 1, with ``responses[1]``, called 2; never swapped.
        finished: per response, False where generation was cut off before the end of the turn; empty is all True.
        weight: factor on the row's loss.
        source: name of the corpus.
        category: the source's own sub-group.
        where: file and line for error messages.

    Raises:
        RowError: where the fields do not fit together.
    """

    id: str
    prompt: tuple[Message, ...]
    responses: tuple[str, ...]
    ratings: tuple[float, ...] = ()
    images: tuple[ImageRef, ...] = ()
    critiques: tuple[str, ...] = ()
    judgement: str = ""
    finished: tuple[bool, ...] = ()
    weight: float = 1.0
    source: str = ""
    category: str = ""
    where: str = ""

    def __post_init__(self) -> None:
        num = len(self.responses)
        if num == 0:
            raise self.error("has no response; give at least one")
        for name in ("ratings", "critiques", "finished"):
            given = len(getattr(self, name))
            if given not in (0, num):
                raise self.error(f"has {num} responses but {given} {name}; give one per response, or none")
        if any(math.isinf(r) for r in self.ratings):
            raise self.error("has an infinite rating; use a finite number, or NaN for unrated")
        if not (math.isfinite(self.weight) and self.weight >= 0):
            raise self.error(f"has weight {self.weight}; use a finite number >= 0")
        if not self.prompt or self.prompt[-1].role != "user":
            raise self.error("has a prompt that does not end in a user turn")
        slots = sum(isinstance(part, ImagePart) for message in self.prompt for part in message.content)
        if slots != len(self.images):
            raise self.error(f"has {len(self.images)} images but {slots} image placeholders in its prompt")

    def error(self, problem: str) -> RowError:
        """An error that names this row: ``raise row.error("has no image")``."""
        return RowError(f"{self.where or f'row {self.id!r}'} {problem}")

    def comparisons(self) -> list[tuple[int, int]]:
        """Pairs ``(better, worse)`` of response indices with strictly ordered ratings, NaN left out."""
        return [
            (i, j) for i, better in enumerate(self.ratings) for j, worse in enumerate(self.ratings) if better > worse
        ]

    def ties(self) -> list[tuple[int, int]]:
        """Pairs ``(i, j)``, ``i < j``, of responses with equal ratings."""
        return [
            (i, j)
            for i, first in enumerate(self.ratings)
            for j, second in enumerate(self.ratings[i + 1 :], i + 1)
            if first == second
        ]
