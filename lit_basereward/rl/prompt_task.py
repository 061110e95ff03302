"""Prompts of a policy: what it is asked, with images, and the right answer."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from tqdm import tqdm

from lit_basereward.data.images import image_size
from lit_basereward.data.records.lines import LineRecords
from lit_basereward.data.sources.base import Source
from lit_basereward.data.sources.record import read_row
from lit_basereward.data.types import Message, Preference, RowError
from lit_basereward.rl.task import Sample, Task


class PromptTask(Task):
    """Prompts for a policy to answer.

    Args:
        data: a JSONL file with ``prompt``, ``images`` and ``answer`` (its prompts and images are those of
            docs/data_format.md), or sources of preferences, of whose rows the best-rated response is the right answer
            and a demonstration. Rows without an answer are kept: a model's reward needs none, a rule's does.
        instruction: put behind the last user turn, such as how to write down the answer.
        system_prompt: first turn, for prompts without one. None leaves it to the chat template.
        limit: use this many prompts, drawn by ``seed``. None uses all.
        on_bad_row: ``skip`` leaves prompts that cannot be read out, and counts them.
        image_root: folder that image paths of the JSONL file are relative to and cannot leave. None is the file's.
        seed: of the drawing.
    """

    def __init__(
        self,
        data: str | list[Source],
        instruction: str = "",
        system_prompt: str | None = None,
        limit: int | None = None,
        on_bad_row: Literal["raise", "skip"] = "raise",
        image_root: str | None = None,
        seed: int = 0,
    ) -> None:
        if limit is not None and limit < 1:
            raise ValueError(f"limit is {limit}; use a number of prompts from 1, or null for all")
        if image_root is not None and not isinstance(data, str):
            raise ValueError("image_root is for a JSONL file; sources have their own")
        self.sources = [_Asked(data, image_root)] if isinstance(data, str) else data
        self.instruction, self.system_prompt, self.limit = instruction, system_prompt, limit
        self.on_bad_row, self.seed = on_bad_row, seed
        self._used: list[tuple[int, int]] = []

    def prepare(self) -> None:
        """Read every prompt once, images by their headers, and print what is used.

        Raises:
            RowError: at the first bad row, unless those are skipped.
            ValueError: if there is no prompt.
        """
        found = []
        for number, source in enumerate(self.sources):
            source.prepare()
            good, answered, bad = [], 0, list[str]()
            for index in tqdm(range(len(source)), desc=f"Reading {source.name}", unit=" rows", delay=2, leave=False):
                try:
                    row = source[index]
                    for ref in row.images:
                        image_size(ref, row.where)
                except RowError as error:
                    if self.on_bad_row == "raise":
                        raise
                    bad.append(str(error))
                else:
                    good.append((number, index))
                    answered += bool(best(row))
            told = f"{source.name}: {len(good):,} prompts, {answered:,} with an answer"
            print("\n  ".join([told + (f"; {len(bad):,} bad rows left out, the first:" if bad else ""), *bad[:3]]))
            found += good
        if not found:
            raise ValueError("the task has no prompt; give it data")
        size = min(len(found), self.limit or len(found))
        self._used = found if size == len(found) else random.Random(self.seed).sample(found, size)

    def __len__(self) -> int:
        return len(self._used)

    def __getitem__(self, index: int) -> Sample:
        number, position = self._used[index]
        row = self.sources[number][position]
        answer = best(row)
        prompt = row.prompt
        if self.instruction:
            prompt = (*prompt[:-1], Message("user", (*prompt[-1].content, f"\n{self.instruction}")))
        if self.system_prompt is not None and prompt[0].role != "system":
            prompt = (Message("system", (self.system_prompt,)), *prompt)
        return Sample(
            prompt=prompt,
            images=row.images,
            answer=answer,
            demonstration="" if isinstance(self.sources[number], _Asked) else answer,
            where=row.where or f"{row.source} row {row.id!r}",
        )


def best(row: Preference) -> str:
    """The response with the highest rating, the first of several; empty where none is rated."""
    rated = [(rating, -number) for number, rating in enumerate(row.ratings) if rating == rating]
    return row.responses[-max(rated)[1]] if rated else ""


class _Asked(Source):
    """A JSONL file of prompts with answers, as rows whose only response is the answer."""

    def __init__(self, path: str, image_root: str | None) -> None:
        self.root = Path(path).parent if image_root is None else Path(image_root)
        self.name, self._records = Path(path.removesuffix(".gz")).stem, LineRecords(path)

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> Preference:
        record, where = dict(self._records[index]), self._records.where(index)
        answer: Any = record.pop("answer", None)
        for key in ("responses", "chosen", "rejected", "ratings"):
            if key in record:
                raise RowError(f"{where} has `{key}`, as preferences have; give the file as a JSONLSource in a list")
        if answer is not None and (isinstance(answer, bool) or not isinstance(answer, str | int | float)):
            raise RowError(f"{where} has an `answer` that is no text or number; write it as a text")
        record |= {"responses": ["" if answer is None else str(answer)]}
        row = read_row(record, where, root=self.root, source=self.name, default_id=str(index + 1), allow_empty=True)
        return replace(row, ratings=(1.0,))
