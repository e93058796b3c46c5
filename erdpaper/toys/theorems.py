"""What notebook 03 keeps: SGD runs (`runs`) and conditions at start and end (`conditions`).

Every piece is one file in a work folder; an interrupted run goes on where it was.
"""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from erdpaper import datasets
from erdpaper.files import write_atomically
from erdpaper.tasks import Task, fill, missing, rounded, write_card
from erdpaper.toys import conditions, networks, runs
from erdpaper.toys.runs import Run
from erdpaper.toys.spec import Toy

NAME = "03_ntk_bounds"
STATES = ("start", "trained")
Compute = Callable[[Run], dict[str, Any]]


def everything(work: Path, out: Path, weights: Path, jobs: int) -> None:
    """Compute what the work folder lacks and collect it in `out`.

    weights: the folder of trained networks; those that it lacks are trained.
    """
    toys = [toy for toy in networks.wanted() if toy.time_scale == 1.0]
    networks.train_all(toys, weights, jobs)
    found: dict[str, dict[Path, Task]] = {
        "conditions": {
            work / f"{state},{toy.key}.json": partial(_conditions, toy, state, weights)
            for toy in toys
            for state in STATES
        },
        "runs": _pieces(work, "run", runs.compute, runs.wanted()),
        "small_step": _pieces(work, "run", runs.compute, runs.small_step_wanted()),
        "population": _pieces(work, "population", runs.population, runs.population_wanted()),
    }
    for name, tasks in found.items():
        fill(tasks, jobs, name, "piece")
        lines = "".join(path.read_text() for path in tasks)
        write_atomically(out / f"{name}.jsonl", lines)
    pieces = {name: len(tasks) for name, tasks in found.items()}
    write_card(out, "erdpaper theorems", "piece", pieces=pieces)


def _pieces(work: Path, kind: str, compute: Compute, wanted: list[Run]) -> dict[Path, Task]:
    return {work / f"{kind},{run.key}.json": partial(_plain_line, compute, run) for run in wanted}


def _conditions(toy: Toy, state: str, weights: Path) -> str:
    network = toy.network() if state == "start" else networks.load(toy, weights)
    found = conditions.of(network, toy.target, toy.schedule)
    what = {"target": toy.target, "schedule": toy.schedule, "seed": toy.seed, "state": state}
    return json.dumps(what | rounded(found)) + "\n"


def _plain_line(compute: Compute, run: Run) -> str:
    return json.dumps(rounded(compute(run))) + "\n"


class Kept(NamedTuple):
    """What is kept, a dictionary for every piece; lists are float64 arrays."""

    runs: list[dict[str, Any]]
    conditions: list[dict[str, Any]]
    small_step: list[dict[str, Any]]
    population: list[dict[str, Any]]


def load(folder: Path | None = None) -> Kept:
    """Read data/results/03_ntk_bounds, or another folder that `erdpaper theorems` wrote."""
    folder = folder or datasets.data_dir() / "results" / NAME
    try:
        texts = [(folder / f"{name}.jsonl").read_text() for name in Kept._fields]
    except FileNotFoundError as error:
        raise missing(error.filename, "erdpaper theorems") from None
    return Kept(*([_arrays(json.loads(line)) for line in text.splitlines()] for text in texts))


def _arrays(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _arrays(part) for name, part in value.items()}
    return np.array(value, dtype=np.float64) if isinstance(value, list) else value
