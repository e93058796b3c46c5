"""The kept trainings of notebook 07, read back, and the comparisons that are made between them."""

import math
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from erdpaper import datasets
from erdpaper.comparisons import Ratio, paired_ratio, steps_to
from erdpaper.images import grid
from erdpaper.images.spec import Cell
from erdpaper.tasks import read_kept

# a run that never gets where another ends counts as this many times its length
NEVER = 2.0


@dataclass(frozen=True)
class Result:
    """One kept training: its description and what was measured of it, see `grid.trained`."""

    cell: Cell
    measured: dict[str, Any] = field(repr=False)

    @property
    def fd(self) -> float:
        """The Fréchet distance of 2,000 samples (1,000 in the sweep); inf where training failed."""
        distance = self.measured["final"]["fd"]
        return math.inf if distance is None else float(distance)

    @property
    def curve(self) -> tuple[list[int], list[float]]:
        """Steps, and the Fréchet distance of 500 samples after them."""
        curve = self.measured["curve"].items()
        points = sorted((int(step), math.inf if fd is None else fd) for step, fd in curve)
        return [step for step, _ in points], [value for _, value in points]

    def steps_to(self, distance: float) -> float:
        """Steps after which the curve first lies at `distance`, linear in both logarithms.

        Never: `NEVER` times the steps of the run; before the first point: that point's.
        """
        found = steps_to(distance, *self.curve)
        return NEVER * self.cell.steps if found is None else found


@dataclass(frozen=True)
class Kept:
    """All kept trainings.  card: command, device, versions, date and how many of each part."""

    results: dict[str, Result] = field(repr=False)
    card: dict[str, Any]

    @cached_property
    def _judged(self) -> list[Cell]:
        swept = [self.results[cell.key].measured for cell in grid.sweep()]
        return grid.judged(swept)

    def sweep(self, target: str, weight: str) -> list[Result]:
        """One result for each learning rate."""
        cells = [c for c in grid.sweep() if (c.target, c.weight) == (target, weight)]
        return [self.results[cell.key] for cell in cells]

    def judged(self, target: str, weight: str, seeds: int | None = None) -> list[Result]:
        """The seeds of a weight at its best learning rate, in order; the first few on request."""
        cells = [c for c in self._judged if (c.target, c.weight) == (target, weight)]
        if not cells:
            raise LookupError(f"no kept training of {weight} for {target}")
        return [self.results[cell.key] for cell in sorted(cells, key=lambda c: c.seed)[:seeds]]

    def ladder(self) -> list[list[Result]]:
        """The rungs of `grid.ladder`, each with its seeds."""
        return self._rungs(grid.ladder())

    def noise_ladder(self) -> list[list[Result]]:
        """The rungs of `grid.noise_ladder`, each with its seeds."""
        return self._rungs(grid.noise_ladder())

    def _rungs(self, cells: list[Cell]) -> list[list[Result]]:
        rungs = len(cells) // len(grid.JUDGED_SEEDS)
        return [[self.results[c.key] for c in cells[k::rungs]] for k in range(rungs)]

    def architecture(self, model: str, weight: str) -> list[Result]:
        """The seeds of one network of `grid.architectures`, in order."""
        cells = [c for c in grid.architectures() if (c.model, c.weight) == (model, weight)]
        return [self.results[cell.key] for cell in cells]

    def ratio(self, target: str, weight: str, other: str) -> Ratio:
        """The distance of one weight over another's, paired by seed, with its 95 % interval."""
        first, second = self.judged(target, weight), self.judged(target, other)
        n = min(len(first), len(second))
        return paired_ratio([r.fd for r in first[:n]], [r.fd for r in second[:n]])

    def pooled(self, weight: str, other: str) -> Ratio:
        """The same over all targets, with the seeds that every weight has."""
        n = len(grid.POOLED_SEEDS)
        pairs = [
            (a.fd, b.fd)
            for y in grid.TARGETS
            for a, b in zip(self.judged(y, weight, n), self.judged(y, other, n), strict=True)
        ]
        return paired_ratio([a for a, _ in pairs], [b for _, b in pairs])


def load(folder: Path | None = None) -> Kept:
    """Read data/results/07_weighting_on_images, or another folder that `erdpaper weighting` wrote.

    A missing file raises DatasetError with the command that makes it.
    """
    return _load(folder or datasets.data_dir() / "results" / grid.NAME)


@cache
def _load(folder: Path) -> Kept:
    runs, card = read_kept(folder, grid.COMMAND)
    results = [Result(Cell.from_dict(run), run) for run in runs]
    return Kept({result.cell.key: result for result in results}, card)
