"""What endpoint estimates show at which noise level, in sampling and for known images [T 3.1].

An estimate is compared with its goal: the end of its trajectory, or in controlled diffusion the
clean image. With sums over samples, and over the modes of a band of frequencies or all pixels,

    unsettled = sum (x0hat - goal)^2 / sum (goal - mean)^2,    explained = 1 - unsettled,

the mean being that of the goals of a sample's group: its class, or all. An estimate that knows no
more than the group has 1. A band settles at the log-SNR from which on less than half is unsettled.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from erdpaper import spectral
from erdpaper.metrics import class_agreement
from erdpaper.regimes import outcomes
from erdpaper.regimes.bands import DETAIL, OUTLINE, Band, energy, settles
from erdpaper.regimes.outcomes import Interval, Judged
from erdpaper.regimes.system import System
from erdpaper.sampling import Endpoint


class Views(NamedTuple):
    """R levels of N samples, from noise to data; what they lead to, and the group of each.

    logsnr: (R,), float64. estimates: x0hat judged at each level, R of them. residual: (R, N), mean
    square of x0hat - x_t. state: (R, rings), mean radial power of x_t. groups: (N,).
    """

    logsnr: Tensor
    estimates: list[Judged]
    residual: Tensor
    state: Tensor
    goal: Judged
    groups: Tensor


def view(
    system: System, found: Iterable[Endpoint], goal: Tensor, groups: Tensor | None = None
) -> Views:
    """Look at estimates of given clean states (N, ...); without groups (N,) all are one group."""
    levels, estimates, residual, state = [], [], [], []
    for each in found:
        levels.append(float(system.schedule.logsnr(each.t)))
        estimates.append(outcomes.judge(system, each.x0hat))
        residual.append(each.residual.double().flatten(1).square().mean(1))
        state.append(spectral.radial_power(each.x_t).power.mean(0))
    return Views(
        torch.tensor(levels, dtype=torch.float64),
        estimates,
        torch.stack(residual),
        torch.stack(state),
        outcomes.judge(system, goal),
        torch.zeros(len(goal), dtype=torch.long) if groups is None else groups,
    )


def bare(logsnr: Tensor, found: Sequence[Endpoint], goal: Tensor) -> Views:
    """Views (R,) of images that no classifier is to judge; goal (N, C, H, H)."""
    none = torch.empty(0)
    return Views(
        logsnr,
        [Judged(each.x0hat, none, none, none) for each in found],
        none,
        none,
        Judged(goal, none, none, none),
        torch.zeros(len(goal), dtype=torch.long),
    )


def recognised(system: System, found: Iterable[Endpoint], goal: Judged) -> Tensor:
    """Whether the noisy states themselves, decoded, are of the class of their goals, (R, N)."""
    return torch.stack([outcomes.judge(system, x).classes == goal.classes for _, x, _ in found])


def within(x: Tensor, groups: Tensor) -> Tensor:
    """Rows (N, ...) less the mean of their group, larger by sqrt(n / (n - 1)) for groups of n.

    So the mean of their squares is an unbiased variance. ValueError for a group of one sample.
    """
    rest = torch.empty_like(x)
    for group in groups.unique():
        inside = groups == group
        n = int(inside.sum())
        if n < 2:
            raise ValueError("a group must have two samples or more to vary")
        rest[inside] = (x[inside] - x[inside].mean(0)) * (n / (n - 1)) ** 0.5
    return rest


def errors(views: Views, band: Band | None = None) -> np.ndarray:
    """Squared error of each estimate in a band or in all, then the goals' squares, (R + 1, N).

    The last row is that of the goals about their group's mean.
    """
    goal = views.goal.images.double()
    rows = [energy(each.images.double() - goal, band) for each in views.estimates]
    rows.append(energy(within(goal, views.groups), band))
    return torch.stack(rows).numpy()


def unsettled(values: np.ndarray) -> np.ndarray:
    """Shares (R,) from means (R + 1,) of `errors`."""
    return np.asarray(values[:-1] / values[-1])


def settling(views: Views) -> dict[str, Interval]:
    """Log-SNR at which outline and detail settle, and detail less outline; bootstrap intervals."""
    logsnr = views.logsnr.numpy()
    both = np.stack([errors(views, OUTLINE), errors(views, DETAIL)])  # (2, R + 1, N)

    def level(k: int, means: np.ndarray) -> float:
        return settles(logsnr, unsettled(means[k]))

    return {
        "low": outcomes.resampled(both, lambda m: level(0, m)),
        "high": outcomes.resampled(both, lambda m: level(1, m)),
        "gap": outcomes.resampled(both, lambda m: level(1, m) - level(0, m)),
    }


def explained(views: Views, index: int, band: Band | None = None) -> Interval:
    """Share of the goals' variance within their group that the estimates of a level explain."""
    values = errors(views, band)[[index, -1]]
    return outcomes.resampled(values, lambda m: 1 - m[0] / m[1])


