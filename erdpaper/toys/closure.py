"""Does one noise level train by itself?  The closure that Theorem 3.8 assumes [P 53, 87]."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from erdpaper import ntk
from erdpaper.dynamics import Samples
from erdpaper.toys.modes import law_of, stream, untrained


class Closure(NamedTuple):
    """Relative error of the drift by one level alone, and what sampling alone would make of it."""

    error: float
    sampling: float


def closure(
    targets: Sequence[str], logsnr: float, seed: int, points: int = 128, samples: int = 4_096
) -> dict[str, Closure]:
    """The drift at a level by that level alone against that of joint training [P 53, 87].

    E_{x'}[Theta r] over the level against E[M' Theta r] over all levels, as functions at fresh
    points of the level, at initialisation; error in L2(q_lambda) after scaling to the best
    multiple. Every sample comes with its mirror image -x, which is as likely and has -E[y | x].
    `sampling` compares two halves of the joint samples in the same way, over 2.
    """
    network = untrained(seed)
    laws = {y: law_of(y) for y in targets}
    drifts: dict[str, list[Tensor]] = {y: [] for y in targets}
    place = laws[targets[0]].at(logsnr, points, stream(seed, 6))
    for k, joint in enumerate((False, True, True)):
        for y, law in laws.items():
            draws = stream(seed, 7 + k)
            half = samples // 2
            other = mirrored(law.draw(half, draws) if joint else law.at(logsnr, half, draws))
            # all targets see the same points, and so share their kernel and what f answers
            if y == targets[0]:
                blocks = ntk.layerwise(network, (place.x, place.t), (other.x, other.t))
                f = network(other.x, other.t)
            pushed = other.weight[:, None] * (f - other.bayes)
            drifts[y].append(torch.einsum("nbde,be->nd", blocks, pushed) / samples)
    found = {}
    for y, (alone, first, second) in drifts.items():
        error = _apart(alone, (first + second) / 2)
        found[y] = Closure(error, _apart(first, second) / 2)
    return found


def mirrored(samples: Samples) -> Samples:
    """Samples and their images under x -> -x, a symmetry of the toy's law."""
    x, t, weight, bayes, xi = samples
    both = (torch.cat([part, -part]) for part in (x, bayes, xi))
    x, bayes, xi = both
    return Samples(x, t.repeat(2), weight.repeat(2), bayes, xi)


def _apart(a: Tensor, b: Tensor) -> float:
    """min_c ||c a - b|| / ||b||."""
    cosine = float((a * b).sum() / (a.norm() * b.norm()))
    return math.sqrt(max(0.0, 1 - cosine**2))
