"""The fixed-noise kernel of a toy network on known points, in float64 [P F.4].

Its matrix, the cosines of its Gram matrix within and between clusters, and how fast it contracts
the residual r = f - E[y | x_t].
"""

import copy
from typing import NamedTuple

import torch
from torch import Tensor

from erdpaper import ntk
from erdpaper.models.mlp import MLP
from erdpaper.toys.points import POINTS, cloud


def kernel(network: MLP, schedule: str, t: float, n: int = POINTS) -> Tensor:
    """The fixed-noise kernel on the points of a time, (n, n, 2, 2), float64 [P 15]."""
    return ntk.layerwise(double(network), (cloud(schedule, t, n).x, t))


def double(network: MLP) -> MLP:
    """The same network in float64; the one that is given stays as it was."""
    if next(network.parameters()).dtype == torch.float64:
        return network
    return copy.deepcopy(network).double().requires_grad_(False)


class Cosines(NamedTuple):
    """Of a Gram matrix of cosines: means over pairs of points, and the top eigenvalue's share."""

    within: float
    between: float
    overall: float
    share: float


def cosines(gram: Tensor, cluster: Tensor) -> Cosines:
    """Mean cosine of two points of one cluster, of two clusters, of any two; share of lambda_1.

    gram (N, N) with a unit diagonal, which counts for the share only.
    """
    same = cluster[:, None] == cluster
    other = ~torch.eye(len(gram), dtype=torch.bool)
    share = torch.linalg.eigvalsh(gram)[-1] / len(gram)
    parts = gram[same & other].mean(), gram[~same].mean(), gram[other].mean(), share
    return Cosines(*map(float, parts))


def directions(vectors: Tensor) -> Tensor:
    """Cosines between vectors (N, D), (N, N): the Gram matrix of anything that is not a kernel."""
    unit: Tensor = vectors / vectors.norm(dim=-1, keepdim=True)
    return unit @ unit.T


def rate(blocks: Tensor, residual: Tensor) -> float:
    """<r, Theta r> / ||r||^2 in L2(q): how fast the frozen kernel contracts r (N, d) now."""
    pulled = torch.einsum("nmij,mj->ni", blocks, residual) / len(blocks)
    return float((residual * pulled).sum() / residual.square().sum())
