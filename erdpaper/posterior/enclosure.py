"""Two-sided bounds on the Bayes floor of the law behind a training set.

The floor is the least loss of any predictor, a minimum of functions linear in the law and so
concave in it. Hence, averaged over training sets, the floor of the N points themselves (own image
in) lies below the floor of the law, and the loss of any predictor on an unseen point lies above it:
the left-out posterior, and the linear denoiser.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm import tqdm

from erdpaper.posterior.base import Estimate
from erdpaper.posterior.empirical import Empirical
from erdpaper.posterior.gaussian import Gaussian
from erdpaper.schedules import signal_and_noise


@dataclass(frozen=True)
class Enclosure:
    """Per-query errors of u2, the part of (x_0, eps) that x_t hides, at L log-SNR levels.

    A target's errors are hidden^2 times these. They depend on the noise level through the log-SNR
    alone, so one enclosure serves every schedule and target.
    """

    logsnr: Tensor  # (L,)
    labels: Tensor  # (n,) class of each query
    seen: Tensor  # (L, n) tr Cov(u2 | x_t) of the training points as they are
    unseen: Tensor  # (L, n) ||u2 - E[u2 | x_t]||^2 with the query's own image left out
    linear_errors: Tensor  # (L, n) ||u2 - prediction||^2 of the linear denoiser
    linear: Tensor  # (L,) its average, the floor of the Gaussian with the same moments, closed form

    @property
    def lower(self) -> Estimate:
        """The floor of the training points, (L,), with its standard error."""
        return _mean(self.seen)

    def _adjusted(self) -> Tensor:
        """`unseen` with the linear denoiser as control variate, (L, n): same mean, less spread."""
        surplus = self.linear_errors - self.linear_errors.mean(-1, keepdim=True)
        slope = (surplus * self.unseen).sum(-1) / surplus.square().sum(-1)
        return self.unseen - slope[:, None] * (self.linear_errors - self.linear[:, None])

    @property
    def left_out(self) -> Estimate:
        """The loss of the left-out posterior, (L,), with its standard error."""
        return _mean(self._adjusted())

    @property
    def width(self) -> Estimate:
        """Left-out loss minus floor of the training points, (L,), with the pairs' error."""
        return _mean(self._adjusted() - self.seen)

    @property
    def upper(self) -> Estimate:
        """The smaller of the left-out and the linear loss, (L,), with its standard error."""
        value, error = self.left_out
        return Estimate(value.minimum(self.linear), torch.where(self.linear < value, 0, error))

    def by_class(self, errors: Tensor) -> Estimate:
        """Class means (L, C) of per-query errors (L, n), with standard errors."""
        parts = [_mean(errors[:, self.labels == c]) for c in self.labels.unique()]
        return Estimate(*(torch.stack(column, 1) for column in zip(*parts, strict=True)))


def enclose(
    posterior: Empirical, logsnr: Tensor, n: int, generator: torch.Generator | None = None
) -> Enclosure:
    """Enclose the floor at the log-SNR levels (L,) from n training points with one noise draw each.

    All levels share the draws, so that curves over the level are smooth. Shows a progress bar.
    """
    if not 2 <= n <= len(posterior):
        raise ValueError(f"the number of queries must lie in 2..{len(posterior)}, got {n}")
    index = torch.randperm(len(posterior), generator=generator)[:n]
    x0 = posterior.data[index] + posterior.centre
    eps = torch.randn(x0.shape, generator=generator, dtype=x0.dtype)
    gaussian = Gaussian(
        posterior.centre.double(), (posterior.data.T @ posterior.data).double() / len(posterior)
    )
    errors = []
    for level in tqdm(logsnr.tolist(), desc="noise levels", unit="level"):
        alpha, sigma = (
            float(c) for c in signal_and_noise(torch.tensor(level, dtype=torch.float64), "vp")
        )
        x_t = alpha * x0 + sigma * eps
        seen = posterior.moments(x_t, alpha, sigma).hidden_variance
        left_out = posterior.moments(x_t, alpha, sigma, exclude=index).x0
        linear = gaussian.moments(x_t, alpha, sigma).x0
        # x_t is given, so an error e of x_0 is an error e r / sigma of u2, and r = 1 here
        missed = [((x0 - guess) / sigma).double().square().sum(-1) for guess in (left_out, linear)]
        errors.append(torch.stack([seen.double(), *missed]))
    seen, unseen, linear = torch.stack(errors, 1)
    known = gaussian.hidden_variance(*signal_and_noise(logsnr.double(), "vp")).value
    return Enclosure(logsnr, posterior.labels[index], seen, unseen, linear, known)


def _mean(errors: Tensor) -> Estimate:
    return Estimate(errors.mean(-1), errors.std(-1) / errors.shape[-1] ** 0.5)
