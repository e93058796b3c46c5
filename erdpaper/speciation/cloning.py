"""Speciation seen by a sampler: the same state continued twice, and real data noised and restored.

A stochastic sampler with the right score continues x_t to a draw of x_0 from the posterior given
x_t. Two clones of one x_t are two such draws, of one class with probability sum_c p_c^2, where
p_c = P(class c | x_t). In a U-turn x_0 is itself a draw from the posterior given the x_t made of
it, and the restored state is another, so that the class is kept with the same probability: clones
of samples and U-turns of data both give E[sum_c p_c^2], the first under the sampler's law of x_t,
the second under the data's.

A deterministic sampler continues both clones alike; it shows no speciation.
"""

from collections.abc import Callable, Collection
from typing import Protocol

import torch
from torch import Tensor

from erdpaper import sampling
from erdpaper.posterior.base import normal
from erdpaper.sampling import Denoiser
from erdpaper.schedules import Schedule

# clean states (N, ...) to class numbers (N,), 0 or more
Judge = Callable[[Tensor], Tensor]
# the class of a sample that never ended among the classes asked for
NONE = -1


class Sampler(Protocol):
    """A sampler as `sampling.ddpm` is called."""

    def __call__(
        self,
        denoise: Denoiser,
        x: Tensor,
        schedule: Schedule,
        times: Tensor,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """The state at the last of the times."""


def clone(
    denoise: Denoiser,
    x_t: Tensor,
    t: float,
    schedule: Schedule,
    judge: Judge,
    generator: torch.Generator | None = None,
    *,
    steps: int = 40,
    among: Collection[int] | None = None,
    tries: int = 20,
    sampler: Sampler = sampling.ddpm,
) -> Tensor:
    """Classes (2, N) of two continuations of the states x_t (N, ...) from time t to clean data.

    `steps` levels of EDM's grid lead from t to 0. With `among` a continuation that ends in another
    class is drawn again, up to `tries` times, which leaves a draw from the posterior restricted to
    these classes, by any denoiser that treats its samples alike; NONE (-1) where none of the tries
    ended there.
    """
    ends = _continuation(denoise, t, schedule, judge, generator, steps, among, tries, sampler)
    return torch.stack([ends(x_t) for _ in range(2)])


def uturn(
    denoise: Denoiser,
    x0: Tensor,
    t: float,
    schedule: Schedule,
    judge: Judge,
    generator: torch.Generator | None = None,
    *,
    steps: int = 40,
    among: Collection[int] | None = None,
    tries: int = 20,
    sampler: Sampler = sampling.ddpm,
) -> Tensor:
    """Classes (2, N): of clean states x0 (N, ...), and after noising to t and sampling back.

    The judge names both, so that its errors at no noise do not count. Otherwise as `clone`.
    """
    ends = _continuation(denoise, t, schedule, judge, generator, steps, among, tries, sampler)
    alpha, sigma = (float(part) for part in schedule(t))
    x_t = alpha * x0 + sigma * normal(tuple(x0.shape), x0, generator)
    return torch.stack([judge(x0), ends(x_t)])


def agreement(classes: Tensor) -> Tensor:
    """1 where the rows of classes (2, N) agree, 0 where not, NaN where one is NONE; (N,)."""
    if classes.ndim != 2 or len(classes) != 2:
        raise ValueError(f"classes must be two rows (2, N), got {tuple(classes.shape)}")
    same = (classes[0] == classes[1]).double()
    return same.masked_fill((classes == NONE).any(0), float("nan"))


def _continuation(
    denoise: Denoiser,
    t: float,
    schedule: Schedule,
    judge: Judge,
    generator: torch.Generator | None,
    steps: int,
    among: Collection[int] | None,
    tries: int,
    sampler: Sampler,
) -> Judge:
    """From states at t to the classes that they end in; the arguments are checked here."""
    classes, times = _wanted(among, tries), _times(schedule, t, steps)

    def ends(x: Tensor) -> Tensor:
        return judge(sampler(denoise, x, schedule, times, generator))

    return lambda x: _restricted(ends, x, classes, tries)


def _wanted(among: Collection[int] | None, tries: int) -> Tensor | None:
    if tries < 1:
        raise ValueError(f"the number of tries must be at least 1, got {tries}")
    if among is not None and len(set(among)) < 2:
        raise ValueError("a restriction needs two classes or more")
    return None if among is None else torch.tensor(sorted(among))


def _times(schedule: Schedule, t: float, steps: int) -> Tensor:
    if not 0 < t <= 1:
        raise ValueError(f"a sampler can start at a time in (0, 1], got {t}")
    k = float((-schedule.logsnr(t) / 2).exp())
    if k == float("inf"):
        raise ValueError(f"at time {t} there is no signal to share; start below it")
    times = sampling.times.karras(schedule, steps, sigma_max=k)
    times[0] = t  # without the rounding of the way through k
    return times


def _restricted(
    ends: Callable[[Tensor], Tensor], x: Tensor, among: Tensor | None, tries: int
) -> Tensor:
    found = ends(x)
    if among is None:
        return found
    for _ in range(tries - 1):
        outside = ~torch.isin(found, among.to(found.device))
        if not bool(outside.any()):
            break
        found[outside] = ends(x[outside])
    return found.masked_fill(~torch.isin(found, among.to(found.device)), NONE)
