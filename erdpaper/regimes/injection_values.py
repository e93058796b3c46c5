"""The numbers behind the chapter's claims on injection that take more than one line."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy.optimize import brentq

from erdpaper.metrics import ClassAgreement
from erdpaper.posterior import Gaussian
from erdpaper.regimes import outcomes, windows
from erdpaper.regimes.injected import Flags, Injected, decoded, over
from erdpaper.regimes.outcomes import Interval
from erdpaper.regimes.system import System
from erdpaper.schedules import Schedule

# the case that reads a timestep as a fraction of our schedule
FRACTION = "all pairs, fraction of our schedule"
# what a shift counts as where fewer than ten samples are left to show it
_NOT_SHOWN = -1.0


def speciation(
    pairs: Mapping[str, Injected], schedule: Schedule
) -> tuple[dict[str, float], dict[str, float]]:
    """The halfway levels as timesteps and half their intervals, by pair and in the mean.

    The mean reads timestep T as the time T / 1000 of the model's own schedule.
    """
    levels = {name: arm.halfway() for name, arm in pairs.items()}
    found = {name: windows.timestep_of(level.value) for name, level in levels.items()}
    spread = {
        name: abs(windows.timestep_of(level.low) - windows.timestep_of(level.high)) / 2
        for name, level in levels.items()
    }
    own = [[windows.timestep_of(value, schedule) for value in level] for level in levels.values()]
    at, low, high = np.array(own).T
    found[FRACTION] = float(at.mean())
    spread[FRACTION] = _pooled((low - high) / 2)
    return found, spread


def _pooled(halves: Flags) -> float:
    """Half the interval of a mean of independent values."""
    return float(np.sqrt(np.square(halves).sum()) / len(halves))


def by_pair(
    pairs: Mapping[str, Injected], schedule: Schedule, timestep: int, adverse: bool
) -> tuple[dict[str, float], dict[str, float]]:
    """`recovered`, or `taken` if adverse, after the window [timestep, 1000], and half intervals.

    By pair, and in the mean with the timestep as a fraction of our schedule.
    """
    found, spread = {}, {}
    for name, arm in pairs.items():
        found[name], spread[name] = _share(arm, windows.log_snr(timestep), adverse)
    own = [_share(arm, windows.log_snr(timestep, schedule), adverse) for arm in pairs.values()]
    at, halves = np.array(own).T
    return found | {FRACTION: float(at.mean())}, spread | {FRACTION: _pooled(halves)}


def _share(arm: Injected, end: float, adverse: bool) -> tuple[float, float]:
    own = arm.own[adverse]
    found = outcomes.wilson(arm.at(end, arm.adversary if adverse else arm.original))
    return over(found.share, own), over((found.high - found.low) / 2, own)


def larger(
    pairs: Mapping[str, Injected], schedule: Schedule, timestep: int
) -> tuple[dict[str, float], dict[str, float]]:
    """The larger of the two of `by_pair` with its half interval."""
    kept, taken = (by_pair(pairs, schedule, timestep, adverse) for adverse in (False, True))
    best = {name: kept if kept[0][name] >= taken[0][name] else taken for name in kept[0]}
    found, spread = ({name: two[k][name] for name, two in best.items()} for k in (0, 1))
    return found, spread


def gaussian_level(system: System, original: int, adversary: int, sampler: str) -> float:
    """The halfway level if the class asked for were a Gaussian of its mean and covariance.

    After injection up to (alpha, sigma) a class of covariance V has its mean at m_c + F^k (m_q -
    m_c), F^2 = V (V + r I)^-1 with r = sigma^2 / alpha^2; the exponent k is 1 for the
    flow, which keeps the number of standard deviations, and 2 for the ancestral chain, by the tower
    rule. The level is that at which this lies half the way along m_q - m_c; infinite where more
    than half of that has no variance, as it may of fewer states than coordinates.
    """
    x, other = (system.data("train", k)[0].flatten(1).double() for k in (original, adversary))
    law, way = Gaussian.fitted(x), other.mean(0) - x.mean(0)
    weights = ((way @ law.basis).square() / way.square().sum()).numpy()
    lengths, power = law.variances.numpy(), 0.5 if sampler == "ddim" else 1.0

    def beyond(logsnr: float) -> float:
        return float(weights @ (lengths / (lengths + math.exp(-logsnr))) ** power) - 0.5

    return float(brentq(beyond, -20.0, 20.0)) if beyond(20.0) > 0 else math.inf


def strength_and_duration(strong: Injected, weak: Injected, lengths: Injected) -> dict[str, float]:
    """Lower ends of the intervals of what strength and duration add to the share that is lost."""
    end = strong.halfway().value + 1
    gap = weak.at(end, weak.original) - strong.at(end, strong.original)
    weights = outcomes.bootstrap(len(gap))
    long, short = ((lengths.lost(k) @ weights.T).max(0) for k in (4.0, 1.0))
    return {
        "strength": float(np.quantile(gap @ weights.T, 0.025)),
        "duration": float(np.quantile(long - short, 0.025)),
    }


def wins(arm: Injected) -> float:
    """At strength 1/2, share of the class asked for among both: lower end of its interval.

    Not a number where no sample is of either.
    """
    classes = decoded(arm.result["half"]["classes"])
    either = classes[(classes == arm.original) | (classes == arm.adversary)]
    if not len(either):
        return math.nan
    return outcomes.wilson((either == arm.original).astype(float)).low


def contrast(shift: Mapping[str, Any] | None) -> float:
    """The lower end of a shift's contrast."""
    return _NOT_SHOWN if shift is None else float(shift["contrast"][1])


