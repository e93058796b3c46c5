"""The kept numbers of `toys.spectra`, read back."""

from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from erdpaper import datasets, ntk
from erdpaper.tasks import read_kept
from erdpaper.toys.networks import NAME
from erdpaper.toys.points import TIMES
from erdpaper.toys.spec import Toy

State = Literal["trained", "untrained"]


@dataclass(frozen=True)
class Result:
    """One network, trained and untrained; names as in `spectra.look`."""

    toy: Toy
    measured: dict[str, Any]

    def over_time(self, name: str, state: State = "trained") -> Tensor:
        """A number at the 13 times, (13,), or the three top eigenvalues, (13, 3)."""
        return torch.tensor(self.measured[state][name], dtype=torch.float64)

    def at(self, name: str, t: float, state: State = "trained") -> float:
        """A number at one of the 13 times; of the eigenvalues the largest."""
        value = self.over_time(name, state)[TIMES.index(t)]
        return float(value.flatten()[0])

    def top(self, state: State = "trained") -> Tensor:
        """The largest eigenvalue at the 13 times, (13,)."""
        return self.over_time("eigenvalues", state)[:, 0]

    def coupling(self, state: State = "trained") -> Tensor:
        """The joint matrix over the 13 times with a unit diagonal, (13, 13)."""
        return ntk.coupling(self.over_time("joint", state))

    def coupled(self, state: State = "trained") -> float:
        """The mean of its entries off the diagonal."""
        matrix = self.coupling(state)
        return float((matrix.sum() - matrix.trace()) / (matrix.numel() - len(matrix)))

    @property
    def drift(self) -> Tensor:
        """||Theta - Theta_0|| / ||Theta_0|| at the 13 times, (13,)."""
        return torch.tensor(self.measured["drift"], dtype=torch.float64)


@dataclass(frozen=True)
class Kept:
    """All measured networks.  card: command, device, versions, date and sizes."""

    results: tuple[Result, ...] = field(repr=False)
    card: dict[str, Any]

    def seeds(self, target: str, schedule: str, time_scale: float = 1.0) -> list[Result]:
        """The networks of one cell, by seed; LookupError if there are none."""
        wanted = (target, schedule, time_scale)
        found = [
            result
            for result in self.results
            if (result.toy.target, result.toy.schedule, result.toy.time_scale) == wanted
        ]
        if not found:
            raise LookupError(f"no kept network has {', '.join(map(str, wanted))}")
        return sorted(found, key=lambda result: result.toy.seed)


def load(folder: Path | None = None) -> Kept:
    """Read data/results/04_ntk_spectrum, or another folder that `erdpaper kernels` wrote."""
    return _load(folder or datasets.data_dir() / "results" / NAME)


@cache
def _load(folder: Path) -> Kept:
    runs, card = read_kept(folder, "erdpaper kernels")
    return Kept(tuple(Result(Toy.from_dict(run), run) for run in runs), card)
