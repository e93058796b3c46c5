"""The kept curves of the contraction, read back, and their summaries over classes."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.special import stdtrit

from erdpaper.datasets import OWN_MODEL
from erdpaper.regimes import networks
from erdpaper.regimes.contraction import Change, at_level, falls_to, steepest
from erdpaper.regimes.contraction_runs import NAME
from erdpaper.regimes.plans import FASHION, Plan
from erdpaper.tasks import read_kept

# name, levels and what was measured at them, see `contraction_runs.measure`
Curve = dict[str, Any]
EXACT = ("exact, own image in", "exact, own image out", "Wiener filter")
NETWORKS = ("eps-network", "x0-network", "v-network")


@dataclass(frozen=True)
class Kept:
    """All kept curves.  card: command, device, versions, date and numbers of images."""

    lines: tuple[Curve, ...] = field(repr=False)
    card: dict[str, Any]
    plan: Plan = FASHION

    @property
    def networks(self) -> tuple[str, ...]:
        """Names of the networks, that for the thesis's eps first; another model has but one."""
        return NETWORKS if self.plan.model == OWN_MODEL else (self.plan.network,)

    def curves(self, space: str, name: str) -> list[Curve]:
        """One curve for each class that was measured.

        "eps-network" and "x0-network" are those of the longest training, "v-network" the model of
        the book; others by target and steps, as in "eps-300".
        """
        own = stored_name(space, name)
        found = [c for c in self.lines if (c["space"], c["name"]) == (space, own)]
        if not found:
            raise LookupError(f"no kept curve of {name} in {space}")
        return found

    def ratios(
        self, space: str, first: str, second: str, read: Callable[[Curve], float]
    ) -> "Summary":
        """A number read from one curve over that from another, for the classes that both have."""
        pairs = self.pairs(space, first, second)
        return summary(read(a) / read(b) for a, b in pairs)

    def levels(self, space: str, wanted: Iterable[float]) -> list[float]:
        """Those of the log-SNRs that the networks' curves of a space have."""
        had = self.curves(space, self.plan.network)[0]["levels"]
        return [at for at in wanted if at in had]

    def pairs(self, space: str, first: str, second: str) -> list[tuple[Curve, Curve]]:
        """Curves of two names for the classes that both have."""
        others = {curve["label"]: curve for curve in self.curves(space, second)}
        found = self.curves(space, first)
        return [(c, others[c["label"]]) for c in found if c["label"] in others]

    def over_classes(
        self, space: str, name: str, read: Callable[[Curve], float], geometric: bool = True
    ) -> "Summary":
        """A number read from the curve of every class, summarised."""
        return summary([read(curve) for curve in self.curves(space, name)], geometric)

    def cases(
        self,
        names: Iterable[str],
        read: Callable[[Curve], float],
        geometric: bool = True,
        spaces: Iterable[str] | None = None,
    ) -> "Cases":
        """`over_classes` of several names in all spaces, as a claim wants them."""
        asked = [(space, name) for space in spaces or self.plan.spaces for name in names]
        found = {f"{s}, {n}": self.over_classes(s, n, read, geometric) for s, n in asked}
        return split(found)

    def decided(self, space: str, label: int, share: float) -> float:
        """The log-SNR from which two draws from the exact posterior agree with this probability."""
        (found,) = (c for c in self.curves(space, "class posterior") if c["label"] == label)
        # share / agreement falls to 1 where agreement rises to share
        return falls_to(found["levels"], [share / each for each in found["agreement"]])

    def of_images(self, space: str, label: int, measure: str = "k0.99") -> float:
        """The same measure of the images themselves."""
        (found,) = (c for c in self.curves(space, "images") if c["label"] == label)
        return float(found[measure][0])

    def samples(self, label: int, scale: float) -> dict[str, Any]:
        """What was measured of guided samples of a class, see `diversity.measure`."""
        found = [c for c in self.lines if c["name"] == "samples" and c["label"] == label]
        return next(c for c in found if c["scale"] == scale)


@dataclass(frozen=True)
class Summary:
    """A mean over classes and half of the range."""

    mean: float
    half: float


class Cases(NamedTuple):
    """Values and spreads of a claim, by case."""

    values: dict[str, float]
    spread: dict[str, float]


def summary(values: Iterable[float], geometric: bool = True) -> Summary:
    """The geometric or arithmetic mean of values, and half of their range."""
    found = np.array(list(values), dtype=float)
    mean = np.exp(np.log(found).mean()) if geometric else found.mean()
    return Summary(float(mean), float(np.ptp(found) / 2))


def split(found: Mapping[str, Summary]) -> Cases:
    """Means and half ranges apart, as a claim wants them."""
    means = {case: one.mean for case, one in found.items()}
    return Cases(means, {case: one.half for case, one in found.items()})


def stored_name(space: str, name: str) -> str:
    """The name under which a network's curves are kept."""
    if name in ("eps-network", "x0-network"):
        return f"{name.removesuffix('-network')}-{networks.STEPS[space][-1]}"
    return name


def level(curve: Curve, logsnr: float, measure: str = "k0.99") -> float:
    """A measure of a curve at a log-SNR; exact where it is one of the curve's levels.

    Not a number before its first level or after its last.
    """
    if not curve["levels"][0] <= logsnr <= curve["levels"][-1]:
        return math.nan
    return at_level(curve["levels"], curve[measure], logsnr)


def at_given(curve: Curve, logsnr: float, measure: str) -> Any:
    """What is kept at a level that must be one of the curve's."""
    return curve[measure][curve["levels"].index(logsnr)]


def change(curve: Curve, measure: str = "k0.99") -> Change:
    """The steepest change of a measure of a curve within one unit of log-SNR, in either way."""
    return steepest(curve["levels"], curve[measure])


def away(value: float, parts: Sequence[float] | None, least: float = 0.02) -> float:
    """How far a value is from kept ones in logarithms, in half-widths of their prediction interval.

    The interval holds one more of them with probability 99 %; its half-width is at least `least`.
    Not a number without parts, of which there are none where the images were too few.
    """
    if parts is None:
        return math.nan
    logs = np.log(np.asarray(parts, dtype=float))
    quantile = stdtrit(len(logs) - 1, 0.995)
    half = quantile * logs.std(ddof=1) * math.sqrt(1 + 1 / len(logs))
    return float(abs(math.log(value) - logs.mean()) / max(half, math.log1p(least)))


@cache
def load(folder: Path | None = None, plan: Plan = FASHION) -> Kept:
    """Read data/results/11_pca_speciation/contraction, or another folder that `collect` wrote."""
    lines, card = read_kept(folder or plan.kept(NAME), plan.command)
    return Kept(tuple(lines), card, plan)
