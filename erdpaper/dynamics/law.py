"""Which noise levels a run follows, and how it weighs them [P 1, 23].

With log-SNR lambda, training density p(t) and weight w(t) the effective allocation is::

    M(lambda) = w p |dt / d lambda|                                                    [P 1]

and a stochastic run is either of two things, never both: lambda uniform on an interval and every
sample weighted by M(lambda) ("logsnr", the reading of [P C.3] taken here), or t drawn from p and
every sample weighted by w ("t"). Their expected gradients agree; their paths do not. p is uniform,
and weights are scaled to mean 1 over the draws.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from erdpaper.posterior import Posterior
from erdpaper.schedules import Schedule
from erdpaper.targets import expand, get
from erdpaper.training import unweighted

Drawn = Literal["logsnr", "t"]
_NODES = 20_001


class Samples(NamedTuple):
    """Noisy points of one or of many noise levels, float64.

    x (N, d), t (N,), weight (N,) which is M(lambda) or w(t), bayes = E[y | x] (N, d) and the Bayes
    noise xi = bayes - y (N, d), whose mean given x is 0 [P 32].
    """

    x: Tensor
    t: Tensor
    weight: Tensor
    bayes: Tensor
    xi: Tensor

    def to(self, like: Tensor) -> "Samples":
        """The same in another tensor's dtype and on its device."""
        return Samples(*(part.to(like) for part in self))


@dataclass(frozen=True)
class Law:
    """Data, path, target and weight of a run, and the law of its noise levels."""

    posterior: Posterior
    schedule: Schedule
    target: str
    weight: Callable[[Tensor], Tensor] = unweighted
    drawn: Drawn = "logsnr"
    span: tuple[float, float] = (-8.0, 8.0)

    def __post_init__(self) -> None:
        if self.drawn not in ("logsnr", "t"):
            raise ValueError(f"noise levels are drawn by 'logsnr' or by 't', not {self.drawn!r}")
        if not self.span[0] < self.span[1]:
            raise ValueError(f"a span of log-SNR must run from low to high, got {self.span}")

    @cached_property
    def _mean_weight(self) -> float:
        """The mean of w over the times of the span, and the length of these times."""
        t = torch.linspace(*self._times(), _NODES, dtype=torch.float64)
        return float(torch.trapezoid(self.weight(t), t) / (t[-1] - t[0]))

    def _times(self) -> tuple[float, float]:
        """First and last time of the span, data first."""
        ends = torch.tensor(self.span, dtype=torch.float64)
        late, early = self.schedule.time(ends).tolist()
        return early, late

    def weight_at(self, t: Tensor) -> Tensor:
        """M(lambda(t)) or, if t is what is drawn, w(t): mean 1 over the draws; shape of t."""
        scaled = self.weight(t) / self._mean_weight
        if self.drawn == "t":
            return scaled
        early, late = self._times()
        jacobian = 1 / self.schedule.logsnr_rate(t).abs()
        return scaled * jacobian * (self.span[1] - self.span[0]) / (late - early)

    def draw(self, n: int, generator: torch.Generator) -> Samples:
        """n samples of the run."""
        u = torch.rand(n, generator=generator, dtype=torch.float64)
        low, high = self.span if self.drawn == "logsnr" else self._times()
        level = low + (high - low) * u
        return self._at(self.schedule.time(level) if self.drawn == "logsnr" else level, generator)

    def at(self, logsnr: float, n: int, generator: torch.Generator) -> Samples:
        """n samples of one noise level."""
        level = torch.full((n,), logsnr, dtype=torch.float64)
        return self._at(self.schedule.time(level), generator)

    def floor(self, logsnr: float) -> float:
        """The Bayes floor l*(lambda) = M / 2 E ||xi||^2 of the local loss [P 27]."""
        t = self.schedule.time(torch.tensor([logsnr], dtype=torch.float64))
        floor = self.posterior.bayes_floor(*self.schedule(t), self.target)
        return float(self.weight_at(t) * floor / 2)

    def _at(self, t: Tensor, generator: torch.Generator) -> Samples:
        x0 = self.posterior.sample(len(t), generator)
        eps = torch.randn(x0.shape, generator=generator, dtype=x0.dtype)
        alpha, sigma = self.schedule(t)
        x = expand(alpha, x0) * x0 + expand(sigma, x0) * eps
        bayes = self.posterior.posterior_mean(x, alpha, sigma, self.target)
        y = get(self.target).make(x0, eps, alpha, sigma)
        return Samples(x, t, self.weight_at(t), bayes, bayes - y)
