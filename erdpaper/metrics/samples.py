"""Distances between two sets of samples, and how well samples cover known modes.

Samples are (N, d), points of the data space itself.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from erdpaper.metrics.base import BLOCK, check_pair
from erdpaper.posterior.base import normal


def _quantile_pairs(n: int, m: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Which order statistics of n and of m points share a stretch of [0, 1], and its length.

    The quantile functions of two samples are constant between the merged points i/n and j/m.
    """
    # whole numbers in units of 1/(n m), so that equal points are found equal
    ends = [torch.arange(1, count + 1, device=device) * other for count, other in ((n, m), (m, n))]
    right = torch.cat(ends).unique()
    length = right.diff(prepend=right.new_zeros(1)).double() / (n * m)
    return (right - 1) // m, (right - 1) // n, length


def sliced_wasserstein(
    x: Tensor, y: Tensor, directions: int = 128, generator: torch.Generator | None = None
) -> Tensor:
    """The sliced 2-Wasserstein distance of samples (N, d) and (M, d), a float64 scalar.

    The root of the mean of W_2^2 of the projections on random unit vectors, in the unit of the
    samples. Each W_2^2 is exact, also for N != M. Between N(m1, s1^2 I) and N(m2, s2^2 I) it is
    ``sqrt(|m1 - m2|^2 / d + (s1 - s2)^2)`` as samples and directions grow in number.
    """
    x, y = check_pair(x, y, 1)
    if directions < 1:
        raise ValueError(f"the number of directions must be at least 1, got {directions}")
    unit = normal((directions, x.shape[1]), x, generator)  # (L, d)
    unit = unit / unit.norm(dim=1, keepdim=True)
    of_x, of_y, length = _quantile_pairs(len(x), len(y), x.device)
    total = x.new_zeros(())
    for block in unit.split(max(1, BLOCK // (len(x) + len(y)))):
        u, v = ((block @ points.T).sort().values for points in (x, y))  # (l, N) and (l, M)
        total += ((u[:, of_x] - v[:, of_y]).square() @ length).sum()
    return (total / directions).sqrt()


def _distance_sum(x: Tensor, y: Tensor) -> Tensor:
    """The sum of |x_i - y_j| over all pairs, in blocks of rows."""
    rows = max(1, BLOCK // len(y))
    # by products of matrices, equal points would not be at distance 0
    mode = "donot_use_mm_for_euclid_dist"
    return sum(
        (torch.cdist(block, y, compute_mode=mode).sum() for block in x.split(rows)),
        start=x.new_zeros(()),
    )


def energy_distance(x: Tensor, y: Tensor) -> Tensor:
    """``2 E|X - Y| - E|X - X'| - E|Y - Y'|`` of samples (N, d) and (M, d), a float64 scalar.

    The unbiased estimate: pairs of a point with itself are left out, so that its mean is 0 where
    both laws are one, and it can fall below 0. It has the unit of the samples (not of its root).
    """
    x, y = check_pair(x, y, 2)
    n, m = len(x), len(y)
    between = 2 * _distance_sum(x, y) / (n * m)
    return between - _distance_sum(x, x) / (n * (n - 1)) - _distance_sum(y, y) / (m * (m - 1))


class ModeReport(NamedTuple):
    """What `modes` found.

    shares: share of all samples that are nearest to each mode, (K,), float64, sum 1.
    covered: modes that have, within 4 std of their mean, at least half the samples due to them.
    stray: share of samples farther than 4 std from the mean of their mode.
    spread: RMS distance per coordinate of the others from that mean over std; NaN if all stray.
    """

    shares: Tensor
    covered: int
    stray: float
    spread: float


def modes(
    x: Tensor, means: Tensor, std: Tensor | float, weights: Tensor | None = None
) -> ModeReport:
    """How samples (N, d) sit on K isotropic modes, means (K, d), std a number or (K,).

    `weights` (K,) are the shares due to the modes, equal by default; each sample belongs to the
    mode whose mean is nearest. Meant for few dimensions: in d dimensions exact samples are about
    sqrt(d) std from their mean. In two, exact samples stray with probability exp(-8) = 0.0003, and
    the cut at 4 std makes their spread 0.9987 instead of 1.
    """
    x, means = check_pair(x, means, 1)
    K = len(means)
    std = torch.as_tensor(std, dtype=x.dtype, device=x.device).expand(K)
    if not bool((std > 0).all()):
        raise ValueError("the std of a mode must be positive")
    due = x.new_ones(K) if weights is None else weights.to(x)
    if due.shape != (K,) or not bool((due > 0).all()):
        raise ValueError(f"weights must be {K} positive numbers, one for each mode")
    distance, mode = torch.cdist(x, means).min(1)  # (N,) each
    scaled = distance / std[mode]
    inside = scaled <= 4
    found, kept = (torch.bincount(k, minlength=K).double() / len(x) for k in (mode, mode[inside]))
    return ModeReport(
        shares=found,
        covered=int((kept >= due / due.sum() / 2).sum()),
        stray=1 - float(inside.double().mean()),
        spread=math.sqrt(float(scaled[inside].square().mean()) / x.shape[1]),
    )