def random_share(shift: Mapping[str, Any] | None) -> float:
    """The shift along random directions over that towards the adversary; 1 where none is shown."""
    if shift is None or shift["towards"][0] <= 0:
        return 1.0
    return float(shift["random"] / shift["towards"][0])


def described(shift: Mapping[str, Any] | None) -> str:
    """A shift in words."""
    if shift is None:
        return "fewer than 10 samples"
    (towards, _, _), (value, low, high) = shift["towards"], shift["contrast"]
    return (
        f"{towards:+.2f}, contrast {value:+.2f} ({low:+.2f} to {high:+.2f}), {shift['n']} samples"
    )


def turned(kept: windows.Kept) -> dict[str, tuple[float, float, float]]:
    """Of the control with turned predictions, by pair and window.

    The adversary's share less that among untouched samples, the share of the class asked for over
    that of untouched samples, and half the 95 % interval of the first.
    """
    found = {}
    for pair in (" to ".join(names) for names in (kept.plan.far[-1], kept.plan.near[0])):
        arm = kept.arms[f"rotated, {pair}"]
        untouched = decoded(arm.result["untouched"])
        for window, (_, texts) in zip(
            ("[600, 1000]", "[0, 1000]"), arm.result["turned"], strict=True
        ):
            classes = decoded("".join(texts))
            share = outcomes.wilson((classes == arm.adversary).astype(float))
            excess = share.share - float((untouched == arm.adversary).mean())
            asked = over(float((classes == arm.original).mean()), arm.own[0])
            found[f"{pair}, {window}"] = (excess, asked, (share.high - share.low) / 2)
    return found


def reached(pairs: Mapping[str, Injected]) -> dict[str, ClassAgreement]:
    """Share of untouched samples that are of the class asked for, by class."""
    found: dict[str, ClassAgreement] = {}
    for name, arm in pairs.items():
        untouched = decoded(arm.result["untouched"])
        flags = (untouched == arm.original).astype(float)
        found.setdefault(name.split(" to ")[0], outcomes.wilson(flags))
    return found


def distances(kept: Injected, live: Injected) -> dict[str, float]:
    """How far a live run is from the kept one, in units of both half-intervals combined."""
    levels = [arm.halfway() for arm in (kept, live)]
    shares = [outcomes.wilson(arm.at(windows.log_snr(600), arm.original)) for arm in (kept, live)]
    return {
        "halfway level": _apart(*levels),
        "share at [600, 1000]": _apart(*(Interval(*share) for share in shares)),
    }


def _apart(first: Interval, second: Interval) -> float:
    halves = [(each.high - each.low) / 2 for each in (first, second)]
    return over(abs(first.value - second.value), math.hypot(*halves))
