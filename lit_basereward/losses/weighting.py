"""Weights that make the sum over the micro-batches of an optimizer step the step's mean."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

if TYPE_CHECKING:
    from lit_basereward.data.batch import Batch

Pairs = Literal["comparisons", "ties"]
PairWeighting = Literal["pair", "row"]


def step_weight(row: Tensor, batch: Batch, pair_weighting: PairWeighting, over: Pairs = "comparisons") -> Tensor:
    """Weight of each loss, so that ``(weight * losses).sum()``, summed over the whole step, is the step's mean.

    ``pair`` gives every comparison the same say, ``1 / comparisons in the step``: the paper trains on listed pairs.
    ``row`` gives every row the same say, ``1 / (rows in the step * losses of the row)``: a row of K = 4 then counts as
    much as a pair, not six times as much. Either is multiplied by the row's own ``batch.weight``. The numbers are
    the step's, not the micro-batch's, so how a step is cut over devices and accumulation changes nothing.

    A loss that returns other than one entry per comparison (Plackett-Luce: K - 1 a row) is a true mean under ``row``
    only; under ``pair`` its sum is still divided by the number of comparisons.

    Args:
        row: [C] row of each loss, as the loss or regularizer returned it.
        batch: its ``counts`` are the step's.
        pair_weighting: ``pair`` or ``row``.
        over: what the losses are over, ``comparisons`` or ``ties``.

    Returns:
        [C] float32 weights.

    Raises:
        ValueError: if there are losses but ``batch.counts`` has none in the step.
    """
    counts = batch.counts
    pairs, rows = (counts.comparisons, counts.rows) if over == "comparisons" else (counts.ties, counts.tied_rows)
    if len(row) == 0:
        return batch.weight.new_zeros(0, dtype=torch.float32)
    if pairs == 0 or rows == 0:
        raise ValueError(f"{len(row)} losses over {over}, but batch.counts has none in the step; set it from the step")
    weight = batch.weight[row].float()
    if pair_weighting == "pair":
        return weight / pairs
    losses_of_row = torch.bincount(row, minlength=len(batch))[row]
    return weight / (rows * losses_of_row)
