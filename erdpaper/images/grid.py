"""The trainings that notebook 07 keeps: which they are, what is measured, and how they are resumed.

Each training is one file in a work folder, written when it ends; a command that is interrupted and
repeated skips what is there. When all are there they are collected in data/results.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from erdpaper import metrics
from erdpaper.files import write_atomically
from erdpaper.images import data, measure, probes
from erdpaper.images.measure import Sampling
from erdpaper.images.spec import CLIP, DROPOUT, WARMUP, Cell
from erdpaper.images.weighting import MEASURED, NAMES
from erdpaper.posterior import Empirical, RecoverableSignal, enclose
from erdpaper.tasks import fill, rounded, write_card
from erdpaper.training import TrainingError
from erdpaper.training.stream import generator_for

NAME = "07_weighting_on_images"
COMMAND = "erdpaper weighting"
TARGETS = ("eps", "x0", "v")
PAPER_WEIGHTS = ("uniform", "min-snr", "p2", "erd")
POOLED = ("erd-logsnr", *MEASURED)
LEARNING_RATES = (1.5e-3, 4e-3, 1e-2, 2.5e-2)
SWEEP_SEED = 100
JUDGED_SEEDS = range(6)
# of the other weights, pooled over targets, and of the architectures, pooled over both
POOLED_SEEDS, ARCHITECTURE_SEEDS = range(2), range(3)
PRACTICE_SEEDS = range(3)
# the ladders and the two architectures have one learning rate each, as the paper has
LADDER_LR = 1e-2
# learning rate and steps; small batches, since a step costs so much more than the perceptron's
ARCHITECTURES = {"DiT-fashion-latent": (2e-3, 1_200), "UNet-fashion-latent": (1e-3, 800)}
ARCHITECTURE_BATCH = 16
# shares of a run after which its moving average is sampled
CHECKPOINTS = (0.2, 0.4, 0.7, 1.0)
# the sweep and the architectures end with fewer samples
SWEEP_SAMPLES, CURVE_SAMPLES, FINAL_SAMPLES = 1_000, 500, 2_000
# other ways of drawing samples, for one seed of the paper's weights
WAYS = {
    "Heun, 25 steps": Sampling(steps=25),
    "DDIM, 40 steps": Sampling("ddim", 40),
    "DDPM, 60 steps": Sampling("ddpm", 60),
    "from the table's first level": Sampling(sigma_max=1e6),
    "other starting noise": Sampling(seed=1),
}
WAY_SEEDS = (0,)
# points of the training latents' own posterior, and the levels at which it is measured
_SIGNAL_POINTS, _SIGNAL_QUERIES = 20_000, 1_000
# a stream of random numbers beside those of the training
_SIGNAL_NOISE = 15
_SIGNAL_LEVELS = torch.linspace(-10, 10, 21, dtype=torch.float64)


@cache
def signal() -> RecoverableSignal:
    """What can be recovered of an unseen latent, measured with the exact posterior of 20,000.

    Each of 1,000 training latents is noised and left out of the posterior that has to find it
    again; where the linear denoiser does better it counts instead (`posterior.enclose`).
    """
    z, labels = data.latents("train")
    own = Empirical(z[:_SIGNAL_POINTS].flatten(1), labels[:_SIGNAL_POINTS])
    unseen = data.latents("test")[0].flatten(1)
    queries, generator = torch.arange(_SIGNAL_QUERIES), generator_for(0, _SIGNAL_NOISE)
    upper = enclose(own, queries, _SIGNAL_LEVELS, unseen, generator).upper.value
    energy = float(own.second_moment()) / own.dim
    return RecoverableSignal(_SIGNAL_LEVELS, upper / own.dim, energy)


def sweep() -> list[Cell]:
    """Every weight at every learning rate, on a seed that is not judged."""
    return [
        Cell(y, w, lr, seed=SWEEP_SEED) for y in TARGETS for w in NAMES for lr in LEARNING_RATES
    ]


def judged(swept: Iterable[dict[str, Any]]) -> list[Cell]:
    """Every weight at the learning rate with the least Fréchet distance.

    Six seeds of the weights that the paper ranks; two of all others, which are pooled over the
    targets, and three of today's practice for v.
    """
    best: dict[tuple[str, str], dict[str, Any]] = {}
    for run in swept:
        group, distance = (run["target"], run["weight"]), run["final"]["fd"]
        # None is a distance that is no number
        if distance is not None and (group not in best or distance < best[group]["final"]["fd"]):
            best[group] = run
    chosen = [Cell.from_dict(run) for run in best.values()]
    return [
        replace(cell, seed=seed)
        for seed in JUDGED_SEEDS
        for cell in chosen
        if seed in _seeds_of(cell)
    ]


def _seeds_of(cell: Cell) -> range:
    if cell.weight in PAPER_WEIGHTS:
        return JUDGED_SEEDS
    practised = cell.weight not in POOLED and cell.target == "v"
    return PRACTICE_SEEDS if practised else POOLED_SEEDS


def ladder() -> list[Cell]:
    """The rungs of [P Tab 1], from the baseline up, and ERD on the baseline."""
    plain = Cell("eps", "uniform", LADDER_LR, beta2=0.999, decay="constant")
    rungs = [
        plain,
        replace(plain, weight="erd"),
        replace(plain, beta2=0.95),
        replace(plain, beta2=0.95, decay="cosine"),
        replace(plain, beta2=0.95, decay="cosine", weight="erd"),
    ]
    return [replace(cell, seed=seed) for seed in JUDGED_SEEDS for cell in rungs]


def noise_ladder() -> list[Cell]:
    """The same with "cosine" read as the noise schedule: below that rung, linear betas.

    The rung itself is the third of `ladder`, and only what is not there is trained anew.
    """
    plain = Cell("eps", "uniform", LADDER_LR, beta2=0.999, decay="constant", schedule="ddpm")
    cosine = replace(plain, beta2=0.95, schedule="cosine")
    rungs = [
        plain,
        replace(plain, weight="erd"),
        replace(plain, beta2=0.95),
        cosine,
        replace(cosine, weight="erd"),
    ]
    return [replace(cell, seed=seed) for seed in JUDGED_SEEDS for cell in rungs]


def architectures() -> list[Cell]:
    """Attention and convolution, with and without ERD [P Tab 2]."""
    return [
        Cell("eps", w, lr, model=name, steps=steps, batch=ARCHITECTURE_BATCH, seed=seed)
        for seed in ARCHITECTURE_SEEDS
        for name, (lr, steps) in ARCHITECTURES.items()
        for w in ("uniform", "erd")
    ]


def compute(cell: Cell) -> dict[str, Any]:
    """Train one network and measure it; plain numbers, six significant digits."""
    found, _ = trained(cell)
    return found


def trained(cell: Cell) -> tuple[dict[str, Any], nn.Module]:
    """What is measured of a training, and its moving average at the end."""
    trainer = cell.trainer(signal() if cell.weight == "recoverable" else None)
    average = trainer.average
    assert average is not None
    curve: dict[str, Any] = {}
    last: list[float] = []
    try:
        for share in _shares(cell):
            step = round(share * cell.steps)
            last = [float(record.loss) for record in trainer.run(step)]
            if cell.seed != SWEEP_SEED:
                curve[str(step)] = _quality(average.module, cell, CURVE_SAMPLES)["fd"]
    except TrainingError as error:
        return cell.as_dict() | {"final": {"fd": None}, "stopped": str(error)}, average.module
    network = average.module.eval()
    kept: dict[str, Any] = {"curve": curve, "loss": sum(last[-50:]) / len(last[-50:])}
    costly = cell.seed == SWEEP_SEED or cell.model in ARCHITECTURES
    kept["final"] = _quality(network, cell, SWEEP_SAMPLES if costly else FINAL_SAMPLES)
    if not costly:
        kept |= _details(network, cell)
    return cell.as_dict() | {name: rounded(value) for name, value in kept.items()}, network


def _shares(cell: Cell) -> tuple[float, ...]:
    """Shares of a training after which it is looked at."""
    if cell.seed == SWEEP_SEED:
        return CHECKPOINTS[-1:]
    return CHECKPOINTS[1:] if cell.model in ARCHITECTURES else CHECKPOINTS


def _quality(network: nn.Module, cell: Cell, n: int) -> dict[str, float | None]:
    was = network.training
    found = measure.summary(network.eval(), cell.target, n, schedule=cell.levels)
    network.train(was)
    return found


def _details(network: nn.Module, cell: Cell) -> dict[str, Any]:
    """What is measured of a judged network beside its samples' quality."""
    errors = measure.errors(network, cell.target, schedule=cell.levels)
    found: dict[str, Any] = {"errors": errors.tolist()}
    usual = (cell.beta2, cell.schedule) == (0.95, "cosine")
    if not usual or cell.weight not in PAPER_WEIGHTS:
        return found
    if cell.seed in WAY_SEEDS:
        found["ways"] = {
            name: measure.summary(network, cell.target, CURVE_SAMPLES, how)["fd"]
            for name, how in WAYS.items()
        }
    if cell.weight in ("uniform", "erd"):
        found["train_errors"] = measure.errors(network, cell.target, "train").tolist()
        found["probes"] = probes.measured(network)
        found["nearest"] = _nearest(network, cell.target)
        if cell.seed in WAY_SEEDS:
            found["kernel"] = probes.kernel(network)
    return found


