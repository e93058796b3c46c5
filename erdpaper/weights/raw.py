"""Raw weights (alpha, sigma, target, ...) -> weight: ERD and those the paper compares it with."""

from collections.abc import Callable

import torch
from torch import Tensor

from erdpaper.targets import Coefficient, Target, as_pair, get

Weight = Callable[..., Tensor]


def uniform(alpha: Coefficient, sigma: Coefficient, target: str | Target) -> Tensor:
    """1 at every noise level."""
    get(target)
    return torch.ones_like(as_pair(alpha, sigma)[0])


def erd(alpha: Coefficient, sigma: Coefficient, target: str | Target) -> Tensor:
    """The ERD score [P 11].

    alpha for x0, sigma for eps, sqrt(2) alpha sigma for v, sqrt(alpha^2 + sigma^2) for u.
    """
    alpha, sigma = as_pair(alpha, sigma)
    c_x, c_eps = get(target).coefficients(alpha, sigma)
    return torch.hypot(c_x * alpha, c_eps * sigma)


def x0_error_gain(
    alpha: Coefficient, sigma: Coefficient, target: str | Target
) -> tuple[Tensor, Tensor]:
    """(g, g alpha / sigma) for g = |d x_0 / d y| at fixed x_t, written so that 0/0 never occurs.

    A weight W on the x_0-error is g^2 W on the target's own, SNR on the x_0-error (g alpha /
    sigma)^2. For x0 the second is inf at sigma = 0, for eps the first is at alpha = 0.
    """
    alpha, sigma = as_pair(alpha, sigma)
    c_x, c_eps = get(target).coefficients(alpha, sigma)
    bottom = (c_x * sigma - c_eps * alpha).abs()
    gain = torch.where(c_eps == 0, 1 / c_x.abs(), sigma / bottom)
    scaled = torch.where(c_x == 0, 1 / c_eps.abs(), alpha / bottom)
    return gain, scaled


def min_snr(
    alpha: Coefficient, sigma: Coefficient, target: str | Target, gamma: float = 5.0
) -> Tensor:
    """Min-SNR-gamma: W = min(SNR, gamma) on the x_0-error.

    So min(1, gamma / SNR) for eps and, on a VP path, min(SNR, gamma) / (SNR + 1) for v. Finite
    everywhere: at sigma = 0 the x0 weight is gamma, at alpha = 0 the eps weight is 1.
    """
    if not gamma > 0:
        raise ValueError(f"gamma must be positive, got {gamma}")
    gain, scaled = x0_error_gain(alpha, sigma, target)
    return torch.minimum(scaled.square(), gamma * gain.square())


def p2(
    alpha: Coefficient,
    sigma: Coefficient,
    target: str | Target,
    gamma: float = 1.0,
    k: float = 1.0,
) -> Tensor:
    """P2: W = SNR / (k + SNR)^gamma on the x_0-error; eps: 1 / (k + SNR)^gamma.

    At sigma = 0 the x0 weight is the limit SNR^(1 - gamma): 1 for gamma = 1, inf below, 0 above.
    """
    if not (gamma >= 0 and k > 0):
        raise ValueError(f"P2 needs gamma >= 0 and k > 0, got gamma={gamma} and k={k}")
    alpha, sigma = as_pair(alpha, sigma)
    gain, scaled = x0_error_gain(alpha, sigma, target)
    snr = (alpha / sigma).square()
    # the second is the limit of the first at infinite SNR, where that is inf / inf
    finite = scaled.square() / (k + snr).pow(gamma)
    at_data = gain.square() * snr.pow(1 - gamma)
    return torch.where(scaled.isinf(), at_data, finite)


def total_variation(first: Tensor, second: Tensor) -> Tensor:
    """The share of one allocation that would have to move to make the other.

    Both are weights at the same equally likely times, scaled here to the same sum; from 0 (the
    same) to 1 (nothing in common).
    """
    return (first / first.sum() - second / second.sum()).abs().sum() / 2


METHODS: dict[str, Weight] = {"uniform": uniform, "erd": erd, "min_snr": min_snr, "p2": p2}
