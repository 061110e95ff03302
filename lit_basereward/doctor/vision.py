"""Does the model look? And does it know where every part of an image is?"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from lit_basereward.data.batch import Batch
from lit_basereward.data.images import image_key, open_image
from lit_basereward.data.sources.base import Source
from lit_basereward.data.sources.blank import BlankImages
from lit_basereward.data.types import ImageRef, Preference
from lit_basereward.doctor.check import Check, at_least, at_most, skipped
from lit_basereward.doctor.subject import Subject, difference, spread

FAMILY = "images"
MOVES = 1e-4
"""Smallest movement of a reward, in units of the rewards' spread, that is no rounding (our choice).

Batches of one shape are compared, whose rounding is the same: without pixels the movement is zero, or next to it.
"""
MAX_IMAGES = 8
"""Images that are blanked one at a time."""


def images(subject: Subject) -> Iterator[Check]:
    """Rewards with the images shuffled among rows, with all of them blank, and with one blank at a time.

    Other images are scaled to the size of the ones they replace: a prompt keeps its length, so that a model which
    drops the pixels and counts the placeholders is not taken for one that looks.
    """
    rows = subject.image_rows
    if not rows:
        yield skipped(FAMILY, "rewards move with the images", "this backbone reads text only")
        return
    true, blank, shuffled = subject.rewards(rows), _blank(rows), _shuffled(rows)
    unit = spread(true)
    for name, others in (("another row's images", shuffled), ("blank images", blank)):
        rewards = subject.rewards(others)
        moved = min(((a - b).abs().max() / unit).item() for a, b in zip(true, rewards, strict=True))
        told = _accuracies(rows, true, rewards)
        yield at_least(FAMILY, f"every row's rewards move with {name}", moved, MOVES, told)
    yield from _one_at_a_time(subject, rows, true, blank)


def _one_at_a_time(
    subject: Subject, rows: list[Preference], true: list[Tensor], blank: list[Preference]
) -> Iterator[Check]:
    """An image moves the rewards of its own row, and of no other."""
    own, others = [], [0.0]
    places = [(r, n) for r, row in enumerate(rows) for n in range(len(row.images))][:MAX_IMAGES]
    for r, n in places:
        refs = (*rows[r].images[:n], blank[r].images[n], *rows[r].images[n + 1 :])
        rewards = subject.rewards([*rows[:r], replace(rows[r], images=refs), *rows[r + 1 :]])
        own.append(((rewards[r] - true[r]).abs().max() / spread(true)).item())
        rest = [q for q in range(len(rows)) if q != r]
        others.append(difference([rewards[q] for q in rest], [true[q] for q in rest]))
    yield at_least(FAMILY, f"each of {len(places)} images moves its own row's rewards", min(own), MOVES)
    yield at_most(FAMILY, "and leaves those of the other rows", max(others), subject.tolerance)


def _accuracies(rows: Sequence[Preference], true: Sequence[Tensor], changed: Sequence[Tensor]) -> str:
    """How many comparisons are right with the images, and without: of rows that are rated by someone."""
    if rows[0].id.startswith("made-up-"):
        return ""
    pairs = [(n, i, j) for n, row in enumerate(rows) for i, j in row.comparisons()]
    if not pairs:
        return ""
    right, without = (sum(bool(r[n][i] > r[n][j]) for n, i, j in pairs) / len(pairs) for r in (true, changed))
    return f"accuracy over {len(pairs)} comparisons: {right:.3f}, and {without:.3f} with them"


class _Rows(Source):
    """A list as a source."""

    name = "rows"

    def __init__(self, rows: Sequence[Preference]) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Preference:
        return self.rows[index]


def _blank(rows: Sequence[Preference]) -> list[Preference]:
    blank = BlankImages(_Rows(rows))
    return [blank[n] for n in range(len(rows))]


def _shuffled(rows: Sequence[Preference]) -> list[Preference]:
    """Each image becomes the next different one of the rows, scaled to its size."""
    pool = {image_key(ref): ref for row in rows for ref in row.images}
    keys = list(pool)
    after = dict(zip(keys, [*keys[1:], keys[0]], strict=True))

    def scaled(ref: ImageRef, other: ImageRef, where: str) -> ImageRef:
        size = open_image(ref, where).size
        buffer = io.BytesIO()
        open_image(other, where).resize(size).save(buffer, "PNG")
        return ImageRef(data=buffer.getvalue())

    return [
        replace(row, images=tuple(scaled(ref, pool[after[image_key(ref)]], row.where or row.id) for ref in row.images))
        for row in rows
    ]


def positions(subject: Subject) -> Iterator[Check]:
    """Positions that the language model is really given, against ``get_rope_index`` on each whole sequence.

    Outputs hardly move with wrong positions, so the positions themselves are compared. Where a backbone has
    one-dimensional ones they count tokens from 0.
    """
    family, name = "positions", "of every token as in its sequence alone (tokens that differ)"
    model, rows = subject.model, subject.image_rows or subject.rows
    if model is None:
        yield skipped(family, name, f"{type(subject.module).__name__} has no single backbone and head")
        return
    rows = [*rows, *(row for row in subject.rows if not row.images)]
    seen: list[Tensor | None] = []
    decoder = model.base.get_decoder()
    hook = decoder.register_forward_pre_hook(
        lambda _, args, options: seen.append(options.get("position_ids")), with_kwargs=True
    )
    batch = subject.collator(list(enumerate(rows)))
    try:
        with torch.inference_mode(), subject.computing():
            subject.module.score(batch.to(subject.scorer.device))
    finally:
        hook.remove()
    if len(seen) != 1:
        raise ValueError(f"the language model ran {len(seen)} times for one batch")
    given = _by_response(batch, None if seen[0] is None else seen[0].cpu())
    wrong = total = 0
    expected = [_expected(model.base, inputs) for row in rows for inputs in subject.branches(row)]
    for one, two in zip(given, expected, strict=True):
        if one.shape[-1] != two.shape[-1]:
            raise ValueError(f"a branch has {one.shape[-1]} tokens in its batch, {two.shape[-1]} alone")
        total += two.shape[-1]
        wrong += int((one != two).any(0).sum())
    kind = "multimodal (3-D)" if hasattr(model.base, "get_rope_index") else "1-D"
    yield at_most(family, name, wrong, 0, f"of {total} tokens; {kind} positions")


def _by_response(batch: Batch, positions: Tensor | None) -> list[Tensor]:
    """Positions [1 or 3, tokens] of each response's whole sequence, out of what the batch's forward pass was given."""
    ids, layout = batch.inputs["input_ids"], batch.layout
    if positions is None:
        positions = torch.arange(ids.shape[1]).expand(ids.shape)
    axes = positions.reshape(-1, *ids.shape[-2:]) if positions.ndim == 3 else positions.expand(ids.shape)[None]
    axes = axes[-3:]  # a fourth, in front, counts tokens
    if not layout.shared:
        mask = batch.inputs["attention_mask"].bool()
        return [axes[:, n, mask[n]] for n in range(len(ids))]
    assert layout.prefixes is not None and layout.prefix_valid is not None
    assert layout.row is not None and layout.branch_offset is not None
    packed, first = axes[:, 0], int(layout.prefix_valid.sum())
    starts = [first + int(i) for i in (layout.branch_offset == 0).nonzero().flatten()]
    ends = [*starts[1:], ids.shape[1]]
    prefixes = [place[valid] for place, valid in zip(layout.prefixes, layout.prefix_valid, strict=True)]
    return [
        torch.cat([packed[:, prefixes[int(r)]], packed[:, start:end]], dim=1)
        for r, start, end in zip(layout.row, starts, ends, strict=True)
    ]


def _expected(base: Any, inputs: dict[str, Tensor]) -> Tensor:
    """Positions of one whole sequence, [3, tokens] or [1, tokens]."""
    length = inputs["input_ids"].shape[1]
    grids = {key: value for key, value in inputs.items() if key.endswith("grid_thw")}
    if not hasattr(base, "get_rope_index") or not grids:
        return torch.arange(length)[None]
    positions, _ = base.get_rope_index(
        inputs["input_ids"],
        mm_token_type_ids=inputs["mm_token_type_ids"],
        attention_mask=inputs["attention_mask"],
        **grids,
    )
    return positions[:, 0].cpu()
