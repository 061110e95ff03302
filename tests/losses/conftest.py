from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType

import pytest
import torch

from lit_basereward.data.batch import Batch, StepCounts
from lit_basereward.data.types import Message, Preference
from lit_basereward.nn.layout import Layout

NAN = float("nan")


@pytest.fixture
def batch_of() -> Callable[..., Batch]:
    """A batch from the ratings of its rows, as if it were the whole optimizer step."""

    def build(
        *rows: Sequence[float],
        lengths: Sequence[int] | None = None,
        weight: Sequence[float] | None = None,
        counts: StepCounts | None = None,
    ) -> Batch:
        ratings = [float(rating) for row in rows for rating in row]
        lengths = [1] * len(ratings) if lengths is None else lengths
        row = [index for index, row in enumerate(rows) for _ in row]
        return Batch(
            inputs={},
            layout=Layout.shared_prefix([1] * len(rows), lengths, row),
            row=torch.tensor(row),
            ratings=torch.tensor(ratings),
            lengths=torch.tensor(lengths),
            row_index=torch.arange(len(rows)),
            weight=torch.ones(len(rows)) if weight is None else torch.tensor(weight),
            truncated=torch.zeros(len(ratings), dtype=torch.bool),
            counts=counts or count(*rows),
        )

    return build


def count(*rows: Sequence[float]) -> StepCounts:
    """The step's counts by the definition in `Preference`, not by the code under test."""
    prompt = (Message("user", ("?",)),)
    kept = [Preference("", prompt, ("a",) * len(row), tuple(row)) for row in rows]
    compared = [len(row.comparisons()) for row in kept]
    tied = [len(row.ties()) for row in kept]
    return StepCounts(sum(n > 0 for n in compared), sum(compared), sum(n > 0 for n in tied), sum(tied))


@pytest.fixture
def plackett_luce(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The user-defined loss, imported as a user does: its folder on the path."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "examples"))
    import plackett_luce

    return plackett_luce
