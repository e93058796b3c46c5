"""Two-sided bounds on the Bayes floor of the law behind a training set.

The floor is the least loss of any predictor, a minimum of functions linear in the law and so
concave in it. Hence, averaged over training sets, the floor of the N points themselves (own image
in) lies below the floor of the law, and the loss of any predictor on an unseen point lies above it:
the left-out posterior, and the linear denoiser.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from tqdm import tqdm

from erdpaper.posterior.base import Estimate
from erdpaper.posterior.empirical import Empirical
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
    linear_seen: Tensor  # (L,) their average over all training points, closed form
    linear: Tensor  # (L,) the linear denoiser's loss on unseen points, closed form

    def subset(self, queries: Tensor) -> "Enclosure":
        """The same with these queries only, repeated ones counted again (for a bootstrap)."""
        parts = (self.seen, self.unseen, self.linear_errors)
        seen, unseen, linear_errors = (part[:, queries] for part in parts)
        return replace(
            self,
            labels=self.labels[queries],
            seen=seen,
            unseen=unseen,
            linear_errors=linear_errors,
        )

    @property
    def lower(self) -> Estimate:
        """The floor of the training points, (L,), with its standard error."""
        return _mean(self.seen)

    def _adjusted(self) -> Tensor:
        """`unseen` with the linear denoiser as control variate: same mean, less spread, (L, n)."""
        surplus = self.linear_errors - self.linear_errors.mean(-1, keepdim=True)
        slope = (surplus * self.unseen).sum(-1) / surplus.square().sum(-1)
        return self.unseen - slope[:, None] * (self.linear_errors - self.linear_seen[:, None])

    @property
    def left_out(self) -> Estimate:
        """The loss of the left-out posterior, (L,), with its standard error."""
        return _mean(self._adjusted())

    @property
    def width(self) -> Estimate:
        """Left-out loss minus floor of the training points, (L,), with a paired standard error."""
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
    posterior: Empirical,
    index: Tensor,
    logsnr: Tensor,
    unseen: Tensor,
    generator: torch.Generator | None = None,
) -> Enclosure:
    """Enclose the floor at log-SNR levels (L,) from training points index (n,), one noise each.

    `unseen` (M, d) are points of the same law that are not in the training set, for the linear
    denoiser's loss. All levels share the noise, so that curves over the level are smooth. Shows a
    progress bar.
    """
    if index.ndim != 1 or len(index) < 2 or unseen.ndim != 2 or unseen.shape[1] != posterior.dim:
        raise ValueError(
            f"an enclosure needs at least 2 training indices and unseen points (M, {posterior.dim})"
        )
    x0 = posterior.data[index] + posterior.centre
    eps = torch.randn(x0.shape, generator=generator, dtype=x0.dtype)
    gaussian = posterior.gaussian
    errors = []
    for level in tqdm(logsnr.tolist(), desc="noise levels", unit="level"):
        alpha, sigma = (
            float(c) for c in signal_and_noise(torch.tensor(level, dtype=torch.float64), "vp")
        )
        x_t = alpha * x0 + sigma * eps
        left_out, seen = posterior.left_out(x_t, alpha, sigma, index)
        linear = gaussian.moments(x_t, alpha, sigma).x0
        # x_t is given, so an error e of x_0 is an error e r / sigma of u2, and r = 1 here
        missed = [((x0 - guess) / sigma).double().square().sum(-1) for guess in (left_out, linear)]
        errors.append(torch.stack([seen.double(), *missed]))
    seen, left_out, linear = torch.stack(errors, 1)
    alphas, sigmas = signal_and_noise(logsnr.double(), "vp")
    return Enclosure(
        logsnr,
        posterior.labels[index],
        seen,
        left_out,
        linear,
        linear_seen=gaussian.hidden_variance(alphas, sigmas).value,
        linear=gaussian.hidden_loss(unseen.double(), alphas, sigmas),
    )


def _mean(errors: Tensor) -> Estimate:
    return Estimate(errors.mean(-1), errors.std(-1) / errors.shape[-1] ** 0.5)
