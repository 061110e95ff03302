"""What a policy is trained on: prompts, their images, and what reward functions need to know."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Literal

import numpy as np

from lit_basereward.data.scan import REASONS, Scan, scan
from lit_basereward.data.sources.base import Source
from lit_basereward.data.templates import JUDGE_FIELDS, Template, question_text
from lit_basereward.data.types import ImagePart, ImageRef, Message


@dataclass(frozen=True)
class Sample:
    """One prompt of a task.

    Args:
        prompt: turns, image parts in place. Each string is tokenised by itself.
        images: one per image part, in order.
        answer: what rewards compare with.
        demonstration: a good completion, to imitate; empty where there is none.
        where: names the sample in error messages.
    """

    prompt: tuple[Message, ...]
    images: tuple[ImageRef, ...] = ()
    answer: str = ""
    demonstration: str = ""
    where: str = ""


class Task(ABC):
    """Prompts by number. Subclass it, give it ``__len__`` and ``__getitem__``, and name it in YAML."""

    def prepare(self) -> None:  # noqa: B027 - most need none
        """Read what is needed, once, before anything else is called. Default: nothing."""

    @abstractmethod
    def __len__(self) -> int:
        """Number of prompts."""

    @abstractmethod
    def __getitem__(self, index: int) -> Sample:
        """Prompt ``index``; its images stay closed.

        Raises:
            RowError: if it cannot be used; the message names the mend.
        """


class JudgeTask(Task):
    """Which of two responses is better? Every comparison of the sources as a judge's prompt.

    Args:
        sources: rows with at least two responses, rated differently. Others are counted and left out.
        template: the judge's instructions: ``reasoning``, or the path of a file of yours.
        orders: ``balanced`` shows each comparison once, the better response first in exactly half of them (one less
            where their number is odd); ``both`` shows each in both orders, for evaluation.
        limit: use this many comparisons, drawn by ``seed``. None uses all.
        system_prompt: first turn. None leaves it to the chat template.
        on_bad_row: ``skip`` leaves rows that cannot be read out, and counts them.
        seed: of the drawing and of the orders.

    Raises:
        ValueError: where the template cannot be used.
    """

    def __init__(
        self,
        sources: list[Source],
        template: str = "reasoning",
        orders: Literal["balanced", "both"] = "balanced",
        limit: int | None = None,
        system_prompt: str | None = None,
        on_bad_row: Literal["raise", "skip"] = "raise",
        seed: int = 0,
    ) -> None:
        if limit is not None and limit < 1:
            raise ValueError(f"limit is {limit}; use a number of comparisons from 1, or null for all")
        self.sources, self.template = sources, Template(template, JUDGE_FIELDS)
        self.orders, self.limit, self.system_prompt = orders, limit, system_prompt
        self.on_bad_row, self.seed = on_bad_row, seed
        self._shown = np.zeros((0, 4), np.int32)

    def prepare(self) -> None:
        """Count the comparisons of all sources, print what is used, and settle the orders.

        Raises:
            RowError: at the first bad row, unless those are skipped.
            ValueError: if there is no comparison.
        """
        scans = []
        for source in self.sources:
            source.prepare()
            scans.append(scan(source, source.name, self.on_bad_row))
            print(_told(source, scans[-1]))
        found = np.array(
            [
                (number, row, comparison)
                for number, read in enumerate(scans)
                for row in np.flatnonzero(read.comparisons)
                for comparison in range(read.comparisons[row])
            ],
            np.int32,
        ).reshape(-1, 3)
        if not len(found):
            raise ValueError("the task has no comparison; give sources whose rows have two responses rated differently")
        drawn = found[random.Random(self.seed).sample(range(len(found)), min(len(found), self.limit or len(found)))]
        if self.orders == "both":
            drawn, answers = drawn.repeat(2, axis=0), np.tile([1, 2], len(drawn))
        else:
            answers = 1 + np.arange(len(drawn)) % 2
        self._shown = np.column_stack([drawn, answers]).astype(np.int32)

    def __len__(self) -> int:
        return len(self._shown)

    def __getitem__(self, index: int) -> Sample:
        number, row_index, comparison, answer = map(int, self._shown[index])
        row = self.sources[number][row_index]
        better, worse = row.comparisons()[comparison]
        shown = (better, worse) if answer == 1 else (worse, better)
        texts = [question_text(row.prompt), *(row.responses[response] for response in shown)]
        asked = [*chain.from_iterable(zip(self.template.pieces, texts, strict=False)), self.template.pieces[-1]]
        system = [] if self.system_prompt is None else [Message("system", (self.system_prompt,))]
        return Sample(
            prompt=(*system, Message("user", (*(ImagePart() for _ in row.images), *filter(None, asked)))),
            images=row.images,
            answer=str(answer),
            demonstration=row.judgement if shown == (0, 1) else "",  # a judgement is about these two, in this order
            where=row.where or f"{row.source} row {row.id!r}",
        )


def _told(source: Source, read: Scan) -> str:
    """One line on what is used of a source, and why not all of it."""
    reasons = Counter(REASONS[number] for number in read.reason[read.comparisons == 0].tolist())
    left_out = "".join(f"; {count:,} rows left out: {reason}" for reason, count in sorted(reasons.items()))
    used, comparisons = int((read.comparisons > 0).sum()), int(read.comparisons.sum())
    return "\n  ".join([f"{source.name}: {used:,} rows, {comparisons:,} comparisons{left_out}", *read.messages])


def demonstrated(task: Task) -> Sequence[Sample]:
    """The samples of a prepared task that have a demonstration.

    Raises:
        ValueError: if there is none.
    """
    found = [sample for sample in (task[index] for index in range(len(task))) if sample.demonstration.strip()]
    if not found:
        raise ValueError(
            "the task has no demonstration to imitate; for a judge, give sources whose rows have judgements"
        )
    return found
