"""Kernels compared: between noise levels, and before and after training."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from erdpaper.models.mlp import MLP
from erdpaper.ntk.general import empirical
from erdpaper.ntk.layerwise import layerwise
from erdpaper.ntk.points import Points


def cross_noise(model: nn.Module, levels: Sequence[Points]) -> Tensor:
    """How strongly T noise levels are tied to each other by the joint kernel, (T, T) [P Fig 4a].

    Entry (k, l) is the root mean square of ||Theta||_F over all pairs of a point of level k and a
    point of level l; on the diagonal a point is paired with itself too. The paper draws such a
    matrix but does not say how blocks are reduced to one number: this is our choice. It does not
    depend on how many points a level has, nor on their order. Each level is a pair (x, t) with at
    least one point; ValueError without a level, other errors as `empirical`. Closed form for
    `models.mlp.MLP`, automatic differentiation for other modules; the model's dtype.
    """
    if not levels:
        raise ValueError("there must be at least one noise level")
    rows = [[_size(model, levels[k], levels[j]) for j in range(k)] for k in range(len(levels))]
    matrix = torch.stack([_size(model, level, None) for level in levels]).diag()
    for k, row in enumerate(rows):
        for j, value in enumerate(row):
            matrix[k, j] = matrix[j, k] = value
    return matrix


def _size(model: nn.Module, first: Points, second: Points | None) -> Tensor:
    """Root mean square over pairs of ||Theta||_F."""
    if isinstance(model, MLP):
        blocks = layerwise(model, first, second)
    else:
        blocks = empirical(model, first, second)
    return blocks.square().sum((2, 3)).mean().sqrt()


def coupling(matrix: Tensor) -> Tensor:
    """A matrix of `cross_noise` over the geometric mean of its diagonal, (T, T): 1 on the diagonal.

    No entry exceeds 1, by Cauchy and Schwarz. ValueError if the matrix is not square or its
    diagonal not positive.
    """
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise ValueError(f"a matrix over noise levels is square, not {tuple(matrix.shape)}")
    scale = matrix.diagonal()
    if not bool((scale > 0).all()):
        raise ValueError("the diagonal of a matrix over noise levels must be positive")
    return matrix / (scale[:, None] * scale).sqrt()


def alignment(first: Tensor, second: Tensor) -> float:
    """The cosine between two kernels on the same points: 1 where they differ by a factor only."""
    product = (first * second).sum()
    return float(product / (torch.linalg.vector_norm(first) * torch.linalg.vector_norm(second)))


def drift(before: Tensor, after: Tensor) -> float:
    """||after - before||_F / ||before||_F over all blocks: how far a kernel moved [after P 53].

    0 means that the kernel was frozen, as [P 53] assumes. Both have one shape, (N, M, d, d);
    ValueError if not, or if the first is 0 throughout.
    """
    if before.shape != after.shape:
        shapes = f"{tuple(before.shape)} and {tuple(after.shape)}"
        raise ValueError(f"two kernels on the same points have one shape, not {shapes}")
    size = float(before.double().norm())
    if not size > 0:
        raise ValueError("the kernel before training is 0 or not a number")
    return float((after.double() - before.double()).norm()) / size
