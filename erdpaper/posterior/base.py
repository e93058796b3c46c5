"""What every exact posterior offers.

With r^2 = alpha^2 + sigma^2 and u2 = (sigma x_0 - alpha eps) / r, the part of (x_0, eps) that x_t
does not show (see `erdpaper.targets`), every target is y = observed x_t / r + hidden u2. Hence

    tr Cov(y | x_t) = hidden^2 tr Cov(u2 | x_t),        floor(y) = hidden^2 E tr Cov(u2 | x_t):

one posterior covariance serves all targets, and nothing is divided by alpha or sigma on the way.
"""

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor

from erdpaper.targets import X0, Coefficient, Target, as_pair, expand, get


class Moments(NamedTuple):
    """Posterior moments for a batch of N points: means (N, d) and tr Cov(u2 | x_t), (N,)."""

    x0: Tensor
    eps: Tensor
    hidden_variance: Tensor


def target_variance(
    moments: Moments, alpha: Coefficient, sigma: Coefficient, target: str | Target
) -> Tensor:
    """tr Cov(y | x_t) of a target, (N,), from what is hidden: hidden^2 tr Cov(u2 | x_t)."""
    _, hidden = get(target).split(alpha, sigma)
    return expand(hidden, moments.hidden_variance).square() * moments.hidden_variance


class Estimate(NamedTuple):
    """A number and its error: 0 for a closed form, a standard error for sampling.

    For quadrature the error is the distance between two rules.
    """

    value: Tensor
    error: Tensor


class Posterior(ABC):
    """A law of x_0 in R^d whose denoising posterior is exact.

    Points are (N, d); alpha and sigma are scalars or one per point (N,) in methods that take
    points, and scalars or any (T,) vector of noise levels in methods that average over x_t.
    Energies and floors are summed over the d coordinates.
    """

    dim: int

    @abstractmethod
    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """n points x_0, (n, d)."""

    @abstractmethod
    def second_moment(self) -> Tensor:
        """E ||x_0||^2, a scalar."""

    @abstractmethod
    def moments(self, x_t: Tensor, alpha: Coefficient, sigma: Coefficient) -> Moments:
        """Posterior means of x_0 and eps and the posterior variance of what x_t hides."""

    def endpoints(
        self, x_t: Tensor, alpha: Coefficient, sigma: Coefficient
    ) -> tuple[Tensor, Tensor]:
        """E[x_0 | x_t] and E[eps | x_t], (N, d) each: `moments` without the variance."""
        moments = self.moments(x_t, alpha, sigma)
        return moments.x0, moments.eps

    @abstractmethod
    def log_density(self, x_t: Tensor, alpha: Coefficient, sigma: Coefficient) -> Tensor:
        """log q(x_t), (N,), natural logarithm."""

    @abstractmethod
    def score(self, x_t: Tensor, alpha: Coefficient, sigma: Coefficient) -> Tensor:
        """The gradient of log q at x_t, (N, d)."""

    @abstractmethod
    def class_probabilities(self, x_t: Tensor, alpha: Coefficient, sigma: Coefficient) -> Tensor:
        """P(class | x_t), (N, C)."""

    @abstractmethod
    def hidden_variance(self, alpha: Coefficient, sigma: Coefficient) -> Estimate:
        """E tr Cov(u2 | x_t), the floor of all targets up to a factor; shape of alpha, float64."""

    def posterior_mean(
        self, x_t: Tensor, alpha: Coefficient, sigma: Coefficient, target: str | Target = X0
    ) -> Tensor:
        """E[y | x_t], (N, d), of x_0 unless another target is named [P Lemma 3.2]."""
        moments = self.moments(x_t, alpha, sigma)
        c_x, c_eps = get(target).coefficients(alpha, sigma)
        return expand(c_x, x_t) * moments.x0 + expand(c_eps, x_t) * moments.eps

    def covariance_trace(
        self, x_t: Tensor, alpha: Coefficient, sigma: Coefficient, target: str | Target = X0
    ) -> Tensor:
        """tr Cov(y | x_t), (N,), of x_0 unless another target is named."""
        return target_variance(self.moments(x_t, alpha, sigma), alpha, sigma, target)

    def bayes_floor(self, alpha: Coefficient, sigma: Coefficient, target: str | Target) -> Tensor:
        """E ||y - E[y | x_t]||^2, the least error any network can reach [P Lemma 3.2, C.1]."""
        return self.bayes_floor_estimate(alpha, sigma, target).value

    def bayes_floor_estimate(
        self, alpha: Coefficient, sigma: Coefficient, target: str | Target
    ) -> Estimate:
        """`bayes_floor` with its error."""
        _, hidden = get(target).split(alpha, sigma)
        gain = hidden.double().square()
        value, error = (part.to(gain) for part in self.hidden_variance(alpha, sigma))
        return Estimate(gain * value, gain * error)

    def energy(self, alpha: Coefficient, sigma: Coefficient, target: str | Target) -> Tensor:
        """E ||y||^2 = c_x^2 E||x_0||^2 + c_eps^2 d, what a network that answers 0 pays."""
        c_x, c_eps = get(target).coefficients(alpha, sigma)
        return c_x.square() * self.second_moment().to(c_x) + c_eps.square() * self.dim

    def recoverable_energy(
        self, alpha: Coefficient, sigma: Coefficient, target: str | Target
    ) -> Tensor:
        """E ||E[y | x_t]||^2 = energy - floor, the part that x_t determines [P Fig 3]."""
        floor = self.bayes_floor(alpha, sigma, target)
        return (self.energy(alpha, sigma, target) - floor).clamp(min=0)


def levels(alpha: Coefficient, sigma: Coefficient) -> tuple[Tensor, Tensor, torch.Size]:
    """Noise levels as flat float64 vectors, and the shape to give back."""
    alpha, sigma = as_pair(alpha, sigma)
    return alpha.double().reshape(-1), sigma.double().reshape(-1), alpha.shape


def normal(shape: tuple[int, ...], like: Tensor, generator: torch.Generator | None) -> Tensor:
    """Standard normal noise with dtype and device of `like`, drawn where the generator lives."""
    device = torch.device("cpu") if generator is None else generator.device
    noise = torch.randn(shape, generator=generator, dtype=like.dtype, device=device)
    return noise.to(like.device)


def check_points(x_t: Tensor, dim: int) -> Tensor:
    """x_t itself if it is a floating tensor of shape (N, dim)."""
    if x_t.ndim != 2 or x_t.shape[1] != dim or not x_t.is_floating_point():
        got = f"{x_t.dtype} {tuple(x_t.shape)}"
        raise ValueError(f"points must be a floating tensor of shape (N, {dim}), got {got}")
    return x_t
