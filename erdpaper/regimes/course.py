"""Sampling runs that share a beginning: stopped at a level of the grid and continued in many ways.

A run that is stopped keeps the state of its noise generator. Each continuation draws from a copy of
it, and is the run that would have been made from the beginning, to the last bit.
"""

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from erdpaper import sampling
from erdpaper.interventions.injection import check_strength, injection
from erdpaper.interventions.window import Window
from erdpaper.sampling import Denoiser, Hooks
from erdpaper.schedules import Schedule

SAMPLERS = ("ddpm", "ddim")
# the base grid: equal steps in log-SNR from the first level to the last, then one to clean data
FIRST, LAST, STEP = -9.0, 6.75, 0.25


class Stop(NamedTuple):
    """A run at level `place` of its grid: the state x (N, ...) and that of the generator."""

    place: int
    x: Tensor
    noise: Tensor


def even_grid(schedule: Schedule) -> Tensor:
    """Steps of 1/4 in log-SNR from -9, or from where the schedule begins, to 6.75, and then 0."""
    first = max(FIRST, math.ceil(float(schedule.logsnr(1.0)) / STEP) * STEP)
    return sampling.times.in_logsnr(schedule, round((LAST - first) / STEP) + 1, first, LAST)


@dataclass(frozen=True)
class Course:
    """How samples of the class asked for are drawn, and what may be injected on the way.

    times: (S + 1,), falling to 0. sampler: "ddpm", or "ddim" without noise. Both take one call of
    the denoiser a step, so that a step is injected or it is not.
    """

    schedule: Schedule
    times: Tensor
    denoise: Denoiser
    adversary: Denoiser
    strength: float = 1.0
    sampler: str = "ddpm"

    def __post_init__(self) -> None:
        """Refuse a strength that is no share, and a sampler whose steps are not single calls."""
        check_strength(self.strength)
        if self.sampler not in SAMPLERS:
            raise ValueError(
                f"the sampler must be one of {', '.join(SAMPLERS)}, not {self.sampler!r}"
            )

    @property
    def end(self) -> int:
        """The index of the last time."""
        return len(self.times) - 1

    @property
    def first(self) -> float:
        """The log-SNR of the first level."""
        return float(self.schedule.logsnr(self.times[0]))

    def index(self, logsnr: float) -> int:
        """The level of the grid nearest to a log-SNR; `inf` is the end.

        A log-SNR more than a step before the first level, or after the last but the end, raises
        ValueError.
        """
        if logsnr == torch.inf:
            return self.end
        levels = self.schedule.logsnr(self.times)[:-1]
        first, last = float(levels[0]), float(levels[-1])
        before, after = float(levels[1]) - first, last - float(levels[-2])
        if not first - before <= logsnr <= last + after:
            raise ValueError(
                f"log-SNR {logsnr:g} lies outside the run, which goes from {first:g} to {last:g}"
            )
        return int((levels - logsnr).abs().argmin())

    def begin(self, x: Tensor, seed: int) -> Stop:
        """At the first level, with the noise of a seed for all that follows."""
        return Stop(0, x, torch.Generator().manual_seed(seed).get_state())

    def run(self, stop: Stop, to: int, inject: bool = False) -> Stop:
        """On to level `to`; with the adversary's prediction mixed in on every step, or plainly."""
        if not stop.place <= to <= self.end:
            raise ValueError(f"a run at {stop.place} cannot go to {to}; the end is {self.end}")
        if to == stop.place:
            return stop
        part = self.times[stop.place : to + 1]
        window = Window(float(part[-2:].mean()), float(part[0]))
        hook = injection(self.adversary, self.strength, window) if inject else None
        generator = torch.Generator()
        generator.set_state(stop.noise)
        draw = sampling.ddpm if self.sampler == "ddpm" else sampling.ddim
        hooks = Hooks(on_prediction=hook)
        x = draw(self.denoise, stop.x, self.schedule, part, generator, hooks=hooks)
        return Stop(to, x, generator.get_state())

    def nested(self, start: Stop, ends: list[int], first: int = 0) -> list[Tensor]:
        """Clean states after injection from level `first` to each of the rising `ends`."""
        here, found = self.run(start, first), []
        for end in ends:
            here = self.run(here, end, inject=True)
            found.append(self.run(here, self.end).x)
        return found

    def sliding(self, start: Stop, windows: list[tuple[int, int]]) -> list[Tensor]:
        """Clean states after injection from level i to level j, for each (i, j), i rising."""
        here, found = start, []
        for first, last in windows:
            here = self.run(here, first)
            found.append(self.run(self.run(here, last, inject=True), self.end).x)
        return found

    def states(self, start: Stop, stops: list[int], inject: bool = False) -> list[Tensor]:
        """The states at rising levels of one run."""
        found = []
        for _, there in pairwise([start.place, *stops]):
            start = self.run(start, there, inject)
            found.append(start.x)
        return found
