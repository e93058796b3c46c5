"""One training of a toy network, described completely [P F.1]."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import partial
from typing import Any, Literal, NamedTuple

import numpy as np
import torch

from erdpaper import training, weights
from erdpaper.models.mlp import MLP
from erdpaper.posterior import GaussianMixture
from erdpaper.schedules import GVP, VP, Linear, Schedule
from erdpaper.training import Decay, Objective

SCHEDULES: dict[str, Schedule] = {"linear": Linear(), "VP": VP(), "GVP": GVP()}
WEIGHTS: dict[str, tuple[weights.Weight, weights.Allocation]] = {
    "uniform": (weights.uniform, "t"),
    "erd": (weights.erd, "t"),
    "erd-logsnr": (weights.erd, "logsnr"),
    "min-snr": (weights.min_snr, "t"),
    "p2": (weights.p2, "t"),
    "p2-half": (partial(weights.p2, gamma=0.5), "t"),
}
# which labels are replaced by the Bayes predictor E[y | x_t], that is, carry no Bayes noise
Clean = Literal["none", "all", "low-floor"]
BATCH = 512
LAW = GaussianMixture.square()


@dataclass(frozen=True)
class Toy:
    """The defaults are the paper's: uniform weight, Adam at a constant 1e-3, batch 512.

    low and high bound the times of training; `as_density` draws t with the weight as density
    instead of weighting; `clean` names the times whose labels are E[y | x_t].
    """

    target: str
    schedule: str
    weight: str = "uniform"
    as_density: bool = False
    lr: float = 1e-3
    decay: Decay = "constant"
    steps: int = 2_000
    low: float = 0.0
    high: float = 1.0
    width: int = 256
    time_scale: float = 1.0
    clean: Clean = "none"
    seed: int = 0

    @property
    def key(self) -> str:
        """A file name: the target, the schedule, and whatever differs from the defaults."""
        parts = [self.target, self.schedule]
        for item in fields(self)[2:]:
            value = getattr(self, item.name)
            if value != item.default:
                parts.append(f"{item.name}={value}")
        return ",".join(parts)

    def as_dict(self) -> dict[str, Any]:
        """Every field, by name."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Toy":
        """The inverse of `as_dict`; other keys are left out."""
        known = {item.name for item in fields(cls)}
        return cls(**{name: value for name, value in values.items() if name in known})

    def network(self) -> MLP:
        """The network as it is initialised, by this toy's seed alone."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self._seeds()[0])
            return MLP(width=self.width, time_scale=self.time_scale)

    def generator(self) -> torch.Generator:
        """The stream of this toy's training data, the same whatever the weight."""
        return torch.Generator().manual_seed(self._seeds()[1])

    def _seeds(self) -> list[int]:
        # networks on different bins start apart; everything else that shares a seed is paired
        entropy = [self.seed, round(self.low * 1000)]
        return [int(s) for s in np.random.SeedSequence(entropy).generate_state(2)]

    def objective(self) -> Objective:
        """Target, schedule, weight and times."""
        schedule = SCHEDULES[self.schedule]
        fn, allocation = WEIGHTS[self.weight]
        weight = weights.normalised(fn, schedule, self.target, allocation)
        if self.as_density:
            return Objective(schedule, self.target, times=training.density_times(weight))
        return Objective(schedule, self.target, weight, training.uniform_times(self.low, self.high))

    def draw(self) -> training.Draw:
        """The batches of this toy."""
        objective = self.objective()
        draw = objective.draw(LAW.sample, BATCH, self.generator())
        return draw if self.clean == "none" else partial(_cleaned, draw, self)


class Noisy(NamedTuple):
    """Points of the toy at one noise level: alpha, sigma, and x_0, eps, x_t, each (N, 2)."""

    alpha: torch.Tensor
    sigma: torch.Tensor
    x0: torch.Tensor
    eps: torch.Tensor
    x: torch.Tensor


def noisy(schedule: str, t: float, n: int, generator: torch.Generator) -> Noisy:
    """n points of the toy at time t, float64."""
    alpha, sigma = SCHEDULES[schedule](t)
    x0 = LAW.sample(n, generator)
    eps = torch.randn(x0.shape, generator=generator, dtype=x0.dtype)
    return Noisy(alpha, sigma, x0, eps, alpha * x0 + sigma * eps)


def floor_at(target: str, schedule: str, t: torch.Tensor) -> torch.Tensor:
    """The Bayes floor of the toy at times t (T,)."""
    return LAW.bayes_floor(*SCHEDULES[schedule](t.double()), target)


def midpoints(n: int = 25) -> torch.Tensor:
    """n times in the middle of n equal parts of [0, 1], float64."""
    return (torch.arange(n, dtype=torch.float64) + 0.5) / n


def lower_half(target: str, schedule: str) -> torch.Tensor:
    """Which of the 25 times have a floor below the median one, (25,) bool."""
    floor = floor_at(target, schedule, midpoints())
    return floor < floor.median()


def _cleaned(draw: training.Draw, toy: Toy) -> training.Batch:
    """A batch whose labels at the chosen times are E[y | x_t]."""
    batch = draw()
    bayes = LAW.posterior_mean(
        batch.x.double(), *SCHEDULES[toy.schedule](batch.t.double()), toy.target
    ).to(batch.y)
    if toy.clean == "all":
        return batch._replace(y=bayes)
    low = lower_half(toy.target, toy.schedule)
    nearest = (batch.t * len(low)).long().clamp(max=len(low) - 1)
    return batch._replace(y=torch.where(low[nearest][:, None], bayes, batch.y))
