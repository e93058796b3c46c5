"""The Gram matrix of the tangent kernel by noise level, before and after training [P F.4, Fig 12].

The matrices are those of the kept networks of seed 0 on the same points of each cluster; the
curves beside them are the kept numbers on 256 points, means over seeds.
"""

import base64
from functools import cache
from itertools import product
from typing import Any

import torch
from torch import Tensor

from erdpaper import ntk, targets
from erdpaper.models.mlp import MLP
from erdpaper.toys import SCHEDULES, Toy, kept_spectra, kernels, networks
from erdpaper.toys.kept_spectra import State
from erdpaper.toys.points import TIMES, cloud

EACH = 6  # points of each cluster in a matrix: what a small screen can show
STATES: tuple[State, State] = ("trained", "untrained")
_CURVES = {"top": "eigenvalues", "rank": "rank", "within": "within", "between": "between"}


@cache
def data() -> dict[str, Any]:
    """Matrices as text (see `packed`) and curves over `TIMES`, by "target, schedule" and state."""
    kept = kept_spectra.load()
    cells = {}
    for target, schedule in product((y.name for y in targets.ALL), SCHEDULES):
        runs, toy = kept.seeds(target, schedule), Toy(target, schedule)
        pair: dict[State, MLP] = {"trained": networks.load(toy), "untrained": toy.network()}
        cells[f"{target}, {schedule}"] = {
            state: {
                "matrices": [packed(matrix(pair[state], schedule, t)) for t in TIMES],
                **{name: curve(runs, key, state) for name, key in _CURVES.items()},
            }
            for state in STATES
        }
    inputs = {s: [packed(kernels.directions(chosen(s, t))) for t in TIMES] for s in SCHEDULES}
    return {"times": TIMES, "each": EACH, "cells": cells, "inputs": inputs}


def chosen(schedule: str, t: float) -> Tensor:
    """The first `EACH` points of every cluster, sorted by cluster, (4 EACH, 2)."""
    points = cloud(schedule, t)
    return torch.cat([points.x[points.cluster == k][:EACH] for k in range(4)])


def matrix(network: MLP, schedule: str, t: float) -> Tensor:
    """Cosines between the Jacobians at the chosen points, (4 EACH, 4 EACH)."""
    return ntk.normalised(ntk.layerwise(kernels.double(network), (chosen(schedule, t), t)))


def curve(runs: list[kept_spectra.Result], key: str, state: State) -> list[float]:
    """A kept number at each of `TIMES`, of the eigenvalues the largest: mean over the seeds."""
    values = torch.stack([run.over_time(key, state) for run in runs])
    top = values[..., 0] if values.ndim == 3 else values
    return [float(f"{value:.4g}") for value in top.mean(0).tolist()]


def packed(gram: Tensor) -> str:
    """Cosines in [-1, 1] above the diagonal, row by row, as bytes 0..255 in base64."""
    row, column = torch.triu_indices(len(gram), len(gram), offset=1)
    levels = ((gram[row, column].clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return base64.b64encode(bytes(levels.tolist())).decode("ascii")
