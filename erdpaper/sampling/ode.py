"""Solvers of the probability-flow ODE [T 2.41] and of the reverse SDE [T 2.40]."""

import math

import torch
from torch import Tensor

from erdpaper.posterior.base import normal
from erdpaper.sampling.base import (
    NO_HOOKS,
    Denoiser,
    Hooks,
    Times,
    check_signal,
    check_times,
    walk,
)
from erdpaper.schedules import Schedule


def heun(
    denoise: Denoiser,
    x: Tensor,
    schedule: Schedule,
    times: Times,
    generator: torch.Generator | None = None,
    *,
    hooks: Hooks = NO_HOOKS,
    progress: bool = False,
) -> Tensor:
    """Second-order steps of dX/dk = eps in X = x / alpha, k = sigma / alpha [P 4].

    An Euler step to k', then the trapezoid rule with the noise predicted there; a plain Euler step
    into a last time with sigma = 0. x (N, ...) is the state at times[0], where alpha > 0
    (ValueError otherwise). Nothing is drawn: `generator` is there so that all samplers are called
    alike. The second call of a step passes the hooks too; what `on_state` does there moves the
    trial point only, and the state itself when the next step begins.
    """
    check_signal(schedule, times, "heun")
    for here, there in walk(x, schedule, times, progress):
        x, (_, eps) = hooks.call(denoise, x, here.t)
        # X' = X + (k' - k) eps, multiplied by alpha'
        scale = there.alpha / here.alpha
        gain = there.sigma - scale * here.sigma
        scaled = scale * x
        ahead = torch.add(scaled, eps, alpha=gain)
        if there.sigma > 0:
            _, (_, again) = hooks.call(denoise, ahead, there.t)
            ahead = torch.add(scaled, eps + again, alpha=gain / 2)
        x = ahead
    return x


def euler(
    denoise: Denoiser,
    x: Tensor,
    schedule: Schedule,
    times: Times,
    generator: torch.Generator | None = None,
    *,
    hooks: Hooks = NO_HOOKS,
    progress: bool = False,
) -> Tensor:
    """Explicit Euler in t on dx/dt = alpha' x0 + sigma' eps = f x - g^2 score / 2 [T 2.41].

    x (N, ...) is the state at times[0], the result that at times[-1]. Nothing is drawn, see `heun`.
    """
    alpha_rate, sigma_rate = (r.tolist() for r in schedule.rates(check_times(times)[:-1]))
    steps = walk(x, schedule, times, progress)
    for (here, there), of_x0, of_eps in zip(steps, alpha_rate, sigma_rate, strict=True):
        x, (x0, eps) = hooks.call(denoise, x, here.t)
        h = here.t - there.t
        x = x - (h * of_x0) * x0 - (h * of_eps) * eps
    return x


def sde(
    denoise: Denoiser,
    x: Tensor,
    schedule: Schedule,
    times: Times,
    generator: torch.Generator | None = None,
    *,
    hooks: Hooks = NO_HOOKS,
    progress: bool = False,
) -> Tensor:
    """Euler-Maruyama in t on dx = (f x - g^2 score) dt + g dW, backwards [T 2.40].

    The drift is that of `euler` plus g^2 / (2 sigma) eps, ``g^2 = sigma^2 |d lambda / dt|``. g is
    infinite where alpha = 0: a grid that starts there raises ValueError.
    """
    check_signal(schedule, times, "sde")
    grid = check_times(times)[:-1]
    alpha_rate, sigma_rate = (r.tolist() for r in schedule.rates(grid))
    logsnr_rate = schedule.logsnr_rate(grid).tolist()
    steps = walk(x, schedule, times, progress)
    for (here, there), of_x0, of_eps, rate in zip(
        steps, alpha_rate, sigma_rate, logsnr_rate, strict=True
    ):
        x, (x0, eps) = hooks.call(denoise, x, here.t)
        h = here.t - there.t
        drift = of_x0 * x0 + (of_eps + here.sigma * abs(rate) / 2) * eps
        spread = here.sigma * math.sqrt(h * abs(rate))
        x = x - h * drift + spread * normal(tuple(x.shape), x, generator)
    return x
