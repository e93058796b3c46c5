"""How much less real samples are under one vector than under another, at equal effect.

A course is what was measured over the amounts a of a vector, untouched samples (a = 0) first;
between amounts it is linear. Samples of two courses have the same noise, so both are resampled
together.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from erdpaper.regimes.outcomes import Interval, interval

Floats = NDArray[np.float64]
# way of the mean feature at which vectors are compared, if both get so far
HALF_WAY = 0.5
_FINE = 601
_RESAMPLES = 1_000


class Course(NamedTuple):
    """amounts (P,), realism (P,) over that of untouched samples, and way (P,) less theirs."""

    amounts: Floats
    realism: Floats
    way: Floats


class Samples(NamedTuple):
    """amounts (P,), and realism and way of every sample, (P, N)."""

    amounts: Floats
    realism: Floats
    way: Floats

    def course(self, chosen: NDArray[np.int64]) -> Course:
        """Medians of realism and means of way over the chosen (M,) samples."""
        middle = (len(chosen) - 1) // 2  # the lower one of two, as torch.median has it
        realism = np.partition(self.realism[:, chosen], middle, axis=1)[:, middle]
        way = self.way[:, chosen].mean(1)
        return Course(self.amounts, realism / realism[0], way - way[0])


def fine(amounts: Floats) -> Floats:
    """The amounts at which a course is read, (601,)."""
    return np.linspace(0, amounts[-1], _FINE)


def reaching(amounts: Floats, ways: Floats, goal: float) -> float | None:
    """The first amount at which the way is as far as the goal; None if there is none."""
    every = fine(amounts)
    there = every[np.interp(every, amounts, ways) >= goal - 1e-9]
    return float(there[0]) if len(there) else None


def less_real(first: Course, second: Course) -> float:
    """Realism of the first less that of the second, at half the way or as far as both get."""
    goal = min(HALF_WAY, first.way.max(), second.way.max())
    found = [
        float(np.interp(reaching(c.amounts, c.way, goal) or 0.0, c.amounts, c.realism))
        for c in (first, second)
    ]
    return found[0] - found[1]


def intervals(samples: Mapping[str, Samples], pairs: Sequence[tuple[str, str]]) -> list[Interval]:
    """`less_real` for pairs of names, with 95 % intervals over samples of the same noise."""
    n = next(iter(samples.values())).realism.shape[1]
    draws = np.random.default_rng(0).integers(n, size=(_RESAMPLES, n))

    def gaps(chosen: NDArray[np.int64]) -> list[float]:
        courses = {name: each.course(chosen) for name, each in samples.items()}
        return [less_real(courses[first], courses[second]) for first, second in pairs]

    resampled = np.array([gaps(chosen) for chosen in draws])  # (R, pairs)
    values = gaps(np.arange(n))
    return [interval(v, column) for v, column in zip(values, resampled.T, strict=True)]
