"""SGD runs of the toy network with every term of the excess dynamics measured at every step.

They are kept for notebook 03: four targets, batches of 1, 64 and 512 on VP and of 64 on the other
paths, three seeds. Adam is another dynamics; the paper's theorems are about SGD with small steps.
"""

from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from erdpaper.dynamics import flow
from erdpaper.dynamics.bounds import Path, Series
from erdpaper.dynamics.law import Law, Samples
from erdpaper.dynamics.terms import Terms, directions, excess, joined, residual, terms
from erdpaper.toys.grid import TARGETS
from erdpaper.toys.spec import LAW, SCHEDULES, Toy

LEVELS = (-4.0, 0.0, 4.0)
# clean labels in batches this large stand for the population
POPULATION = 2_048
BETAS = tuple(float(10 ** (k / 2)) for k in range(-4, 3))
BATCHES = (1, 64, 512)
POINTS = 256
# between two looks at the kernel of the start
_FROZEN_EVERY = 10


@dataclass(frozen=True)
class Run:
    """One SGD run: the paper's network, uniform weight in t, lambda uniform on [-8, 8]."""

    target: str
    schedule: str = "VP"
    batch: int = 64
    seed: int = 0
    steps: int = 500
    lr: float = 0.02

    @property
    def key(self) -> str:
        """A file name."""
        return ",".join(str(value) for value in asdict(self).values())

    def law(self) -> Law:
        """Its noise levels and weights."""
        return Law(LAW, SCHEDULES[self.schedule], self.target)


def small_step_wanted() -> list[Run]:
    """Runs over the same time in steps four times smaller: one seed, and where bounds failed."""
    cells = [(y, "VP") for y in TARGETS] + [("x0", s) for s in SCHEDULES if s != "VP"]
    return [Run(*cell, steps=2_000, lr=0.005) for cell in cells]


def population_wanted() -> list[Run]:
    """The population flows that are kept beside them."""
    return [Run(y, batch=POPULATION, seed=seed) for seed in range(3) for y in TARGETS]


def wanted() -> list[Run]:
    """All runs that are kept."""
    cells = [(y, "VP", batch) for y in TARGETS for batch in BATCHES]
    cells += [(y, s, 64) for y in TARGETS for s in SCHEDULES if s != "VP"]
    return [Run(*cell, seed=seed) for seed in range(3) for cell in cells]


class Measured:
    """A run as it goes: its path, and how well the kernel of the start would have told it."""

    def __init__(self, run: Run) -> None:
        self.run = run
        generator = torch.Generator().manual_seed(1_000 + run.seed)
        law = run.law()
        self.network = Toy(run.target, run.schedule, seed=run.seed).network()
        like = next(self.network.parameters())
        self._levels = joined([law.at(level, POINTS, generator) for level in LEVELS]).to(like)
        self._signal = flow.fresh(law, run.batch, generator, like)
        self._start = Toy(run.target, run.schedule, seed=run.seed).network()
        self.frozen: list[torch.Tensor] = []
        times = law.schedule.time(torch.tensor(LEVELS, dtype=torch.float64))
        self.weight = law.weight_at(times)
        self.floor = np.array([law.floor(level) for level in LEVELS])

    def go(self, steps: int | None = None, bar: bool = False) -> Path:
        """Run it, to the end unless fewer steps are asked for, with a progress bar if wanted."""
        steps = self.run.steps if steps is None else steps
        batches = _Remembered(self._signal)
        found: list[Terms] = []
        path = flow.sgd(self.network, batches, self.run.lr, steps, self._levels, len(LEVELS))
        shown = partial(tqdm, desc=self.run.key, total=steps, unit="step", mininterval=1)
        for now in shown(path, leave=False) if bar else path:
            found.append(now)
            if len(found) % _FROZEN_EVERY == 0 and 2 * len(found) > steps:
                self.frozen.append(self._frozen_error(batches.last, now))
        return Path.of(self.run.lr, self.weight, found, self.excess())

    def excess(self) -> torch.Tensor:
        """The excess now, (L,)."""
        return excess(self.network, self._levels, len(LEVELS))

    def clean(self) -> Samples:
        """The next batch, its labels replaced by E[y | x]."""
        return flow.clean(self._signal())

    def _frozen_error(self, batch: Samples, now: Terms) -> torch.Tensor:
        """How far d excess / d tau is off with the kernel of the start, (L,)."""
        g = directions(self._start, batch, residual(self.network, batch))
        r = residual(self.network, self._levels)
        then = terms(self._start, self._levels, len(LEVELS), g, r)
        return (then.slope - now.slope).abs() / (now.coupling.abs() + now.forcing.abs())


class _Remembered:
    """A signal that remembers its last batch."""

    def __init__(self, signal: flow.Signal) -> None:
        self._signal = signal

    def __call__(self) -> Samples:
        self.last = self._signal()
        return self.last


def compute(run: Run) -> dict[str, Any]:
    """Run it; plain numbers: per noise level where a list has three, per time before that."""
    measured = Measured(run)
    path = measured.go()
    every = run.steps // 10
    bounds = [path.young(beta) for beta in BETAS]
    whole_bounds = [path.young(beta, second_order=True) for beta in BETAS]
    tail = slice(-run.steps // 5, None)
    return asdict(run) | {
        "excess": path.whole[::every],
        "bounds": [bound[::every] for bound in bounds],
        "floor": measured.floor,
        "weight": path.weight,
        "rate_min": path.rate.min(0),
        "rate_negative": (path.rate < 0).mean(0),
        "forcing_norm_max": path.forcing_norm.max(0),
        "tail": {
            "rate": path.coupling[tail].mean(0) / path.excess[tail].mean(0),
            "forcing_norm": path.forcing_norm[tail].mean(0),
            "excess": path.excess[tail].mean(0),
        },
        "cosine": np.median(np.abs(path.forcing) / path.norms, 0),
        "violated": np.mean([path.young_violated(beta) for beta in BETAS]),
        "excess_over_bound": _largest(path.whole, bounds),
        "excess_over_second_order": _largest(path.whole, whole_bounds),
        "ladder": {
            "signed": path.signed()[-1],
            "second_order": path.signed(second_order=True)[-1],
            "absolute": path.absolute()[-1],
            "norm": path.norm()[-1],
            "young": np.min([bound[-1] for bound in whole_bounds], 0),
        },
        "frozen": torch.stack(measured.frozen).median(0).values.double().numpy(),
    }


def _largest(excess: Series, bounds: list[Series]) -> float:
    """The largest excess over bound, over times after the start, noise levels and beta."""
    return max(float((excess / bound)[1:].max()) for bound in bounds)


def population(run: Run) -> dict[str, Any]:
    """The excess along the population flow: the same start and steps, labels E[y | x]."""
    measured = Measured(run)
    every = run.steps // 10
    path = [measured.excess()]
    for _ in range(10):
        flow.descend(measured.network, measured.clean, run.lr, every)
        path.append(measured.excess())
    return asdict(run) | {"excess": torch.stack(path).double().numpy()}
