"""Soft Truncation: a smallest time that changes from batch to batch (Kim et al., ICML 2022).

Training leaves out times below some tau, since the score diverges at t = 0. Here every batch draws
a tau of its own, with a density proportional to 1 / tau on [eps, 1], and then its times from
[tau, 1]. The loss of the noise that belongs to a weight lambda(t) on the error of the score is

    L(lambda, tau) = 1/2 int_tau^1 lambda(t) / sigma^2(t) E||f(x_t, t) - eps||^2 dt,

and its mean over tau has P(tau <= t) lambda(t) in place of lambda(t): Soft Truncation is training
with another weight, allotted one batch at a time. Two lambda are offered:

- sigma^2, the "variance weight": t is uniform on [tau, 1] and every sample counts the same.
- g^2, the "likelihood weight": L bounds the negative log-likelihood of x_tau, up to a constant. As
  g^2 / sigma^2 = -d log-SNR / dt on every path, t is drawn by importance when log-SNR is uniform
  between its values at 1 and at tau, and the batch carries the length Z_tau of that interval.

The prior with exponent 1 and eps = 1e-5 are what the authors' released code takes for the VP SDE.
Like that code, and unlike L, the variance weight leaves out the length 1 - tau of the interval, so
that its mean over tau puts E[1{tau <= t} / (1 - tau)] on time t, not P(tau <= t). Ours are the
scale of the likelihood weight, whose mean is made 1, and the stratified times of `Objective`.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from erdpaper.schedules import Schedule

_NODES = 4096


@dataclass(frozen=True)
class SoftTruncation:
    """How the smallest time of a batch is drawn, and then its times, on a schedule.

    likelihood: the weight g^2 instead of sigma^2, on the error of eps.  smallest: the least tau.
    A smallest time outside (0, 1) raises ValueError, and so does the likelihood weight on a
    schedule that ends without signal, where Z_tau is infinite.
    """

    schedule: Schedule
    likelihood: bool = False
    smallest: float = 1e-5

    def __post_init__(self) -> None:
        if not 0 < self.smallest < 1:
            raise ValueError(f"the smallest time must lie between 0 and 1, got {self.smallest}")
        if self.likelihood and not bool(self._last.isfinite()):
            raise ValueError(
                f"{self.schedule!r} ends without signal, so the likelihood weight has no finite "
                "mean; use a schedule like VP"
            )

    def start(self, u: Tensor) -> Tensor:
        """Uniform numbers in [0, 1) -> tau in [smallest, 1), whose logarithm is uniform."""
        return self.smallest ** (1 - u)

    def draw(self, u: Tensor, tau: Tensor) -> tuple[Tensor, Tensor]:
        """Uniform numbers (N,) and the tau () of their batch -> times (N,) and weights (N,).

        The weights of a batch are equal; their mean over batches is 1.
        """
        weight = (self._length(tau) / self._mean).expand_as(u)
        if not self.likelihood:
            return tau + (1 - tau) * u, weight
        first = self.schedule.logsnr(tau)
        return self.schedule.time(first + (self._last - first) * u), weight

    def effort(self, t: Tensor) -> Tensor:
        """The general weight: density of drawing t times weight, the mean over tau; mean 1 over t.

        With the likelihood weight it is P(tau <= t) times the rate of log-SNR, up to a factor; with
        the variance weight it grows like a logarithm towards t = 1.
        """
        inside, span = t >= self.smallest, -math.log(self.smallest)
        if self.likelihood:
            reached = 1 + t.log() / span
            value = reached * self.schedule.logsnr_rate(t).abs() / self._mean
        else:
            value = (torch.logit(t) - math.log(self.smallest / (1 - self.smallest))) / span
        return torch.where(inside, value, 0)

    @cached_property
    def _last(self) -> Tensor:
        """Log-SNR at t = 1."""
        return self.schedule.logsnr(1.0)

    @cached_property
    def _mean(self) -> Tensor:
        """The mean of Z_tau."""
        middles = (torch.arange(_NODES, dtype=torch.float64) + 0.5) / _NODES
        return self._length(self.start(middles)).mean()

    def _length(self, tau: Tensor) -> Tensor:
        """Z_tau, or 1 with the variance weight."""
        return self.schedule.logsnr(tau) - self._last if self.likelihood else torch.ones_like(tau)
