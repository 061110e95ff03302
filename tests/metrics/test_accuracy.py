from __future__ import annotations

import doctest
import math

import pytest
import torch

from lit_basereward.metrics import (
    PairAccuracy,
    accuracy,
    pair_accuracy,
    pair_accuracy_by_row,
    reward_length_correlation,
)

NAN = math.nan
# Row 0: right. Row 1: ratings 2, 1, 0 with rewards 0.5, 0.5, 0: (0, 1) ties, (0, 2) and (1, 2) are right. Row 2: one
# response. Row 3: wrong. Row 4: tied ratings. Row 5: a NaN reward is wrong, no tie; an unrated response is left out.
ROW = torch.tensor([0, 0, 1, 1, 1, 2, 3, 3, 4, 4, 5, 5, 5])
REWARDS = torch.tensor([2.0, 1.0, 0.5, 0.5, 0.0, 9.0, 0.0, 1.0, 3.0, 2.0, NAN, 0.0, 5.0])
RATINGS = torch.tensor([1.0, 0.0, 2.0, 1.0, 0.0, 1.0, 1.0, 0.0, 4.0, 4.0, 1.0, 0.0, NAN])


def test_doctests() -> None:
    results = doctest.testmod(accuracy)
    assert results.attempted and not results.failed


def test_by_row_by_hand() -> None:
    correct, ties, total = pair_accuracy_by_row(REWARDS, ROW, RATINGS)
    assert correct.tolist() == [1, 2, 0, 0, 0, 0]
    assert ties.tolist() == [0, 1, 0, 0, 0, 0]
    assert total.tolist() == [1, 3, 0, 1, 0, 1]


def test_totals_by_hand() -> None:
    assert [int(n) for n in pair_accuracy(REWARDS, ROW, RATINGS)] == [3, 1, 6]


def test_constant_rewards_are_never_right() -> None:
    """A model that has collapsed stands at 0, not at a half or, by the order of the responses, at 1."""
    correct, ties, total = pair_accuracy(torch.zeros(4), torch.tensor([0, 0, 1, 1]), torch.tensor([1.0, 0.0, 0.0, 1.0]))
    assert (int(correct), int(ties), int(total)) == (0, 2, 2)


def test_negated_rewards_turn_right_into_wrong() -> None:
    generator = torch.Generator().manual_seed(0)
    rewards, row = torch.randn(40, generator=generator), torch.arange(40) // 4
    ratings = torch.randint(0, 3, (40,), generator=generator).float()
    correct, _, total = pair_accuracy(rewards, row, ratings)
    wrong, _, _ = pair_accuracy(-rewards, row, ratings)
    assert 0 < correct < total and correct + wrong == total


def test_nothing_to_compare() -> None:
    empty = torch.zeros(0)
    assert [int(n) for n in pair_accuracy(empty, empty.long(), empty)] == [0, 0, 0]


def test_module_twin_adds_up_batches() -> None:
    """Rows 0 to 2 and 3 to 5 as two batches give what one gives: 3 of 6, one tie."""
    metric = PairAccuracy()
    metric.update(REWARDS[:6], ROW[:6], RATINGS[:6])
    metric.update(REWARDS[6:], ROW[6:] - 3, RATINGS[6:])
    assert metric.compute().item() == 0.5
    assert (int(metric.correct), int(metric.ties), int(metric.total)) == (3, 1, 6)
    metric.reset()
    metric.update(REWARDS[:2], ROW[:2], RATINGS[:2])
    assert metric.compute().item() == 1


def test_length_correlation_by_hand() -> None:
    """Rewards 1, 2, 6 and lengths 10, 30, 20 are off their means by (-2, -1, 3) and (-10, 10, 0): products sum to 10,
    squares to 14 and 200: 10 / sqrt(2800) = 0.188982. Opposite order gives -1.
    """
    rewards, lengths = torch.tensor([1.0, 2.0, 6.0]), torch.tensor([10, 30, 20])
    assert reward_length_correlation(rewards, lengths) == pytest.approx(0.188982, abs=1e-6)
    assert reward_length_correlation(-lengths.float(), lengths) == pytest.approx(-1)


@pytest.mark.parametrize(
    ("rewards", "lengths"),
    [([], []), ([1.0], [3]), ([0.1] * 7, [1, 2, 3, 4, 5, 6, 7]), ([1.0, 2.0], [4, 4]), ([NAN, 1.0, 2.0], [1, 2, 3])],
)
def test_no_correlation_is_nan(rewards: list[float], lengths: list[int]) -> None:
    """Seven times 0.1 in float64 has a variance of rounding noise, not 0."""
    assert math.isnan(reward_length_correlation(torch.tensor(rewards, dtype=torch.float64), torch.tensor(lengths)))
