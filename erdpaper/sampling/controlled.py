"""Controlled diffusion: noisy states of known clean data, and what a denoiser says of them [T 3].

With x0 fixed, x_t = alpha x0 + sigma eps has one law at each t, but states of several t can be
joined in different ways. With (a, s) at t, (a', s') at the next, less noisy t', and k = s / a:

    direct      eps drawn anew at every t                                           [T 3.2]
    shared      one eps at every t
    sequential  x_t' ~ q(x_t' | x_t, x0): eps' = r eps + sqrt(1 - r^2) z, r = k' / k   [T 3.4]

Sequential states have the covariance of the forward process, Cov(x_t, x_t' | x0) = (a / a') s'^2.
"""

import math
from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from erdpaper.posterior.base import normal
from erdpaper.sampling.base import (
    Denoiser,
    Level,
    Times,
    check_state,
    check_times,
    noise_levels,
)
from erdpaper.schedules import Schedule


class State(NamedTuple):
    """Noisy states x_t (N, ...) at one time."""

    t: float
    x_t: Tensor


class Endpoint(NamedTuple):
    """Noisy states and their endpoint estimates, both (N, ...), at one time."""

    t: float
    x_t: Tensor
    x0hat: Tensor

    @property
    def residual(self) -> Tensor:
        """x0hat - x_t, (N, ...); with alpha and sigma at t it is (1 - alpha) x0hat - sigma epshat.

        [T Fig 3.4]
        """
        return self.x0hat - self.x_t


def direct(
    x0: Tensor,
    schedule: Schedule,
    times: Times | float,
    generator: torch.Generator | None = None,
    noise: Tensor | None = None,
) -> Iterator[State]:
    """States x_t ~ q(x_t | x0) of clean data x0 (N, ...), one set per time, in the order given.

    Noise is drawn anew at every time, unless `noise` (as x0) is to serve at all of them. ValueError
    for times outside [0, 1] and for noise of another shape.
    """
    check_state(x0)
    levels = _levels(schedule, times)
    if noise is not None and noise.shape != x0.shape:
        shapes = f"{tuple(noise.shape)} and {tuple(x0.shape)}"
        raise ValueError(f"noise must have the shape of the clean data, got {shapes}")

    def states() -> Iterator[State]:
        for level in levels:
            eps = normal(tuple(x0.shape), x0, generator) if noise is None else noise
            yield _state(level, x0, eps)

    return states()


def sequential(
    x0: Tensor, schedule: Schedule, times: Times, generator: torch.Generator | None = None
) -> Iterator[State]:
    """States x_t' ~ q(x_t' | x_t, x0) down a falling grid, for the true x0 (N, ...) [T 3.4].

    The first is drawn from q(x_t | x0). ValueError for a grid that does not fall within [0, 1].
    """
    check_state(x0)
    levels = noise_levels(schedule, check_times(times))

    def states() -> Iterator[State]:
        eps = normal(tuple(x0.shape), x0, generator)
        yield _state(levels[0], x0, eps)
        for here, there in pairwise(levels):
            kept = here.alpha * there.sigma / (there.alpha * here.sigma)
            fresh = math.sqrt((1 - kept) * (1 + kept))
            eps = kept * eps + fresh * normal(tuple(x0.shape), x0, generator)
            yield _state(there, x0, eps)

    return states()


def endpoints(
    denoise: Denoiser, states: Iterable[State], batch: int | None = None
) -> Iterator[Endpoint]:
    """What a denoiser makes of given states: x0hat(x_t, t) [T 3.1].

    It is shown `batch` samples at once, or all N, as it must be if it holds a label for each.
    """
    if batch is not None and batch < 1:
        raise ValueError(f"a batch must hold at least 1 sample, got {batch}")

    def answers() -> Iterator[Endpoint]:
        for t, x_t in states:
            parts = [denoise(part, t).x0 for part in x_t.split(batch or len(x_t))]
            yield Endpoint(t, x_t, torch.cat(parts))

    return answers()


def controlled(
    denoise: Denoiser,
    x0: Tensor,
    schedule: Schedule,
    times: Times | float,
    generator: torch.Generator | None = None,
    *,
    noise: Tensor | None = None,
    batch: int | None = None,
) -> Iterator[Endpoint]:
    """Endpoint estimates of `direct` states of clean data x0 (N, ...), one record per time.

    The protocol of [T 3.1.1]; `noise` is that of `direct`, `batch` that of `endpoints`.
    """
    return endpoints(denoise, direct(x0, schedule, times, generator, noise), batch)


def _levels(schedule: Schedule, times: Times | float) -> list[Level]:
    grid = torch.atleast_1d(torch.as_tensor(times, dtype=torch.float64, device="cpu"))
    if grid.ndim != 1 or len(grid) < 1 or not bool(((grid >= 0) & (grid <= 1)).all()):
        raise ValueError("times must be one or more numbers in [0, 1]: 0 is clean data, 1 is noise")
    return noise_levels(schedule, grid)


def _state(level: Level, x0: Tensor, eps: Tensor) -> State:
    return State(level.t, level.alpha * x0 + level.sigma * eps)
