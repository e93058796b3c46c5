"""The points at which networks are looked into [P F.3, F.4].

At 13 times, x_t whose cluster (the component of x_0) and class probabilities are known. They are
fixed, so that kept and live numbers speak of the same points.
"""

from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from erdpaper.toys.spec import LAW, noisy

TIMES = (0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98)
POINTS = 256
# features cost little, and scatter between clusters is biased by 3 / FEATURE_POINTS of that within
FEATURE_POINTS = 1_024
_SEED = 20_261_122


class Cloud(NamedTuple):
    """Points x_t (N, 2), the component of each x_0 (N,), and P(component | x_t), (N, 4)."""

    x: Tensor
    cluster: Tensor
    probabilities: Tensor
    alpha: Tensor
    sigma: Tensor

    def bayes(self, target: str) -> Tensor:
        """E[y | x_t], (N, 2)."""
        return LAW.posterior_mean(self.x, self.alpha, self.sigma, target)


@cache
def cloud(schedule: str, t: float, n: int = POINTS, draw: int = 0) -> Cloud:
    """n points of the toy at time t, float64; the same ones whenever they are asked for."""
    seed = int(np.random.SeedSequence([_SEED, round(1e6 * t), draw]).generate_state(1)[0])
    at = noisy(schedule, t, n, torch.Generator().manual_seed(seed))
    # components of x_0 are 13 standard deviations apart
    cluster = LAW.class_probabilities(at.x0, 1.0, 0.0).argmax(-1)
    shares = LAW.class_probabilities(at.x, at.alpha, at.sigma)
    return Cloud(at.x, cluster, shares, at.alpha, at.sigma)
