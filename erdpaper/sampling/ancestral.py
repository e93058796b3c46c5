"""DDIM and DDPM: predict the clean data, then noise them again to the next level."""

import math

import torch
from torch import Tensor

from erdpaper.posterior.base import normal
from erdpaper.sampling.base import NO_HOOKS, Denoiser, Hooks, Level, Times, walk
from erdpaper.schedules import Schedule


def _shares(here: Level, there: Level, eta: float) -> tuple[float, float]:
    """(sqrt(s'^2 - w^2), w): how much of the predicted noise stays and how much is drawn anew."""
    ratio2 = (here.alpha * there.sigma / (there.alpha * here.sigma)) ** 2
    fresh = eta * there.sigma * math.sqrt(max(0.0, 1 - ratio2))
    # s'^2 - w^2 without the difference, which would lose a small ratio at eta = 1
    kept = there.sigma * math.sqrt(1 - eta**2 + eta**2 * ratio2)
    return kept, fresh


def ddim(
    denoise: Denoiser,
    x: Tensor,
    schedule: Schedule,
    times: Times,
    generator: torch.Generator | None = None,
    *,
    eta: float = 0.0,
    hooks: Hooks = NO_HOOKS,
    progress: bool = False,
) -> Tensor:
    """x' = a' x0 + sqrt(s'^2 - w^2) eps + w z, w = eta s' sqrt(1 - (a s' / (a' s))^2).

    x (N, ...) is the state at times[0], the result that at times[-1]. eta = 0 is deterministic
    (Euler steps of dX/dk = eps, see `heun`), eta = 1 is `ddpm`. On any path and for any eta: if
    x = a x0 + s eps with the true x0, then x' = a' x0 + s' eps' with eps' standard normal, because
    the two shares of noise add up to s'^2.
    """
    if not 0 <= eta <= 1:
        raise ValueError(f"eta must lie in [0, 1], got {eta}")
    for here, there in walk(x, schedule, times, progress):
        x, (x0, eps) = hooks.call(denoise, x, here.t)
        kept, fresh = _shares(here, there, eta)
        x = there.alpha * x0 + kept * eps
        if fresh > 0:
            x = x + fresh * normal(tuple(x.shape), x, generator)
    return x


def ddpm(
    denoise: Denoiser,
    x: Tensor,
    schedule: Schedule,
    times: Times,
    generator: torch.Generator | None = None,
    *,
    hooks: Hooks = NO_HOOKS,
    progress: bool = False,
) -> Tensor:
    """Draws of x_t' ~ q(x_t' | x_t, x0) with the predicted x0 [T 2.20]: `ddim` with eta = 1."""
    return ddim(denoise, x, schedule, times, generator, eta=1.0, hooks=hooks, progress=progress)
