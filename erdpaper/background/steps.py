"""The steps of a discrete diffusion in the thesis's letters, and what their losses weigh [T 2.1.4].

For steps t = 1..T, alpha_t is the share of variance that step t keeps, abar_t their product, and

    q(x_t | x_{t-1})      = N(sqrt(alpha_t) x_{t-1}, (1 - alpha_t) I)                     [T 2.13]
    q(x_{t-1} | x_t, x_0) = N(of_xt x_t + of_x0 x_0, variance I)                          [T 2.20]

(alpha_t is not the alpha of `erdpaper.schedules`: that is sqrt(abar_t).) With the variance of 2.20
in the model as well, the divergence of a reverse step is a weighted squared error of x_0, of eps or
of the score of q(x_t | x_0) [T 2.24, 2.28, 2.32].
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from erdpaper.background.bounds import Hierarchy
from erdpaper.background.gaussians import Conditional, Law, chain_law
from erdpaper.schedules import Schedule


class Weights(NamedTuple):
    """What 2.24, 2.28 and 2.32 put before the squared errors, each (T - 1,) for t = 2..T."""

    x0: Tensor
    eps: Tensor
    score: Tensor


@dataclass(frozen=True)
class Steps:
    """alpha (T,) and abar (T,) for t = 1..T, float64."""

    alpha: Tensor
    abar: Tensor

    @classmethod
    def of(cls, schedule: Schedule, times: Tensor) -> "Steps":
        """Steps between rising times (T,) in (0, 1] of a variance-preserving schedule, from 0."""
        if schedule.path != "vp":
            raise ValueError(f"steps need a variance-preserving schedule, not {schedule}")
        signal, _ = schedule(times.double())
        abar = signal.square()
        return cls(abar / torch.cat([abar.new_ones(1), abar[:-1]]), abar)

    def __len__(self) -> int:
        return len(self.alpha)

    @property
    def before(self) -> Tensor:
        """abar_{t-1}, (T,), 1 for t = 1."""
        return torch.cat([self.abar.new_ones(1), self.abar[:-1]])

    @property
    def of_xt(self) -> Tensor:
        """The factor of x_t in the mean of q(x_{t-1} | x_t, x_0), (T,) [T 2.22]."""
        return self.alpha.sqrt() * (1 - self.before) / (1 - self.abar)

    @property
    def of_x0(self) -> Tensor:
        """The factor of x_0 in that mean, (T,) [T 2.22]."""
        return self.before.sqrt() * (1 - self.alpha) / (1 - self.abar)

    @property
    def variance(self) -> Tensor:
        """Its variance, (T,), 0 for t = 1 [T 2.20]."""
        return (1 - self.alpha) * (1 - self.before) / (1 - self.abar)

    def weights(self) -> Weights:
        """The weights of the three losses for t = 2..T, where the variance is not 0."""
        alpha, abar, before = (x[1:] for x in (self.alpha, self.abar, self.before))
        half = (1 - alpha).square() / (2 * self.variance[1:])
        return Weights(
            half * before / (1 - abar).square(), half / ((1 - abar) * alpha), half / alpha
        )


def hierarchy(steps: Steps, mean: Tensor, covariance: Tensor, exact: bool = False) -> Hierarchy:
    """The diffusion of Gaussian data N(mean, covariance) as a hierarchy with the prior N(0, I).

    The reverse steps have the mean of 2.23 with the exact E[x_0 | x_t], and the variance of 2.20
    as in the thesis, or with `exact` that of q(x_{t-1} | x_t), which adds what x_t leaves open of
    x_0. The first step, where 2.20 has none, always has the exact one.
    """
    dim = len(mean)
    eye = torch.eye(dim, dtype=torch.float64)
    up, down = [], []
    for t in range(len(steps)):
        signal, noise = steps.abar[t].sqrt(), 1 - steps.abar[t]
        gain = torch.linalg.solve(noise * eye + signal.square() * covariance, signal * covariance).T
        left = covariance - signal * gain @ covariance  # Cov(x_0 | x_t)
        of_x0, of_xt = steps.of_x0[t], steps.of_xt[t]
        spread = steps.variance[t] * eye
        spread = spread + of_x0.square() * left if exact or t == 0 else spread
        offset = of_x0 * (mean - signal * gain @ mean)
        alpha = float(steps.alpha[t])
        up.append(Conditional.isotropic(alpha**0.5, 1 - alpha, dim))
        down.append(Conditional(of_xt * eye + of_x0 * gain, offset, spread))
    return Hierarchy(tuple(up), tuple(down), Law(eye.new_zeros(dim), eye))


def best_reverse(steps: Steps, variance: float, printed: bool) -> tuple[Conditional, ...]:
    """The reverse steps that minimise a bound's terms on data N(0, variance) in one dimension.

    printed: those of the consistency terms [A.3.1], E KL(q(x_t | x_{t-1}) || p(x_t | x_{t+1})),
    whose minimiser is the law, given x_{t+1}, of a forward step from x_{t-1} that knows nothing of
    x_{t+1}. Otherwise those of the denoising terms [T 2.16], which are q(x_{t-1} | x_t).
    """
    one = torch.ones(1, 1, dtype=torch.float64)
    data = Conditional(one[:, :0], one.new_zeros(1), variance * one)
    ups = [Conditional.isotropic(float(a) ** 0.5, float(1 - a), 1) for a in steps.alpha]
    law = chain_law([data, *ups])
    zero, first = torch.tensor([0]), torch.tensor([1])
    down = [law.conditional(zero, first)]
    for t in range(1, len(steps)):
        here, above = torch.tensor([t]), torch.tensor([t + 1])
        if not printed:
            down.append(law.conditional(here, above))
            continue
        # forward from x_{t-1}, of which x_{t+1} leaves something open
        below = law.conditional(torch.tensor([t - 1]), above)
        step = ups[t - 1]
        spread = step.slope @ below.covariance @ step.slope.T + step.covariance
        down.append(Conditional(step.slope @ below.slope, step.slope @ below.offset, spread))
    return tuple(down)


def generated_variance(down: tuple[Conditional, ...]) -> float:
    """The variance of the x_0 that reverse steps make of x_T ~ N(0, 1), one dimension."""
    one = torch.ones(1, 1, dtype=torch.float64)
    law = chain_law([Conditional(one[:, :0], one.new_zeros(1), one), *reversed(down)])
    return float(law.covariance[-1, -1])


def prior_term(schedule: Schedule) -> float:
    """KL(q(x_1 | x_0) || N(0, I)) per coordinate in nats at t = 1, for |x_0|^2 = d [T 2.16]."""
    alpha, sigma = (float(c) for c in schedule(1.0))
    return 0.5 * (sigma**2 - 1 - 2 * math.log(sigma) + alpha**2)
