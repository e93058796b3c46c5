"""The kept results of the grid, read back, and what may be said of them."""

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from erdpaper import datasets
from erdpaper.datasets import DatasetError
from erdpaper.toys.grid import NAME
from erdpaper.toys.spec import Toy


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

    def at_times(self, name: str) -> Tensor:
        """`loss`, its standard `error` or the output's `signal` at the 25 times."""
        return _numbers(self.measured[name])

    @property
    def likelihood(self) -> float:
        """Nats that the likelihood bound loses to this network."""
        return float(self.measured["likelihood"])

    @property
    def samples(self) -> dict[str, float]:
        """Sample quality by name."""
        return dict(self.measured["samples"])


def _numbers(values: Sequence[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


@dataclass(frozen=True)
class Kept:
    """All kept trainings.  card: command, device, versions, date and how many of each part."""

    results: tuple[Result, ...]
    card: dict[str, Any]

    def select(self, **fields: object) -> list[Result]:
        """The trainings whose description has these values and otherwise the paper's defaults.

        Name a field with the value `any` to leave it open; `seed` is open unless it is given.
        """
        wanted = Toy("", "").as_dict() | {"target": any, "schedule": any, "seed": any} | fields
        found = [
            result
            for result in self.results
            if all(v is any or getattr(result.toy, k) == v for k, v in wanted.items())
        ]
        if not found:
            raise LookupError(f"no kept training has {fields}")
        return sorted(found, key=lambda result: result.toy.seed)


def load(folder: Path | None = None) -> Kept:
    """Read data/results/06_gmm_toys, or another folder that `erdpaper toys` wrote."""
    return _load(folder or datasets.data_dir() / "results" / NAME)


@cache
def _load(folder: Path) -> Kept:
    try:
        lines = (folder / "runs.jsonl").read_text().splitlines()
        card = json.loads((folder / "card.json").read_text())
    except FileNotFoundError as error:
        raise DatasetError(
            f"{error.filename} is missing; restore it with git checkout or make it anew with "
            "`erdpaper toys`"
        ) from None
    runs = [json.loads(line) for line in lines]
    return Kept(tuple(Result(Toy.from_dict(run), run) for run in runs), card)


def geometric_mean(values: Iterable[float]) -> float:
    """exp of the mean logarithm."""
    return math.exp(fmean(map(math.log, values)))


@dataclass(frozen=True)
class Ratio:
    """A geometric mean of paired ratios with its 95 % t-interval."""

    mean: float
    low: float
    high: float


def paired_ratio(above: Sequence[float], below: Sequence[float]) -> Ratio:
    """The ratio of two equally long series that are paired, for instance by seed."""
    if len(above) != len(below) or len(above) < 2:
        raise ValueError(f"a paired ratio needs 2 or more pairs, got {len(above)}, {len(below)}")
    logs = np.log(above) - np.log(below)
    half = stats.t.ppf(0.975, len(logs) - 1) * logs.std(ddof=1) / math.sqrt(len(logs))
    return Ratio(*(float(math.exp(logs.mean() + z)) for z in (0, -half, half)))


def spearman(a: Tensor, b: Tensor) -> float:
    """Spearman's rank correlation of two vectors."""
    return float(stats.spearmanr(a.numpy(), b.numpy()).statistic)


def outside(
    value: float, kept: Sequence[float], peers: Sequence[Sequence[float]], level: float = 0.99
) -> float:
    """How far a new value is from kept ones: 1 is the edge of their prediction interval.

    All on a logarithmic scale: the distance from the kept mean over the half-width of the
    t-interval that holds one more draw with probability `level`. The standard deviation is pooled
    over `peers`, groups that are taken to vary alike, each about its own mean.
    """
    logs = np.log(kept)
    deviations = np.concatenate([np.log(group) - np.log(group).mean() for group in peers])
    freedom = len(deviations) - len(peers)
    std = math.sqrt(float(deviations @ deviations) / freedom)
    half = stats.t.ppf((1 + level) / 2, freedom) * std * math.sqrt(1 + 1 / len(logs))
    return float(abs(math.log(value) - logs.mean()) / half)


def piecewise(kept: Kept, target: str, schedule: str, step: int | None = None) -> Tensor:
    """The excess of the five networks on bins, each on its own times, (25,)."""
    bins = kept.select(target=target, schedule=schedule, low=any, high=any, seed=0)
    parts = sorted((r for r in bins if r.toy.high - r.toy.low < 1), key=lambda r: r.toy.low)
    return torch.cat([result.excess(step) for result in parts])
