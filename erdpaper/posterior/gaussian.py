"""One Gaussian: the linear (Wiener) denoiser, the best that sees only mean and covariance."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from erdpaper.posterior.base import Estimate, Moments, Posterior, check_points, levels, normal
from erdpaper.targets import Coefficient, as_pair, expand


class _Whitened(NamedTuple):
    """alpha and sigma (N,), the basis, x_t - alpha mean along and across it, and its spread."""

    alpha: Tensor
    sigma: Tensor
    basis: Tensor
    centred: Tensor
    spread: Tensor
    across: Tensor


class Gaussian(Posterior):
    """x_0 ~ N(mean, covariance), mean (d,), covariance (d, d) symmetric and at least 0.

    In the eigenbasis of the covariance every formula is one number per eigenvalue l: E[x_0 | x_t]
    keeps the share alpha^2 l / (alpha^2 l + sigma^2), and u2 keeps the variance
    r^2 l / (alpha^2 l + sigma^2). basis: (d, k), orthonormal columns; variances: (k,). k is d, or
    fewer for a Gaussian fitted to fewer points; across the basis the variance is 0.
    """

    def __init__(self, mean: Tensor, covariance: Tensor) -> None:
        if mean.ndim != 1 or covariance.shape != (len(mean), len(mean)):
            raise ValueError("a Gaussian needs a mean (d,) and a covariance (d, d)")
        if not torch.allclose(covariance, covariance.T):
            raise ValueError("a covariance must be symmetric")
        values, self.basis = torch.linalg.eigh(covariance)
        # a negative eigenvalue within the rounding of eigh is 0
        if bool(values[0] < -10 * len(mean) * torch.finfo(values.dtype).eps * values.abs().max()):
            raise ValueError("a covariance must not have negative eigenvalues")
        self.mean, self.variances, self.dim = mean, values.clamp(min=0), len(mean)

    @classmethod
    def standard(cls, dim: int) -> "Gaussian":
        """N(0, I), the law that ERD assumes [P 11]; float64."""
        return cls(torch.zeros(dim, dtype=torch.float64), torch.eye(dim, dtype=torch.float64))

    @classmethod
    def fitted(cls, data: Tensor) -> "Gaussian":
        """The Gaussian with mean and (1/N) covariance of data (N, d).

        Of fewer points than coordinates no (d, d) matrix is made.
        """
        mean = data.mean(0)
        centred = data - mean
        if len(data) >= data.shape[1]:
            return cls(mean, centred.T @ centred / len(data))
        made = cls.__new__(cls)
        _, roots, directions = torch.linalg.svd(centred, full_matrices=False)
        made.mean, made.dim = mean, data.shape[1]
        made.basis, made.variances = directions.T, roots.square() / len(data)
        return made

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """n draws of x_0, (n, d)."""
        noise = normal((n, len(self.variances)), self.mean, generator)
        return torch.addmm(self.mean, noise * self.variances.sqrt(), self.basis.T)

    def second_moment(self) -> Tensor:
        """E ||x_0||^2 = ||mean||^2 + tr covariance."""
        return torch.add(self.mean.square().sum(), self.variances.sum())

    @property
    def _across(self) -> int:
        """The number of directions across the basis."""
        return self.dim - len(self.variances)

    def _spread(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        """Eigenvalues of Cov(x_t) along the basis, (..., k); across it they are sigma^2."""
        scaled = alpha.square()[..., None] * self.variances.to(alpha)
        spread = torch.add(scaled, sigma.square()[..., None])
        if bool((spread == 0).any()) or (self._across and bool((sigma == 0).any())):
            raise ValueError("x_t has no density: sigma = 0 and the covariance is singular")
        return spread

    def _whitened(self, x_t: Tensor, alpha: Coefficient, sigma: Coefficient) -> _Whitened:
        x_t = check_points(x_t, self.dim)
        alpha, sigma = (expand(c, x_t).reshape(-1) for c in as_pair(alpha, sigma))
        basis = self.basis.to(x_t)
        way = x_t - alpha[:, None] * self.mean.to(x_t)
        centred, spread = way @ basis, self._spread(alpha, sigma)
        # exactly nothing where the basis is whole
        across = way - centred @ basis.T if self._across else torch.zeros_like(way)
        return _Whitened(alpha, sigma, basis, centred, spread, across)

    def moments(self, x_t: Tensor, alpha: Coefficient, sigma: Coefficient) -> Moments:
        """Posterior means and hidden variance, which is the same at every point."""
        a, s, basis, centred, spread, across = self._whitened(x_t, alpha, sigma)
        pulled = centred / spread
        variances = self.variances.to(x_t)
        x0 = self.mean.to(x_t) + (a[:, None] * variances * pulled) @ basis.T
        eps = s[:, None] * (pulled @ basis.T)
        if self._across:
            eps = eps + across / s[:, None]
        hidden = ((a.square() + s.square())[:, None] * variances / spread).sum(-1)
        return Moments(x0, eps, hidden.expand(len(x_t)))

    def score(self, x_t: Tensor, alpha: Coefficient, sigma: Coefficient) -> Tensor:
        """The gradient of log q at x_t, (N, d): -Cov(x_t)^-1 (x_t - alpha mean)."""
        _, s, basis, centred, spread, across = self._whitened(x_t, alpha, sigma)
        found = -(centred / spread) @ basis.T
        return found - across / s.square()[:, None] if self._across else found

    def log_density(self, x_t: Tensor, alpha: Coefficient, sigma: Coefficient) -> Tensor:
        """log q(x_t), (N,), natural logarithm."""
        _, s, _, centred, spread, across = self._whitened(x_t, alpha, sigma)
        found = (centred.square() / spread + spread.log() + math.log(2 * math.pi)).sum(-1)
        if self._across:
            each = s.square().log() + math.log(2 * math.pi)
            found = found + across.square().sum(-1) / s.square() + self._across * each
        return -0.5 * found

    def class_probabilities(self, x_t: Tensor, alpha: Coefficient, sigma: Coefficient) -> Tensor:
        """Ones, (N, 1): there is one class."""
        return torch.ones_like(check_points(x_t, self.dim)[:, :1])

    def hidden_variance(self, alpha: Coefficient, sigma: Coefficient) -> Estimate:
        """Closed form, error 0."""
        a, s, shape = levels(alpha, sigma)
        total = a.square() + s.square()
        value = (total[:, None] * self.variances.to(a) / self._spread(a, s)).sum(-1).reshape(shape)
        return Estimate(value, torch.zeros_like(value))

    def hidden_loss(self, data: Tensor, alpha: Coefficient, sigma: Coefficient) -> Tensor:
        """E ||u2 - E[u2 | x_t]||^2 of this denoiser where x_0 is uniform on data (N, d).

        Closed form, shape of alpha and sigma; `hidden_variance` if the data have this Gaussian's
        mean and covariance, and more for other data.
        """
        a, s, shape = levels(alpha, sigma)
        # second moments about this mean along each eigenvector, (d,)
        way = data - self.mean.to(data)
        moments = (way @ self.basis.to(data)).square().mean(0).to(a)
        a2, s2 = a.square()[:, None], s.square()[:, None]
        kept = (s2 * moments + a2 * self.variances.to(a).square()) / self._spread(a, s).square()
        total: Tensor = ((a2 + s2) * kept).sum(-1)
        if self._across:
            rest = way.square().sum(1).mean().to(a) - moments.sum()
            total = total + (a.square() + s.square()) * rest / s.square()
        return total.reshape(shape)
