"""Speciation in trained systems: the level at which a class is decided, found in several ways.

A problem is all classes of a system or a pair of them. For all classes the network samples without
a class. For a pair it has no such denoiser, and none is needed: a continuation without a class that
ends in one of the two is a draw from the posterior of the pair, so that others are drawn again
(`among`, see `speciation.cloning`). Clones start from states on the sampler's own way from noise,
for a pair with the label of either class, U-turns from test images.

injection: samples of one class whose predictions are, from the level on and to the end, those of
another class, at strength 1; the level is that from which on half of them still become the other.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from erdpaper import sampling, speciation
from erdpaper.regimes.system import System
from erdpaper.speciation import Crossing
from erdpaper.training.stream import generator_for

# log-SNR where sampling starts, k = sigma / alpha = 90, and steps for each unit from there
START = -9.0
PACE = 8
# steps of a continuation
STEPS = 24
_TRIES = 6
# streams of random numbers: states on their way, continuations, and which images and labels
_WAY, _BACK, _CHOICE = 1, 2, 3
INJECTED = tuple(float(level) for level in range(-7, 6))


class Problem(NamedTuple):
    """What is to be decided.

    classes: two of the system's, or None for all; n: states a level; steps: of a continuation.
    """

    name: str
    space: str
    classes: tuple[int, int] | None
    levels: tuple[float, ...]
    n: int
    steps: int = STEPS


class Curve(NamedTuple):
    """Values (L, N) at levels (L,) of log-SNR, and the threshold that their mean has to cross."""

    levels: Tensor
    values: Tensor
    threshold: float

    @property
    def mean(self) -> Tensor:
        """Over the states that have a value, (L,)."""
        return self.values.nanmean(1)

    @property
    def error(self) -> Tensor:
        """The standard error of the mean, (L,)."""
        known = (~self.values.isnan()).sum(1)
        spread = (self.values - self.mean[:, None]).square().nanmean(1).sqrt()
        return spread / known.clamp(min=2).sub(1).sqrt()

    @property
    def crossing(self) -> Crossing | None:
        """Where the mean rises through the threshold; where it falls, if that is negative.

        Of the levels at which there are values, if they are two or more.
        """
        known = (~self.values.isnan()).any(1)
        if int(known.sum()) < 2:
            return None
        return speciation.crossing(self.levels[known], self.values[known], self.threshold)


def judged(system: System, x: Tensor) -> Tensor:
    """The class that the system's classifier gives to states, (N,)."""
    return system.seen(x).logits.argmax(1)


def reached(system: System, levels: Sequence[float]) -> Tensor:
    """The levels that the schedule has and sampling gets to, (L,), float64."""
    first = max(START, float(system.schedule.logsnr(1.0)))
    found = torch.tensor([level for level in levels if level > first], dtype=torch.float64)
    if len(found) < 2:
        raise ValueError(f"two levels or more must lie above log-SNR {first:.3g}")
    return found


def states(
    system: System, denoise: sampling.Denoiser, levels: Tensor, n: int, seed: int
) -> Iterator[tuple[float, Tensor]]:
    """Each of the rising levels and n ancestral trajectories from noise there, (n, ...)."""
    generator = generator_for(seed, _WAY)
    x, here = system.start(n, seed), max(START, float(system.schedule.logsnr(1.0)))
    for level in levels.tolist():
        steps = max(1, round(PACE * (level - here)))
        times = sampling.times.in_logsnr(system.schedule, steps, here, level, to_zero=False)
        x, here = sampling.ddpm(denoise, x, system.schedule, times, generator), level
        yield level, x


def _classes(system: System, problem: Problem) -> tuple[int, ...]:
    every = tuple(range(len(system.classes)))
    if problem.classes is None:
        return every
    a, b = problem.classes
    if a == b or a not in every or b not in every:
        raise ValueError(f"a pair must be two different classes of 0..{every[-1]}, got {a} and {b}")
    return a, b


def asked(system: System, problem: Problem) -> Tensor:
    """Labels (n,), the classes of a problem in turn."""
    classes = torch.tensor(_classes(system, problem))
    return classes[torch.arange(problem.n) % len(classes)]


def _threshold(system: System, problem: Problem) -> float:
    return speciation.criterion(len(_classes(system, problem)))


class _Reverse:
    """Continuations from a level, all by one generator, which no state at a level has seen."""

    def __init__(
        self, system: System, problem: Problem, among: tuple[int, int] | None, seed: int
    ) -> None:
        self.system, self.among, self.steps = system, among, problem.steps
        self.generator = generator_for(seed, _BACK)

    def _options(self) -> dict[str, Any]:
        return {"steps": self.steps, "among": self.among, "tries": _TRIES}

    def _judge(self, x: Tensor) -> Tensor:
        return judged(self.system, x)

    def clones(
        self,
        denoise: sampling.Denoiser,
        x_t: Tensor,
        level: float,
        sampler: speciation.Sampler = sampling.ddpm,
    ) -> Tensor:
        """Classes (2, N) of two continuations."""
        schedule = self.system.schedule
        where = (denoise, x_t, speciation.in_time(schedule, level), schedule)
        found = speciation.clone(
            *where, self._judge, self.generator, sampler=sampler, **self._options()
        )
        return found

    def uturns(self, denoise: sampling.Denoiser, x0: Tensor, level: float) -> Tensor:
        """Classes (2, N) before and after."""
        schedule = self.system.schedule
        where = (denoise, x0, speciation.in_time(schedule, level), schedule)
        return speciation.uturn(*where, self._judge, self.generator, **self._options())


