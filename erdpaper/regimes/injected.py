"""What one arm of the injection experiments says: shares of classes by window, and levels.

A result is a plain dictionary, as `windows.measure` returns and keeps it. Classes of samples are
kept as texts, a character a sample, so that shares of one arm are compared sample by sample.
"""

from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from erdpaper.regimes.course import LAST, STEP
from erdpaper.regimes.outcomes import Interval, bootstrap, interval

Flags = NDArray[np.float64]
Number = TypeVar("Number", float, Flags)
# where a window ends that covers all of the grid
WHOLE = LAST + STEP


def encoded(classes: Any) -> str:
    """Classes (N,) as a text, a character each."""
    return "".join(chr(48 + int(k)) for k in classes)


def decoded(text: str) -> NDArray[np.int64]:
    """The classes of a text, (N,)."""
    return np.array([ord(c) - 48 for c in text])


def over(share: Number, own: float) -> Number:
    """A share, or shares, over that of a class's own samples; not a number where that is 0."""
    return share / own if own else share * np.nan


@dataclass(frozen=True)
class Injected:
    """One arm, read: original and adversary are the labels of its two classes."""

    result: dict[str, Any] = field(repr=False)

    @property
    def original(self) -> int:
        """The class asked for."""
        return int(self.result["labels"][0])

    @property
    def adversary(self) -> int:
        """The class injected."""
        return int(self.result["labels"][1])

    def flags(self, texts: list[str], label: int) -> Flags:
        """Which samples are of a class, by text, (L, N), 0 or 1."""
        found: Flags = (np.stack([decoded(text) for text in texts]) == label).astype(float)
        return found

    @property
    def own(self) -> tuple[float, float]:
        """Share of untouched samples of their class, and of the adversary's own of theirs."""
        untouched, whole = decoded(self.result["untouched"]), decoded(self.result["whole"])
        return float((untouched == self.original).mean()), float((whole == self.adversary).mean())

    @property
    def ends(self) -> list[float]:
        """Log-SNR at which the nested windows end, rising; the last covers all."""
        return [*self.result["ends"], WHOLE]

    def nested(self, label: int) -> Flags:
        """Which samples are of a class after the nested windows, (L, N), in the order of `ends`."""
        return self.flags(self.result["nested"], label)

    def at(self, end: float, label: int) -> Flags:
        """The same for the window that ends nearest to a log-SNR, (N,)."""
        near = np.abs(np.array(self.ends) - end).argmin()
        return np.asarray(self.nested(label)[near])

    def recovered(self, end: float) -> float:
        """Share of the class asked for after a nested window, over that of untouched samples."""
        return over(float(self.at(end, self.original).mean()), self.own[0])

    def taken(self, end: float) -> float:
        """Share of the adversary's class after it, over that of the adversary's own samples."""
        return over(float(self.at(end, self.adversary).mean()), self.own[1])

    def halfways(self, weights: Flags) -> Flags:
        """`halfway` of every resample, (R,), by the weights (R, N) of its samples."""
        flags = self.flags([self.result["untouched"], *self.result["nested"]], self.original)
        curves = flags @ weights.T  # (L + 1, R)
        levels = np.array([self.result["first"], *self.ends])
        return np.array([_crossing(levels, curve) for curve in curves.T])

    def halfway(self) -> Interval:
        """Log-SNR of the nested window's end that leaves half of the samples their class.

        Half of those that have it untouched; with a 95 % bootstrap interval.
        """
        n = len(self.result["untouched"])
        value = float(self.halfways(np.full((1, n), 1 / n))[0])
        return interval(value, self.halfways(bootstrap(n)))

    def later(self, other: "Injected") -> Interval:
        """How much later, in log-SNR, the halfway level of another arm lies.

        Samples are resampled together, because arms share their noise.
        """
        arms = (self, other)
        ours, theirs = (arm.halfways(bootstrap(len(arm.result["untouched"]))) for arm in arms)
        return interval(other.halfway().value - self.halfway().value, theirs - ours)

    def starts(self, length: float = 2.0) -> list[float]:
        """Log-SNR at which the sliding windows of a length begin, rising."""
        return list(self.result["sliding"][f"{length:g}"]["starts"])

    def sliding(self, label: int, length: float = 2.0) -> Flags:
        """Which samples are of a class after these windows, (W, N)."""
        return self.flags(self.result["sliding"][f"{length:g}"]["classes"], label)

    def lost(self, length: float = 2.0) -> Flags:
        """Which samples are not of the class asked for after these windows, (W, N)."""
        return 1 - self.sliding(self.original, length)

    def lost_at(self, starts: Flags) -> Flags:
        """`lost` for windows of two units that begin anywhere, linear between those run, (K, N)."""
        run = np.array(self.starts())
        if starts.min() < run[0] or starts.max() > run[-1]:
            raise ValueError(f"sliding windows begin from {run[0]:g} to {run[-1]:g} in log-SNR")
        shares = [np.interp(starts, run, one) for one in np.eye(len(run))]
        return np.stack(shares, 1) @ self.lost()

    def after_less_before(self) -> Interval:
        """Share of samples that lose their class, windows after the halfway level less before it.

        The mean over windows of two units that lie within four units after, or before, the level;
        not a number where the run has not all of these.
        """
        level, within = self.halfway().value, np.linspace(0, 2, 9)
        starts = self.starts()
        if not starts[0] <= level - 4 < level + 2 <= starts[-1]:
            return Interval(np.nan, np.nan, np.nan)
        gap = (self.lost_at(level + within) - self.lost_at(level - 4 + within)).mean(0)
        return interval(float(gap.mean()), gap @ bootstrap(len(gap)).T)

    def worst_less(self, edge: int) -> Interval:
        """That share at the worst sliding window less at the first (0) or the last (-1)."""
        lost = self.lost()
        drawn = lost @ bootstrap(lost.shape[1]).T  # (W, R)
        share = lost.mean(1)
        return interval(float(share.max() - share[edge]), drawn.max(0) - drawn[edge])

    def least_recovered(self, level: float, after: bool) -> float:
        """Smallest share of the class asked for, over untouched, among windows of two units.

        Of those that begin at or after a log-SNR, or of those that end at or before it; not a
        number if there are none.
        """
        starts, edge = np.array(self.starts()), level if after else level - 2
        if not starts[0] <= edge <= starts[-1]:
            return float("nan")
        among = starts[starts >= edge] if after else starts[starts <= edge]
        return over(float(1 - self.lost_at(np.append(among, edge)).mean(1).max()), self.own[0])

    def steps_up(self, ends: list[float]) -> list[Interval]:
        """Change of the adversary's share from each nested window to the next longer, paired."""
        flags = np.stack([self.at(end, self.adversary) for end in ends])
        gaps = np.diff(flags, axis=0)
        weights = bootstrap(flags.shape[1])
        return [interval(float(gap.mean()), gap @ weights.T) for gap in gaps]


def _crossing(levels: NDArray[np.float64], share: NDArray[np.float64]) -> float:
    """Where a curve first falls to half of its start, linear between levels; else the last."""
    below = share <= share[0] / 2
    if not below.any():
        return float(levels[-1])
    k = int(below.argmax())
    if k == 0:  # nothing to lose
        return float(levels[0])
    part = (share[k - 1] - share[0] / 2) / (share[k - 1] - share[k])
    return float(levels[k - 1] + part * (levels[k] - levels[k - 1]))