def _nearest(network: nn.Module, target: str) -> list[float]:
    """Median distance to the nearest training latent: of 500 samples and of 500 test latents."""
    train, (test, _) = data.latents("train")[0].flatten(1), data.latents("test")
    z = Sampling().draw(network, target, 500, measure.balanced(500)).flatten(1)
    distances = [metrics.nearest_distances(x, train) for x in (z, test[:500].flatten(1))]
    return [float(d.median()) for d in distances]


def run(cells: Sequence[Cell], folder: Path, jobs: int, label: str) -> list[dict[str, Any]]:
    """Compute what the work folder lacks, `jobs` trainings at a time; all results, in order."""
    files = {folder / f"{cell.key}.json": partial(_line, cell) for cell in cells}
    fill(files, jobs, label)
    return [json.loads(path.read_text()) for path in files]


def _line(cell: Cell) -> str:
    return json.dumps(compute(cell)) + "\n"


def everything(work: Path, out: Path, jobs: int) -> None:
    """Run the grid and collect it in `out`: runs.jsonl and card.json."""
    found = {"sweep": run(sweep(), work, jobs, "sweep")}
    found["judged"] = run(judged(found["sweep"]), work, jobs, "judged")
    found["ladder"] = run(ladder(), work, jobs, "ladder")
    found["noise ladder"] = run(noise_ladder(), work, jobs, "noise ladder")
    found["architectures"] = run(architectures(), work, jobs, "architectures")
    unique = {Cell.from_dict(line).key: line for lines in found.values() for line in lines}
    text = "".join(json.dumps(unique[key]) + "\n" for key in sorted(unique))
    write_atomically(out / "runs.jsonl", text)
    trainings = {name: len(lines) for name, lines in found.items()}
    warmup = f"1/{WARMUP} of the steps"
    recipe = {"optimiser": "AdamW", "warmup": warmup, "clip": CLIP, "label dropout": DROPOUT}
    samples = {"sweep": SWEEP_SAMPLES, "curve": CURVE_SAMPLES, "final": FINAL_SAMPLES}
    drawn = asdict(Sampling()) | {"guidance": 1.0, "samples": samples}
    write_card(out, COMMAND, "training", trainings=trainings, recipe=recipe, sampling=drawn)
