"""Two Gaussians in closed form: how often two posterior draws of one noisy state are of a class.

x_0 ~ N(+-m, s^2 I) with equal weights. Along m, x_t is one of two Gaussians whose means lie
2 delta of their standard deviations apart, delta^2 = SNR ||m||^2 / (1 + SNR s^2), and
p = P(first | x_t) = sigmoid(2 delta y) with y ~ N(+-delta, 1). Hence in any dimension

    phi = E[p^2 + (1 - p)^2].

At t_S delta^2 tends to 1 for ||m|| -> infinity, where phi = 0.7752.
"""

import math

from scipy.integrate import quad
from scipy.special import expit

# beyond this many standard deviations nothing is left of a Gaussian
_FAR = 12.0


def separation(logsnr: float, half_distance: float, std: float = 1.0) -> float:
    """delta of N(+-m, std^2 I) at a log-SNR, ||m|| the half distance between the means."""
    snr = math.exp(logsnr)
    return half_distance * math.sqrt(snr / (1 + snr * std**2))


def pair_agreement(delta: float) -> float:
    """phi = E[p^2 + (1 - p)^2] by quadrature; 1/2 at delta = 0, 1 for large ones."""
    if not 0 <= delta < math.inf:
        raise ValueError(f"a separation must be a finite number of at least 0, got {delta}")

    def integrand(z: float) -> float:
        p = expit(2 * delta * (delta + z))
        return float((p**2 + (1 - p) ** 2) * math.exp(-(z**2) / 2) / math.sqrt(2 * math.pi))

    return float(quad(integrand, -_FAR, _FAR, points=[-delta] if delta < _FAR else None)[0])


AT_SPECIATION = pair_agreement(1.0)


def criterion(classes: int = 2) -> float:
    """The share of agreeing draws that counts as speciation among so many equally likely classes.

    Between chance, 1 / C, and 1 it lies as far as 0.7752 does between 1/2 and 1, 55 % of the way:
    0.595 for ten classes. For two classes it is what theory gives at t_S; for more it is a choice.
    """
    if classes < 2:
        raise ValueError(f"a criterion needs two classes or more, got {classes}")
    chance = 1 / classes
    return chance + (1 - chance) * (2 * AT_SPECIATION - 1)
