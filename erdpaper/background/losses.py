"""The losses of a reverse step and of score models, sample by sample and by quadrature [T 2.1-2.2].

For one step the divergence KL(q(x_{t-1} | x_t, x_0) || p(x_{t-1} | x_t)) with equal variances is a
weighted squared error of x_0, of eps, or of the score of q(x_t | x_0) [T 2.24, 2.28]. Put the
score of q(x_t) there [T 2.32] and its mean falls by the weighted Bayes floor.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import MultivariateNormal, kl_divergence

from erdpaper.background.steps import Steps
from erdpaper.posterior import Gaussian, GaussianMixture

# predicts x_0 (N, d) from x_t (N, d), alpha and sigma
Predictor = Callable[[Tensor, Tensor, Tensor], Tensor]
# a model of a score on a line: points (n,) to (n,)
ScoreModel = Callable[[Tensor], Tensor]


def predictors(law: GaussianMixture) -> dict[str, Predictor]:
    """Four predictions of x_0, one of them exact: what follows must hold for all of them."""
    mean = law.weights @ law.means
    centred = law.means - mean
    covariance = (law.weights[:, None] * centred).T @ centred
    covariance = covariance + (law.weights @ law.stds.square()) * torch.eye(law.dim).double()
    linear = Gaussian(mean, covariance)

    def nearest(x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        return law.means[torch.cdist(x, alpha * law.means).argmin(-1)]

    return {
        "linear": lambda x, alpha, sigma: linear.moments(x, alpha, sigma).x0,
        "zero": lambda x, alpha, sigma: torch.zeros_like(x),
        "nearest centre": nearest,
        "exact": lambda x, alpha, sigma: law.moments(x, alpha, sigma).x0,
    }


class Losses(NamedTuple):
    """Per sample, (N,): the divergence by another library, and the three weighted errors."""

    divergence: Tensor
    x0: Tensor
    eps: Tensor
    score: Tensor


def of_step(steps: Steps, t: int, x0: Tensor, eps: Tensor, predict: Predictor) -> Losses:
    """The losses at step t = 2..T for data x0 and noise eps, (N, d) each; score of q(x_t | x_0)."""
    alpha, sigma = steps.abar[t - 1].sqrt(), (1 - steps.abar[t - 1]).sqrt()
    x_t = alpha * x0 + sigma * eps
    guess = predict(x_t, alpha, sigma)
    eps_guess = (x_t - alpha * guess) / sigma
    variance = steps.variance[t - 1] * torch.eye(x0.shape[1], dtype=torch.float64)
    true, model = (
        MultivariateNormal(steps.of_xt[t - 1] * x_t + steps.of_x0[t - 1] * clean, variance)
        for clean in (x0, guess)
    )
    weights = [float(w[t - 2]) for w in steps.weights()]
    errors = [guess - x0, eps_guess - eps, (eps - eps_guess) / sigma]
    squared = [w * e.square().sum(-1) for w, e in zip(weights, errors, strict=True)]
    return Losses(kl_divergence(true, model), *squared)


def best_slopes(steps: Steps, variance: float) -> Tensor:
    """The c of the best score model -c x at every t = 2..T, (T - 1,), for E||x_0||^2 = variance d.

    E||-c x - score||^2 is least where c E||x_t||^2 = -E x_t . score = d, by partial integration.
    """
    abar = steps.abar[1:]
    return 1 / (abar * variance + 1 - abar)


def shared_slope(steps: Steps, variance: float, weights: Tensor) -> float:
    """The one c that is best for all t = 2..T together, each weighted by weights (T - 1,)."""
    energy = 1 / best_slopes(steps, variance)
    return float(weights.sum() / (weights @ energy))


class Matching(NamedTuple):
    """E||m - score||^2, E[m^2 + 2 m'] and E(m(x_t) + eps / sigma)^2 on a line [T 2.35, 2.38]."""

    fisher: float
    implicit: float
    denoising: float


def matching(law: GaussianMixture, alpha: float, sigma: float, model: ScoreModel) -> Matching:
    """All three for one model of the score of x_t, by the trapezoidal rule.

    The last runs over x_0 and eps and knows neither q(x_t) nor its score.
    """
    x = torch.linspace(-9, 9, 4001, dtype=torch.float64).requires_grad_()
    m = model(x)
    (slope,) = torch.autograd.grad(m.sum(), x)
    x, m = x.detach(), m.detach()
    density = law.log_density(x[:, None], alpha, sigma).exp()
    score = law.score(x[:, None], alpha, sigma)[:, 0]
    clean = torch.linspace(-7, 7, 1401, dtype=torch.float64)
    noise = torch.linspace(-8, 8, 401, dtype=torch.float64)
    prior = law.log_density(clean[:, None], 1.0, 0.0).exp()
    normal = torch.distributions.Normal(0.0, 1.0).log_prob(noise).exp()
    answers = model((alpha * clean[:, None] + sigma * noise).flatten()).reshape(1401, 401)
    inner = torch.trapezoid(normal * (answers + noise / sigma).square(), noise, dim=1)
    return Matching(
        float(torch.trapezoid(density * (m - score).square(), x)),
        float(torch.trapezoid(density * (m.square() + 2 * slope), x)),
        float(torch.trapezoid(prior * inner, clean)),
    )
