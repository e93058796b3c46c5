"""Collapse: from which level on the posterior of a finite training set is a single training point.

For x_t = alpha x_i + sigma eps made of point i of n, let

    odds_i = sum_{j != i} exp(-||x_t - alpha x_j||^2 / 2 sigma^2) / exp(-||eps||^2 / 2),

what all other points weigh against the own one. Then, with P_t the mixture of n Gaussians and
Delta = sigma^2, the excess entropy is

    f_e(t) = E[log P_t(x_t)] / d + 1/2 + 1/2 log(2 pi Delta) + log(n) / d = E[log(1 + odds)] / d,

because E||eps||^2 = d; it is also the entropy of the training point given x_t, over d. It is
log(n) / d in pure noise and falls to 0 in the collapse, smoothly for finite d. Without the own
point f_e is E[log odds] / d. It goes through 0 where the others together weigh as much as the own
one, which is what defines the transition [Biroli et al. 2024]: that is the collapse time t_C here.
The own point's share of the posterior is 1 / (1 + odds).

For Gaussian data of n = exp(c d) points with variances l_j the same argument gives, for d -> oo,
log n = 1/2 sum_j log(1 + SNR_C l_j); if all are s^2, t_C = 1/2 log(1 + s^2 / (n^{2/d} - 1)) in
Ornstein-Uhlenbeck time.
"""

import math
from typing import NamedTuple

import torch
from scipy.optimize import brentq
from torch import Tensor
from torch.nn.functional import softplus

from erdpaper.posterior import Empirical
from erdpaper.schedules import signal_and_noise
from erdpaper.speciation.crossing import Crossing, crossing
from erdpaper.speciation.exact import check_levels, draws

_FAR = 60.0


class ExcessEntropy(NamedTuple):
    """log odds (L, N) of the other training points against the own one, for N states at L levels.

    levels: log-SNR (L,), rising; dim: d, the coordinates of a point.
    """

    levels: Tensor
    log_odds: Tensor
    dim: int

    @property
    def own_in(self) -> Tensor:
        """f_e (L,) in nats a coordinate: 0 in the collapse, log(n) / d in pure noise."""
        return softplus(self.log_odds).mean(1) / self.dim

    @property
    def own_out(self) -> Tensor:
        """f_e (L,) without the own point: negative in the collapse, positive before it."""
        return self.log_odds.mean(1) / self.dim

    @property
    def own_share(self) -> Tensor:
        """The own point's part of the posterior (L, N)."""
        return torch.sigmoid(-self.log_odds)


def excess_entropy(
    data: Tensor, levels: Tensor, n: int = 500, generator: torch.Generator | None = None
) -> ExcessEntropy:
    """f_e at log-SNRs levels (L,) of data (N, ...), on n of its points (all if no more).

    Each point keeps its noise at all levels. The average of ||eps||^2 is taken over the draws
    rather than as d, which leaves the expectation as it is and takes most of the noise away.
    """
    check_levels(levels)
    posterior = Empirical(data.flatten(1))
    index, eps = draws(posterior, n, generator)
    x0 = (posterior.data + posterior.centre)[index]
    half_square = eps.double().square().sum(1) / 2
    found = []
    for level in levels.double():
        alpha, sigma = (part.to(x0) for part in signal_and_noise(level, "vp"))
        others = posterior.log_density(alpha * x0 + sigma * eps, alpha, sigma, exclude=index)
        constant = math.log(len(posterior) - 1)
        constant += posterior.dim / 2 * math.log(2 * math.pi * float(sigma) ** 2)
        found.append(others.double() + half_square + constant)
    return ExcessEntropy(levels.double(), torch.stack(found), posterior.dim)


def collapse_time(entropy: ExcessEntropy) -> Crossing | None:
    """The log-SNR t_C at which f_e without the own point falls through 0; None if it does not."""
    return crossing(entropy.levels, -entropy.log_odds, 0.0)


def gaussian_collapse(variances: Tensor, n: int) -> float:
    """The log-SNR of the collapse of n Gaussian points with variances (d,) of their coordinates.

    The root of log n = 1/2 sum_j log(1 + SNR l_j), the information that x_t has of a new x_0.
    """
    if n < 2 or variances.ndim != 1 or not bool((variances >= 0).all() and (variances > 0).any()):
        raise ValueError("collapse needs n >= 2 and variances (d,) of at least 0, one above it")

    def missing(logsnr: float) -> float:
        return float(torch.log1p(math.exp(logsnr) * variances.double()).sum()) / 2 - math.log(n)

    scale = -math.log(float(variances.max()))
    return float(brentq(missing, scale - _FAR, scale + _FAR))
