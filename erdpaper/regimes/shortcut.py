"""Sampling that starts at the speciation time: the acceleration hypothesis [T 3.3, Sec 4].

A start is a law of the state at a level of log-SNR, alpha x + sigma z with z standard normal, and

    class statistics    x ~ N(mu_c, Cov_c) of the training states of the class asked for
    class mean          x = mu_c
    all classes         x ~ N(mu, Cov) of all training states
    noised images       x a training state of the class, which no shortcut could know
    no statistics       x = 0

Against them stand pure noise from EDM's first level, k = sigma / alpha = 80, and a jump: one call
there, the next at the level of the starts. All are continued by DDIM, one call a step, on EDM's
grid from their own first level, with equal numbers of calls and the same noise z.
"""

import math
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from erdpaper import metrics, sampling
from erdpaper.posterior import Gaussian
from erdpaper.regimes.system import System
from erdpaper.speciation import time_from_covariance
from erdpaper.tasks import rounded
from erdpaper.training.stream import generator_for

STATISTICS, NOISE, JUMP = "class statistics", "pure noise", "jump"
OTHERS = ("class mean", "all classes", "noised images", "no statistics")
STARTS = (STATISTICS, *OTHERS, NOISE, JUMP)
_FIRST = 80.0
# a stream of random numbers beside those of training and of other measurements
_STATE = 21


class Start(NamedTuple):
    """How sampling starts: one of STARTS, at a log-SNR (of no meaning for pure noise)."""

    kind: str
    logsnr: float


def check(start: Start, calls: int) -> None:
    """Refuse a start that is not known or at no level, and fewer calls than it needs."""
    if start.kind not in STARTS:
        raise ValueError(f"the start must be one of {', '.join(STARTS)}, not {start.kind!r}")
    if start.kind != NOISE and not math.isfinite(start.logsnr):
        raise ValueError(f"the log-SNR of a start must be a finite number, got {start.logsnr}")
    least = 2 if start.kind == JUMP else 1
    if calls < least:
        raise ValueError(f"this start needs at least {least} network calls, got {calls}")


def grid(system: System, start: Start, calls: int) -> Tensor:
    """The times of a start with so many network calls, (calls + 1,), float64."""
    check(start, calls)
    if start.kind == NOISE:
        return sampling.times.karras(system.schedule, calls, sigma_max=_FIRST)
    k = float(torch.tensor(-start.logsnr / 2, dtype=torch.float64).exp())
    if start.kind == JUMP:
        rest = sampling.times.karras(system.schedule, calls - 1, sigma_max=k)
        first = sampling.times.karras(system.schedule, 1, sigma_max=_FIRST)[:1]
        return torch.cat([first, rest])
    return sampling.times.karras(system.schedule, calls, sigma_max=k)


def draw(system: System, start: Start, calls: int, labels: Tensor, seed: int) -> Tensor:
    """Samples (N, ...) of classes (N,); the noise depends on the seed and N alone."""
    times = grid(system, start, calls)
    alpha, sigma = (float(c) for c in system.schedule(times[0]))
    generator = generator_for(seed, _STATE)
    z = torch.randn(len(labels), *system.shape, generator=generator)
    x = sigma * z
    if start.kind not in (NOISE, JUMP, "no statistics"):
        x = x + alpha * _clean(system, start.kind, labels, generator)
    return sampling.ddim(system.denoiser(labels, 1.0), x, system.schedule, times)


def _clean(system: System, kind: str, labels: Tensor, generator: torch.Generator) -> Tensor:
    x = torch.empty(len(labels), *system.shape)
    if kind == "all classes":
        x.copy_(statistics(system, None).sample(len(x), generator).view_as(x))
        return x
    for label in labels.unique().tolist():
        wanted = labels == label
        n = int(wanted.sum())
        if kind == "noised images":
            own, _ = system.data("train", label)
            found = own[torch.randint(len(own), (n,), generator=generator)]
        elif kind == "class mean":
            found = statistics(system, label).mean.expand(n, -1)
        else:
            found = statistics(system, label).sample(n, generator)
        x[wanted] = found.reshape(n, *system.shape).to(x)
    return x


@cache
def statistics(system: System, label: int | None) -> Gaussian:
    """Mean and covariance of the training states of a class, or of all."""
    return Gaussian.fitted(system.data("train", label)[0].flatten(1))


@cache
def speciation_level(system: System, n: int | None = None) -> float:
    """The log-SNR at which SNR = 1 / (Lambda - 1), Lambda of the first n training states or all."""
    return time_from_covariance(system.data("train", None)[0][:n]).logsnr


def start_level(system: System) -> float:
    """The level of the starts: speciation, and at least a unit after the schedule begins."""
    return max(speciation_level(system), float(system.schedule.logsnr(1.0)) + 1)


class Reference(NamedTuple):
    """Features (M, F) of the test states, decoded, and their moments."""

    features: Tensor
    moments: metrics.Moments


@cache
def reference(system: System, n: int | None = None) -> Reference:
    """What samples are compared with: the first n test states, or all."""
    x, _ = system.data("test", None)
    features = system.seen(x[:n]).features.double()
    return Reference(features, metrics.Moments(features.shape[1]).update(features))


def quality(system: System, x: Tensor, labels: Tensor, truth: Reference) -> dict[str, float]:
    """fd, precision, recall (with as many test states as samples) and agreement of samples."""
    seen = system.seen(x)
    features = seen.features.double()
    moments = metrics.Moments(features.shape[1]).update(features)
    near = metrics.precision_recall(features, truth.features[: len(features)])
    found = {
        "fd": metrics.frechet_distance(moments, truth.moments),
        "precision": near.precision,
        "recall": near.recall,
        "agreement": metrics.class_agreement(seen.logits, labels).share,
    }
    return {name: rounded(value) for name, value in found.items()}
