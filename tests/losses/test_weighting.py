from __future__ import annotations

import pytest
import torch

from lit_basereward.data.batch import StepCounts
from lit_basereward.losses import BradleyTerry, TieSquared, step_weight


def test_weights_by_hand(batch_of) -> None:
    """A pair and a ranking of three: 4 comparisons in 2 rows. `pair`: 1/4 each. `row`: 1/2, and 1/(2 * 3) three times.
    The ranking's own weight 3 multiplies its entries.
    """
    batch = batch_of([1, 0], [2, 1, 0], weight=[1.0, 3.0])
    row = torch.tensor([0, 1, 1, 1])
    torch.testing.assert_close(step_weight(row, batch, "pair"), torch.tensor([0.25, 0.75, 0.75, 0.75]))
    torch.testing.assert_close(step_weight(row, batch, "row"), torch.tensor([0.5, 0.5, 0.5, 0.5]))


def test_weights_over_ties_by_hand(batch_of) -> None:
    """Rows of ratings (1, 1, 0), (2, 2, 2) and (1, 0): 1 + 3 ties in 2 rows; the comparisons are not counted."""
    batch = batch_of([1, 1, 0], [2, 2, 2], [1, 0])
    row = torch.tensor([0, 1, 1, 1])
    torch.testing.assert_close(step_weight(row, batch, "pair", over="ties"), torch.full([4], 1 / 4))
    torch.testing.assert_close(step_weight(row, batch, "row", over="ties"), torch.tensor([1 / 2, 1 / 6, 1 / 6, 1 / 6]))


def test_row_weights_count_what_the_loss_returned(batch_of, plackett_luce) -> None:
    """Plackett-Luce gives 1 and 2 entries where there are 1 and 3 comparisons: 1/2, and 1/(2 * 2) twice."""
    batch = batch_of([1, 0], [2, 1, 0])
    _, row = plackett_luce.PlackettLuce()(torch.zeros(5), batch)
    torch.testing.assert_close(step_weight(row, batch, "row"), torch.tensor([1 / 2, 1 / 4, 1 / 4]))


@pytest.mark.parametrize("pair_weighting", ["pair", "row"])
def test_cutting_a_step_into_micro_batches_changes_nothing(batch_of, pair_weighting) -> None:
    """Rows of K = 2, 4, 1, 3 in one micro-batch, in two, and in four: the same sum and the same gradients.

    Each micro-batch is multiplied by their number, as the module does, and averaged over them, as accumulation and
    data parallelism do. K = 1 alone makes a micro-batch without a comparison.
    """
    rows, weight = [[1, 0], [3, 2, 2, 0], [1], [0, 1, 2]], [1.0, 2.0, 1.0, 0.5]
    values = torch.randn(10, generator=torch.Generator().manual_seed(0))
    counts = batch_of(*rows).counts

    def step(cuts: list[list[int]]) -> tuple[float, torch.Tensor]:
        rewards = values.clone().requires_grad_()
        of_row = dict(enumerate(rewards.split([len(row) for row in rows])))
        mean = torch.zeros(())
        for cut in cuts:
            batch = batch_of(*(rows[r] for r in cut), weight=[weight[r] for r in cut], counts=counts)
            losses, row = BradleyTerry()(torch.cat([of_row[r] for r in cut]), batch)
            mean = mean + len(cuts) * (step_weight(row, batch, pair_weighting) * losses).sum() / len(cuts)
        mean.backward()
        assert rewards.grad is not None
        return mean.item(), rewards.grad

    whole, whole_grad = step([[0, 1, 2, 3]])
    assert whole > 0
    for cuts in ([[0, 1], [2, 3]], [[3, 0, 2], [1]], [[0], [1], [2], [3]]):
        total, grad = step(cuts)
        assert total == pytest.approx(whole, abs=1e-6)
        torch.testing.assert_close(grad, whole_grad, atol=1e-6, rtol=0)


@pytest.mark.parametrize("pair_weighting", ["pair", "row"])
def test_a_step_without_pairs_gives_zero_and_not_nan(batch_of, pair_weighting) -> None:
    batch = batch_of([1, 0])
    terms, row = TieSquared()(torch.zeros(2, requires_grad=True), batch)
    total = (step_weight(row, batch, pair_weighting, over="ties") * terms).sum()
    total.backward()
    assert total.item() == 0


@pytest.mark.parametrize("pair_weighting", ["pair", "row"])
def test_losses_without_counts_are_refused(batch_of, pair_weighting) -> None:
    batch = batch_of([1, 0], counts=StepCounts())
    with pytest.raises(ValueError, match=r"1 losses over comparisons, but batch\.counts has none"):
        step_weight(torch.tensor([0]), batch, pair_weighting)
