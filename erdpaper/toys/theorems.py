"""What notebook 03 keeps: SGD runs (`runs`) and conditions at start and end (`conditions`).

Every piece is one file in a work folder; an interrupted run goes on where it was.
"""

import json
import platform
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from erdpaper import datasets
from erdpaper.datasets import DatasetError
from erdpaper.files import write_atomically
from erdpaper.toys import conditions, networks, runs
from erdpaper.toys.grid import rounded
from erdpaper.toys.runs import Run
from erdpaper.toys.spec import Toy
from erdpaper.toys.tasks import fill

NAME = "03_ntk_bounds"
STATES = ("start", "trained")


def everything(work: Path, out: Path, weights: Path, jobs: int) -> None:
    """Compute what the work folder lacks and collect it in `out`.

    weights: the folder of trained networks; those that it lacks are trained.
    """
    toys = [toy for toy in networks.wanted() if toy.time_scale == 1.0]
    networks.train_all(toys, weights, jobs)
    found = {
        "conditions": {
            work / f"{state},{toy.key}.json": partial(_conditions, toy, state, weights)
            for toy in toys
            for state in STATES
        },
        "runs": {work / f"{run.key}.json": partial(_run, run) for run in runs.wanted()},
    }
    for name, tasks in found.items():
        fill(tasks, jobs, name, "piece")
        lines = "".join(path.read_text() for path in tasks)
        write_atomically(out / f"{name}.jsonl", lines)
    card = {
        "command": "erdpaper theorems",
        "pieces": {name: len(tasks) for name, tasks in found.items()},
        "device": f"cpu, {platform.machine()}, one thread a piece",
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "date": datetime.now(UTC).date().isoformat(),
    }
    write_atomically(out / "card.json", json.dumps(card, indent=1) + "\n")


def _conditions(toy: Toy, state: str, weights: Path) -> str:
    network = toy.network() if state == "start" else networks.load(toy, weights)
    found = conditions.of(network, toy.target, toy.schedule)
    what = {"target": toy.target, "schedule": toy.schedule, "seed": toy.seed, "state": state}
    return json.dumps(what | rounded(found)) + "\n"


def _run(run: Run) -> str:
    found = runs.compute(run)
    return json.dumps({name: _plain(value) for name, value in found.items()}) + "\n"


def _plain(value: Any) -> Any:
    """Plain numbers of six digits; texts and whole numbers as they are."""
    if isinstance(value, str | int):
        return value
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    return rounded(np.asarray(value, dtype=np.float64).tolist())


def load(folder: Path | None = None) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The kept runs and conditions, a dictionary each; lists become float64 arrays."""
    folder = folder or datasets.data_dir() / "results" / NAME
    try:
        texts = [(folder / f"{name}.jsonl").read_text() for name in ("runs", "conditions")]
    except FileNotFoundError as error:
        raise DatasetError(
            f"{error.filename} is missing; restore it with git checkout or make it anew with "
            "`erdpaper theorems`"
        ) from None
    kept, states = ([_arrays(json.loads(line)) for line in text.splitlines()] for text in texts)
    return kept, states


def _arrays(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _arrays(part) for name, part in value.items()}
    return np.array(value, dtype=np.float64) if isinstance(value, list) else value