def distances(views: Views) -> dict[str, np.ndarray]:
    """Squared distances (R, N): of estimates from goals by pixels and features; of states, x_t."""
    goal = views.goal
    return {
        "pixels": errors(views)[:-1],
        "features": torch.stack(
            [(e.features - goal.features).double().square().sum(1) for e in views.estimates]
        ).numpy(),
        "residual": views.residual.numpy(),
    }


def closed(squares: np.ndarray, index: int) -> Interval:
    """Root mean square distance (R, N) at a level over that at the first."""
    return outcomes.resampled(squares[[index, 0]], lambda m: float(np.sqrt(m[0] / m[1])))


def share(flags: np.ndarray) -> Interval:
    """The share of true flags (N,) and its Wilson interval."""
    right = torch.as_tensor(flags)
    one_hot = torch.stack([~right, right], 1).double()
    return Interval(*class_agreement(one_hot, torch.ones(len(right), dtype=torch.long)))


def same_class(views: Views) -> np.ndarray:
    """Whether each estimate has the class of its goal, (R, N)."""
    same = [each.classes == views.goal.classes for each in views.estimates]
    return torch.stack(same).numpy()


def own_nearest(views: Views, index: int = 0) -> Interval:
    """Share of pairs of a group in which an estimate is nearer to its own goal than to the other's.

    0.5 by chance.
    """
    x, goals = (j.images.double().flatten(1) for j in (views.estimates[index], views.goal))
    distance = torch.cdist(x, goals)
    others = (views.groups[:, None] == views.groups).fill_diagonal_(False)
    nearer = (distance.diagonal()[:, None] < distance) & others
    shares = (nearer.sum(1) / others.sum(1)).double().numpy()
    return outcomes.resampled(shares, float)


def visible(views: Views, flags: Tensor) -> dict[str, Interval]:
    """Log-SNR at which half of the estimates, and of the states, have the class of their goal.

    flags: `recognised` of the states, (R, N). gap: that of the states less that of the estimates.
    """
    logsnr = views.logsnr.numpy()
    wrong = np.stack([~same_class(views), ~flags.numpy()]).astype(float)  # (2, R, N)

    def level(k: int, means: np.ndarray) -> float:
        return settles(logsnr, means[k])

    return {
        "estimates": outcomes.resampled(wrong, lambda m: level(0, m)),
        "states": outcomes.resampled(wrong, lambda m: level(1, m)),
        "gap": outcomes.resampled(wrong, lambda m: level(1, m) - level(0, m)),
    }


def nearest_mean(estimates: Judged, means: Tensor) -> Tensor:
    """The class whose mean image (K, C, H, W) is nearest to each estimate, (N,)."""
    return torch.cdist(estimates.images.flatten(1), means.flatten(1)).argmin(1)


def spread(views: Views, index: int = 0) -> Interval:
    """Variance of the estimates of a level within their group, over that of the goals."""
    both = [views.estimates[index].images, views.goal.images]
    squares = [energy(within(x.double(), views.groups), None) for x in both]
    return outcomes.resampled(torch.stack(squares).numpy(), lambda m: m[0] / m[1])


def rings(views: Views) -> Tensor:
    """Mean radial power of the estimates at each level, (R, rings)."""
    return torch.stack(
        [spectral.radial_power(each.images).power.mean(0) for each in views.estimates]
    )
