"""The one pass over a source at set-up: how many rows take part, why others do not, and how much work each is."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from tqdm import tqdm

from lit_basereward.data.images import image_size
from lit_basereward.data.sampler import RowStats, row_cost
from lit_basereward.data.sources.base import Source
from lit_basereward.data.types import Preference, RowError

Stage = Literal["train", "val", "test", "predict"]

MESSAGES_KEPT = 3


@dataclass
class SourceSummary:
    """One line of the table that set-up prints.

    Args:
        stage: ``train``, ``val``, ``test`` or ``predict``.
        name: of the source, unique in its stage.
        rows: in the source.
        used: rows that take part.
        comparisons: strictly ordered pairs in the rows used.
        ties: pairs of equal rating in the rows used.
        responses: fewest and most responses of a row used; None if none is.
        left_out: rows by the reason why they take no part.
        messages: of the first bad rows.
    """

    stage: Stage
    name: str
    rows: int
    used: int
    comparisons: int
    ties: int
    responses: tuple[int, int] | None
    left_out: dict[str, int] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)

    def reasons(self) -> str:
        """Rows left out, by reason: ``3 one response, 2 all ratings equal``."""
        return ", ".join(f"{count:,} {reason}" for reason, count in self.left_out.items())


@dataclass
class Scan:
    """What the pass over one source found. Shape legend: R rows.

    Args:
        stats: for the plans.
        responses: [R] K of each row, 0 for a bad one.
        reasons: why a row has no comparison, by position.
        messages: of the first bad rows.
    """

    stats: RowStats
    responses: np.ndarray
    reasons: dict[int, str]
    messages: list[str]

    def used(self, stage: Stage, use_ties: bool = False) -> np.ndarray:
        """[R] True for rows that take part: those with a comparison; in ``predict`` all that can be read."""
        if stage == "predict":
            return self.responses > 0
        only_ties = (self.stats.ties > 0) & (use_ties and stage == "train")
        return (self.stats.comparisons > 0) | only_ties

    def summary(self, stage: Stage, name: str, use_ties: bool = False) -> SourceSummary:
        """The source's line of the table."""
        used = self.used(stage, use_ties)
        responses = self.responses[used]
        return SourceSummary(
            stage=stage,
            name=name,
            rows=len(used),
            used=len(responses),
            comparisons=int(self.stats.comparisons[used].sum()),
            ties=int(self.stats.ties[used].sum()),
            responses=(int(responses.min()), int(responses.max())) if len(responses) else None,
            left_out=dict(Counter(reason for row, reason in self.reasons.items() if not used[row])),
            messages=self.messages,
        )


def scan(source: Source, name: str, on_bad_row: Literal["raise", "skip"], silent: bool = False) -> Scan:
    """Read every row of a source once and keep only numbers. Shows a bar where it takes more than two seconds.

    Args:
        source: what to read.
        name: for the bar.
        on_bad_row: ``skip`` counts bad rows and keeps the first messages.
        silent: no bar.

    Raises:
        RowError: at the first bad row, unless such rows are skipped.
    """
    num = len(source)
    comparisons, ties, responses = np.zeros((3, num), dtype=np.int64)
    cost = np.ones(num)
    reasons: dict[int, str] = {}
    messages: list[str] = []
    for index in tqdm(range(num), desc=f"Reading {name}", unit=" rows", delay=2, leave=False, disable=silent):
        try:
            row = source[index]
            for image in row.images:  # its header alone: what is broken further on shows when it is opened
                image_size(image, row.where or f"row {row.id!r}")
        except RowError as error:
            if on_bad_row == "raise":
                raise
            reasons[index] = "bad row"
            if len(messages) < MESSAGES_KEPT:
                messages.append(str(error))
            continue
        comparisons[index], ties[index] = len(row.comparisons()), len(row.ties())
        responses[index], cost[index] = len(row.responses), row_cost(row)
        if not comparisons[index]:
            reasons[index] = why_no_comparison(row)
    return Scan(RowStats(comparisons, ties, cost), responses, reasons, messages)


def why_no_comparison(row: Preference) -> str:
    """What a row without a comparison lacks, in the words of the table."""
    if len(row.responses) == 1:
        return "one response"
    if not row.ratings:
        return "no ratings"
    rated = sum(not math.isnan(rating) for rating in row.ratings)
    return ("all ratings NaN", "one rating")[rated] if rated < 2 else "all ratings equal"


def table(lines: Sequence[SourceSummary]) -> str:
    """The table that set-up prints, with the messages of the first bad rows below it."""
    head = ("data", "source", "rows", "used", "comparisons", "ties", "K", "left out")
    cells = [head]
    for line in lines:
        low, high = line.responses or (0, 0)
        k = f"{low}" if low == high else f"{low}-{high}"
        numbers = (f"{n:,}" for n in (line.rows, line.used, line.comparisons, line.ties))
        cells.append((line.stage, line.name, *numbers, k, line.reasons()))  # type: ignore[arg-type]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    left = {0, 1, 7}
    text = [
        "  ".join(
            cell.ljust(w) if n in left else cell.rjust(w) for n, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in cells
    ]
    text += [f"  left out: {message}" for line in lines for message in line.messages]
    return "\n".join(row.rstrip() for row in text)


def nothing_left(lines: Sequence[SourceSummary]) -> str:
    """The error message where no row of a stage takes part: says why, source by source."""
    stage = lines[0].stage
    why = "; ".join(
        f"{line.name} has {line.rows:,} rows: {line.reasons()}" if line.rows else f"{line.name} has no rows"
        for line in lines
    )
    need = "a row that can be read" if stage == "predict" else "a row with two responses that are rated differently"
    first = "".join(f"\n  {message}" for line in lines for message in line.messages)
    return f"data.{stage} has nothing to use. {why}. It needs {need}.{first}"
