from __future__ import annotations

import doctest
import math

import pytest
import torch

from lit_basereward.metrics import accuracy_interval, interval


def bounds(correct: list[int], total: list[int], level: float = 0.95) -> tuple[float, float, float]:
    return accuracy_interval(torch.tensor(correct), torch.tensor(total), level)


def test_doctests() -> None:
    results = doctest.testmod(interval)
    assert results.attempted and not results.failed


def test_pairs_are_wilson_by_hand() -> None:
    """80 right of 100 pairs: the design effect is exactly 1. z^2 = 3.841459:
    centre (0.8 + 0.019207) / 1.038415 = 0.788902, half 1.959964 sqrt(0.0016 + 0.000096) / 1.038415 = 0.077731.
    """
    assert bounds([1] * 80 + [0] * 20, [1] * 100) == pytest.approx((0.8, 0.711171, 0.866633), abs=1e-6)


def test_clustered_rows_by_hand() -> None:
    """Four rows of two, (2, 2, 2, 0) right: p = 3/4, c - p m = (1/2, 1/2, 1/2, -3/2), squares sum to 3;
    V = 4/3 * 3 / 8^2 = 1/16 against 3/16 / 7: deff = 7/3, n_eff = 24/7. z^2 / n_eff = 1.120425:
    centre (0.75 + 0.560213) / 2.120425 = 0.617901, half 1.959964 sqrt(0.054688 + 0.081698) / 2.120425 = 0.341357.
    """
    assert bounds([2, 2, 2, 0], [2, 2, 2, 2]) == pytest.approx((0.75, 0.276544, 0.959258), abs=1e-6)


def test_rows_that_agree_too_well_are_not_rewarded() -> None:
    """One right of two in each of four rows has V = 0; the interval is that of 8 independent comparisons, 4 right."""
    assert bounds([1] * 4, [2] * 4) == pytest.approx(bounds([1, 0] * 4, [1] * 8))


def test_all_right_counts_rows() -> None:
    """Ten rows of four, all right: as 10 comparisons; Wilson's lower bound is n / (n + z^2) = 10 / 13.841459."""
    assert bounds([4] * 10, [4] * 10) == pytest.approx((1.0, 0.722467, 1.0), abs=1e-6)
    _, low, high = bounds([0] * 10, [4] * 10)
    assert low == 0 and high == pytest.approx(0.277533, abs=1e-6)


def test_one_row_counts_as_one() -> None:
    """Three of four in one row, n = 1: centre (0.75 + 1.920729) / 4.841459 = 0.551637,
    half 1.959964 sqrt(0.1875 + 0.960365) / 4.841459 = 0.433728.
    """
    assert bounds([3], [4]) == pytest.approx((0.75, 0.117910, 0.985365), abs=1e-6)


def test_rows_without_comparisons_do_not_count() -> None:
    assert bounds([2, 0, 1, 0], [2, 0, 3, 0]) == bounds([2, 1], [2, 3])
    assert all(math.isnan(value) for value in bounds([0, 0], [0, 0]))


def test_wrong_is_the_mirror_of_right() -> None:
    correct, total = [2, 0, 3, 1, 4], [2, 1, 6, 3, 4]
    p, low, high = bounds(correct, total)
    mirrored = bounds([t - c for c, t in zip(correct, total, strict=True)], total)
    assert mirrored == pytest.approx((1 - p, 1 - high, 1 - low))


def test_a_higher_level_is_wider() -> None:
    """z of 0.95 and 0.99 are 1.96 and 2.58."""
    _, low, high = bounds([3, 2, 5, 1], [4, 4, 6, 3], 0.95)
    _, lower, higher = bounds([3, 2, 5, 1], [4, 4, 6, 3], 0.99)
    assert lower < low < high < higher


@pytest.mark.parametrize("mean", [0.8, 0.95])
def test_coverage(mean: float) -> None:
    """150 rows of K = 4 (6 comparisons), each with its own accuracy from a Beta of sum 5 (intra-row correlation 1/6,
    design effect 1 + 5/6): a 95 % interval must hold the mean in about 95 % of 400 draws (standard error 1.1 %).
    Comparisons taken as independent would hold it in 2 Phi(1.96 / sqrt(1.83)) - 1 = 85 %.
    """
    torch.manual_seed(0)
    draws, rows, size = 400, 150, 6
    accuracy = torch.distributions.Beta(5 * mean, 5 * (1 - mean)).sample((draws, rows))
    correct = torch.binomial(torch.full_like(accuracy, size), accuracy).long()
    total = torch.full((rows,), size)

    def coverage(intervals: list[tuple[float, float, float]]) -> float:
        return sum(low <= mean <= high for _, low, high in intervals) / len(intervals)

    ours = coverage([accuracy_interval(draw, total) for draw in correct])
    ones = torch.ones(rows * size, dtype=torch.long)
    naive = coverage([accuracy_interval((torch.arange(rows * size) < draw.sum()).long(), ones) for draw in correct])
    assert 0.92 <= ours <= 0.98
    assert naive < 0.90


@pytest.mark.parametrize("level", [0.0, 1.0, 95, math.nan])
def test_a_level_that_is_no_probability_is_refused(level: float) -> None:
    with pytest.raises(ValueError, match="use a number between 0 and 1"):
        bounds([1], [1], level)


@pytest.mark.parametrize(("correct", "total"), [([2], [1]), ([-1], [1]), ([1], [1, 1])])
def test_impossible_counts_are_refused(correct: list[int], total: list[int]) -> None:
    with pytest.raises(ValueError, match="correct must have the shape of total"):
        bounds(correct, total)
