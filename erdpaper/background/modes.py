"""Two modes of unequal weight, and the chains that should find their weights [T 2.36, Fig 2.6]."""

import math
from typing import NamedTuple

import torch
from scipy import stats
from torch import Tensor

from erdpaper.posterior import GaussianMixture
from erdpaper.sampling import Denoiser, Prediction
from erdpaper.schedules import Schedule


class Interval(NamedTuple):
    """A mean over seeds and half the width of its 95 % interval (Student's t)."""

    mean: float
    half: float


def interval(values: list[float]) -> Interval:
    """Of one number a seed; at least two."""
    if len(values) < 2:
        raise ValueError("an interval needs the numbers of at least two seeds")
    x = torch.tensor(values, dtype=torch.float64)
    standard_error = float(x.std()) / math.sqrt(len(values))
    return Interval(float(x.mean()), float(stats.t.ppf(0.975, len(values) - 1)) * standard_error)


def two_modes(half: float, std: float, light: float = 0.2) -> GaussianMixture:
    """Modes at (-half, 0), weight 1 - light, and (half, 0), weight light; one std for both."""
    means = torch.tensor([[-half, 0.0], [half, 0.0]], dtype=torch.float64)
    weights = torch.tensor([1 - light, light], dtype=torch.float64)
    return GaussianMixture(means, torch.full((2,), std, dtype=torch.float64), weights)


def light_share(law: GaussianMixture) -> float:
    """P(x_0 lies on the lighter mode's side), exactly."""
    below = torch.special.ndtr(-law.means[:, 0] / law.stds)
    return float(1 - law.weights @ below)


def saddle(law: GaussianMixture) -> float:
    """Where on the line between the modes the score of x_0 is 0, by bisection.

    Between two modes the density has its minimum there: the score points away on either side.
    """
    low, high = (float(x) / 2 for x in law.means[:, 0])
    for _ in range(60):
        middle = (low + high) / 2
        point = torch.tensor([[middle, 0.0]], dtype=torch.float64)
        towards_light = float(law.score(point, 1.0, 0.0)[0, 0]) > 0
        low, high = (low, middle) if towards_light else (middle, high)
    return (low + high) / 2


def starts(law: GaussianMixture, n: int, generator: torch.Generator) -> dict[str, Tensor]:
    """Points (n, 2) to start chains from, by name; the box reaches 1.5 times as far as a mode."""
    half = float(law.means[1, 0])
    box = 3 * half * (torch.rand(n, 2, generator=generator, dtype=torch.float64) - 0.5)
    return {
        "midpoint": torch.zeros(n, 2, dtype=torch.float64),
        "where the score is zero": torch.tensor([[saddle(law), 0.0]]).double().expand(n, 2),
        "uniform box": box,
        "lighter mode": law.means[1].expand(n, 2),
    }


def reach_light(law: GaussianMixture, x: Tensor) -> Tensor:
    """P(a Langevin chain that starts at (x, 0) first falls into the lighter mode), (N,).

    In continuous time and as if the axis were all: the chance that a particle in the potential
    -log q reaches +half before -half, the share of the integral of 1/q that lies below x.
    """
    half = float(law.means[1, 0])
    grid = torch.linspace(-half, half, 20_001, dtype=torch.float64)
    points = torch.stack([grid, torch.zeros_like(grid)], 1)
    scale = (-law.log_density(points, 1.0, 0.0)).softmax(0).cumsum(0)
    nearest = torch.searchsorted(grid, x.double().clamp(-half, half).contiguous())
    return scale[nearest.clamp(max=len(grid) - 1)]


def denoiser(law: GaussianMixture, schedule: Schedule) -> Denoiser:
    """`sampling.exact` of two modes with one std, in few operations, for many chains.

    Which mode x_t belongs to is then a logistic function of one projection of x_t.
    """
    (first, second), std = law.means, float(law.stds[0])
    apart, centre = second - first, (first + second) / 2
    prior = float(law.weights[1].log() - law.weights[0].log())

    def denoise(x: Tensor, t: float) -> Prediction:
        alpha, sigma = (float(c) for c in schedule(t))
        tau2 = (alpha * std) ** 2 + sigma**2
        along = alpha / tau2 * apart
        second_share = torch.sigmoid((x @ along).add_(prior - alpha * float(centre @ along)))
        mean = torch.addcmul(first, second_share[:, None], apart)
        eps = torch.sub(x, mean, alpha=alpha).mul_(sigma / tau2)
        return Prediction(torch.sub(x, eps, alpha=sigma) / alpha, eps)

    return denoise
