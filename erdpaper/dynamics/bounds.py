"""The excess along a run, and what integrated inequalities say of it [P Thm 3.4, C.6, Rem 3.5].

A step eta of SGD changes the excess b by - eta (mu b + phi) + eta^2 / 2 M E||J g||^2, with coupling
mu b and forcing phi, up to the curvature of the network; the surrogate keeps the first order. In
order of what they forget about the forcing, F its field and ``E||F||^2 = N``::

    signed      nothing: source - phi, as a recursion over steps                       [P 46]
    absolute    source |phi|
    norm        source M ||r|| sqrt(N)          Cauchy-Schwarz                         [P 55]
    young       source M / (2 beta) N, rate mu - beta, for every beta > 0              [P 6, 60]

The last three solve db / d tau = - rate b + source, with what is measured at a step held until the
next. Each lies above the one before it, the first pair up to the square of rate times step.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from erdpaper.dynamics.terms import Terms

Series = NDArray[np.float64]


def integrate(rate: Series, source: Series, initial: Series, step: float) -> Series:
    """db / d tau = -rate b + source for rates and sources (K, ...) held over steps: b (K + 1, ...).

    Exact for what is held constant, so that no step is too long for a rate.
    """
    exponent = -rate * step
    decay = np.exp(exponent)
    # (e^z - 1) / z, which is 1 at 0
    small = np.abs(exponent) < 1e-12
    gain = np.where(small, 1.0, np.expm1(exponent) / np.where(small, 1.0, exponent)) * step
    path = [np.broadcast_to(initial, rate.shape[1:])]
    for k in range(len(rate)):
        path.append(decay[k] * path[-1] + gain[k] * source[k])
    return np.stack(path)


@dataclass(frozen=True)
class Path:
    """A run as it was measured: what `terms` gave at every step, (K, L) each, float64.

    weight (L,): M at the noise levels.  final (L,): the excess after the last step.
    """

    step: float
    weight: Series
    excess: Series
    coupling: Series
    forcing: Series
    forcing_norm: Series
    update_norm: Series
    final: Series

    @classmethod
    def of(cls, step: float, weight: Tensor, measured: list[Terms], final: Tensor) -> "Path":
        """From the terms of every step and the excess after the last."""
        found = Terms(*(torch.stack(part).double() for part in zip(*measured, strict=True)))
        series = {name: part.numpy() for name, part in found._asdict().items()}
        return cls(step, weight.double().numpy(), final=final.double().numpy(), **series)

    @property
    def whole(self) -> Series:
        """The excess before every step and after the last, (K + 1, L)."""
        return np.concatenate([self.excess, self.final[None]])

    @property
    def rate(self) -> Series:
        """mu = coupling / excess, with its sign [P 5]."""
        return self.coupling / self.excess

    def _solved(self, source: Series, beta: float = 0.0) -> Series:
        return integrate(self.rate - beta, source, self.excess[0], self.step)

    def _second(self) -> Series:
        """eta / 2 M E||J g||^2, what a step of finite length adds per time."""
        return self.step / 2 * self.weight * self.update_norm

    def signed(self, second_order: bool = False) -> Series:
        """The excess from coupling and forcing with their signs, (K + 1, L).

        First order is the surrogate's; with `second_order` it is the run's, up to curvature.
        """
        source = (self._second() if second_order else 0.0) - self.forcing
        path = [self.excess[0]]
        for rate, now in zip(self.rate, source, strict=True):
            path.append(path[-1] + self.step * (now - rate * path[-1]))
        return np.stack(path)

    def absolute(self) -> Series:
        """With the forcing term's absolute value and second order, (K + 1, L)."""
        return self._solved(np.abs(self.forcing) + self._second())

    @property
    def norms(self) -> Series:
        """M ||r|| ||F||, the largest forcing term of this norm, (K, L) [P 55]."""
        return np.sqrt(2 * self.weight * self.excess * self.forcing_norm)

    def norm(self) -> Series:
        """With the forcing term's largest value for its norm and second order, (K + 1, L)."""
        return self._solved(self.norms + self._second())

    def young(self, beta: float, second_order: bool = False) -> Series:
        """The bound of the theorem with the measured rate [P 6, 60], (K + 1, L)."""
        if not beta > 0:
            raise ValueError(f"beta must be positive, got {beta}")
        source = self.weight * self.forcing_norm / (2 * beta)
        return self._solved(source + (self._second() if second_order else 0.0), beta)

    def young_violated(self, beta: float) -> NDArray[np.bool_]:
        """Whether [P 52] fails at a step and noise level, (K, L), beyond rounding."""
        allowed = beta * self.excess + self.weight * self.forcing_norm / (2 * beta)
        return -self.forcing > allowed * (1 + 1e-9)


def with_constants(
    rate: float, forcing: float, weight: float, initial: float, beta: float, time: Series
) -> Series:
    """The bound from a constant rate mu > beta and a constant E||F||^2 <= B [P 7, 61]."""
    if not 0 < beta < rate:
        raise ValueError(f"beta must lie between 0 and the rate {rate:.3g}, got {beta:.3g}")
    decay = np.exp(-(rate - beta) * time)
    return decay * initial + weight * forcing / (2 * beta * (rate - beta)) * (1 - decay)
