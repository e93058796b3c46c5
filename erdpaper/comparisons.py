"""What may be said of repeated measurements: ratios and differences with intervals, and ranks."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
from scipy.special import stdtrit
from torch import Tensor


def geometric_mean(values: Iterable[float]) -> float:
    """exp of the mean logarithm; 0 if a value is."""
    found = list(values)
    return 0.0 if 0 in found else math.exp(fmean(map(math.log, found)))


@dataclass(frozen=True)
class Ratio:
    """A geometric mean of paired ratios with its 95 % t-interval."""

    mean: float
    low: float
    high: float


def paired_ratio(above: Sequence[float], below: Sequence[float]) -> Ratio:
    """The ratio of two equally long series that are paired, for instance by seed."""
    if len(above) != len(below) or len(above) < 2:
        raise ValueError(f"a paired ratio needs 2 or more pairs, got {len(above)}, {len(below)}")
    logs = np.log(above) - np.log(below)
    half = stdtrit(len(logs) - 1, 0.975) * logs.std(ddof=1) / math.sqrt(len(logs))
    return Ratio(*(float(math.exp(logs.mean() + z)) for z in (0, -half, half)))


def paired_difference(first: Sequence[float], second: Sequence[float]) -> tuple[float, float]:
    """The mean of paired differences and the half-width of its 95 % t-interval."""
    gaps = np.asarray(first, dtype=float) - np.asarray(second, dtype=float)
    if len(gaps) < 2:
        raise ValueError(f"a paired difference needs 2 or more pairs, got {len(gaps)}")
    quantile = stdtrit(len(gaps) - 1, 0.975)
    return float(gaps.mean()), float(quantile * gaps.std(ddof=1) / math.sqrt(len(gaps)))


def steps_to(level: float, steps: Sequence[float], values: Sequence[float]) -> float | None:
    """Steps after which a falling curve first lies at `level`, linear in both logarithms.

    Before the first point: that point's steps. None if the curve never gets there.
    """
    if values[0] <= level:
        return float(steps[0])
    for k in range(1, len(steps)):
        if values[k] <= level:
            share = math.log(values[k - 1] / level) / math.log(values[k - 1] / values[k])
            return float(steps[k - 1] * (steps[k] / steps[k - 1]) ** share)
    return None


def spearman(a: Tensor, b: Tensor) -> float:
    """Spearman's rank correlation of two vectors."""
    # here, because scipy.stats is slow to import
    from scipy.stats import spearmanr

    return float(spearmanr(a.numpy(), b.numpy()).statistic)


def outside(
    value: float, kept: Sequence[float], peers: Sequence[Sequence[float]], level: float = 0.99
) -> float:
    """How far a new value is from kept ones: 1 is the edge of their prediction interval.

    All on a logarithmic scale: the distance from the kept mean over the half-width of the
    t-interval that holds one more draw with probability `level`. The standard deviation is pooled
    over `peers`, groups that are taken to vary alike, each about its own mean.
    """
    logs = np.log(kept)
    deviations = np.concatenate([np.log(group) - np.log(group).mean() for group in peers])
    freedom = len(deviations) - len(peers)
    std = math.sqrt(float(deviations @ deviations) / freedom)
    half = stdtrit(freedom, (1 + level) / 2) * std * math.sqrt(1 + 1 / len(logs))
    return float(abs(math.log(value) - logs.mean()) / half)
