from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from jsonargparse import ArgumentParser

from lit_basereward.losses import BradleyTerry, RankingLoss

NAN = math.nan
LOG2, LOG3 = math.log(2), math.log(3)


def test_pairs_are_bradley_terry(batch_of, plackett_luce) -> None:
    """For K = 2, log(e^w + e^l) - w = log(1 + e^(l - w)) = -log sigmoid(w - l); tied and unrated pairs give none."""
    batch = batch_of([0, 1], [5, 2], [1, 1], [NAN, 1])
    rewards = torch.tensor([0.3, -1.0, 2.0, 0.7, 4.0, 5.0, 6.0, 7.0])
    losses, row = plackett_luce.PlackettLuce()(rewards, batch)
    expected, expected_row = BradleyTerry()(rewards, batch)
    torch.testing.assert_close(losses, expected)
    assert row.tolist() == expected_row.tolist() == [0, 1]


def test_a_ranking_by_hand(batch_of, plackett_luce) -> None:
    """Exponentials 1, 3, 2, ranked 3 > 2 > 1: the first draw has probability 3/6, the second 2/3. A second row has
    no say in it, nor has an unrated response.
    """
    batch = batch_of([1, 3, NAN, 2], [0, 1])
    losses, row = plackett_luce.PlackettLuce()(torch.tensor([0.0, LOG3, 9.0, LOG2, 0.0, 0.0]), batch)
    torch.testing.assert_close(losses, torch.tensor([math.log(6 / 3), math.log(3 / 2), LOG2]))
    assert row.tolist() == [0, 0, 1]


def test_ties_by_hand(batch_of, plackett_luce) -> None:
    """Exponentials 3, 2, 1, the first two tied: each against all three, 3/6 and 2/6."""
    losses, _ = plackett_luce.PlackettLuce()(torch.tensor([LOG3, LOG2, 0.0]), batch_of([2, 2, 1]))
    torch.testing.assert_close(losses, torch.tensor([math.log(6 / 3), math.log(6 / 2)]))


def test_order_of_responses_does_not_matter(batch_of, plackett_luce) -> None:
    ratings, rewards, order = [2.0, 0.0, 1.0, 2.0], torch.tensor([0.3, -1.0, 2.0, 0.7]), [2, 0, 3, 1]
    loss = plackett_luce.PlackettLuce()
    before, _ = loss(rewards, batch_of(ratings))
    after, _ = loss(rewards[order], batch_of([ratings[i] for i in order]))
    assert len(before) == 3
    torch.testing.assert_close(before.sort().values, after.sort().values)


def test_gradients_are_finite(batch_of, plackett_luce) -> None:
    """The masked entries are -inf inside the sum; their gradients must be 0, not NaN."""
    rewards = torch.tensor([0.3, -1.0, 2.0, 0.7], requires_grad=True)
    plackett_luce.PlackettLuce()(rewards, batch_of([2, 0], [NAN, 1]))[0].sum().backward()
    assert rewards.grad is not None and rewards.grad.isfinite().all()
    assert rewards.grad[:2].abs().min() > 0 and rewards.grad[2:].tolist() == [0, 0]


def test_injected_from_a_file_outside_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "examples"))
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--loss", type=RankingLoss)
    parsed = parser.parse_object({"loss": {"class_path": "plackett_luce.PlackettLuce"}})
    assert type(parser.instantiate(parsed).loss).__name__ == "PlackettLuce"
