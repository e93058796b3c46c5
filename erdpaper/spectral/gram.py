"""Products of centred rows with themselves, without a float64 copy of them."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

# of a float64 piece of the rows
_PIECE_BYTES = 1 << 26


class Gram(NamedTuple):
    """X^T X (D, D) of centred rows X (N, D), or X X^T (N, N) if that is smaller (`of_samples`)."""

    matrix: Tensor
    mean: Tensor
    of_samples: bool


def rows(x: Tensor) -> Tensor:
    """Samples (N, ...) as rows (N, D) if they are finite and N is at least 2; ValueError if not."""
    if x.ndim < 2 or len(x) < 2 or x[0].numel() < 1 or not x.is_floating_point():
        got = f"{x.dtype} {tuple(x.shape)}"
        raise ValueError(f"samples must be floating (N, ...) with N at least 2, got {got}")
    # a sum is finite where all of its terms are, unless it overflows
    if not bool(x.sum(dtype=torch.float64).isfinite()) and not bool(x.isfinite().all()):
        raise ValueError("samples must be finite numbers")
    return x.detach().flatten(1)


def gram(x: Tensor) -> Gram:
    """The smaller product of rows (N, D) less their mean, float64."""
    n, d = x.shape
    mean, least = x.mean(0, dtype=torch.float64), min(n, d)
    matrix = torch.zeros(least, least, dtype=torch.float64, device=x.device)
    for part in _pieces(x, mean, along=1 if n < d else 0):
        matrix.addmm_(*(part, part.T) if n < d else (part.T, part))
    return Gram(matrix, mean, n < d)


def _pieces(x: Tensor, mean: Tensor, along: int) -> Iterator[Tensor]:
    """Centred float64 blocks of whole rows (along 0) or whole columns (along 1)."""
    size = max(1, _PIECE_BYTES // (8 * x.shape[1 - along]))
    means = mean.split(size) if along else None
    for i, part in enumerate(x.split(size, dim=along)):
        yield part.double() - (mean if means is None else means[i])


def rounding(found: Gram, shape: tuple[int, int], largest: float) -> float:
    """What passes for 0 among eigenvalues of a product of rows (N, D) whose largest is given.

    A part goes with the largest, a part with the mean, which is subtracted with rounding errors.
    """
    unit = torch.finfo(torch.float64).eps
    of_mean = 4 * unit * float(found.mean.abs().max())
    return max(max(shape) * unit * largest, shape[0] * shape[1] * of_mean**2)
