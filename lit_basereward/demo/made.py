"""What the demo's sources have in common: rows from a seed, and what is said about their responses by rule."""

from __future__ import annotations

import random
from abc import abstractmethod
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

from lit_basereward.data.sources.base import Source
from lit_basereward.data.types import ImagePart, ImageRef, Message, Preference

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")


def remark(mistakes: tuple[str, ...]) -> str:
    """What is said of one response: ``right``, or such as ``wrong count and colour``."""
    return f"wrong {' and '.join(mistakes)}" if mistakes else "right"


def critique(finding: str, said: str, mistakes: tuple[str, ...]) -> str:
    """The critique of one response, in few tokens, since it is generated: ``Shows seven, says three: wrong digit.``

    It repeats what the response says: tiny models learn to compare what stands side by side in some hundred steps, and
    without it not in many more.

    Args:
        finding: what is there, such as ``Shows seven``.
        said: what the response says, such as ``three``.
        mistakes: what is wrong in it.
    """
    return f"{finding}, says {said}: {remark(mistakes)}."


def judgement(finding: str, said: tuple[str, ...], mistakes: tuple[tuple[str, ...], ...]) -> str:
    """The comparison of the first two responses, called 1 and 2; empty where both have as many mistakes.

    Such as ``<think>Shows seven, 1 says three, 2 says seven. 1: wrong digit. 2: right.</think><answer>2</answer>``.

    Args:
        finding: as in :func:`critique`.
        said: what the responses say.
        mistakes: what is wrong in them.
    """
    (one, two), (first, second) = said[:2], mistakes[:2]
    if len(first) == len(second):
        return ""
    thoughts = f"{finding}, 1 says {one}, 2 says {two}. 1: {remark(first)}. 2: {remark(second)}."
    return f"<think>{thoughts}</think><answer>{1 if len(first) < len(second) else 2}</answer>"


@dataclass(frozen=True)
class Candidates:
    """One row before it is drawn: a question, its candidate answers and what the image shows.

    Args:
        question: text of the prompt.
        answers: the responses.
        ratings: of each answer; higher is better.
        said: what each answer says, in a word where it can be.
        mistakes: of each answer: names of what is wrong in it. A better one has fewer.
        finding: what is there, in words: how critiques and judgement begin.
        category: the source's own sub-group.
        shows: what is to be drawn.
    """

    question: str
    answers: tuple[str, ...]
    ratings: tuple[float, ...]
    said: tuple[str, ...]
    mistakes: tuple[tuple[str, ...], ...]
    finding: str
    category: str
    shows: Any = None


class MadeSource(Source):
    """A source whose rows are made from a seed. Subclasses say what they are and draw their images.

    Every row has a critique of each response and, where its first two responses differ in rating, a judgement of them,
    by rule. They name what is there, so they tell which response is right: train on them, but let evaluation generate
    its own (``critique: generate``). With those given, the figures would say nothing.

    Args:
        split: ``train``, ``val`` or ``test``; they share no image, whatever the seeds.
        rows: about how many rows, cut to whole groups; None is the default of the split.
        seed: of everything but the split.
    """

    def __init__(self, split: Split = "train", rows: int | None = None, seed: int = 0) -> None:
        if split not in SPLITS:
            raise ValueError(f"{self.name} has no split {split!r}; use one of {SPLITS}")
        self.split, self.rows, self.seed = split, rows, seed

    @abstractmethod
    def make(self, rng: random.Random) -> list[Candidates]:
        """All rows, group by group."""

    def draw(self, index: int) -> bytes | None:
        """The image of row ``index`` as PNG, or None where rows have none."""
        return None

    @cached_property
    def candidates(self) -> list[Candidates]:
        """All rows before they are drawn, made on first use; answers in an order of their own in every row."""
        rng = self.rng()
        made = self.make(rng)
        if not made:
            raise ValueError(f"{self.name} cannot make a whole group of {self.rows} rows; set a larger number, or null")
        orders = [rng.sample(range(len(row.answers)), len(row.answers)) for row in made]
        return [
            replace(
                row,
                answers=tuple(row.answers[i] for i in o),
                ratings=tuple(row.ratings[i] for i in o),
                said=tuple(row.said[i] for i in o),
                mistakes=tuple(row.mistakes[i] for i in o),
            )
            for row, o in zip(made, orders, strict=True)
        ]

    def rng(self, *key: object) -> random.Random:
        """A random stream of its own for every name, split, seed and ``key``."""
        return random.Random("-".join(map(str, (self.name, self.split, self.seed, *key))))

    def __len__(self) -> int:
        return len(self.candidates)

    def __getitem__(self, index: int) -> Preference:
        row, png = self.candidates[index], self.draw(index)
        return Preference(
            id=f"{self.name}-{self.split}-{index}",
            prompt=(Message("user", (row.question,) if png is None else (ImagePart(), row.question)),),
            responses=row.answers,
            ratings=row.ratings,
            images=() if png is None else (ImageRef(data=png),),
            critiques=tuple(critique(row.finding, *of) for of in zip(row.said, row.mistakes, strict=True)),
            judgement=judgement(row.finding, row.said, row.mistakes),
            source=self.name,
            category=row.category,
        )

    def fingerprint(self) -> str:
        return f"{super().fingerprint()}:{self.split}:{self.seed}"
