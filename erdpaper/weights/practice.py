"""Weights of today's practice: EDM and the sigmoid weight."""

import math

import torch
from torch import Tensor

from erdpaper.targets import Coefficient, Target, as_pair
from erdpaper.weights.densities import normal_logsnr
from erdpaper.weights.raw import x0_error_gain


def edm(
    alpha: Coefficient, sigma: Coefficient, target: str | Target, data_std: float = 0.5
) -> Tensor:
    """EDM's loss weight (Karras et al. 2022), the half of its allocation that is not sampling.

    On the x_0-error W = (k^2 + s^2) / (k s)^2 = SNR + 1 / s^2 with k = sigma / alpha and s =
    `data_std`, the root of the data's variance per coordinate. So `alpha^2 + sigma^2 / s^2` for v
    on a VP path and for u on the linear one: for s = 1 and v, 1. At sigma = 0 it is inf for x0 and
    1 for eps, at alpha = 0 it is inf for eps and 1 / s^2 for x0; v and u stay finite. The other
    half is `densities.edm`; together they leave the ends no weight.
    """
    _check_positive("data_std", data_std)
    gain, scaled = x0_error_gain(alpha, sigma, target)
    return scaled.square() + (gain / data_std).square()


def edm_allocation(
    alpha: Coefficient,
    sigma: Coefficient,
    target: str | Target,
    data_std: float = 0.5,
    mean: float = -1.2,
    std: float = 1.2,
) -> Tensor:
    """EDM as practised, as one allocation M over log-SNR: `edm` times its density of log-SNR.

    For ``allocation="logsnr"``: under any sampling of t the loss then has, up to a factor, the
    expected gradient of drawing ln k ~ N(mean, std^2) and weighting by `edm`. 0 at both ends for
    every target.
    """
    alpha, sigma = as_pair(alpha, sigma)
    density = normal_logsnr(2 * (alpha.log() - sigma.log()), mean, std)
    # where nothing is drawn the weight may be infinite
    return torch.where(density > 0, edm(alpha, sigma, target, data_std) * density, 0)


def sigmoid(
    alpha: Coefficient, sigma: Coefficient, target: str | Target, bias: float = 2.0
) -> Tensor:
    """The sigmoid weight (Kingma & Gao 2023, Hoogeboom et al. 2024) over log-SNR.

    It is w(lambda) = sigmoid(bias - lambda) in the loss `1/2 E[w (-d lambda / dt) ||eps -
    eps_hat||^2]` at uniform t, hence an allocation: use it with ``allocation="logsnr"``. It never
    rises with log-SNR, so that loss bounds the likelihood of data with noise added. On the
    x_0-error W = SNR sigmoid(bias - lambda) = SNR c / (SNR + c) with c = e^bias, a Min-SNR without
    the corner and, up to the factor c, P2 with gamma = 1 and k = c. Finite everywhere: c for x0 at
    sigma = 0 and 1 for eps at alpha = 0, where their other ends and both ends of v and u are 0.
    """
    if not math.isfinite(bias):
        raise ValueError(f"bias must be finite, got {bias}")
    alpha, sigma = as_pair(alpha, sigma)
    gain, scaled = x0_error_gain(alpha, sigma, target)
    # g alpha, in the form that is finite: each factor may be infinite at one end
    shown = torch.where(scaled.isinf(), gain * alpha, scaled * sigma)
    return shown.square() / (sigma.square() + math.exp(-bias) * alpha.square())


def _check_positive(name: str, value: float) -> None:
    if not 0 < value < math.inf:
        raise ValueError(f"{name} must be positive and finite, got {value}")
