"""Distances between noisy inputs and pure noise [P Lemma D.1].

For a law that is a product of equal one-dimensional mixtures, W_2^2 to N(0, s^2 I) is the sum over
coordinates of one-dimensional distances, and these are integrals of quantile functions:
W_2^2 = int (Q(Phi(z)) - s z)^2 phi(z) dz.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist
from scipy.special import log_ndtr
from torch import Tensor

_REACH, _NODES, _HALVINGS = 9.0, 1_601, 60


def product_w2(
    means: NDArray[np.float64], std: float, alpha: float, sigma: float, limit: float, dim: int = 2
) -> float:
    """W_2^2 between alpha x_0 + sigma eps and N(0, limit^2 I).

    x_0 has `dim` independent coordinates, each an equal mixture of N(mean, std^2).
    """
    z = np.linspace(-_REACH, _REACH, _NODES)
    spread = float(np.hypot(alpha * std, sigma))
    gap = _quantile(z, alpha * np.asarray(means, dtype=np.float64), spread) - limit * z
    density = np.exp(-z * z / 2) / np.sqrt(2 * np.pi)
    return float(dim * np.trapezoid(gap * gap * density, z))


def _quantile(
    z: NDArray[np.float64], centres: NDArray[np.float64], spread: float
) -> NDArray[np.float64]:
    """x with P(X <= x) = Phi(z) for an equal mixture of N(centre, spread^2), by bisection."""
    # in the upper half by what lies above, which keeps its digits there
    sign = np.where(z > 0, -1.0, 1.0)
    low, high = spread * z + centres.min(), spread * z + centres.max()
    asked = log_ndtr(sign * z) + np.log(len(centres))
    for _ in range(_HALVINGS):
        x = (low + high) / 2
        scaled = sign * (x - centres[:, None]) / spread  # (components, nodes)
        above = sign * (np.logaddexp.reduce(log_ndtr(scaled)) - asked) > 0
        low, high = np.where(above, low, x), np.where(above, x, high)
    return np.asarray((low + high) / 2)


def coupling_bound(
    second_moment: float, alpha: float, sigma: float, limit: float, dim: int = 2
) -> float:
    """alpha^2 E||x_0||^2 + (sigma - limit)^2 dim, the cost of keeping the noise [P 69]."""
    return alpha**2 * second_moment + (sigma - limit) ** 2 * dim


def assignment_cost(first: Tensor, second: Tensor) -> float:
    """The least mean squared distance of two samples (N, d) that are matched one to one."""
    cost = cdist(first.numpy(), second.numpy(), "sqeuclidean")
    rows, columns = linear_sum_assignment(cost)
    return float(cost[rows, columns].mean())
