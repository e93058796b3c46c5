"""Signal and noise of the toy's targets, exactly [P Figs 3, 8].

The noise share of a target at time t is floor / energy: the part of E||y||^2 that x_t does not
determine. Above one half the Bayes noise outweighs the recoverable signal.
"""

from functools import cache

import torch
from scipy.interpolate import CubicSpline
from scipy.optimize import brentq
from torch import Tensor

from erdpaper import targets
from erdpaper.schedules import signal_and_noise
from erdpaper.targets import Target
from erdpaper.toys.spec import LAW, SCHEDULES

_REACH, _MOST_CELLS = 16.0, 100


@cache
def _hidden(spacing: float) -> CubicSpline:
    nodes = torch.arange(-_REACH, _REACH + spacing / 2, spacing, dtype=torch.float64)
    return CubicSpline(nodes, LAW.hidden_variance(*signal_and_noise(nodes, "vp")).value)


def floor_curve(
    alpha: Tensor, sigma: Tensor, target: str | Target, spacing: float = 0.25
) -> Tensor:
    """The floor at many noise levels (T,), from a spline in log-SNR with nodes this far apart.

    Beyond log-SNR +-16 the hidden variance is taken as flat, which it is to 1e-6.
    """
    logsnr = 2 * (alpha.log() - sigma.log())
    F = torch.from_numpy(_hidden(spacing)(logsnr.clamp(-_REACH, _REACH)))
    return targets.get(target).split(alpha, sigma)[1].square() * F


def noise_share(target: str, schedule: str, t: Tensor, spacing: float = 0.25) -> Tensor:
    """floor / energy at times t (T,), by `floor_curve`."""
    alpha, sigma = SCHEDULES[schedule](t)
    return floor_curve(alpha, sigma, target, spacing) / LAW.energy(alpha, sigma, target)


def _exact_share(t: float, target: str, schedule: str) -> float:
    level = SCHEDULES[schedule](t)
    return float(LAW.bayes_floor(*level, target) / LAW.energy(*level, target))


def crossings(target: str, schedule: str, spacing: float = 0.25) -> list[float]:
    """The times at which noise and signal are equal, ascending; exact floors, to 1e-9 in t."""
    t = torch.linspace(0.001, 0.999, 999, dtype=torch.float64)
    above = noise_share(target, schedule, t, spacing) > 0.5
    change = (above[1:] != above[:-1]).nonzero().squeeze(-1).tolist()

    def distance(x: float) -> float:
        return _exact_share(x, target, schedule) - 0.5

    found = []
    for k in change:
        low, high = k, k + 1
        # the spline is not exact: widen until the exact share changes sides
        while distance(float(t[low])) * distance(float(t[high])) > 0:
            if high - low > _MOST_CELLS:
                raise ArithmeticError(f"a spline with nodes {spacing} apart is too coarse here")
            low, high = max(low - 2, 0), min(high + 2, len(t) - 1)
        found.append(float(brentq(distance, float(t[low]), float(t[high]), xtol=1e-9)))
    return found
