"""The cloud of a network's predictions at one noise level: its spread, and its shadow on a plane.

[P Fig 1] draws predictions of x_0 and of eps at growing noise on a plane, and reads from it that
they are "increasingly stretched and flattened", and noise that turns anisotropic. The plane is that
of a reference, the same at all noise levels; how it was chosen, the paper does not say.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from erdpaper.ntk import effective_rank
from erdpaper.representations.rows import centred, checked


class Spread(NamedTuple):
    """Variances along the principal directions of a cloud of N points, descending, float64.

    variances: (min(N - 1, D),), their sum the total variance; the divisor is N - 1.

    A sample makes the isotropic look anisotropic: of n + 1 points of N(0, I_D) the participation
    ratio is near n D / (n + D + 1), not D. Compare with white noise of the same N and D.
    """

    variances: Tensor

    @property
    def participation_ratio(self) -> float:
        """(sum of variances)^2 over the sum of their squares: k if k are equal and the rest 0."""
        return float(self.variances.sum().square() / self.variances.square().sum())

    @property
    def effective_rank(self) -> float:
        """exp of the entropy of the variances' shares: k if k are equal, the rest 0 [as P F.4]."""
        return effective_rank(self.variances)

    @property
    def top_two_share(self) -> float:
        """The part of the total variance in the first two directions."""
        return float(self.variances[:2].sum() / self.variances.sum())

    @property
    def stretch(self) -> float:
        """First over second singular value of the centred cloud; infinite on a line."""
        if len(self.variances) < 2:
            return float("inf")
        return float((self.variances[0] / self.variances[1]).sqrt())


def spread(predictions: Tensor) -> Spread:
    """How predictions (N, D) are spread around their mean.

    ValueError if there are fewer than 2, or if all are equal.
    """
    x = centred(predictions, 2)
    squares = torch.linalg.eigvalsh(_gram(x)).flip(0)[: len(x) - 1]
    squares = squares.where(squares > _rounding(x) * squares[0], 0.0)
    return Spread(squares / (len(x) - 1))


class Plane(NamedTuple):
    """A plane in R^D: its origin (D,) and two orthonormal directions (2, D), float64."""

    origin: Tensor
    axes: Tensor

    def project(self, x: Tensor) -> Tensor:
        """Coordinates in the plane of points (N, D), (N, 2), float64."""
        x = checked(x, 1)
        if x.shape[1:] != self.origin.shape:
            raise ValueError(f"the plane is in {len(self.origin)} dimensions, not {x.shape[1]}")
        return (x - self.origin) @ self.axes.T


def plane(reference: Tensor) -> Plane:
    """The first two principal directions of reference points (N, D), with their mean as origin.

    A direction has no sign; its largest entry is made positive. ValueError if the reference spans
    less than a plane.
    """
    x = centred(reference, 3)
    squares, vectors = torch.linalg.eigh(_gram(x))
    if len(squares) < 2 or not float(squares[-2]) > _rounding(x) * float(squares[-1]):
        raise ValueError("the reference points lie on a line, which spans no plane")
    axes = vectors[:, [-1, -2]].T  # (2, D) or (2, N)
    if len(x) < x.shape[1]:
        axes = axes @ x / squares[[-1, -2], None].sqrt()  # (2, D)
    largest = axes.gather(1, axes.abs().argmax(1, keepdim=True))
    return Plane(reference.double().mean(0), axes * largest.sign())


def _gram(x: Tensor) -> Tensor:
    """The smaller of X^T X and X X^T: both have the squared singular values of points (N, D)."""
    return x @ x.T if len(x) < x.shape[1] else x.T @ x


def _rounding(x: Tensor) -> float:
    """What passes for 0 among squared singular values, relative to the first."""
    return max(x.shape) * torch.finfo(x.dtype).eps
