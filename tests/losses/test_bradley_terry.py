from __future__ import annotations

import math

import pytest
import torch
from jsonargparse import ArgumentParser

from lit_basereward.losses import BradleyTerry, RankingLoss

NAN = math.nan
OPTIONS = [{}, {"margin": 0.5}, {"margin": "gap"}, {"length_norm": True}, {"label_smoothing": 0.1}]


def test_all_comparisons_of_a_row_by_hand(batch_of) -> None:
    """Row 0 is a pair with d = 1. Row 1 has ratings 2, NaN, 0, 1 and rewards 1, 9, 0, 1: comparisons (0, 2) d = 1,
    (0, 3) d = 0, (3, 2) d = 1; the unrated 9 is in none.
    """
    batch = batch_of([0, 1], [2, NAN, 0, 1])
    losses, row = BradleyTerry()(torch.tensor([0.0, 1.0, 1.0, 9.0, 0.0, 1.0]), batch)
    torch.testing.assert_close(losses, torch.tensor([0.313262, 0.313262, 0.693147, 0.313262]), atol=1e-6, rtol=0)
    assert row.tolist() == [0, 1, 1, 1]


def test_gap_margin_by_hand(batch_of) -> None:
    """Ratings 3 and 1, rewards 2.5 and 0: 2.5 - 0 - (3 - 1) = 0.5; log(1 + e^-0.5) = log 1.606531 = 0.474077."""
    losses, _ = BradleyTerry(margin="gap")(torch.tensor([2.5, 0.0]), batch_of([3, 1]))
    torch.testing.assert_close(losses, torch.tensor([0.474077]), atol=1e-6, rtol=0)


def test_length_norm_by_hand(batch_of) -> None:
    """2 log 8 at 7 tokens against log 2 at 1 token: 2 - 1 = 1, so 0.313262; raw they differ by 3.4657."""
    batch = batch_of([1, 0], lengths=[7, 1])
    losses, _ = BradleyTerry(length_norm=True)(torch.tensor([2 * math.log(8), math.log(2)]), batch)
    torch.testing.assert_close(losses, torch.tensor([0.313262]), atol=1e-6, rtol=0)


def test_label_smoothing_by_hand(batch_of) -> None:
    """d = 1, s = 0.1: 0.9 * 0.313262 + 0.1 * 1.313262 = 0.413262."""
    losses, _ = BradleyTerry(label_smoothing=0.1)(torch.tensor([1.0, 0.0]), batch_of([1, 0]))
    torch.testing.assert_close(losses, torch.tensor([0.413262]), atol=1e-6, rtol=0)


@pytest.mark.parametrize("options", OPTIONS)
def test_order_of_responses_does_not_matter(batch_of, options) -> None:
    """Reordering a row's responses with all they carry reorders its losses and no more."""
    ratings, rewards, lengths = [2.0, 0.0, 1.0, 2.0], torch.tensor([0.3, -1.0, 2.0, 0.7]), [5, 2, 9, 3]
    order = [2, 0, 3, 1]
    loss = BradleyTerry(**options)
    before, _ = loss(rewards, batch_of(ratings, lengths=lengths))
    after, _ = loss(rewards[order], batch_of([ratings[i] for i in order], lengths=[lengths[i] for i in order]))
    assert len(before) == 5
    torch.testing.assert_close(before.sort().values, after.sort().values)


@pytest.mark.parametrize("options", OPTIONS)
def test_swapping_which_is_better_negates_the_difference(batch_of, options) -> None:
    """With negated rewards and negated ratings every d and every gap is as before."""
    rewards, ratings = torch.tensor([0.3, -1.0, 2.0]), [2.0, 0.0, 1.0]
    loss = BradleyTerry(**options)
    before, _ = loss(rewards, batch_of(ratings))
    after, _ = loss(-rewards, batch_of([-rating for rating in ratings]))
    torch.testing.assert_close(before.sort().values, after.sort().values)


def test_a_batch_without_comparisons_has_a_zero_gradient(batch_of) -> None:
    rewards = torch.tensor([1.0, 2.0, 3.0], requires_grad=True)
    losses, row = BradleyTerry()(rewards, batch_of([1, 1], [NAN]))
    assert len(losses) == len(row) == 0
    losses.sum().backward()
    assert rewards.grad is not None and rewards.grad.tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"margin": -0.1}, "margin is -0.1; use a number >= 0, or 'gap'"),
        ({"margin": NAN}, "margin is nan"),
        ({"margin": "gaps"}, "margin is 'gaps'"),
        ({"label_smoothing": 0.5}, "label_smoothing is 0.5; use 0 <= label_smoothing < 0.5"),
        ({"label_smoothing": -0.1}, "label_smoothing is -0.1"),
    ],
)
def test_bad_settings_say_what_is_accepted(options, message) -> None:
    with pytest.raises(ValueError, match=message):
        BradleyTerry(**options)


@pytest.mark.parametrize("margin", ["gap", 0.5])
def test_injected_by_class_path(margin) -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--loss", type=RankingLoss)
    spec = {"class_path": "lit_basereward.losses.BradleyTerry", "init_args": {"margin": margin, "length_norm": True}}
    loss = parser.instantiate(parser.parse_object({"loss": spec})).loss
    assert isinstance(loss, BradleyTerry)
    assert (loss.margin, loss.length_norm, loss.label_smoothing) == (margin, True, 0.0)
