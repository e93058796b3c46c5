"""Laws on a line, where distribution functions are known and samplers can be judged exactly.

A density on a line is a `GaussianMixture` in one dimension, or any `GridDensity`. Samples are
(N, 1). An ODE solver that starts at quantiles of the noise instead of at random draws has no
sampling error: a flow on a line keeps their order.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from erdpaper.posterior import GaussianMixture
from erdpaper.sampling import Denoiser, Prediction
from erdpaper.schedules import Schedule

_REACH, _NODES = 8.0, 1001


def middles(n: int) -> Tensor:
    """The n probabilities (k + 1/2) / n."""
    return (torch.arange(n, dtype=torch.float64) + 0.5) / n


def noise_quantiles(n: int) -> Tensor:
    """n quantiles of N(0, 1), (n, 1)."""
    found: Tensor = torch.special.ndtri(middles(n))
    return found[:, None]


def cdf(law: GaussianMixture, x: Tensor, alpha: float, sigma: float) -> Tensor:
    """P(x_t <= x) at points x (N,)."""
    tau = (alpha**2 * law.stds.square() + sigma**2).sqrt()
    below: Tensor = torch.special.ndtr((x[:, None] - alpha * law.means[:, 0]) / tau)
    return torch.mul(below, law.weights).sum(-1)


def quantiles(law: GaussianMixture, n: int, alpha: float, sigma: float) -> Tensor:
    """n quantiles of x_t, (n, 1), by inverting `cdf` on a fine grid."""
    x = torch.linspace(-_REACH, _REACH, 32_001, dtype=torch.float64)
    found = np.interp(middles(n).numpy(), cdf(law, x, alpha, sigma).numpy(), x.numpy())
    return torch.from_numpy(found)[:, None]


def kolmogorov(samples: Tensor, law: GaussianMixture, alpha: float, sigma: float) -> float:
    """The largest distance between the distribution functions of samples (N, 1) and of x_t."""
    exact = cdf(law, samples[:, 0].sort().values, alpha, sigma)
    n = len(exact)
    steps = torch.arange(n + 1, dtype=torch.float64) / n
    return float(torch.maximum((exact - steps[:-1]).abs(), (exact - steps[1:]).abs()).max())


def wasserstein(samples: Tensor, law: GaussianMixture, alpha: float, sigma: float) -> float:
    """The 1-Wasserstein distance between samples (N, 1) and x_t."""
    exact = quantiles(law, len(samples), alpha, sigma)[:, 0]
    return float((samples[:, 0].sort().values - exact).abs().mean())


def tabulated(denoise: Denoiser, schedule: Schedule) -> Denoiser:
    """The same denoiser, linear in x between 1,001 points on [-8, 8], for many samples.

    Samples beyond are answered as at the ends. The last table is kept, for solvers that come back.
    """
    grid = torch.linspace(-_REACH, _REACH, _NODES, dtype=torch.float64)
    known: dict[float, Tensor] = {}

    def looked_up(x: Tensor, t: float) -> Prediction:
        if t not in known:
            known.clear()
            known[t] = denoise(grid[:, None], t).eps[:, 0]
        place = ((x + _REACH) * ((_NODES - 1) / (2 * _REACH))).clamp(0, _NODES - 1)
        left = place.long().clamp(max=_NODES - 2)
        eps = torch.lerp(known[t][left], known[t][left + 1], place - left)
        alpha, sigma = schedule(t)
        return Prediction((x - sigma * eps) / alpha, eps)

    return looked_up


@dataclass(frozen=True)
class GridDensity:
    """A law on a line given by its density at equally spaced points; both (n,), float64."""

    points: Tensor
    density: Tensor

    @classmethod
    def of(cls, points: Tensor, log_density: Tensor) -> "GridDensity":
        """From any logarithm of a density, which need not be normalised."""
        raw = (log_density - log_density.max()).exp()
        return cls(points, raw / torch.trapezoid(raw, points))

    def denoiser(self, schedule: Schedule) -> Denoiser:
        """E[x_0 | x_t] and E[eps | x_t] of this law by quadrature over its points."""
        log_weight = self.density.log()

        def denoise(x: Tensor, t: float) -> Prediction:
            alpha, sigma = schedule(t)
            share = (log_weight - (x - alpha * self.points).square() / (2 * sigma**2)).softmax(-1)
            x0 = (share @ self.points)[:, None]
            return Prediction(x0, (x - alpha * x0) / sigma)

        return denoise

    def mean_of(self, values: Tensor) -> float:
        """E g(x) for the values of g at the points."""
        return float(torch.trapezoid(self.density * values, self.points))

    def total_variation(self, samples: Tensor, edges: Tensor) -> float:
        """Half the sum over bins of the difference in mass to samples (N, 1)."""
        steps = (self.density[1:] + self.density[:-1]) / 2 * self.points.diff()
        below = torch.cat([steps.new_zeros(1), steps.cumsum(0)]).numpy()
        mass = np.diff(np.interp(edges.numpy(), self.points.numpy(), below))
        found = torch.histogram(samples[:, 0].contiguous(), edges).hist.numpy() / len(samples)
        # what lies outside all bins counts as one more
        outside = abs(found.sum() - mass.sum())
        return float((np.abs(found - mass).sum() + outside) / 2)
