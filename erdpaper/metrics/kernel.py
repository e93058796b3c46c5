"""The kernel distance of two sets of features (Bińkowski et al. 2018)."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from erdpaper.metrics.base import BLOCK, check_pair


class KernelSpread(NamedTuple):
    """Mean of the kernel distances of disjoint parts, and the standard error of that mean."""

    mean: float
    error: float


def kernel_distance(x: Tensor, y: Tensor) -> float:
    """The unbiased MMD^2 of features (N, d) and (M, d) with kernel (x . y / d + 1)^3.

    E k(X, X') + E k(Y, Y') - 2 E k(X, Y), pairs of a sample with itself left out (Gretton et al.
    2012), so that its mean is 0 where both laws are one, and it can fall below 0. Known as KID
    (Bińkowski et al. 2018) where the features are those of the Inception network. A plain number
    that depends on the scale and the origin of the features.
    """
    x, y = (_lifted(a) for a in check_pair(x, y, 2))
    return _within(x) + _within(y) - 2 * _kernel_sum(x, y) / (len(x) * len(y))


def kernel_distance_spread(x: Tensor, y: Tensor, parts: int = 10) -> KernelSpread:
    """Kernel distances of `parts` disjoint parts of x against as many of y, taken in their order.

    The parts are independent where the samples are, so the error is an honest one; rows must be in
    random order, and rows beyond a multiple of `parts` are left out.
    """
    if parts < 2:
        raise ValueError(f"the number of parts must be at least 2, got {parts}")
    x, y = check_pair(x, y, 2 * parts)
    pieces = (torch.stack(a[: len(a) // parts * parts].chunk(parts)) for a in (x, y))
    values = torch.tensor(
        [kernel_distance(a, b) for a, b in zip(*pieces, strict=True)], dtype=torch.float64
    )
    return KernelSpread(float(values.mean()), float(values.std()) / math.sqrt(parts))


def _lifted(x: Tensor) -> Tensor:
    """(N, d + 1), such that the product of two rows is x . y / d + 1."""
    return torch.cat([x / math.sqrt(x.shape[1]), x.new_ones(len(x), 1)], 1)


def _kernel_sum(x: Tensor, y: Tensor) -> float:
    """The sum of (x_i . y_j)^3 over all pairs of lifted rows, in blocks of rows."""
    blocks = x.split(max(1, BLOCK // len(y)))
    return sum(float((block @ y.T).pow_(3).sum()) for block in blocks)


def _within(x: Tensor) -> float:
    """The mean of the kernel over all pairs of two different lifted rows."""
    itself = float(x.square().sum(1).pow(3).sum())
    return (_kernel_sum(x, x) - itself) / (len(x) * (len(x) - 1))
