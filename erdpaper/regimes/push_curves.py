"""The kept steering runs as curves over the push, and the numbers that claims are made of."""

import math
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from erdpaper.regimes import push_realism
from erdpaper.regimes.outcomes import Interval
from erdpaper.regimes.plans import FASHION, Plan
from erdpaper.regimes.push_runs import Vector
from erdpaper.regimes.pushes import BASE, NAME, random_vectors
from erdpaper.tasks import read_kept

Floats = NDArray[np.float64]
Name = Literal["share", "low", "high", "realism", "states", "way"]
# how much farther from real images than untouched samples counts as realistic
LIMIT = 1.25


class Share(NamedTuple):
    """A share with the ends of its 95 % interval, at an amount."""

    amount: float
    share: float
    low: float
    high: float


class Curve:
    """What was measured of one vector over its amounts, linear between them, untouched at 0.

    realism and states are distances over those of untouched samples, way is less theirs.
    """

    def __init__(self, untouched: dict[str, Any], points: Sequence[dict[str, Any]]) -> None:
        every = [untouched, *points]
        self.amounts: Floats = np.array([p["amount"] for p in every])
        self.shares: Floats = np.array([p["shares"] for p in every])  # (P, C)
        names = ("share", "low", "high", "realism", "states", "way")
        self.values: dict[str, Floats] = {n: np.array([p[n] for p in every]) for n in names}
        for name in ("realism", "states"):
            self.values[name] = self.values[name] / self.values[name][0]
        self.values["way"] = self.values["way"] - self.values["way"][0]
        self.fine: Floats = push_realism.fine(self.amounts)

    def at(self, name: Name, amount: float | Floats) -> Floats:
        """A value, or values, at amounts."""
        return np.asarray(np.interp(amount, self.amounts, self.values[name]))

    def of_class(self, label: int, amount: float) -> float:
        """The share of a class at an amount."""
        return float(np.interp(amount, self.amounts, self.shares[:, label]))

    def best(self, name: Name = "share", limit: float = LIMIT) -> float:
        """The amount at which a value is largest while realism stays within the limit."""
        allowed = self.fine[self.at("realism", self.fine) <= limit]
        return float(allowed[np.argmax(self.at(name, allowed))])

    def best_share(self, limit: float = LIMIT) -> Share:
        """The target's share there."""
        amount = self.best("share", limit)
        return Share(amount, *(float(self.at(n, amount)) for n in ("share", "low", "high")))

    def reaching(self, way: float) -> float | None:
        """The first amount at which the mean feature has made this way; None if none."""
        return push_realism.reaching(self.amounts, self.values["way"], way)

    @property
    def furthest(self) -> float:
        """The largest way over all amounts."""
        return float(self.values["way"].max())


class Kept(NamedTuple):
    """The runs of data/results/13_steering and their card, and the plan they were made by."""

    lines: dict[tuple[str, str, str, int], dict[str, Any]]
    card: dict[str, Any]
    plan: Plan = FASHION

    def curve(self, pair: str, vector: Vector, setting: str = BASE) -> Curve:
        """One vector; LookupError for one that was not run."""
        (untouched,) = self.lines[setting, pair, "untouched", 0]["points"]
        return Curve(untouched, self.lines[setting, pair, *vector]["points"])

    def emergence(self, pair: str) -> dict[str, Any]:
        """Log-SNRs, and by run the mean probabilities of source and target of x0hat."""
        return self.lines[BASE, pair, "emergence", 0]

    def radius(self, pair: str) -> float:
        """The radius of the source class."""
        return float(self.lines[BASE, pair, "untouched", 0]["radius"])

    def p_value(self, pair: str, vector: Vector) -> float:
        """(1 + random vectors that give the target as much) / (1 + random vectors).

        Best shares are compared in whole samples, so that a fraction of one is no more than none.
        """
        own = self._best_count(pair, vector)
        as_much = sum(self._best_count(pair, other) >= own for other in random_vectors())
        return (1 + as_much) / (1 + len(random_vectors()))

    def _best_count(self, pair: str, vector: Vector) -> int:
        samples = int(self.card["settings"][BASE]["samples"])
        return round(self.curve(pair, vector).best_share().share * samples)

    def corruption(self, pair: str, vector: Vector) -> float:
        """Mean realism over the pushes, without the untouched samples."""
        return float(self.curve(pair, vector).values["realism"][1:].mean())

    def less_real(self, pair: str, vector: Vector, other: Vector) -> Interval:
        """`push_realism.less_real` of two vectors towards the target, with its 95 % interval."""
        gaps = self.lines[BASE, pair, "realism", 0]["gaps"]
        found = {(first, second): Interval(*gap) for first, second, *gap in gaps}
        return found[vector.kind, other.kind]


@cache
def load(folder: Path | None = None, plan: Plan = FASHION) -> Kept:
    """Read data/results/13_steering, or another folder that the command wrote.

    A missing file raises DatasetError with the command that makes it.
    """
    lines, card = read_kept(folder or plan.kept(NAME), plan.command)
    keys = [(r["setting"], r["pair"], r["kind"], r.get("variant", 0)) for r in lines]
    return Kept(dict(zip(keys, lines, strict=True)), card, plan)


def gap(first: Share, second: Share) -> tuple[float, float]:
    """The lower end of the 95 % interval of first - second, and how far it lies below it.

    Newcombe's (1998) from the Wilson intervals of both, which are of independent samples.
    """
    half = math.hypot(first.share - first.low, second.high - second.share)
    return first.share - second.share - half, half


def half_rise(logsnr: Sequence[float], values: Sequence[float]) -> float:
    """The log-SNR at which values first reach half of their largest, linear between levels."""
    x, y = np.asarray(logsnr), np.asarray(values)
    goal = y.max() / 2
    index = int(np.argmax(y >= goal))
    if index == 0:
        return float(x[0])
    share = (goal - y[index - 1]) / (y[index] - y[index - 1])
    return float(x[index - 1] + share * (x[index] - x[index - 1]))
