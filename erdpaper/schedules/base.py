"""Time, log-SNR and what every schedule offers."""

from abc import ABC, abstractmethod
from typing import Literal

import torch
from torch import Tensor
from torch.func import jvp
from torch.nn.functional import logsigmoid

Path = Literal["vp", "linear"]
Time = Tensor | float


def check_time(t: Time) -> Tensor:
    """t as a floating tensor (float64 for a plain number), checked to lie in [0, 1]."""
    t = t if isinstance(t, Tensor) else torch.tensor(t, dtype=torch.float64)
    if not t.is_floating_point():
        raise TypeError(f"a time must be a floating-point number, not {t.dtype}")
    if not bool(((t >= 0) & (t <= 1)).all()):
        raise ValueError("time must lie in [0, 1]: 0 is clean data, 1 is noise")
    return t


def check_reached(logsnr: Tensor, last: float) -> Tensor:
    """logsnr, refused where it lies below the last one of a schedule by more than rounding."""
    if bool((logsnr < last - 1e-5 * abs(last)).any()):
        raise ValueError(f"log-SNR must be at least {last:.4g}, the last of this schedule")
    return logsnr.clamp(min=last)


def signal_and_noise(logsnr: Tensor, path: Path) -> tuple[Tensor, Tensor]:
    """(alpha, sigma) at a log-SNR: alpha^2 + sigma^2 = 1 ("vp") or alpha + sigma = 1 ("linear")."""
    if path == "vp":
        return torch.sigmoid(logsnr).sqrt(), torch.sigmoid(-logsnr).sqrt()
    return torch.sigmoid(logsnr / 2), torch.sigmoid(-logsnr / 2)


def ou_time(logsnr: Tensor) -> Tensor:
    """Ornstein-Uhlenbeck time -1/2 log(abar) of a noise level, as in the speciation literature."""
    return -logsigmoid(logsnr) / 2


def logsnr_from_ou_time(time: Tensor) -> Tensor:
    """Log-SNR at an Ornstein-Uhlenbeck time > 0, the inverse of `ou_time`."""
    # log(exp(x) - 1) without the overflow of exp
    return -2 * time - torch.log(-torch.expm1(-2 * time))


class Schedule(ABC):
    """alpha and sigma as functions of t in [0, 1]; tensors in, the same shape and dtype out."""

    path: Path

    @abstractmethod
    def __call__(self, t: Time) -> tuple[Tensor, Tensor]:
        """(alpha, sigma) at time t."""

    @abstractmethod
    def logsnr_rate(self, t: Time) -> Tensor:
        """d lambda / dt at time t, negative; infinite where alpha or sigma is 0."""

    @abstractmethod
    def time(self, logsnr: Tensor) -> Tensor:
        """The time t at which the log-SNR has this value, the inverse of `logsnr`."""

    def logsnr(self, t: Time) -> Tensor:
        """log(alpha^2 / sigma^2) at time t; +-inf where sigma or alpha is 0 [P 2.1]."""
        alpha, sigma = self(t)
        return 2 * (alpha.log() - sigma.log())

    def rates(self, t: Time) -> tuple[Tensor, Tensor]:
        """(d alpha / dt, d sigma / dt) at time t; d sigma / dt may be infinite at t = 0.

        They follow from `logsnr_rate`, so that d lambda / dt = 2 alpha' / alpha - 2 sigma' / sigma
        also between the nodes of a table. Where that rate is infinite, they are the derivatives of
        alpha and sigma themselves.
        """
        t = check_time(t)
        alpha, sigma = self(t)
        half = self.logsnr_rate(t) / 2
        inner = (sigma.square(), alpha.square()) if self.path == "vp" else (sigma, alpha)
        rates = (half * alpha * inner[0], -half * sigma * inner[1])
        if bool(half.isinf().any()):
            ends = jvp(self, (t,), (torch.ones_like(t),))[1]
            rates = (
                torch.where(half.isinf(), ends[0], rates[0]),
                torch.where(half.isinf(), ends[1], rates[1]),
            )
        return rates

    def snr(self, t: Time) -> Tensor:
        """alpha^2 / sigma^2 at time t; inf where sigma is 0."""
        alpha, sigma = self(t)
        return (alpha / sigma).square()

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"
