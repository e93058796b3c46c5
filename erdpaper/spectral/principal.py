"""Principal directions of a sample [T 3.4.4]."""

from typing import NamedTuple

import torch
from torch import Tensor

from erdpaper.spectral.gram import gram, rows


class Principal(NamedTuple):
    """The first k principal components of samples (N, D), float64.

    mean: (D,). directions: (k, D), orthonormal; a direction has no sign, and here its largest entry
    is positive. variances: along them, (k,), descending, divisor N - 1.
    """

    mean: Tensor
    directions: Tensor
    variances: Tensor


def principal(x: Tensor, k: int) -> Principal:
    """The first k principal components of x (N, ...), 1 <= k <= min(N - 1, D).

    Where the samples span fewer than k directions, the last ones are arbitrary, with variance 0.
    """
    x = rows(x)
    most = min(len(x) - 1, x.shape[1])
    if isinstance(k, bool) or not isinstance(k, int) or not 1 <= k <= most:
        raise ValueError(
            f"k must be an integer in 1..{most} for {len(x)} samples of {x.shape[1]} numbers, "
            f"got {k!r}"
        )
    matrix, mean, of_samples = gram(x)
    values, vectors = torch.linalg.eigh(matrix)
    values, columns = values.flip(0)[:k].clamp(min=0), vectors.flip(1)[:, :k]
    if of_samples:
        columns = _of_coordinates(x, mean, columns)
    largest = columns.gather(0, columns.abs().argmax(0, keepdim=True))
    directions = (columns * largest.sign()).T.contiguous()
    return Principal(mean, directions, values / (len(x) - 1))


def _of_coordinates(x: Tensor, mean: Tensor, columns: Tensor) -> Tensor:
    """Right singular vectors (D, k) of centred rows from left ones (N, k).

    X^T u has the length of the singular value; a QR decomposition makes columns of any length
    orthonormal, in their order, also those that are 0 up to rounding.
    """
    reached = x.double().T @ columns - torch.outer(mean, columns.sum(0))
    orthonormal: Tensor = torch.linalg.qr(reached).Q
    return orthonormal
