"""The kept results of the grid, read back."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from erdpaper import datasets, targets
from erdpaper.tasks import read_kept
from erdpaper.toys.grid import BINS, JUDGED_SEEDS, NAME, SWEEP_SEED, WEIGHTED_ON, WEIGHTING_STEPS
from erdpaper.toys.spec import SCHEDULES, Toy, midpoints
from erdpaper.training import Decay

OPEN = object()


@dataclass(frozen=True)
class Result:
    """One kept training and what was measured of it; see `erdpaper.toys.measure`."""

    toy: Toy
    measured: dict[str, Any]

    def excess(self, step: int | None = None) -> Tensor:
        """E ||f - E[y | x_t]||^2 at the measured times, after `step` steps or at the end."""
        by_step = self.measured["excess"]
        return _numbers(by_step[str(self.toy.steps if step is None else step)])

    def averaged(self) -> Tensor:
        """The excess of the moving average of the weights, constant learning rates only."""
        return _numbers(self.measured["averaged"])

    def likelihood_within(self, low: float, high: float) -> float:
        """`likelihood` over a part of the range of log-SNR, from the excess at the 25 times."""
        path, times = SCHEDULES[self.toy.schedule], midpoints()
        logsnr = path.logsnr(times)
        alpha, sigma = path(times)
        hidden_eps, hidden = (
            targets.get(y).split(alpha, sigma)[1] for y in ("eps", self.toy.target)
        )
        inside = (logsnr >= low) & (logsnr <= high)
        gaps = ((hidden_eps / hidden).square() * self.excess())[inside]
        return float(torch.trapezoid(gaps, -logsnr[inside])) / 2

    def at_times(self, name: str) -> Tensor:
        """`loss`, its standard `error` or the output's `signal` at the 25 times."""
        return _numbers(self.measured[name])

    @property
    def likelihood(self) -> float:
        """Nats that the likelihood bound loses to this network."""
        return float(self.measured["likelihood"])

    @property
    def samples(self) -> dict[str, float]:
        """Sample quality by name; infinite where the sampler ran off."""
        found = self.measured["samples"]
        return {name: math.inf if value is None else value for name, value in found.items()}


def _numbers(values: Sequence[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


@dataclass(frozen=True)
class Kept:
    """All kept trainings.  card: command, device, versions, date and how many of each part."""

    results: tuple[Result, ...] = field(repr=False)
    card: dict[str, Any]

    def select(self, **fields: object) -> list[Result]:
        """The trainings whose description has these values and otherwise the paper's defaults.

        A field with the value `OPEN` may have any; `seed` is open unless it is given.
        """
        wanted = Toy("", "").as_dict() | {"target": OPEN, "schedule": OPEN, "seed": OPEN} | fields
        found = [
            result
            for result in self.results
            if all(v is OPEN or getattr(result.toy, k) == v for k, v in wanted.items())
        ]
        if not found:
            raise LookupError(f"no kept training has {fields}")
        return sorted(found, key=lambda result: result.toy.seed)


def load(folder: Path | None = None) -> Kept:
    """Read data/results/06_gmm_toys, or another folder that `erdpaper toys` wrote."""
    return _load(folder or datasets.data_dir() / "results" / NAME)


@cache
def _load(folder: Path) -> Kept:
    runs, card = read_kept(folder, "erdpaper toys")
    return Kept(tuple(Result(Toy.from_dict(run), run) for run in runs), card)


def piecewise(
    kept: Kept, target: str, schedule: str, excess: Callable[[Result], Tensor] = Result.excess
) -> Tensor:
    """What the five networks on bins have at the times of their own, one after another, (25,)."""
    found = kept.select(target=target, schedule=schedule, low=OPEN, high=OPEN, seed=0)
    bins = [result for result in found if (result.toy.low, result.toy.high) in BINS]
    return torch.cat([excess(result) for result in sorted(bins, key=lambda r: r.toy.low)])


def _weighted(kept: Kept, target: str, weight: str, decay: Decay, **fields: object) -> list[Result]:
    fields = {"steps": WEIGHTING_STEPS, "lr": OPEN} | fields
    where = WEIGHTED_ON[target]
    return kept.select(target=target, schedule=where, weight=weight, decay=decay, **fields)


def judged(
    kept: Kept, target: str, weight: str, decay: Decay, as_density: bool = False
) -> list[Result]:
    """The seeds of a weight at the learning rate that its sweep chose, one after another."""
    found = _weighted(kept, target, weight, decay, as_density=as_density)
    return [result for result in found if result.toy.seed in JUDGED_SEEDS]


def swept(kept: Kept, target: str, weight: str, decay: Decay) -> list[Result]:
    """The sweep of a weight, by learning rate."""
    found = _weighted(kept, target, weight, decay, seed=SWEEP_SEED)
    return sorted(found, key=lambda result: result.toy.lr)
