"""The one pass over a source at set-up: how many rows take part, why others do not, and how much work each is.

What it finds of a large source is kept on disk, so that the pass is made once and not at every start.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import math
import os
import sys
import tempfile
import warnings
import zipfile
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

import numpy as np
from tqdm import tqdm

from lit_basereward import __version__
from lit_basereward.data.collator import Collator
from lit_basereward.data.images import image_size
from lit_basereward.data.records.cache import cache_folder
from lit_basereward.data.sampler import RowStats
from lit_basereward.data.sources.base import Source
from lit_basereward.data.types import ImagePart, Preference, RowError

Stage = Literal["train", "val", "test", "predict"]

MESSAGES_KEPT = 3
KEPT_ABOVE = 20_000
"""Rows of a source above which its scan is kept on disk (our choice: some seconds of work)."""
_VERSION = 2  # of the kept file; count up when its numbers change their meaning
_REREAD = 64  # rows that are read again before a kept scan is trusted
_PIXELS_PER_TOKEN = 28 * 28  # of Qwen2.5-VL: patches of 14, merged 2 x 2
REASONS = (
    "", "bad row", "one response", "no ratings", "all ratings NaN", "one rating", "all ratings equal",
)  # fmt: skip
"""Why a row has no comparison, in the words of the table."""


@dataclass
class Scan:
    """What the pass over one source found, about 12 bytes a row. Shape legend: R rows, all zero for a bad one.

    Args:
        comparisons: [R] strictly ordered pairs of responses.
        ties: [R] pairs of equal rating.
        responses: [R] K.
        reason: [R] why a row has no comparison, a place in ``REASONS``; 0 where it has one.
        prompt: [R] bytes of its prompt's texts.
        answers: [R] bytes of its responses, all together.
        critiques: [R] bytes of its critiques; 0 unless each response has one.
        judgement: [R] bytes of its judgement.
        images: [R] number of its images.
        pixels: [R] their pixels in all.
        messages: of the first bad rows.
    """

    comparisons: np.ndarray
    ties: np.ndarray
    responses: np.ndarray
    reason: np.ndarray
    prompt: np.ndarray
    answers: np.ndarray
    critiques: np.ndarray
    judgement: np.ndarray
    images: np.ndarray
    pixels: np.ndarray
    messages: list[str]

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.responses)

    def stats(self, collator: Collator, max_pixels: int | None = None) -> RowStats:
        """What the plans need. A row's cost is about its tokens in the shared layout, known before any is made.

        28 x 28 pixels are a token, and the collator says how many the texts make. Our choice: it has to rank rows by
        the work that they make, and to size micro-batches.

        Args:
            collator: that will lay the rows out.
            max_pixels: of the backbone, which shrinks larger images; taken of a row's images on average.
        """
        pixels = self.pixels.astype(np.float32)
        if max_pixels is not None:
            pixels = np.minimum(pixels, self.images.astype(np.float32) * max_pixels)
        cost = collator.estimate(self) + pixels / _PIXELS_PER_TOKEN
        return RowStats(self.comparisons, self.ties, cost.astype(np.float32))

    def bad_rows(self) -> np.ndarray:
        """Positions of the rows that cannot be used."""
        return np.flatnonzero(self.reason == REASONS.index("bad row"))

    def used(self, stage: Stage, use_ties: bool = False) -> np.ndarray:
        """[R] True for rows that take part: those with a comparison; in ``predict`` all that can be read."""
        if stage == "predict":
            return self.responses > 0
        only_ties = (self.ties > 0) & (use_ties and stage == "train")
        return (self.comparisons > 0) | only_ties


_COLUMNS = tuple(entry.name for entry in fields(Scan))[:-1]


def scan(source: Source, name: str, on_bad_row: Literal["raise", "skip"], silent: bool = False) -> Scan:
    """Read every row of a source once and keep only numbers. Shows a bar where it takes more than two seconds.

    The numbers of a source of more than ``KEPT_ABOVE`` rows that has a fingerprint of its own are kept in the cache
    folder, under that fingerprint, and some rows are read again before they are used.

    Args:
        source: what to read.
        name: for the bar.
        on_bad_row: ``skip`` counts bad rows and keeps the first messages.
        silent: no bar.

    Raises:
        RowError: at the first bad row, unless such rows are skipped.
    """
    path = _place(source) if is_kept(source) else None
    found = _load(path, source, on_bad_row) if path else None
    if found is None:
        found = _read(source, name, on_bad_row, silent)
        if path:
            _keep(found, path)
    return found


def _read(source: Source, name: str, on_bad_row: Literal["raise", "skip"], silent: bool) -> Scan:
    numbers = np.zeros((len(source), len(_COLUMNS)), np.uint32)
    messages: list[str] = []
    for index in tqdm(range(len(source)), desc=f"Reading {name}", unit=" rows", delay=2, leave=False, disable=silent):
        try:
            numbers[index] = measure(source[index])
        except RowError as error:
            if on_bad_row == "raise":
                raise
            numbers[index, 3] = REASONS.index("bad row")
            if len(messages) < MESSAGES_KEPT:
                messages.append(str(error))
    columns = [column.astype(np.min_scalar_type(column.max(initial=0))) for column in numbers.T]
    return Scan(messages=messages, **dict(zip(_COLUMNS, columns, strict=True)))


def measure(row: Preference) -> tuple[int, ...]:
    """A row's numbers, in the order of :class:`Scan`.

    Raises:
        RowError: if the header of an image cannot be read. What is broken further on shows when it is opened.
    """
    sizes = [image_size(image, row.where or f"row {row.id!r}") for image in row.images]
    comparisons = len(row.comparisons())
    texts = [part for message in row.prompt for part in message.content if not isinstance(part, ImagePart)]
    return (
        comparisons,
        len(row.ties()),
        len(row.responses),
        0 if comparisons else REASONS.index(why_no_comparison(row)),
        sum(map(_size, texts)),
        sum(map(_size, row.responses)),
        sum(map(_size, row.critiques)) if all(critique.strip() for critique in row.critiques) else 0,
        _size(row.judgement),
        len(sizes),
        min(sum(width * height for width, height in sizes), 2**32 - 1),
    )


def _size(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode(errors="surrogatepass"))


def why_no_comparison(row: Preference) -> str:
    """What a row without a comparison lacks, in the words of the table."""
    if len(row.responses) == 1:
        return "one response"
    if not row.ratings:
        return "no ratings"
    rated = sum(not math.isnan(rating) for rating in row.ratings)
    return ("all ratings NaN", "one rating")[rated] if rated < 2 else "all ratings equal"


# ------------------------------------------------------------------------------------------------ kept on disk
def is_kept(source: Source) -> bool:
    """Whether a source's scan is kept: it is large, and its own fingerprint tells when its content has changed."""
    return len(source) > KEPT_ABOVE and type(source).fingerprint is not Source.fingerprint


