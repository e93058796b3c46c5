"""Mixtures of isotropic Gaussians, the paper's toy among them."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from erdpaper.posterior.base import Estimate, Moments, Posterior, check_points, levels, normal
from erdpaper.posterior.expectation import Component, expectation
from erdpaper.targets import Coefficient, as_pair, expand


class GaussianMixture(Posterior):
    """x_0 ~ sum_k weights_k N(means_k, stds_k^2 I), exact for any number of components.

    means (K, d), stds (K,) >= 0, weights (K,) > 0, made to sum to 1.
    Given x_t and its component k, with tau_k^2 = alpha^2 s_k^2 + sigma^2 and e = x_t - alpha mu_k,
    E[x_0 | x_t, k] = mu_k + alpha s_k^2 e / tau_k^2 and E[eps | x_t, k] = sigma e / tau_k^2.
    Each component is a class of its own unless `labels` (K,) says otherwise.
    """

    def __init__(
        self,
        means: Tensor,
        stds: Tensor,
        weights: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> None:
        weights = torch.ones_like(stds) if weights is None else weights
        labels = torch.arange(len(stds)) if labels is None else labels
        if means.ndim != 2 or not stds.shape == weights.shape == labels.shape == means.shape[:1]:
            raise ValueError("a mixture needs means (K, d) and a std, weight and label for each")
        if bool((stds < 0).any() or (weights <= 0).any() or (labels < 0).any()):
            raise ValueError("stds and labels must be at least 0 and weights positive")
        self.means, self.stds, self.dim = means, stds, means.shape[1]
        self.weights, self.labels = weights / weights.sum(), labels
        self._known: dict[tuple[float, float], Estimate] = {}

    @classmethod
    def square(cls) -> "GaussianMixture":
        """The paper's toy: four equal components at (+-2, +-2), std 0.3 [P F.1]; float64."""
        means = torch.tensor([[2, 2], [2, -2], [-2, 2], [-2, -2]], dtype=torch.float64)
        return cls(means, torch.full((4,), 0.3, dtype=torch.float64))

    def standardised(self) -> "GaussianMixture":
        """The mixture shifted and scaled to mean 0 and E||x_0||^2 = d, as ERD assumes [P 11].

        The scale is one number, so the covariance becomes I only if it was a multiple of it (it is
        for the square).
        """
        centred = self.means - self.weights @ self.means
        energy = self.weights @ (centred.square().sum(-1) + self.dim * self.stds.square())
        scale = (energy / self.dim).sqrt()
        return GaussianMixture(centred / scale, self.stds / scale, self.weights, self.labels)

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """n draws of x_0, (n, d)."""
        device = torch.device("cpu") if generator is None else generator.device
        k = torch.multinomial(self.weights.to(device), n, replacement=True, generator=generator)
        k, noise = k.to(self.means.device), normal((n, self.dim), self.means, generator)
        return self.means[k] + self.stds[k, None] * noise

    def second_moment(self) -> Tensor:
        """E ||x_0||^2, a scalar."""
        return self.weights @ (self.means.square().sum(-1) + self.dim * self.stds.square())

    def _components(
        self, x_t: Tensor, alpha: Coefficient, sigma: Coefficient
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """alpha, sigma (N, 1); e (N, K, d); tau^2 (N, K); log weight_k N(x_t | k), (N, K)."""
        x_t = check_points(x_t, self.dim)
        a, s = (expand(c, x_t).reshape(-1, 1) for c in as_pair(alpha, sigma))
        e = x_t[:, None] - a[..., None] * self.means.to(x_t)
        tau2 = (a * self.stds.to(x_t)).square() + s.square()
        if bool((tau2 == 0).any()):
            raise ValueError("x_t has no density where sigma = 0 and alpha or a std is 0")
        # (1, K) where all points are at one level
        constant = self.weights.to(x_t).log() - self.dim / 2 * (2 * math.pi * tau2).log()
        tau2 = tau2.expand(e.shape[:2])
        return a, s, e, tau2, constant - 0.5 * e.square().sum(-1) / tau2

    def moments(self, x_t: Tensor, alpha: Coefficient, sigma: Coefficient) -> Moments:
        """Posterior means and hidden variance: what components hide, and which one it is."""
        a, s, e, tau2, logits = self._components(x_t, alpha, sigma)
        share = logits.softmax(-1)
        variance = self.stds.to(x_t).square()
        pulled = e / tau2[..., None]
        x0_k = self.means.to(x_t) + (a * variance)[..., None] * pulled
        eps_k = s[..., None] * pulled
        x0, eps = (torch.einsum("nk,nkd->nd", share, part) for part in (x0_k, eps_k))
        return Moments(x0, eps, self._hidden_at(a, s, e, tau2, share))

    def _hidden_at(self, a: Tensor, s: Tensor, e: Tensor, tau2: Tensor, share: Tensor) -> Tensor:
        """tr Cov(u2 | x_t), (N,), from `_components` and the components' shares (N, K)."""
        r2, variance = a.square() + s.square(), self.stds.to(e).square()
        # E[u2 | x_t, k] = (s mu_k - a s (1 - s_k^2) e / tau_k^2) / r
        pull = a * (1 - variance) / tau2
        u2_k = (s / r2.sqrt())[..., None] * (self.means.to(e) - pull[..., None] * e)
        u2 = torch.einsum("nk,nkd->nd", share, u2_k)
        between = (u2_k - u2[:, None]).square().sum(-1)
        within = self.dim * variance * r2 / tau2
        return (share * (within + between)).sum(-1)

    def endpoints(
        self, x_t: Tensor, alpha: Coefficient, sigma: Coefficient
    ) -> tuple[Tensor, Tensor]:
        """Posterior means of x_0 and eps, (N, d) each: e and the means, mixed."""
        a, s, e, tau2, logits = self._components(x_t, alpha, sigma)
        share = logits.softmax(-1)
        pull = share / tau2  # (N, K)
        gain = a * self.stds.to(x_t).square() * pull  # (N, K)
        shifts = (gain[..., None] * e).sum(1)
        return share @ self.means.to(x_t) + shifts, s * (pull[..., None] * e).sum(1)

    def score(self, x_t: Tensor, alpha: Coefficient, sigma: Coefficient) -> Tensor:
        """The gradient of log q at x_t, (N, d)."""
        _, _, e, tau2, logits = self._components(x_t, alpha, sigma)
        return -torch.einsum("nk,nkd->nd", logits.softmax(-1), e / tau2[..., None])

    def log_density(self, x_t: Tensor, alpha: Coefficient, sigma: Coefficient) -> Tensor:
        """log q(x_t), (N,), natural logarithm."""
        return self._components(x_t, alpha, sigma)[-1].logsumexp(-1)

    def class_probabilities(self, x_t: Tensor, alpha: Coefficient, sigma: Coefficient) -> Tensor:
        """P(label | x_t), (N, C), by default one label per component."""
        share = self._components(x_t, alpha, sigma)[-1].softmax(-1)
        classes = share.new_zeros(len(share), int(self.labels.max()) + 1)
        return classes.index_add_(1, self.labels.to(share.device), share)

    def hidden_variance(self, alpha: Coefficient, sigma: Coefficient) -> Estimate:
        """By quadrature in one or two dimensions, by quasi-Monte Carlo above."""
        a, s, shape = levels(alpha, sigma)
        results = [self._hidden(x, y) for x, y in zip(a.tolist(), s.tolist(), strict=True)]
        value, error = (torch.stack(parts).reshape(shape) for parts in zip(*results, strict=True))
        return Estimate(value, error)

    def _hidden(self, alpha: float, sigma: float) -> Estimate:
        # kept, because all four targets ask for the same number
        if (alpha, sigma) not in self._known:
            self._known[alpha, sigma] = self.average(
                lambda x: self._hidden_of(x, alpha, sigma), alpha, sigma
            )
        return self._known[alpha, sigma]

    def _hidden_of(self, x: Tensor, alpha: float, sigma: float) -> Tensor:
        a, s, e, tau2, logits = self._components(x, alpha, sigma)
        return self._hidden_at(a, s, e, tau2, logits.softmax(-1))

    def entropy(self, alpha: Coefficient, sigma: Coefficient) -> Estimate:
        """Differential entropy of x_t in nats, one noise level."""
        a, s = float(alpha), float(sigma)
        return self.average(lambda x: -self.log_density(x, a, s), a, s)

    def average(
        self, integrand: Callable[[Tensor], Tensor], alpha: float, sigma: float
    ) -> Estimate:
        """E g(x_t) for an integrand g that takes points (n, d) to (n,), at one noise level."""
        noise = torch.tensor(sigma, dtype=torch.float64)
        stds = torch.hypot(alpha * self.stds.double(), noise).tolist()
        means = alpha * self.means.double()
        weights = (self.weights.double() / self.weights.double().sum()).tolist()
        parts = [Component(*part) for part in zip(weights, means, stds, strict=True)]
        numbers = expectation(parts, integrand)
        return Estimate(*(torch.tensor(x, dtype=torch.float64) for x in numbers))
