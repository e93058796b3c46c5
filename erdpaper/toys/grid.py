"""The trainings that notebook 06 keeps: which they are, and how they are run and resumed.

Each training is one file in a work folder, written when it ends; a run that is interrupted and
repeated skips what is there, and as a training depends on its description alone the numbers are
the same. When all are there they are collected in data/results/06_gmm_toys.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from erdpaper.files import write_atomically
from erdpaper.tasks import fill, rounded, write_card
from erdpaper.toys import measure
from erdpaper.toys.spec import SCHEDULES, Toy, midpoints
from erdpaper.training import Decay, averaged, train

NAME = "06_gmm_toys"
TARGETS = ("x0", "eps", "v", "u")
# after these steps the excess is measured, if the learning rate is constant until then
CHECKPOINTS = (400, 1_000, 2_000, 10_000)
AVERAGE = 0.99
BINS = tuple((k / 5, (k + 1) / 5) for k in range(5))
# five times the parameters of a network of width 256
WIDE = 593
LEARNING_RATES: dict[Decay, tuple[float, ...]] = {
    "constant": (3e-4, 1e-3, 3e-3, 1e-2),
    "cosine": (1e-3, 3e-3, 1e-2, 3e-2),
}
WEIGHTING_STEPS = 1_000
SWEEP_SEED = 100
JUDGED_SEEDS = range(6)
# the experiments of the paper run on the cosine path; for u it leaves ERD without effect
WEIGHTED_ON = {"x0": "GVP", "eps": "GVP", "v": "GVP", "u": "linear"}


def weights_for(target: str) -> tuple[str, ...]:
    """The weights that differ for a target on its schedule and can be normalised there."""
    names = ("uniform", "erd", "erd-logsnr", "min-snr", "p2", "p2-half")
    # x0: no finite mean; eps on a VP path: ERD itself
    return names[:-1] if target in ("x0", "eps") else names


def parts() -> dict[str, list[Toy]]:
    """Every part of the grid but the one that the sweep decides, by name."""
    cells = [Toy(y, s) for y in TARGETS for s in SCHEDULES]
    linear = [Toy(y, "linear") for y in TARGETS]
    return {
        "global": _seeds(cells, 3),
        "sweep": [
            Toy(y, WEIGHTED_ON[y], w, lr=lr, decay=decay, steps=WEIGHTING_STEPS, seed=SWEEP_SEED)
            for y in TARGETS
            for w in weights_for(y)
            for decay, rates in LEARNING_RATES.items()
            for lr in rates
        ],
        "bins": [replace(toy, low=low, high=high) for toy in cells for low, high in BINS],
        "clean": [replace(toy, clean=which) for toy in cells for which in ("all", "low-floor")],
        "long": [replace(toy, steps=10_000) for toy in linear],
        "wide": [replace(toy, width=WIDE) for toy in linear],
        "time-scale": [replace(toy, time_scale=1_000.0) for toy in _seeds(linear, 2)],
    }


def judged(sweep: Iterable[dict[str, Any]]) -> list[Toy]:
    """Six seeds of every weight at the learning rate that the sweep finds best for it.

    Best is the least loss of the likelihood bound, on a seed that is not judged.
    """
    best: dict[tuple[str, str, str], dict[str, Any]] = {}
    for run in sweep:
        group = run["target"], run["weight"], run["decay"]
        # None is a loss that is no number
        if run["likelihood"] is not None and (
            group not in best or run["likelihood"] < best[group]["likelihood"]
        ):
            best[group] = run
    chosen = [Toy.from_dict(run) for run in best.values()]
    dense = [
        replace(toy, as_density=True)
        for toy in chosen
        if toy.weight == "erd" and toy.decay == "constant"
    ]
    return [replace(toy, seed=seed) for seed in JUDGED_SEEDS for toy in (*chosen, *dense)]


def _seeds(toys: Sequence[Toy], n: int) -> list[Toy]:
    return [replace(toy, seed=seed) for seed in range(n) for toy in toys]


def compute(toy: Toy) -> dict[str, Any]:
    """Train one network and measure it; plain numbers, six significant digits."""
    network = toy.network()
    steady = toy.decay == "constant"
    average = averaged(network, AVERAGE) if steady else None
    times = midpoints()
    times = times[(times > toy.low) & (times < toy.high)]
    kept: dict[str, Any] = {"excess": {}}
    for record in train(network, toy.draw(), toy.steps, toy.lr, toy.decay, average):
        if record.step == toy.steps or (steady and record.step in CHECKPOINTS):
            excess = measure.excess(network, toy.target, toy.schedule, times)
            kept["excess"][str(record.step)] = excess
    if average is not None:
        kept["averaged"] = measure.excess(average, toy.target, toy.schedule, times)
    if (toy.low, toy.high) == (0.0, 1.0):
        kept |= measure.losses(network, toy.target, toy.schedule)._asdict()
        kept["likelihood"] = measure.likelihood_gap(network, toy.target, toy.schedule)
        quality = measure.sample_quality(network, toy.target, toy.schedule)
        kept["samples"] = quality._asdict()
    return toy.as_dict() | {name: rounded(value) for name, value in kept.items()}


def run(toys: Sequence[Toy], folder: Path, jobs: int, label: str) -> list[dict[str, Any]]:
    """Compute what the work folder lacks, `jobs` trainings at a time; all results, in order."""
    files = {folder / f"{toy.key}.json": partial(_line, toy) for toy in toys}
    fill(files, jobs, label)
    return [json.loads(path.read_text()) for path in files]


def _line(toy: Toy) -> str:
    return json.dumps(compute(toy)) + "\n"


def everything(work: Path, out: Path, jobs: int) -> None:
    """Run the whole grid and collect it in `out`: runs.jsonl, a training a line, and card.json."""
    found = {name: run(toys, work, jobs, name) for name, toys in parts().items()}
    found["judged"] = run(judged(found["sweep"]), work, jobs, "judged")
    unique = {Toy.from_dict(line).key: line for lines in found.values() for line in lines}
    text = "".join(json.dumps(unique[key]) + "\n" for key in sorted(unique))
    write_atomically(out / "runs.jsonl", text)
    trainings = {name: len(lines) for name, lines in found.items()}
    write_card(out, "erdpaper toys", "training", trainings=trainings)