def _place(source: Source) -> Path:
    """File of the scan of these rows, read by this code."""
    code = hashlib.sha256()
    for module in sorted({cls.__module__ for cls in type(source).__mro__ if issubclass(cls, Source)}):
        try:
            code.update(inspect.getsource(sys.modules[module]).encode())
        except (OSError, TypeError):  # written in a notebook or a shell: the rows that are read again must do
            code.update(module.encode())
    key = json.dumps([_VERSION, __version__, type(source).__qualname__, code.hexdigest(), source.fingerprint()])
    return cache_folder() / "scan" / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.npz"


def _load(path: Path, source: Source, on_bad_row: Literal["raise", "skip"]) -> Scan | None:
    """A kept scan; None where there is none, it is damaged, or rows are not as it says.

    Raises:
        RowError: if it has a bad row, and such rows are not skipped.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            columns = {name: file[name] for name in _COLUMNS}
            found = Scan(messages=file["messages"].tolist(), **columns)
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile):
        return None
    if len(found) != len(source):
        return None
    rows = np.linspace(0, len(source) - 1, _REREAD).astype(int)
    for index in [*rows.tolist(), *found.bad_rows()[:1].tolist()]:
        try:
            now = measure(source[index])
        except RowError:
            if on_bad_row == "raise":
                raise
            now = (0, 0, 0, REASONS.index("bad row"), 0, 0, 0, 0, 0, 0)
        if now != tuple(int(column[index]) for column in columns.values()):
            return None
    return found


def _keep(found: Scan, path: Path) -> None:
    """Write a scan under a temporary name, then give it its own: nothing half-written is taken for finished."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        number, scratch = tempfile.mkstemp(prefix=".unfinished-", dir=path.parent)
        try:
            with os.fdopen(number, "wb") as file:
                np.savez(file, allow_pickle=False, **{key: np.array(value) for key, value in vars(found).items()})
            os.replace(scratch, path)
        except BaseException:
            os.unlink(scratch)
            raise
    except OSError as error:
        warnings.warn(f"what was read is not kept for the next run ({error}); set LIT_BASEREWARD_CACHE", stacklevel=3)
