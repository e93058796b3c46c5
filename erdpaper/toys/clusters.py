"""The geometry of clusters in the 256 features h of a toy network, or in any vectors [P F.3].

The plane of Fig 9, scatter within and between clusters, and what a linear probe reads.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from erdpaper.models.mlp import MLP
from erdpaper.toys.kernels import double
from erdpaper.toys.points import FEATURE_POINTS, Cloud, cloud
from erdpaper.toys.spec import LAW

PLANE_TIME = 0.1
# of the probe, in units of the mean eigenvalue of the features' second moment
_RIDGE = 1e-8


@torch.no_grad()
def features(
    network: MLP, schedule: str, t: float, n: int = FEATURE_POINTS, draw: int = 0
) -> Tensor:
    """h at the points of a time, (n, width), float64."""
    x = cloud(schedule, t, n, draw).x
    h: Tensor = double(network).features(x, torch.full((n,), t, dtype=x.dtype))
    return h


class Plane(NamedTuple):
    """The plane of Fig 9: its origin (D,) and its two directions (2, D)."""

    origin: Tensor
    axes: Tensor

    def project(self, h: Tensor) -> Tensor:
        """Coordinates in the plane, (N, 2)."""
        return (h - self.origin) @ self.axes.T


def plane(h: Tensor) -> Plane:
    """The first two principal directions of features h (N, D), with their mean as origin.

    A direction has no sign; its largest entry is made positive.
    """
    origin = h.mean(0)
    axes = torch.linalg.eigh(torch.cov(h.T)).eigenvectors[:, [-1, -2]].T
    largest = axes.gather(1, axes.abs().argmax(1, keepdim=True))
    return Plane(origin, axes * largest.sign())


def centres(h: Tensor, cluster: Tensor) -> Tensor:
    """The mean of each cluster, (4, D)."""
    return torch.stack([h[cluster == k].mean(0) for k in range(len(LAW.means))])


class Scatter(NamedTuple):
    """Mean squared distance of points from their cluster's centre, and of centres from the mean."""

    within: float
    between: float

    @property
    def ratio(self) -> float:
        """Between over within."""
        return self.between / self.within


def scatter(h: Tensor, cluster: Tensor) -> Scatter:
    """Traces of the scatter of h (N, D) within and between clusters; they add up to the total."""
    centre = centres(h, cluster)[cluster]
    return Scatter(
        float((h - centre).square().sum(-1).mean()),
        float((centre - h.mean(0)).square().sum(-1).mean()),
    )


def probe(h: Tensor, answers: Tensor, fresh: Tensor) -> Tensor:
    """Classes (M,) that a linear map from h (N, D) to answers (N, C) gives fresh features (M, D).

    Least squares with a constant and a ridge that is only there for its conditioning.
    """
    one, other = (torch.cat([part, part.new_ones(len(part), 1)], 1) for part in (h, fresh))
    second = one.T @ one
    ridge = _RIDGE * second.trace() / len(second) * torch.eye(len(second), dtype=h.dtype)
    fitted: Tensor = torch.linalg.solve(second + ridge, one.T @ answers)
    return (other @ fitted).argmax(-1)


def labels_read(h: Tensor, fresh: Tensor, first: Cloud, second: Cloud) -> float:
    """Accuracy of a probe that is told the drawn clusters of the points of h, at other points.

    h (N, D) are vectors of the points `first`, fresh (M, D) those of `second`.
    """
    labels = torch.nn.functional.one_hot(first.cluster, len(LAW.means)).to(h)
    return accuracy(probe(h, labels, fresh), second)


def accuracy(classes: Tensor, points: Cloud) -> float:
    """The chance that classes (N,) are right: the mean of P(class | x_t), which beats counting."""
    return float(points.probabilities.gather(1, classes[:, None]).mean())


def best_accuracy(points: Cloud) -> float:
    """What the exact posterior reaches on these points, by the same mean."""
    return accuracy(points.probabilities.argmax(-1), points)
