"""Combiners by hand, and what holds for all of them."""

from __future__ import annotations

import math

import pytest
import torch
from user_combiner import Broken, Trimmed

from lit_basereward.ensemble.combiners import (
    AccuracyWeighted,
    ConfidenceWeighted,
    LowerConfidenceBound,
    Mean,
    Minimum,
    StandardisedMean,
)
from lit_basereward.ensemble.votes import all_pairs, disagreement

NAN = math.nan
NAMES = ["a", "b"]
SCORES = torch.tensor([[1.0, 0.0, 2.0, 4.0], [0.0, 2.0, 5.0, NAN]])
ROW = torch.tensor([0, 0, 1, 2])
# Held out: two pairs; better first in both. Margins of a: 2, 1; of b: 4, -1.
HELD = torch.tensor([[3.0, 1.0, 2.0, 1.0], [4.0, 0.0, 0.0, 1.0]])
HELD_ROW, PAIRS = torch.tensor([0, 0, 1, 1]), (torch.tensor([0, 2]), torch.tensor([1, 3]))
ALL = [Mean(), AccuracyWeighted(), ConfidenceWeighted(), StandardisedMean(), Minimum(), LowerConfidenceBound(0.5)]


def close(found: torch.Tensor, expected: list[float]) -> None:
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, torch.tensor(expected), rtol=0, atol=1e-6)


def test_without_fitting():
    """By column: (1, 0), (0, 2), (2, 5), 4 alone. Population std of two numbers is half their distance.

    mean 0.5, 1, 3.5, 4; least 0, 0, 2, 4; mean - 2 * std: 0.5 - 1, 1 - 2, 3.5 - 3, 4 - 0.
    """
    close(Mean().combine(SCORES, ROW, NAMES), [0.5, 1.0, 3.5, 4.0])
    close(Minimum().combine(SCORES, ROW, NAMES), [0.0, 0.0, 2.0, 4.0])
    close(LowerConfidenceBound(k=2.0).combine(SCORES, ROW, NAMES), [-0.5, -1.0, 0.5, 4.0])
    close(disagreement(SCORES).float(), [0.5, 1.0, 1.5, 0.0])


def test_accuracy_weights():
    """a is right in both pairs, b in one of two: weights 1 / 1.5 = 2/3 and 0.5 / 1.5 = 1/3.

    First column 2/3 * 1 + 1/3 * 0 = 2/3, then 0 + 2/3, 4/3 + 5/3 = 3, and a alone keeps its 4.
    """
    fitted = AccuracyWeighted().fit(HELD, HELD_ROW, PAIRS, NAMES)
    assert fitted.weights == pytest.approx({"a": 2 / 3, "b": 1 / 3})
    close(fitted.combine(SCORES, ROW, NAMES), [2 / 3, 2 / 3, 3.0, 4.0])


def test_confidence_weights():
    """Mean margins are (2 + 1) / 2 = 1.5 and (4 - 1) / 2 = 1.5, the wrong pair against b: equal weights, so the mean.

    Unsigned margins would give b 2.5 and weights 0.375, 0.625. With b's second margin -5 its mean is -0.5: an error
    that names it.
    """
    fitted = ConfidenceWeighted().fit(HELD, HELD_ROW, PAIRS, NAMES)
    assert fitted.weights == pytest.approx({"a": 0.5, "b": 0.5})
    close(fitted.combine(SCORES, ROW, NAMES), [0.5, 1.0, 3.5, 4.0])
    worse = HELD.clone()
    worse[1, 3] = 5.0
    with pytest.raises(ValueError, match=r"member 'b' has a mean margin of -0.5"):
        ConfidenceWeighted().fit(worse, HELD_ROW, PAIRS, NAMES)


def test_standardised_mean():
    """Held-out rewards of a: 3, 1, 2, 1, mean 1.75, variance (1.5625 + .5625 + .0625 + .5625) / 4 = 0.6875.

    Of b: 4, 0, 0, 1, mean 1.25, variance (7.5625 + 1.5625 + 1.5625 + 0.0625) / 4 = 2.6875. First column:
    (1 - 1.75) / 0.829156 = -0.904534 and (0 - 1.25) / 1.639360 = -0.762493, mean -0.833514; times the mean std
    1.234258, plus the mean mean 1.5: 0.471229. The last is a's alone: 2.25 / 0.829156 * 1.234258 + 1.5 = 4.849281.
    """
    fitted = StandardisedMean().fit(HELD, HELD_ROW, PAIRS, NAMES)
    assert fitted.means == pytest.approx({"a": 1.75, "b": 1.25})
    assert fitted.stds == pytest.approx({"a": 0.6875**0.5, "b": 2.6875**0.5})
    found = fitted.combine(SCORES, ROW, NAMES)
    assert found[[0, 3]].tolist() == pytest.approx([0.471229, 4.849281], abs=1e-5)


def test_fitted_pessimists_do_not_take_offsets_for_disagreement():
    """b is a plus 10 everywhere, which no comparison can tell: centred they agree, and nothing is taken off.

    a - 1.75 and b - 11.75 are equal; with the mean of means, 6.75, put back: a + 5.
    """
    held = torch.stack([HELD[0], HELD[0] + 10])
    scores = torch.stack([SCORES[0], SCORES[0] + 10])
    for combiner in (Minimum(), LowerConfidenceBound(3.0)):
        fitted = combiner.fit(held, HELD_ROW, PAIRS, NAMES)
        close(fitted.combine(scores, ROW, NAMES), (SCORES[0] + 5).tolist())
        assert not torch.allclose(combiner.combine(scores, ROW, NAMES), SCORES[0] + 5)


