"""What the collator hands to the model: tensors, their layout and the labels."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from lit_basereward.nn.layout import Layout, Movable


@dataclass
class StepCounts:
    """How much one whole optimizer step holds, over all devices and accumulated micro-batches: the loss normalisers.

    Args:
        rows: rows with at least one comparison.
        comparisons: strictly ordered pairs.
        tied_rows: rows with at least one tie.
        ties: pairs of equal rating.
    """

    rows: int = 0
    comparisons: int = 0
    tied_rows: int = 0
    ties: int = 0


@dataclass
class Batch(Movable):
    """A micro-batch of rows, laid out. Holds no :class:`Preference` (Lightning refuses frozen dataclasses).

    Shape legend: R rows, N responses (row-major), T tokens.

    Args:
        inputs: what the backbone reads: ``input_ids`` and whatever its processor returned.
        layout: which tokens are prompt, which are branches, and where each response's reward is read.
        row: [N] row of each response inside this batch, ascending.
        ratings: [N] NaN is unrated.
        lengths: [N] response tokens, end-of-turn included.
        row_index: [R] position of the row in its source; -1 for a filler row, which has no rating.
        weight: [R] factor on the row's loss.
        truncated: [N] True where tokens were cut from the end of the response.
        counts: normalisers of the whole optimizer step.
        dropped: one message per row that was left out while collating.
    """

    inputs: dict[str, Tensor]
    layout: Layout
    row: Tensor
    ratings: Tensor
    lengths: Tensor
    row_index: Tensor
    weight: Tensor
    truncated: Tensor
    counts: StepCounts = field(default_factory=StepCounts)
    dropped: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.row_index)
