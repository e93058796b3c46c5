"""Agreement from the exact posterior of a data set, enclosed from both sides.

With p_c = P(class c | x_t) under the law of the data, phi = E[sum_c p_c^2]. A finite sample gives
two posteriors for an x_t made of one of its points: with that point, and without it.

- With it, E[sum_c p_c^2] is on average too large: 1 - phi is the Brier score sum_c (p_c - y_c)^2
  of the best classifier of x_t, and on the points that it is tuned to it can only be better.
- Without it, 1 - Brier score = E[2 p_y - sum_c p_c^2], y the point's own class, is on average too
  small: no classifier beats the best one on points that it has not seen.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from erdpaper.posterior import Empirical
from erdpaper.posterior.base import normal
from erdpaper.schedules import signal_and_noise


class ExactAgreement(NamedTuple):
    """Contributions (L, N) of N points to phi at L levels, upper and lower on average.

    own_in: sum_c p_c^2 with the own point; own_out: 2 p_y - sum_c p_c^2 without it, which can be
    negative for a single point.
    """

    own_in: Tensor
    own_out: Tensor


def exact(
    data: Tensor,
    labels: Tensor,
    levels: Tensor,
    n: int = 500,
    generator: torch.Generator | None = None,
) -> ExactAgreement:
    """phi at log-SNRs levels (L,) from data (N, ...) with labels (N,), on n points of them.

    The n points are drawn without repetition, or all if there are no more; each keeps its noise at
    all levels. The cost is L n N d; data must be as diffused, the noise has unit variance.
    """
    check_levels(levels)
    posterior = Empirical(data.flatten(1), labels)
    index, eps = draws(posterior, n, generator)
    x0 = (posterior.data + posterior.centre)[index]
    y = one_hot(posterior.labels[index], int(posterior.labels.max()) + 1).to(x0)
    own_in, own_out = [], []
    for level in levels.double():
        alpha, sigma = (part.to(x0) for part in signal_and_noise(level, "vp"))
        x_t = alpha * x0 + sigma * eps
        p = posterior.class_probabilities(x_t, alpha, sigma)
        own_in.append(p.square().sum(1))
        p = posterior.class_probabilities(x_t, alpha, sigma, exclude=index)
        own_out.append(1 - (p - y).square().sum(1))
    return ExactAgreement(torch.stack(own_in), torch.stack(own_out))


def check_levels(levels: Tensor) -> None:
    """Refuse log-SNRs that are not one row (L,) of finite numbers."""
    if levels.ndim != 1 or len(levels) < 1 or not bool(levels.isfinite().all()):
        raise ValueError("levels must be one or more finite log-SNRs")


def draws(posterior: Empirical, n: int, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
    """Numbers of n training points, without repetition, and noise (n, d) for each."""
    if n < 1:
        raise ValueError(f"the number of points must be at least 1, got {n}")
    index = torch.randperm(len(posterior), generator=generator)[:n]
    return index, normal((len(index), posterior.dim), posterior.data, generator)
