"""Ratios, differences and ranks of repeated measurements, against scipy."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from erdpaper import comparisons


def test_a_paired_ratio_is_scipys_paired_t() -> None:
    generator = np.random.default_rng(0)
    below = generator.lognormal(size=6)
    above = 1.3 * below * generator.lognormal(sigma=0.1, size=6)
    found = comparisons.paired_ratio(above.tolist(), below.tolist())
    theirs = stats.ttest_rel(np.log(above), np.log(below)).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((math.exp(theirs.low), math.exp(theirs.high)))
    assert found.mean == pytest.approx(stats.gmean(above / below))
    with pytest.raises(ValueError, match="2 or more pairs"):
        comparisons.paired_ratio([1.0], [1.0])


def test_a_prediction_interval_holds_as_often_as_it_says() -> None:
    generator = np.random.default_rng(1)
    centres = np.array([[0.1], [1.0], [30.0]])
    inside = []
    for _ in range(1_000):
        groups = (centres * generator.lognormal(sigma=0.3, size=(3, 4))).tolist()
        new = 30.0 * float(generator.lognormal(sigma=0.3))
        inside.append(comparisons.outside(new, groups[2], groups, 0.9) <= 1)
    assert abs(np.mean(inside) - 0.9) < 4.5 * math.sqrt(0.9 * 0.1 / 1_000)


def test_a_paired_difference_has_the_interval_of_a_paired_test() -> None:
    first, second = [1.0, 2.5, 3.0, 4.2], [0.5, 2.0, 3.1, 3.0]
    mean, half = comparisons.paired_difference(first, second)
    theirs = stats.ttest_rel(first, second).confidence_interval(0.95)
    assert (mean - half, mean + half) == pytest.approx((theirs.low, theirs.high))
    with pytest.raises(ValueError, match="2 or more pairs"):
        comparisons.paired_difference([1.0], [2.0])


def test_rank_correlation_is_of_ranks() -> None:
    a = torch.tensor([1.0, 5.0, 2.0, 9.0], dtype=torch.float64)
    assert comparisons.spearman(a, a.exp()) == pytest.approx(1)
    assert comparisons.spearman(a, -a.exp()) == pytest.approx(-1)


def test_a_geometric_mean_is_scipys_and_0_where_a_value_is() -> None:
    values = [0.5, 2.0, 9.0]
    assert comparisons.geometric_mean(values) == pytest.approx(stats.gmean(values))
    assert comparisons.geometric_mean(iter([*values, 0.0])) == 0 == stats.gmean([*values, 0.0])
