"""At which times training draws: densities of t, for `training.density_times` and `normalised`.

A density is a function t -> density at t on [0, 1], with integral 1. Drawing by p and weighting by
w allots `M = w p |dt / d lambda|` to log-SNR [P 1], so a way of training is a pair: EDM's is
`densities.edm` and `weights.edm`, that of Stable Diffusion 3 `logit_normal` and uniform weight.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from erdpaper.schedules import Discrete, Schedule

Density = Callable[[Tensor], Tensor]
# three divides the number of midpoints, so that every third one is a midpoint of a coarser grid
_NODES = 3 * 21845


def training_times(schedule: Schedule) -> Tensor:
    """Times that stand for what training draws: a table's nodes or midpoints of [0, 1]; float64."""
    if isinstance(schedule, Discrete):
        return torch.arange(1, schedule.T + 1, dtype=torch.float64) / schedule.T
    return (torch.arange(_NODES, dtype=torch.float64) + 0.5) / _NODES


def normal_logsnr(logsnr: Tensor, mean: float = -1.2, std: float = 1.2) -> Tensor:
    """Density of log-SNR, lambda = -2 ln k, where ln k ~ N(mean, std^2) with k = sigma / alpha."""
    _check_normal(mean, std)
    z = (logsnr / 2 + mean) / std
    return torch.exp(-z.square() / 2) / (2 * std * math.sqrt(2 * math.pi))


def edm(schedule: Schedule, mean: float = -1.2, std: float = 1.2) -> Density:
    """EDM's sampling (Karras et al. 2022): ln(sigma / alpha) ~ N(mean, std^2), as density of t.

    `p(lambda) |d lambda / dt|`, divided by the share of the normal that lies at noise levels the
    schedule reaches. Where log-SNR is infinite it is 0, its limit. On a table d lambda / dt is that
    of `Schedule.logsnr_rate`, so the integral is 1 up to its finite differences.
    """
    _check_normal(mean, std)
    last = (-schedule.logsnr(1.0) / 2 - mean) / std
    reached = float(torch.special.ndtr(last))
    if not reached > 0:
        raise ValueError(f"{schedule!r} reaches none of the noise levels of mean={mean}, std={std}")

    def density(t: Tensor) -> Tensor:
        logsnr = schedule.logsnr(t)
        rate = schedule.logsnr_rate(t).abs()
        inside = normal_logsnr(logsnr, mean, std) * rate / reached
        return torch.where(logsnr.isfinite() & rate.isfinite(), inside, 0)

    return density


def logit_normal(mean: float = 0.0, std: float = 1.0) -> Density:
    """logit(t) ~ N(mean, std^2), the sampling of Stable Diffusion 3 (Esser et al. 2024).

    A mean above 0 draws more noise. 0 at both ends, its limit there. On the linear path ln k =
    logit(t), so it is `edm` with the same mean and std.
    """
    _check_normal(mean, std)

    def density(t: Tensor) -> Tensor:
        z = (torch.logit(t) - mean) / std
        inside = torch.exp(-z.square() / 2) / (t * (1 - t) * std * math.sqrt(2 * math.pi))
        return torch.where((t > 0) & (t < 1), inside, 0)

    return density


def on_table(density: Density, table: Discrete) -> Density:
    """The density that training has on a table, where t is moved up to the next node.

    At t it is the mean of `density` over the cell (k / T, (k + 1) / T] that holds t: T times the
    probability of node k.
    """
    count = math.ceil(_NODES / table.T)
    start = torch.arange(table.T, dtype=torch.float64)[:, None]
    inner = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    mass = density((start + inner) / table.T).mean(1)

    def at_node(t: Tensor) -> Tensor:
        # a node belongs to the cell below it, also after rounding to single precision
        cell = (t.double() * table.T - 1e-3).ceil().long() - 1
        return mass.to(t)[cell.clamp(0, table.T - 1)]

    return at_node


def _check_normal(mean: float, std: float) -> None:
    if not (math.isfinite(mean) and 0 < std < math.inf):
        raise ValueError(f"mean must be finite and std positive and finite, got {mean} and {std}")
