"""Guidance where everything is known: a mixture with classes on a line [T 2.3, A.5].

The guided score grad log q(x_t) + gamma grad log P(c | x_t) [T 2.43] is that of the tilted density
q_t(x) P_t(c | x)^gamma at every noise level. Known here are that density at t = 0, by quadrature,
and the denoiser whose flow would reach it.
"""

import torch
from torch import Tensor

from erdpaper import guidance, sampling
from erdpaper.background.line import GridDensity, tabulated
from erdpaper.posterior import GaussianMixture
from erdpaper.sampling import Denoiser, Prediction
from erdpaper.schedules import Schedule


def class_law(law: GaussianMixture, label: int) -> GaussianMixture:
    """The law of x_0 given its class."""
    own = law.labels == label
    if not bool(own.any()):
        raise ValueError(f"the mixture has no component of class {label}")
    return GaussianMixture(law.means[own], law.stds[own], law.weights[own])


def denoiser(law: GaussianMixture, schedule: Schedule, label: int, gamma: float) -> Denoiser:
    """Classifier-free guidance [T 2.45] with exact denoisers, tabulated."""
    free, bound = (sampling.exact(one, schedule) for one in (law, class_law(law, label)))

    def guided(x: Tensor, t: float) -> Prediction:
        return guidance.combine(free(x, t), bound(x, t), gamma)

    return tabulated(guided, schedule)


def classifier_score(
    law: GaussianMixture, x: Tensor, alpha: Tensor, sigma: Tensor, label: int, gamma: float
) -> Tensor:
    """grad log q + gamma grad log P(c | x_t) at points (N, d), the latter automatic [T 2.43]."""
    x = x.detach().requires_grad_()
    log_share = law.class_probabilities(x, alpha, sigma)[:, label].log()
    (gradient,) = torch.autograd.grad(log_share.sum(), x)
    return law.score(x.detach(), alpha, sigma) + gamma * gradient


def free_score(
    law: GaussianMixture, x: Tensor, alpha: Tensor, sigma: Tensor, label: int, gamma: float
) -> Tensor:
    """gamma grad log q(x_t | c) + (1 - gamma) grad log q at points (N, d) [T 2.45]."""
    bound = class_law(law, label).score(x, alpha, sigma)
    return gamma * bound + (1 - gamma) * law.score(x, alpha, sigma)


def tilted(law: GaussianMixture, label: int, gamma: float, points: Tensor) -> GridDensity:
    """The density q(x) P(c | x)^gamma at t = 0 on a line, normalised, at points (n,)."""
    x = points[:, None]
    share = law.class_probabilities(x, 1.0, 0.0)[:, label]
    return GridDensity.of(points, law.log_density(x, 1.0, 0.0) + gamma * share.log())
