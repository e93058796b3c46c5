"""Langevin dynamics at one noise level and over falling levels."""

import math

import torch
from torch import Tensor

from erdpaper.posterior.base import normal
from erdpaper.sampling.base import (
    NO_HOOKS,
    Denoiser,
    Hooks,
    Level,
    Times,
    bar,
    check_state,
    check_times,
    noise_levels,
)
from erdpaper.schedules import Schedule


def _run(
    denoise: Denoiser,
    x: Tensor,
    moves: list[tuple[Level, float]],
    generator: torch.Generator | None,
    hooks: Hooks,
    progress: bool,
) -> Tensor:
    """One move for every (level, step size), checked before the first."""
    check_state(x)
    if not moves:
        raise ValueError("the number of steps must be at least 1")
    if any(level.sigma <= 0 for level, _ in moves):
        raise ValueError("Langevin dynamics needs sigma > 0: without noise there is no score")
    if not all(0 < size < math.inf for _, size in moves):
        raise ValueError("the step size must be positive and finite")
    for level, size in bar(moves, progress):
        x, (_, eps) = hooks.call(denoise, x, level.t)
        x = x - (size / (2 * level.sigma)) * eps
        x = x + math.sqrt(size) * normal(tuple(x.shape), x, generator)
    return x


def langevin(
    denoise: Denoiser,
    x: Tensor,
    schedule: Schedule,
    t: float,
    steps: int,
    step_size: float,
    generator: torch.Generator | None = None,
    *,
    hooks: Hooks = NO_HOOKS,
    progress: bool = False,
) -> Tensor:
    """Unadjusted Langevin dynamics at time t: x' = x + c/2 score + sqrt(c) z [T 2.2, after 2.35].

    c is the `step_size`, in squared units of x, and score = -eps / sigma. The law of x approaches
    q(x_t) up to an error of order c; where q has modes far apart, their weights stay those of the
    start for a time that grows exponentially with the barrier between them.
    """
    (level,) = noise_levels(schedule, torch.tensor([t], dtype=torch.float64))
    return _run(denoise, x, [(level, step_size)] * steps, generator, hooks, progress)


def annealed_langevin(
    denoise: Denoiser,
    x: Tensor,
    schedule: Schedule,
    times: Times,
    generator: torch.Generator | None = None,
    *,
    steps: int,
    step_size: float,
    hooks: Hooks = NO_HOOKS,
    progress: bool = False,
) -> Tensor:
    """`langevin` at every time of a falling grid in turn, `steps` moves of c = step_size sigma^2.

    [T 2.38]. The step size has no unit. The last time counts as well and must have sigma > 0. A
    level starts from the state that the one before it left, as it is.
    """
    levels = noise_levels(schedule, check_times(times))
    moves = [(level, step_size * level.sigma**2) for level in levels for _ in range(steps)]
    return _run(denoise, x, moves, generator, hooks, progress)
