"""What a toy network has learned, against exact truth.

Evaluation points are fixed: networks measured at the same times see the same ones. With
``f* = E[y | x_t]``, sums over the two coordinates::

    excess(t)   E ||f - f*||^2                                            [P Lemma 3.2]
    loss(t)     E ||f - y||^2, signal(t) E ||f||^2
    likelihood  1/2 the integral over log-SNR of E ||eps_f - eps*||^2, in nats: how much the
                likelihood bound of the points at the lowest noise level loses to f
"""

import math
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor, nn

from erdpaper import metrics, sampling, targets
from erdpaper.posterior import Moments
from erdpaper.toys.spec import LAW, SCHEDULES, Noisy, midpoints, noisy

POINTS = 4_096
LOGSNR = torch.linspace(-8, 8, 17, dtype=torch.float64)
SAMPLER_STEPS = 32
_SEED = 20_260_510


class Level(NamedTuple):
    """Evaluation points of one noise level: x_t, y and E[y | x_t], each (N, 2)."""

    x: Tensor
    y: Tensor
    bayes: Tensor


@cache
def _points(schedule: str, times: tuple[float, ...]) -> list[tuple[Noisy, Moments]]:
    generator = torch.Generator().manual_seed(_SEED)
    points = [noisy(schedule, t, POINTS, generator) for t in times]
    return [(at, LAW.moments(at.x, at.alpha, at.sigma)) for at in points]


def _levels(target: str, schedule: str, times: tuple[float, ...]) -> list[Level]:
    make = targets.get(target).make
    return [
        Level(
            at.x,
            make(at.x0, at.eps, at.alpha, at.sigma),
            make(exact.x0, exact.eps, at.alpha, at.sigma),
        )
        for at, exact in _points(schedule, times)
    ]


@torch.no_grad()
def _answers(model: nn.Module, levels: list[Level], times: tuple[float, ...]) -> list[Tensor]:
    return [
        model(level.x.float(), torch.full((len(level.x),), t)).double()
        for level, t in zip(levels, times, strict=True)
    ]


def _mean_square(a: Tensor) -> Tensor:
    return a.square().sum(-1).mean()


def excess(model: nn.Module, target: str, schedule: str, times: Tensor | None = None) -> Tensor:
    """E ||f - E[y | x_t]||^2 at times (T,), by default the 25 midpoints; float64."""
    return excesses(model, (target,), schedule, times)[target]


def excesses(
    model: nn.Module, names: Sequence[str], schedule: str, times: Tensor | None = None
) -> dict[str, Tensor]:
    """`excess` of one network as if it had been trained for each of these targets."""
    at = tuple((midpoints() if times is None else times).tolist())
    levels = {name: _levels(name, schedule, at) for name in names}
    answers = _answers(model, levels[names[0]], at)
    return {
        name: torch.stack([_mean_square(f - x.bayes) for f, x in zip(answers, each, strict=True)])
        for name, each in levels.items()
    }


class Losses(NamedTuple):
    """At each time: the loss on sampled y, its standard error, E ||f||^2."""

    loss: Tensor
    error: Tensor
    signal: Tensor


def losses(model: nn.Module, target: str, schedule: str) -> Losses:
    """The sampled loss and the output's energy at the 25 midpoints [P Figs 2, 3]."""
    at = tuple(midpoints().tolist())
    levels = _levels(target, schedule, at)
    rows = []
    for f, level in zip(_answers(model, levels, at), levels, strict=True):
        each = (f - level.y).square().sum(-1)
        rows.append((each.mean(), each.std() / len(each) ** 0.5, _mean_square(f)))
    return Losses(*(torch.stack(column) for column in zip(*rows, strict=True)))


def likelihood_gap(model: nn.Module, target: str, schedule: str) -> float:
    """Nats per point that the likelihood bound loses to f, log-SNR from -8 to 8 (trapezoid)."""
    path = SCHEDULES[schedule]
    times = path.time(LOGSNR)
    gaps = excess(model, target, schedule, times)
    alpha, sigma = path(times)
    hidden_eps, hidden = (targets.get(y).split(alpha, sigma)[1] for y in ("eps", target))
    return float(torch.trapezoid((hidden_eps / hidden).square() * gaps, LOGSNR)) / 2


@cache
def _start(schedule: str) -> tuple[Tensor, Tensor]:
    """Times of the sampler and the noisy points it starts from, which are exact."""
    generator = torch.Generator().manual_seed(_SEED + 1)
    times = sampling.times.in_logsnr(SCHEDULES[schedule], SAMPLER_STEPS, -8.0, 8.0, False)
    return times, noisy(schedule, float(times[0]), POINTS, generator).x


def generate(denoise: sampling.Denoiser, schedule: str, dtype: torch.dtype) -> Tensor:
    """4,096 samples by Heun's method, always from the same noise; (4096, 2) float64."""
    times, x = _start(schedule)
    return sampling.heun(denoise, x.to(dtype), SCHEDULES[schedule], times).double()


@cache
def oracle(schedule: str) -> Tensor:
    """The samples of the exact denoiser, (4096, 2)."""
    return generate(sampling.exact(LAW, SCHEDULES[schedule]), schedule, torch.float64)


def truth(schedule: str, seed: int = 0) -> Tensor:
    """4,096 true points, noised as the sampler leaves them at its last time."""
    generator = torch.Generator().manual_seed(_SEED + 2 + seed)
    return noisy(schedule, float(_start(schedule)[0][-1]), POINTS, generator).x


class SampleQuality(NamedTuple):
    """Of 4,096 samples: sliced W2 to the oracle's (same noise) and to true points; modes.

    All infinite where the sampler ran off to infinity.
    """

    to_oracle: float
    to_truth: float
    energy_to_truth: float
    stray: float
    spread: float


def sliced(x: Tensor, y: Tensor) -> float:
    """Sliced 2-Wasserstein distance along fixed directions."""
    generator = torch.Generator().manual_seed(_SEED)
    return float(metrics.sliced_wasserstein(x, y, generator=generator))


def sample_quality(model: nn.Module, target: str, schedule: str) -> SampleQuality:
    """What a network's samples are like."""
    denoise = sampling.from_model(model, SCHEDULES[schedule], target)
    x, true = generate(denoise, schedule, torch.float32), truth(schedule)
    if not bool(x.isfinite().all()):
        return SampleQuality(*[math.inf] * 5)
    modes = metrics.modes(x, LAW.means, LAW.stds)
    return SampleQuality(
        sliced(x, oracle(schedule)),
        sliced(x, true),
        float(metrics.energy_distance(x, true)),
        float(modes.stray),
        float(modes.spread),
    )
