"""A reward depends on its prompt, its images and its response, and on nothing else that happens to be in the batch."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from lit_basereward.data.types import Preference
from lit_basereward.doctor.check import Check, at_most, skipped
from lit_basereward.doctor.subject import LayoutName, Subject, difference

FAMILY = "invariance"


def invariance(subject: Subject) -> Iterator[Check]:
    """Rewards alone, among others, in another layout and in another order; differences in units of their spread."""
    rows, tolerance = subject.rows, subject.tolerance
    together = subject.rewards(rows)
    alone = [subject.rewards([row])[0] for row in rows]
    yield at_most(FAMILY, "a row alone = the row among others", difference(together, alone), tolerance)
    backwards = subject.rewards(rows[::-1])[::-1]
    yield at_most(FAMILY, "rows in the other order", difference(backwards, together), tolerance)

    flipped = [part.flip(0) for part in subject.rewards([_reversed(row) for row in rows])]
    yield at_most(FAMILY, "responses in the other order", difference(flipped, together), tolerance)
    yield _padding(subject, together)

    name = "shared layout = padded layout"
    if subject.collator.layout == "shared":
        yield at_most(FAMILY, name, difference(together, subject.rewards(rows, "padded")), tolerance)
    else:
        yield skipped(FAMILY, name, "this model is scored in the padded layout")
    yield _reference(subject, together)


def _reversed(row: Preference) -> Preference:
    return replace(
        row, responses=row.responses[::-1], ratings=row.ratings[::-1], critiques=row.critiques[::-1],
        finished=row.finished[::-1],
    )  # fmt: skip


def _padding(subject: Subject, together: list[Tensor]) -> Check:
    """Beside a response four times as long as any of its own, every other one is padded to that length."""
    name = "beside a much longer response (padding)"
    longest = max((r for row in subject.rows for r in row.responses), key=len)
    row = subject.rows[0]
    room = subject.collator.max_length - max(each["input_ids"].shape[1] for each in subject.branches(row))
    text = " ".join([longest] * 4)
    if len(subject.collator.chat.text(text)) > room:
        return skipped(FAMILY, name, f"backbone.max_length {subject.collator.max_length} has no room for one")
    responses = (text, row.responses[0]) if subject.judges else (text,)
    one = replace(row, responses=responses, ratings=(), critiques=(), finished=(), judgement="")
    layout: LayoutName = subject.collator.layout
    beside = [subject.rewards([*subject.rows, one], each)[:-1] for each in {layout, "padded"}]
    return at_most(FAMILY, name, max(difference(each, together) for each in beside), subject.tolerance)


def _reference(subject: Subject, together: list[Tensor]) -> Check:
    """The backbone's own forward pass over one response at a time, and the head on its last state."""
    name = "as the backbone alone, one response at a time"
    model = subject.model
    if model is None:
        return skipped(FAMILY, name, f"{type(subject.module).__name__} has no single backbone and head")
    rewards = []
    with torch.inference_mode(), subject.computing():
        for row in subject.rows:
            branches = subject.branches(row)
            states = [model.base(**inputs, use_cache=False).last_hidden_state[0, -1] for inputs in branches]
            read = model.head(torch.stack(states)).cpu()
            rewards.append(_judged(subject, row, read) if subject.judges else read)
    value = difference(together, rewards)
    return at_most(FAMILY, name, value if math.isfinite(value) else math.inf, subject.tolerance)


def _judged(subject: Subject, row: Preference, log_odds: Tensor) -> Tensor:
    """Scores of a row by their definition, ``1/K sum_j (l_ij - l_ji) / 2``; responses of the same text are equal."""
    odds = dict(zip(subject.orders(row), log_odds.tolist(), strict=True))
    same = [row.responses.index(response) for response in row.responses]
    return torch.tensor(
        [sum(odds.get((i, j), 0.0) - odds.get((j, i), 0.0) for j in same) / 2 / len(same) for i in same]
    )
