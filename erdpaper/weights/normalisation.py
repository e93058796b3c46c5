"""A raw weight as a function of t with mean 1 over the training distribution of t."""

import math
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from erdpaper.schedules import Discrete, Schedule, Time
from erdpaper.targets import Target, get
from erdpaper.weights.densities import Density, on_table, training_times
from erdpaper.weights.raw import Weight

Allocation = Literal["t", "logsnr"]
LOGSNR_RANGE = (-10.0, 10.0)


@dataclass(frozen=True)
class Normalised:
    """t -> weight, with mean 1 over the training distribution of t; see `normalised`."""

    fn: Weight
    schedule: Schedule
    target: Target
    allocation: Allocation
    logsnr_range: tuple[float, float]
    mean: float = 1.0
    density: Density | None = None

    def __call__(self, t: Time) -> Tensor:
        """The weight at times t, of their shape."""
        alpha, sigma = self.schedule(t)
        score = self.fn(alpha, sigma, self.target)
        if self.allocation == "logsnr":
            low, high = self.logsnr_range
            logsnr = self.schedule.logsnr(t)
            inside = (logsnr >= low) & (logsnr <= high)
            rate = self.schedule.logsnr_rate(t).abs()
            if self.density is not None:
                rate = rate / self.density(torch.as_tensor(t, dtype=rate.dtype))
            # the rate is infinite at the ends, which lie outside the range
            score = torch.where(inside, score * rate, 0)
        return score / self.mean


def normalised(
    fn: Weight,
    schedule: Schedule,
    target: str | Target,
    allocation: Allocation = "t",
    logsnr_range: tuple[float, float] = LOGSNR_RANGE,
    density: Density | None = None,
) -> Normalised:
    """The weight as a function of t with mean 1 over the t that training draws [P 11].

    These are uniform on [0, 1], or drawn by `density` (see `densities`; it need not integrate to
    1); on a table they are its nodes, each with the probability of the cell below it. The mean is
    that under the density itself, to which the steps of `training.density_times` are close.

    allocation "t": the raw weight multiplies the loss at the t drawn. allocation "logsnr": the raw
    weight is the allocation M over log-SNR itself [P E.2], so the loss at t drawn by p carries
    `M |d lambda / dt| / p`; it is 0 outside `logsnr_range`, without which it would diverge at the
    ends. A weight with no finite mean raises ValueError, as does a density that is 0 where
    allocation "logsnr" asks for weight.
    """
    if allocation not in ("t", "logsnr"):
        raise ValueError(f"allocation must be 't' or 'logsnr', got {allocation!r}")
    if not -math.inf < logsnr_range[0] < logsnr_range[1] < math.inf:
        raise ValueError(f"logsnr_range must be finite (low, high), low < high, got {logsnr_range}")
    if density is not None:
        density = _checked(density, schedule)
    raw = Normalised(fn, schedule, get(target), allocation, logsnr_range, density=density)
    mean, drift = _mean(raw)
    if not (0 < mean < math.inf and drift < 0.02):
        name = getattr(getattr(fn, "func", fn), "__name__", repr(fn))
        raise ValueError(
            f"{name} for {raw.target.name} on {schedule!r} has no finite positive mean over t, "
            "so it cannot be normalised"
        )
    return replace(raw, mean=mean)


def _checked(density: Density, schedule: Schedule) -> Density:
    """The density as training has it on this schedule, if it is one."""
    if isinstance(schedule, Discrete):
        density = on_table(density, schedule)
    mass = density(training_times(schedule))
    if not bool(((mass >= 0) & mass.isfinite()).all()) or float(mass.sum()) <= 0:
        raise ValueError("a density of t must be finite, at least 0 and not 0 everywhere")
    return density


def _mean(raw: Normalised) -> tuple[float, float]:
    """The mean of a raw weight over t, and its relative change when the grid is thinned."""
    values, width = _values_on_grid(raw)
    mean = float(values.mean())
    if isinstance(raw.schedule, Discrete):
        return mean * width, 0.0
    # a midpoint sum that moves when two thirds of the grid are dropped is of a divergent integral
    return mean * width, abs(float(values[1::3].mean()) / mean - 1) if mean else math.inf


def _values_on_grid(raw: Normalised) -> tuple[Tensor, float]:
    """Values whose mean times a width is the mean of a raw weight over t."""
    t, p = _drawn(raw)
    total = float(p.mean())
    if raw.allocation == "t":
        return raw(t) * p, 1 / total
    if isinstance(raw.schedule, Discrete):
        weight = raw(t)
        _check_drawn(p[weight > 0])
        return weight * p, 1 / total
    # integrated over log-SNR, where the Jacobian cancels and nothing is singular
    low = max(raw.logsnr_range[0], float(raw.schedule.logsnr(1.0)))
    width = raw.logsnr_range[1] - low
    if width <= 0:
        return torch.zeros_like(t), 1.0
    t = raw.schedule.time(low + width * training_times(raw.schedule))
    if raw.density is not None:
        _check_drawn(raw.density(t))
    alpha, sigma = raw.schedule(t)
    return raw.fn(alpha, sigma, raw.target), width / total


def _drawn(raw: Normalised) -> tuple[Tensor, Tensor]:
    """Times on a grid, and the density there by the measure of that grid."""
    t = training_times(raw.schedule)
    if raw.density is None:
        return t, torch.ones_like(t)
    if isinstance(raw.schedule, Discrete):
        return t, raw.density(t)
    # closer at both ends, where a density and a weight may be steep together
    fine = t.square() * (3 - 2 * t)
    return fine, raw.density(fine) * 6 * t * (1 - t)


def _check_drawn(density: Tensor) -> None:
    if not bool((density > 0).all()):
        raise ValueError("the density of t is 0 where the allocation asks for weight")
