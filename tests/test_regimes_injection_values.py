"""The numbers behind the claims on injection, on classes written out by hand."""

import math
from typing import Any

import numpy as np
import pytest
from scipy.stats import binomtest

from erdpaper.regimes import injection_values as values
from erdpaper.regimes import outcomes, windows
from erdpaper.regimes.injected import Injected, over
from erdpaper.schedules import Cosine

N = 40


def classes(asked: int, adverse: int = 0) -> str:
    """N samples: so many of class 0, then so many of class 1, the rest of class 2."""
    return "0" * asked + "1" * adverse + "2" * (N - asked - adverse)


def arm(nested: list[str], **more: Any) -> Injected:
    """Nested windows that end at -4, -3.25, -1.75, 0 and everywhere."""
    return Injected(
        {
            "labels": [0, 1],
            "first": -9.0,
            "ends": [-4.0, -3.25, -1.75, 0.0],
            "untouched": classes(N),
            "whole": classes(0, N - 8),
            "nested": nested,
            **more,
        }
    )


STEEP = arm([classes(N), classes(30, 2), classes(10, 20), classes(0, 30), classes(0, 32)])
FLAT = arm([classes(N), classes(N), classes(30), classes(10, 4), classes(0, 32)])


def wilson_half(successes: int, n: int) -> float:
    found = binomtest(successes, n).proportion_ci(method="wilson")
    return (found.high - found.low) / 2


def test_shares_by_pair_are_over_those_of_own_samples() -> None:
    pairs = {"steep": STEEP, "flat": FLAT}
    kept, kept_half = values.by_pair(pairs, Cosine(), 600, adverse=False)
    taken, taken_half = values.by_pair(pairs, Cosine(), 600, adverse=True)
    # timestep 600 is log-SNR -1.65 of Stable Diffusion, and 0.6 of the cosine table -0.66
    assert kept == pytest.approx({"steep": 0.25, "flat": 0.75, values.FRACTION: 10 / 40 / 2})
    assert taken == pytest.approx({"steep": 20 / 32, "flat": 0, values.FRACTION: 34 / 32 / 2})
    assert kept_half["steep"] == pytest.approx(wilson_half(10, N))
    assert taken_half["steep"] == pytest.approx(wilson_half(20, N) * N / 32)
    pooled = math.hypot(wilson_half(0, N), wilson_half(10, N)) / 2
    assert kept_half[values.FRACTION] == pytest.approx(pooled)
    larger, spread = values.larger(pairs, Cosine(), 600)
    assert larger == pytest.approx({"steep": 20 / 32, "flat": 0.75, values.FRACTION: 34 / 64})
    assert spread["steep"] == taken_half["steep"] and spread["flat"] == kept_half["flat"]


def test_speciation_is_read_in_both_ways() -> None:
    found, spread = values.speciation({"steep": STEEP, "flat": FLAT}, Cosine())
    # half of 40 lies between 30 at -3.25 and 10 at -1.75, and between 30 at -1.75 and 10 at 0
    levels = {"steep": -2.5, "flat": -0.875}
    for name, level in levels.items():
        assert windows.log_snr(found[name]) == pytest.approx(level, abs=1e-6)
    own = [windows.timestep_of(level, Cosine()) for level in levels.values()]
    assert found[values.FRACTION] == pytest.approx(np.mean(own))
    assert all(0 < half < 80 for half in spread.values())
    assert spread[values.FRACTION] < spread["flat"]
    assert STEEP.later(FLAT).value == pytest.approx(1.625)
    assert STEEP.later(STEEP) == (0, 0, 0)


def test_strength_and_duration_are_what_is_lost_more() -> None:
    # one unit after -2.5 the nearest window is that to -1.75
    weak = arm([classes(N)] * 5)
    slid = {
        "1": {"starts": [-3.0, -2.0], "classes": [classes(36), classes(30)]},
        "4": {"starts": [-3.0, -2.0], "classes": [classes(4), classes(20)]},
    }
    lengths = arm([], sliding=slid)
    found = values.strength_and_duration(STEEP, weak, lengths)
    rough = {"strength": 0.75 - 2 * math.sqrt(0.75 * 0.25 / N)}
    rough["duration"] = 0.65 - 2 * math.sqrt(0.65 * 0.35 / N)
    assert found == pytest.approx(rough, abs=0.05)
    assert values.strength_and_duration(STEEP, STEEP, lengths)["strength"] == 0


def test_the_competition_counts_both_classes_only() -> None:
    half = arm([], half={"classes": classes(20, 10)})
    exact = binomtest(20, 30).proportion_ci(method="wilson").low
    assert values.wins(half) == pytest.approx(exact)


def test_shifts_that_are_not_shown_count_as_none() -> None:
    shift = {"towards": [0.4, 0.3, 0.5], "contrast": [0.2, 0.1, 0.3], "random": 0.1, "n": 12}
    assert values.contrast(shift) == 0.1 and values.random_share(shift) == pytest.approx(0.25)
    assert values.described(shift) == "+0.40, contrast +0.20 (+0.10 to +0.30), 12 samples"
    assert values.contrast(None) < 0 and values.random_share(None) == 1
    assert values.random_share(shift | {"towards": [-0.1, -0.2, 0.0]}) == 1


def test_the_turned_control_pools_its_rotations() -> None:
    texts = [[classes(30, 4), classes(20, 8)], [classes(0, 20)] * 2]
    found = arm([], turned=[[-1.75, texts[0]], [None, texts[1]]])
    kept = windows.Kept(
        {f"rotated, {name}": found for name in ("Trouser to Bag", "Pullover to Coat")}, {}
    )
    shares = values.turned(kept)
    assert shares["Trouser to Bag, [600, 1000]"] == pytest.approx(
        (12 / 80, 50 / 80, wilson_half(12, 80))
    )
    assert shares["Pullover to Coat, [0, 1000]"][:2] == (0.5, 0)


def test_a_class_is_reached_as_often_as_its_untouched_samples_say() -> None:
    found = values.reached({"A to B": STEEP, "A to C": FLAT, "B to A": arm([])})
    assert {name: share.share for name, share in found.items()} == {"A": 1, "B": 1}
    assert found["A"].low == pytest.approx(binomtest(N, N).proportion_ci(method="wilson").low)


def test_live_runs_are_compared_in_units_of_both_intervals() -> None:
    same = values.distances(STEEP, STEEP)
    assert same == {"halfway level": 0, "share at [600, 1000]": 0}
    found = values.distances(STEEP, FLAT)
    halves = math.hypot(wilson_half(10, N), wilson_half(30, N))
    assert found["share at [600, 1000]"] == pytest.approx(0.5 / halves)
    level = [each.halfway() for each in (STEEP, FLAT)]
    width = math.hypot(*((each.high - each.low) / 2 for each in level))
    assert found["halfway level"] == pytest.approx(1.625 / width)


def test_the_share_of_flags_has_the_interval_of_scipy() -> None:
    found = outcomes.wilson(np.array([1.0] * 7 + [0.0] * 13))
    exact = binomtest(7, 20).proportion_ci(method="wilson")
    assert tuple(found) == pytest.approx((0.35, exact.low, exact.high))


def test_shares_over_own_samples_need_some() -> None:
    assert over(np.array([0.2, 0.4]), 0.8) == pytest.approx([0.25, 0.5])
    assert over(0.2, 0.8) == pytest.approx(0.25) and np.isnan(over(0.2, 0.0))
    with np.errstate(all="raise"):
        assert np.isnan(over(np.zeros(2), 0.0)).all()
