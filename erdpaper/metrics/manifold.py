"""Nearest neighbours of features: precision, recall, and the distance to a training set.

Matrix products find the few pairs whose distances matter; these are then computed from differences,
so that a copy is at distance 0 and equal distances are found equal.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from erdpaper.metrics.base import BLOCK, check_pair


class PrecisionRecall(NamedTuple):
    """Share of samples near the reference, and share of the reference near samples; 0 to 1."""

    precision: float
    recall: float


def precision_recall(samples: Tensor, reference: Tensor, k: int = 3) -> PrecisionRecall:
    """Improved precision and recall of features (N, d) and (M, d) (Kynkäänniemi et al. 2019).

    Round each point of one set lies the closed ball that reaches to its k-th nearest neighbour in
    the same set. Precision is the share of samples in any ball of the reference, recall the share
    of the reference in any ball of the samples. Both depend on N and M.
    """
    samples, reference = check_pair(samples, reference, 2)
    if not 1 <= k < min(len(samples), len(reference)):
        found = f"k={k} with {len(samples)} and {len(reference)}"
        raise ValueError(f"k must be at least 1 and less than the number of samples, got {found}")
    return PrecisionRecall(_share(samples, reference, k), _share(reference, samples, k))


def nearest_distances(x: Tensor, reference: Tensor) -> Tensor:
    """The Euclidean distance of each row of x (N, d) to the nearest of a reference (M, d), (N,).

    float64, in the unit of the features; 0 exactly for a copy of a row of the reference.
    """
    x, reference = check_pair(x, reference, 1)
    return _nearest(x, reference, 1).sqrt()


def _share(x: Tensor, centres: Tensor, k: int) -> float:
    """Share of rows of x in any ball of `centres`, which has k neighbours of its centre in it."""
    # a point is the first of its own neighbours
    return float(_in_balls(x, centres, _nearest(centres, centres, k + 1)).double().mean())


class _Screen:
    """Squared distances to `points` (M, d), first rough and for all, then exact for some pairs."""

    def __init__(self, points: Tensor) -> None:
        self.points = points
        self.origin = points.mean(0)
        centred = points - self.origin
        self.squares = centred.square().sum(1, keepdim=True)
        # so that |a|^2 - 2 a . b + |b|^2 is one product of matrices
        self.columns = torch.cat([centred, torch.ones_like(self.squares), self.squares], 1).T
        self.rows = max(1, BLOCK // len(points))

    def rough(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Rough squared distances of x (N, d), (N, M), and a bound of their error, (N, 1)."""
        centred = x - self.origin
        squares = centred.square().sum(1, keepdim=True)
        # more than rounding can do in the three sums of d products
        bound = 4 * (x.shape[1] + 4) * torch.finfo(x.dtype).eps * (squares + self.squares.max())
        return torch.cat([-2 * centred, squares, torch.ones_like(squares)], 1) @ self.columns, bound

    def exact(self, x: Tensor, row: Tensor, column: Tensor) -> Tensor:
        """Squared distances of the pairs (x[row], points[column]) from their differences, (P,)."""
        pieces = zip(*(i.split(max(1, BLOCK // x.shape[1])) for i in (row, column)), strict=True)
        return torch.cat([(x[i] - self.points[j]).square().sum(1) for i, j in pieces])


def _nearest(x: Tensor, reference: Tensor, k: int) -> Tensor:
    """The squared distance of each row of x to the k-th nearest row of the reference, (N,)."""
    screen = _Screen(reference)
    found = []
    for block in x.split(screen.rows):
        rough, bound = screen.rough(block)
        kth = rough.topk(k, dim=1, largest=False).values[:, -1:]
        row, column = (rough <= kth + 2 * bound).nonzero(as_tuple=True)
        exact, order = screen.exact(block, row, column).sort()
        # pairs by row, and in each row by distance
        exact = exact[row[order].argsort(stable=True)]
        count = row.bincount(minlength=len(block))
        found.append(exact[count.cumsum(0) - count + k - 1])
    return torch.cat(found)


def _in_balls(x: Tensor, centres: Tensor, radii: Tensor) -> Tensor:
    """Which rows of x lie in any closed ball; squared radii, one for each centre, (M,)."""
    screen = _Screen(centres)
    found = []
    for block in x.split(screen.rows):
        rough, bound = screen.rough(block)
        beyond = rough.sub_(radii)
        inside = (beyond < -bound).any(1)
        row, column = ((beyond <= bound) & ~inside[:, None]).nonzero(as_tuple=True)
        if len(row):
            inside[row[screen.exact(block, row, column) <= radii[column]]] = True
        found.append(inside)
    return torch.cat(found)
