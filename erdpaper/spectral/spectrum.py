"""Eigenvalues of a sample's covariance, and how many of them hold its variance [T 3.3]."""

import torch
from torch import Tensor

from erdpaper.ntk import effective_rank
from erdpaper.representations.geometry import Spread
from erdpaper.spectral.gram import gram, rounding, rows


def spectrum(x: Tensor) -> Tensor:
    """Eigenvalues of the covariance of x (N, ...), (min(N - 1, D),), descending, float64.

    The divisor is N - 1. What is rounding error of float64 beside the first is 0. Rounding of x
    itself counts as variance: where all samples nearly agree, look at the sum as well.
    ValueError if N is below 2 or a number is not finite.
    """
    x = rows(x)
    n, d = x.shape
    found = gram(x)
    values: Tensor = torch.linalg.eigvalsh(found.matrix).flip(0)[: n - 1]
    values = values.where(values > rounding(found, (n, d), float(values[0])), 0.0)
    return values / (n - 1)


def explained(values: Tensor) -> Tensor:
    """R_k, the share of the variance in the first k of eigenvalues (J,), k = 1..J, float64.

    The last is exactly 1. ValueError if one is negative or not finite, or all are 0.
    """
    sums = _checked(values).cumsum(0)
    return sums / sums[-1]


def count(values: Tensor, share: float = 0.99) -> int:
    """The smallest k with R_k >= share, of eigenvalues (J,), descending; 0 < share <= 1."""
    _check_share(share)
    if bool((values.diff() > 0).any()):
        raise ValueError("eigenvalues must be given in descending order")
    return int((explained(values) < share).sum()) + 1


def components_for(x: Tensor, share: float = 0.99) -> int:
    """k_share [T 3.3]: how many principal components hold this share of the variance of x (N, ...).

    Refuses what `spectrum` and `count` refuse, also samples that are all equal (ValueError).
    """
    _check_share(share)
    return count(spectrum(x), share)


def participation_ratio(values: Tensor) -> float:
    """(sum of eigenvalues)^2 over the sum of their squares: k if k are equal and the rest 0."""
    return Spread(_checked(values)).participation_ratio


def entropy_rank(values: Tensor) -> float:
    """exp of the entropy of the eigenvalues' shares: k if k are equal and the rest 0 [as P F.4]."""
    return effective_rank(_checked(values))


def variance_ratio(x0hat: Tensor, x0: Tensor) -> float:
    """Total variance of x0hat (N, ...) over that of x0 (M, ...), both of D numbers a sample.

    ValueError if x0 has none, or if the two differ in D.
    """
    both = rows(x0hat), rows(x0)
    if both[0].shape[1] != both[1].shape[1]:
        got = " and ".join(str(x.shape[1]) for x in both)
        raise ValueError(f"estimates and clean data must be of one size, got {got} numbers each")
    ours, theirs = (x.double().var(0).sum() for x in both)
    if not float(theirs) > 0:
        raise ValueError("the clean data are all equal and have no variance to compare with")
    return float(ours / theirs)


def _check_share(share: float) -> None:
    if not 0 < share <= 1:
        raise ValueError(f"the share of variance must lie in (0, 1], got {share}")


def _checked(values: Tensor) -> Tensor:
    """Eigenvalues as float64."""
    if values.ndim != 1 or len(values) < 1 or not values.is_floating_point():
        raise ValueError(f"eigenvalues must be one floating row (J,), got {tuple(values.shape)}")
    if not bool(((values >= 0) & values.isfinite()).all()):
        raise ValueError("eigenvalues must be finite and at least 0")
    if not bool((values > 0).any()):
        raise ValueError("the samples are all equal and have no variance to share out")
    return values.double()