@pytest.mark.parametrize("combiner", ALL, ids=lambda combiner: type(combiner).__name__)
class TestAll:
    """What holds for every combiner."""

    def test_one_member_is_itself(self, combiner):
        """To 1e-6."""
        fitted = combiner.fit(HELD[:1], HELD_ROW, PAIRS, ["a"])
        close(fitted.combine(SCORES[:1], ROW, ["a"]), SCORES[0].tolist())

    def test_order_of_members_and_of_rows_does_not_matter(self, combiner):
        """Members the other way round after fitting; and each row alone."""
        fitted = combiner.fit(HELD, HELD_ROW, PAIRS, NAMES)
        expected = fitted.combine(SCORES, ROW, NAMES)
        assert fitted.combine(SCORES.flip(0), ROW, NAMES[::-1]).equal(expected)
        other = combiner.fit(HELD.flip(0), HELD_ROW, PAIRS, NAMES[::-1])
        torch.testing.assert_close(other.combine(SCORES, ROW, NAMES), expected, rtol=0, atol=1e-6)
        for r in ROW.unique():
            alone = fitted.combine(SCORES[:, r == ROW], ROW[r == ROW], NAMES)
            assert alone.equal(expected[r == ROW])

    def test_a_member_that_does_not_vote_leaves_no_trace(self, combiner):
        """Bit for bit the ensemble without it, for what is fitted on those that are left."""
        if isinstance(combiner, StandardisedMean | Minimum | LowerConfidenceBound):
            return  # told on the common scale of all members, also of those that do not vote
        scores = torch.randn(3, 7, generator=torch.Generator().manual_seed(0))
        names = ["a", "b", "c"]
        held = torch.cat([HELD, HELD[:1]])
        fitted = combiner.fit(held, HELD_ROW, PAIRS, names)
        scores[2] = NAN
        row = torch.zeros(7, dtype=torch.long)
        without = scores[:2]
        pair = combiner.fit(HELD, HELD_ROW, PAIRS, NAMES)
        torch.testing.assert_close(
            fitted.combine(scores, row, names), pair.combine(without, row, NAMES), rtol=1e-6, atol=1e-7
        )
        assert Mean().combine(scores, row, names).equal(Mean().combine(without, row, NAMES))


def test_mistakes_are_told():
    """Not fitted, fitted for others, nobody votes, no comparison, one reward for all, a negative k."""
    with pytest.raises(ValueError, match="to be fitted first"):
        AccuracyWeighted().combine(SCORES, ROW, NAMES)
    fitted = AccuracyWeighted().fit(HELD, HELD_ROW, PAIRS, NAMES)
    with pytest.raises(ValueError, match="fitted for the members a, b, not for a, c"):
        fitted.combine(SCORES, ROW, ["a", "c"])
    with pytest.raises(ValueError, match="has no vote"):
        Mean().combine(torch.full((2, 1), NAN), torch.tensor([0]), NAMES)
    with pytest.raises(ValueError, match=r"member 'a' votes on no comparison"):
        AccuracyWeighted().fit(HELD, HELD_ROW, all_pairs([[], []], [2, 2]), NAMES)
    with pytest.raises(ValueError, match=r"member 'b' gives all held-out responses one reward"):
        StandardisedMean().fit(torch.stack([HELD[0], torch.ones(4)]), HELD_ROW, PAIRS, NAMES)
    with pytest.raises(ValueError, match="number >= 0"):
        LowerConfidenceBound(k=-1.0)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: AccuracyWeighted({"a": -1.0, "b": 2.0}), r"the weight of member 'a' is -1.0; .* from 0 on"),
        (lambda: ConfidenceWeighted({"a": 1.0, "b": NAN}), r"the weight of member 'b' is nan"),
        (lambda: StandardisedMean({"a": 0.0, "b": 0.0}, {"a": 1.0, "b": 0.0}), r"deviation of member 'b' is 0.0"),
        (lambda: StandardisedMean({"a": 0.0}, {"a": -1.0}), r"deviation of member 'a' is -1.0; .* above 0"),
        (lambda: Minimum({"a": math.inf}), r"the mean of member 'a' is inf"),
        (lambda: LowerConfidenceBound(1.0, {"b": NAN}), r"the mean of member 'b' is nan"),
        (lambda: LowerConfidenceBound(math.inf), "number >= 0"),
    ],
)
def test_numbers_written_by_hand_are_looked_at(build, message):
    """Each names its member; a weight of 0 is one that a fit may give."""
    with pytest.raises(ValueError, match=message):
        build()
    assert AccuracyWeighted({"a": 0.0, "b": 1.0}).weights["a"] == 0


def test_pairs_of_rows_as_pairs_of_all():
    """A row of 3, one of 1 without a pair, one of 2 that begins at position 4."""
    better, worse = all_pairs([[(0, 1), (2, 0)], [], [(1, 0)]], [3, 1, 2])
    assert better.tolist() == [0, 2, 5] and worse.tolist() == [1, 0, 4]


def test_what_a_combiner_gives_is_looked_at():
    """A reward too few, and NaN: an error that names the combiner."""
    with pytest.raises(ValueError, match=r"combiner Broken gave \[3\] for 4 responses"):
        Broken()(SCORES, ROW, NAMES)
    with pytest.raises(ValueError, match="combiner Trimmed gave NaN or infinity for 4 responses"):
        Trimmed()(torch.full((2, 4), NAN), ROW, NAMES)
    close(Trimmed(0.5)(SCORES, ROW, NAMES), [0.25, 0.5, 1.75, 2.0])
