from __future__ import annotations

import pytest
import torch
from jsonargparse import ArgumentParser

from lit_basereward.losses import Regularizer, TieSquared, ZeroCoefficient


def test_zero_coefficient_by_hand(batch_of) -> None:
    """Rewards 1 and 2: (1 + 2)^2 = 9, times 0.1. The tied row, rewards 5 and 5, has no comparison."""
    terms, row = ZeroCoefficient(0.1)(torch.tensor([1.0, 2.0, 5.0, 5.0]), batch_of([0, 1], [3, 3]))
    torch.testing.assert_close(terms, torch.tensor([0.9]))
    assert row.tolist() == [0]
    assert ZeroCoefficient.over == "comparisons"


def test_zero_coefficient_sees_the_offset_alone(batch_of) -> None:
    """A pair at -a and +a costs nothing, however far apart; Bradley-Terry does not see what it sees."""
    terms, _ = ZeroCoefficient(1.0)(torch.tensor([-7.0, 7.0]), batch_of([0, 1]))
    assert terms.tolist() == [0]


def test_tie_squared_by_hand(batch_of) -> None:
    """Row 1 has one tie, rewards 4 and 1: (4 - 1)^2 = 9, times 0.5. Row 2 has three: 1, 4 and 1, times 0.5."""
    rewards = torch.tensor([1.0, 2.0, 4.0, 0.0, 1.0, 0.0, 1.0, 2.0])
    terms, row = TieSquared(0.5)(rewards, batch_of([0, 1], [3, 0, 3], [2, 2, 2]))
    torch.testing.assert_close(terms, torch.tensor([4.5, 0.5, 2.0, 0.5]))
    assert row.tolist() == [1, 2, 2, 2]
    assert TieSquared.over == "ties"


@pytest.mark.parametrize("kind", [ZeroCoefficient, TieSquared])
def test_order_of_responses_does_not_matter(batch_of, kind) -> None:
    ratings, rewards, order = [2.0, 0.0, 1.0, 2.0], torch.tensor([0.3, -1.0, 2.0, 0.7]), [2, 0, 3, 1]
    before, _ = kind()(rewards, batch_of(ratings))
    after, _ = kind()(rewards[order], batch_of([ratings[i] for i in order]))
    assert len(before) > 0
    torch.testing.assert_close(before.sort().values, after.sort().values)


@pytest.mark.parametrize("kind", [ZeroCoefficient, TieSquared])
def test_a_negative_coefficient_is_refused(kind) -> None:
    with pytest.raises(ValueError, match=f"{kind.__name__}'s coefficient is -1; use a number >= 0"):
        kind(-1)


def test_injected_by_class_path() -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--regularizers", type=list[Regularizer])
    spec = [{"class_path": "lit_basereward.losses.TieSquared", "init_args": {"coefficient": 0.3}}]
    (term,) = parser.instantiate(parser.parse_object({"regularizers": spec})).regularizers
    assert isinstance(term, TieSquared) and term.coefficient == 0.3