def clones(system: System, problem: Problem, seed: int = 0) -> Curve:
    """Share of two continuations of one state that end in one class."""
    free = system.denoiser(None, 1.0)
    first = free
    if problem.classes is not None:
        first = system.denoiser(asked(system, problem), 1.0)
    return _cloned(system, problem, first, free, seed)


def conditional(system: System, problem: Problem, seed: int = 0) -> Curve:
    """The same for samples of given classes: the label has decided before any level."""
    denoise = system.denoiser(asked(system, problem), 1.0)
    return _cloned(system, problem, denoise, denoise, seed)


def deterministic(system: System, problem: Problem, seed: int = 0) -> Curve:
    """The same for a sampler that draws nothing."""
    free = system.denoiser(None, 1.0)
    return _cloned(system, problem, free, free, seed, sampling.ddim)


def _cloned(
    system: System,
    problem: Problem,
    first: sampling.Denoiser,
    then: sampling.Denoiser,
    seed: int,
    sampler: speciation.Sampler = sampling.ddpm,
) -> Curve:
    levels, reverse = (
        reached(system, problem.levels),
        _Reverse(system, problem, problem.classes, seed),
    )
    values = [
        speciation.agreement(reverse.clones(then, x_t, level, sampler))
        for level, x_t in states(system, first, levels, problem.n, seed)
    ]
    return Curve(levels, torch.stack(values), _threshold(system, problem))


def uturns(system: System, problem: Problem, seed: int = 0) -> Curve:
    """Share of test images that keep their class when they are noised and sampled back."""
    levels, reverse = (
        reached(system, problem.levels),
        _Reverse(system, problem, problem.classes, seed),
    )
    x0, free = unseen(system, problem, seed), system.denoiser(None, 1.0)
    if len(x0) < 2:
        raise ValueError(f"{problem.name}: {len(x0)} test states are taken for one of the classes")
    values = [speciation.agreement(reverse.uturns(free, x0, level)) for level in levels.tolist()]
    return Curve(levels, torch.stack(values), _threshold(system, problem))


def unseen(system: System, problem: Problem, seed: int = 0) -> Tensor:
    """n test images at most, class by class, which the classifier takes for the problem's."""
    classes = _classes(system, problem)
    each = -(-problem.n // len(classes))
    generator = generator_for(seed, _CHOICE)
    found = []
    for label in classes:
        x, _ = system.data("test", label)
        # a third more than wanted, for those that look like a class of no concern
        x = x[torch.randperm(len(x), generator=generator)[: each + each // 3 + 20]]
        inside = torch.isin(judged(system, x), torch.tensor(classes))
        found.append(x[inside][:each])
    return torch.cat(found)[: problem.n]


def injected(system: System, problem: Problem, seed: int = 0) -> Curve:
    """Minus the share of samples that become another class when it takes over at a level."""
    levels, reverse = reached(system, INJECTED), _Reverse(system, problem, None, seed)
    own, other = exchanged(system, problem, seed)
    before, after = system.denoiser(own, 1.0), system.denoiser(other, 1.0)
    values = [
        -(reverse.clones(after, x_t, level) == other).double().mean(0)
        for level, x_t in states(system, before, levels, problem.n, seed)
    ]
    return Curve(levels, torch.stack(values), -0.5)


def exchanged(system: System, problem: Problem, seed: int) -> tuple[Tensor, Tensor]:
    """Labels (n,) and, for each, one of the problem's other classes at random."""
    classes = torch.tensor(_classes(system, problem))
    own = torch.arange(problem.n) % len(classes)
    generator = generator_for(seed, _CHOICE)
    step = torch.randint(1, len(classes), (problem.n,), generator=generator)
    return classes[own], classes[(own + step) % len(classes)]


def of_data(system: System, problem: Problem) -> tuple[Tensor, Tensor]:
    """Training states of a problem's classes and their numbers among them, 0 onwards."""
    classes = _classes(system, problem)
    parts = [system.data("train", label)[0] for label in classes]
    numbers = [torch.full((len(part),), k) for k, part in enumerate(parts)]
    return torch.cat(parts), torch.cat(numbers)


def exact(system: System, problem: Problem, seed: int = 0) -> tuple[Curve, Curve]:
    """Agreement by the exact posterior of the training data, with and without the own image."""
    x, numbers = of_data(system, problem)
    levels = reached(system, problem.levels)
    generator = generator_for(seed, _CHOICE)
    found = speciation.exact(x, numbers, levels, problem.n, generator)
    threshold = _threshold(system, problem)
    return (Curve(levels, found.own_in, threshold), Curve(levels, found.own_out, threshold))


def apart(found: Crossing, kept: Crossing) -> float:
    """The distance of two levels over 1.5 times the root sum of squares of their half-widths."""
    return abs(found.estimate - kept.estimate) / (
        1.5 * math.hypot(found.half_width, kept.half_width)
    )


def agreement_within_labels(system: System, n: int = 1_000) -> float:
    """Share of pairs of test images with one label that the judge gives one class.

    The most that clones of a conditional sampler can reach before anything but the label is known.
    """
    x, labels = system.data("test", None)
    order = torch.randperm(len(x), generator=generator_for(0, _CHOICE))[:n]
    classes = len(system.classes)
    counts = torch.bincount(
        labels[order] * classes + judged(system, x[order]), minlength=classes**2
    )
    table = counts.reshape(classes, classes).double()
    total = table.sum(1)
    return float((table * (table - 1)).sum() / (total * (total - 1)).sum())
