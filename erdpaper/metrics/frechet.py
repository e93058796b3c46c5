"""The Fréchet distance of two sets of features (Heusel et al. 2017)."""

import torch
from torch import Tensor

from erdpaper.metrics.moments import Moments

# eigenvalues below minus this share of the largest are no rounding, also not of float32
_NEGATIVE = 1e-4


def frechet_distance(first: Moments, second: Moments) -> float:
    """The squared 2-Wasserstein distance of Gaussians with these means and covariances.

    In the square of the unit of the features, symmetric in the two; known as FID where these are
    of the Inception network (Heusel et al. 2017). It is biased upwards by a finite number of
    samples, so compare values of equal numbers only.
    """
    return frechet_of(first.mean, first.covariance, second.mean, second.covariance)


def frechet_of(mean1: Tensor, cov1: Tensor, mean2: Tensor, cov2: Tensor) -> float:
    """The Fréchet distance from means (d,) and covariances (d, d), which may be singular.

    ``|m1 - m2|^2 + tr C1 + tr C2 - 2 tr (C1^(1/2) C2 C1^(1/2))^(1/2)`` (Dowson and Landau 1982).
    The last trace is the sum of the singular values of C1^(1/2) C2^(1/2); so written, an
    eigenvalue 0 that rounding makes 1e-16 adds that much, not its root 1e-8.
    """
    _check(mean1, cov1, mean2, cov2)
    mean1, cov1, mean2, cov2 = (a.detach().double() for a in (mean1, cov1, mean2, cov2))
    common = torch.linalg.svdvals(_factor(cov1).T @ _factor(cov2)).sum()
    distance = (mean1 - mean2).square().sum() + cov1.trace() + cov2.trace() - 2 * common
    return float(distance.clamp(min=0))


def _check(mean1: Tensor, cov1: Tensor, mean2: Tensor, cov2: Tensor) -> None:
    d = len(mean1) if mean1.ndim == 1 else 0
    shapes = [tuple(a.shape) for a in (mean1, cov1, mean2, cov2)]
    if d < 1 or shapes != [(d,), (d, d)] * 2:
        found = ", ".join(map(str, shapes))
        raise ValueError(f"means must be (d,) and covariances (d, d) of one d >= 1, got {found}")
    if not all(bool(a.isfinite().all()) for a in (mean1, cov1, mean2, cov2)):
        raise ValueError("means and covariances must be finite numbers")
    for cov in (cov1, cov2):
        if bool(((cov - cov.T).abs() > 1e-5 * cov.abs().max()).any()):
            raise ValueError("covariances must be symmetric")


def _factor(cov: Tensor) -> Tensor:
    """A with A A^T = C: eigenvectors in columns, each times the root of its eigenvalue."""
    values, vectors = torch.linalg.eigh((cov + cov.T) / 2)
    largest = values.abs().max()
    if bool(values[0] < -_NEGATIVE * largest):
        raise ValueError("covariances must have no negative eigenvalues")
    # what rounding leaves of an eigenvalue 0 would count by its root
    rounding = len(values) * torch.finfo(values.dtype).eps * largest
    factor: Tensor = vectors * torch.where(values > rounding, values, 0).sqrt()
    return factor
