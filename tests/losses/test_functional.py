from __future__ import annotations

import doctest
import math
import random

import pytest
import torch

from lit_basereward.data.types import Message, Preference
from lit_basereward.losses import functional

NAN = math.nan


def test_doctests() -> None:
    results = doctest.testmod(functional)
    assert results.attempted and not results.failed


def test_pairs_by_hand() -> None:
    """Row 0: 1 > 0. Row 1 (positions 2 to 5), ratings 2, 1, NaN, 2: 2 > 3 and 5 > 3 are ordered, 2 and 5 tie."""
    row = torch.tensor([0, 0, 1, 1, 1, 1])
    ratings = torch.tensor([1.0, 0.0, 2.0, 1.0, NAN, 2.0])
    better, worse = functional.comparisons(row, ratings)
    assert (better.tolist(), worse.tolist()) == ([0, 2, 5], [1, 3, 3])
    first, second = functional.ties(row, ratings)
    assert (first.tolist(), second.tolist()) == ([2], [5])


def test_pairs_are_those_of_the_row_type_in_its_order() -> None:
    """`Preference` says which pairs a row has; 60 rows of K = 1 to 5 with ties and NaN, in one batch."""
    rng = random.Random(0)
    prompt = (Message("user", ("?",)),)
    rows = [
        Preference("", prompt, ("a",) * k, tuple(rng.choice([0.0, 1.0, 2.0, NAN]) for _ in range(k)))
        for k in (rng.randint(1, 5) for _ in range(60))
    ]
    starts = [sum(len(other.responses) for other in rows[:index]) for index in range(len(rows))]
    row = torch.tensor([index for index, item in enumerate(rows) for _ in item.responses])
    ratings = torch.tensor([rating for item in rows for rating in item.ratings])
    for ours, theirs in ((functional.comparisons, Preference.comparisons), (functional.ties, Preference.ties)):
        expected = [(start + i, start + j) for start, item in zip(starts, rows, strict=True) for i, j in theirs(item)]
        assert len(expected) > 20
        assert list(zip(*(index.tolist() for index in ours(row, ratings)), strict=True)) == expected


def test_row_numbers_may_have_gaps_but_must_ascend() -> None:
    ratings = torch.tensor([1.0, 0.0, 0.0, 1.0])
    better, worse = functional.comparisons(torch.tensor([2, 2, 7, 7]), ratings)
    assert (better.tolist(), worse.tolist()) == ([0, 3], [1, 2])
    with pytest.raises(ValueError, match="row must be ascending"):
        functional.comparisons(torch.tensor([0, 1, 0, 1]), ratings)


def test_no_responses() -> None:
    empty = torch.zeros(0)
    assert all(len(index) == 0 for index in functional.comparisons(empty.long(), empty))


def test_bradley_terry_by_hand() -> None:
    """-log sigmoid(d) = log(1 + e^-d): d = 0: log 2 = 0.693147; d = 1: log 1.367879 = 0.313262; d = -1: 1 more."""
    losses = functional.bradley_terry(torch.tensor([3.0, 1.0, 0.0]), torch.tensor([3.0, 0.0, 1.0]))
    torch.testing.assert_close(losses, torch.tensor([0.693147, 0.313262, 1.313262]), atol=1e-6, rtol=0)


def test_margin_is_taken_from_the_difference() -> None:
    """d = 2 with margin 1 is d = 1; d = 1 with margin 1 is d = 0."""
    losses = functional.bradley_terry(torch.tensor([2.0, 2.0]), torch.tensor([0.0, 1.0]), margin=1.0)
    torch.testing.assert_close(losses, torch.tensor([0.313262, 0.693147]), atol=1e-6, rtol=0)


def test_label_smoothing_by_hand() -> None:
    """d = 1, s = 0.1: 0.9 * 0.313262 + 0.1 * 1.313262 = 0.413262.

    The minimum over d is where sigmoid(d) = 1 - s: at s = 0.1, d = log 9, the gradient vanishes.
    """
    one = torch.ones(1)
    torch.testing.assert_close(
        functional.bradley_terry(one, 0 * one, label_smoothing=0.1), torch.tensor([0.413262]), atol=1e-6, rtol=0
    )
    better = torch.tensor([math.log(9)], requires_grad=True)
    functional.bradley_terry(better, 0 * one, label_smoothing=0.1).sum().backward()
    torch.testing.assert_close(better.grad, torch.zeros(1), atol=1e-6, rtol=0)


def test_gradient_by_hand() -> None:
    """The gradient of -log sigmoid(d) is -sigmoid(-d) in the better reward: -1/2 at d = 0; +1/2 in the worse."""
    better, worse = torch.zeros(1, requires_grad=True), torch.zeros(1, requires_grad=True)
    functional.bradley_terry(better, worse).sum().backward()
    assert (better.grad, worse.grad) == (torch.tensor([-0.5]), torch.tensor([0.5]))


def test_large_differences_stay_finite() -> None:
    """log(1 + e^1000) is 1000; a naive log(sigmoid(-1000)) is -inf."""
    losses = functional.bradley_terry(torch.tensor([-1000.0, 1000.0]), torch.zeros(2))
    assert losses.tolist() == [1000.0, 0.0]


def test_length_normalisation_by_hand() -> None:
    """Natural log of length + 1: a reward of log 8 at 7 tokens is 1; 2 log 2 at 1 token is 2."""
    rewards = torch.tensor([math.log(8), 2 * math.log(2)])
    normalised = functional.length_normalise(rewards, torch.tensor([7, 1]))
    torch.testing.assert_close(normalised, torch.tensor([1.0, 2.0]))
