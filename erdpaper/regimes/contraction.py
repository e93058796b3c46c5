"""How many directions the endpoint estimates of a class fill, from noise to data [T 3.3, Fig 3.5].

Controlled diffusion [T 3.2]: N images of a class, each noised once to a log-SNR, are shown to a
denoiser, and the covariance of its estimates x0hat is taken apart. For an exact denoiser

    Cov(x_0) = Cov(x0hat) + E Cov(x_0 | x_t),

so that the estimates vary less than the images at every level and as much as they at the end; a
linear one keeps l^2 / (l + sigma^2 / alpha^2) of every variance l. A network that
predicts eps adds its error times (sigma / alpha)^2.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from erdpaper.sampling import direct
from erdpaper.schedules import Schedule
from erdpaper.spectral import components_for, count, entropy_rank, participation_ratio, spectrum
from erdpaper.training.stream import generator_for

SHARES = (0.9, 0.99)
# a stream of random numbers beside those of training and of the image measurements
_NOISE = 20
_HALVES, _PARTS = 2, 5


def noised(x0: Tensor, schedule: Schedule, logsnr: float, seed: int = 0) -> tuple[Tensor, float]:
    """x_t of images (N, ...) at a log-SNR [T 3.2], and the time t.

    The noise depends on seed, level and the shape of x0 alone: denoisers are shown the same.
    """
    t = float(schedule.time(torch.tensor(logsnr, dtype=torch.float64)))
    # a log-SNR in thousandths, shifted, as streams are whole numbers from 0
    generator = generator_for(seed, _NOISE, round(1000 * logsnr) + 100_000)
    return next(direct(x0, schedule, t, generator)).x_t, t


def ranks(x: Tensor, reference: float) -> dict[str, Any]:
    """The dimension of points (N, D) in several measures.

    k0.9, k0.99: components that carry this share of the variance [T 3.3]; participation, entropy:
    effective ranks; variance: the total over `reference`.
    """
    values = spectrum(x)
    return {
        **{f"k{share:g}": count(values, share) for share in SHARES},
        "participation": round(participation_ratio(values), 4),
        "entropy": round(entropy_rank(values), 4),
        "variance": float(f"{float(values.sum()) / reference:.6g}"),
    }


def of_fewer(x: Tensor) -> dict[str, list[int]]:
    """k0.99 of the two halves and of the five fifths of points (N, D), in their order."""
    return {
        "halves": [components_for(part) for part in x.chunk(_HALVES)],
        "parts": [components_for(part) for part in x.chunk(_PARTS)],
    }


def wiener_variances(variances: Tensor, logsnr: float) -> Tensor:
    """Variances of the Wiener filter's estimates along the principal directions of the images.

    l / (1 + 1 / (l SNR)) for every variance l of the images; shape and order are theirs.
    """
    signal = variances * math.exp(logsnr)
    return variances * signal / (1 + signal)


class Change(NamedTuple):
    """By which factor a curve changes within one unit of log-SNR, and the middle of that unit."""

    factor: float
    at: float


def largest_fall(values: Sequence[float]) -> float:
    """The largest ratio of a value to any later one; 1 for a curve that only rises."""
    logs = np.log(np.asarray(values, dtype=float))
    return float(np.exp((np.maximum.accumulate(logs) - logs).max()))


def steepest(
    levels: Sequence[float], values: Sequence[float], way: str = "either", unit: float = 1.0
) -> Change:
    """Where positive values change most within `unit` of log-SNR; way "fall", "rise" or "either".

    Between levels log values are linear. The factor is above 1 if the curve goes that way at all.
    """
    if way not in ("fall", "rise", "either"):
        raise ValueError(f"the way must be fall, rise or either, not {way!r}")
    starts = np.arange(levels[0], levels[-1] - unit + 1e-9, 0.05)
    logs = np.log(np.asarray(values, dtype=float))
    gain = np.interp(starts + unit, levels, logs) - np.interp(starts, levels, logs)
    wanted: NDArray[np.float64] = {"fall": -gain, "rise": gain, "either": np.abs(gain)}[way]
    # of a straight piece all starts are as good: the middle one
    best = np.flatnonzero(wanted > wanted.max() - 1e-6)
    at = float(starts[best[(len(best) - 1) // 2]] + unit / 2)
    return Change(float(np.exp(wanted.max())), round(at, 3))


def falls_to(levels: Sequence[float], values: Sequence[float], threshold: float = 1.0) -> float:
    """The log-SNR at which a curve last falls to a threshold; the first level if it never does.

    Between levels log values are linear.
    """
    logs = np.log(np.asarray(values, dtype=float) / threshold)
    above = np.flatnonzero((logs[:-1] > 0) & (logs[1:] <= 0))
    if len(above) == 0:
        return float(levels[0])
    k = int(above[-1])
    share = logs[k] / (logs[k] - logs[k + 1])
    return float(levels[k] + share * (levels[k + 1] - levels[k]))


def at_level(levels: Sequence[float], values: Sequence[float], logsnr: float) -> float:
    """The value of a curve at a log-SNR, log values linear between levels."""
    logs = np.log(np.asarray(values, dtype=float))
    return float(np.exp(np.interp(logsnr, levels, logs)))
