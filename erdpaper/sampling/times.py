"""Grids of times for samplers: `steps` + 1 of them, falling, float64."""

import math

import torch
from torch import Tensor

from erdpaper.schedules import Discrete, Schedule


def _check_steps(steps: int) -> int:
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise ValueError(f"the number of steps must be an integer of at least 1, got {steps!r}")
    return steps


def _down_to_zero(times: Tensor, to_zero: bool) -> Tensor:
    return torch.cat([times, times.new_zeros(1)]) if to_zero else times


def uniform(steps: int, first: float = 1.0, last: float = 0.0) -> Tensor:
    """Equal steps in t, 1 >= first > last >= 0."""
    if not 0 <= last < first <= 1:
        raise ValueError(f"times must satisfy 1 >= first > last >= 0, got {first} and {last}")
    return torch.linspace(first, last, _check_steps(steps) + 1, dtype=torch.float64)


def in_logsnr(
    schedule: Schedule, steps: int, low: float, high: float, to_zero: bool = True
) -> Tensor:
    """Equal steps in log-SNR from low (much noise) to high (little).

    With `to_zero` the `steps` levels are followed by 0; without it there are `steps` + 1 levels.
    A log-SNR below that of t = 1 raises ValueError.
    """
    levels = _check_steps(steps) + (not to_zero)
    if not -math.inf < low < high < math.inf:
        raise ValueError(f"log-SNRs must satisfy low < high and be finite, got {low} and {high}")
    logsnr = torch.linspace(low, high, levels, dtype=torch.float64)
    return _down_to_zero(schedule.time(logsnr), to_zero)


def karras(
    schedule: Schedule,
    steps: int,
    rho: float = 7.0,
    sigma_min: float = 0.002,
    sigma_max: float = 80.0,
    to_zero: bool = True,
) -> Tensor:
    """The EDM grid [P 4]: equal steps in k^(1/rho), k = sigma / alpha, from sigma_max to sigma_min.

    The range is cut to what the schedule has: k at t = 1 above and, of a table, k at its first
    node below, because no model has seen less noise. With `to_zero` the `steps` levels are followed
    by 0; without it there are `steps` + 1 levels.
    """
    levels = _check_steps(steps) + (not to_zero)
    if not (0 < sigma_min < sigma_max < math.inf and rho > 0):
        got = f"{sigma_min}, {sigma_max} and {rho}"
        raise ValueError(f"the grid needs 0 < sigma_min < sigma_max and rho > 0, got {got}")
    first = 1 / schedule.T if isinstance(schedule, Discrete) else 0.0
    least, most = (float((-schedule.logsnr(t) / 2).exp()) for t in (first, 1.0))
    low, high = max(sigma_min, least) ** (1 / rho), min(sigma_max, most) ** (1 / rho)
    if not low < high:
        raise ValueError(f"no noise level of {schedule} lies in {sigma_min:g}..{sigma_max:g}")
    k = torch.linspace(high, low, levels, dtype=torch.float64) ** rho
    return _down_to_zero(schedule.time(-2 * k.log()), to_zero)
