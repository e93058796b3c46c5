"""Schedules given by a formula on t in [0, 1] [P F.1]."""

import math

import torch
from torch import Tensor

from erdpaper.schedules.base import (
    Path,
    Schedule,
    Time,
    check_reached,
    check_time,
    logsnr_from_ou_time,
    ou_time,
)


class Linear(Schedule):
    """alpha = 1 - t, sigma = t: the straight path of flow matching [P F.1]."""

    path: Path = "linear"

    def __call__(self, t: Time) -> tuple[Tensor, Tensor]:
        """(1 - t, t)."""
        t = check_time(t)
        return 1 - t, t.clone()

    def logsnr_rate(self, t: Time) -> Tensor:
        """-2 / (t (1 - t))."""
        t = check_time(t)
        return -2 / (t * (1 - t))

    def time(self, logsnr: Tensor) -> Tensor:
        """1 / (1 + exp(lambda / 2))."""
        return torch.sigmoid(-logsnr / 2)


class VP(Schedule):
    """alpha = exp(-B/2), B = beta_min t + (beta_max - beta_min) t^2 / 2, on a VP path [P F.1].

    At t = 1 a little signal is left: alpha = exp(-5.025) = 0.0066 with the default betas.
    """

    path: Path = "vp"

    def __init__(self, beta_min: float = 0.1, beta_max: float = 20.0) -> None:
        if not 0 < beta_min <= beta_max < math.inf:
            got = f"{beta_min} and {beta_max}"
            raise ValueError(f"betas must satisfy 0 < beta_min <= beta_max, got {got}")
        self.beta_min, self.beta_max = beta_min, beta_max

    def _integral(self, t: Tensor) -> Tensor:
        return self.beta_min * t + (self.beta_max - self.beta_min) * t.square() / 2

    def __call__(self, t: Time) -> tuple[Tensor, Tensor]:
        """(exp(-B / 2), sqrt(1 - exp(-B)))."""
        integral = self._integral(check_time(t))
        return torch.exp(-integral / 2), torch.sqrt(-torch.expm1(-integral))

    def logsnr(self, t: Time) -> Tensor:
        """-log(exp(B) - 1), exact also where alpha or sigma rounds to 1."""
        return logsnr_from_ou_time(self._integral(check_time(t)) / 2)

    def logsnr_rate(self, t: Time) -> Tensor:
        """-B' / (1 - exp(-B))."""
        t = check_time(t)
        beta = self.beta_min + (self.beta_max - self.beta_min) * t
        return beta / torch.expm1(-self._integral(t))

    def time(self, logsnr: Tensor) -> Tensor:
        """The root of B(t) = log(1 + exp(-lambda)); below lambda(1) there is none (ValueError)."""
        logsnr = check_reached(logsnr, float(self.logsnr(1.0)))
        integral, slope = 2 * ou_time(logsnr), self.beta_max - self.beta_min
        # the root of the quadratic written without a difference of near-equal numbers
        root = torch.sqrt(self.beta_min**2 + 2 * slope * integral)
        return (2 * integral / (self.beta_min + root)).clamp(max=1)

    def __repr__(self) -> str:
        return f"VP(beta_min={self.beta_min}, beta_max={self.beta_max})"


class GVP(Schedule):
    """alpha = cos(pi t / 2), sigma = sin(pi t / 2) [P F.1]."""

    path: Path = "vp"

    def __call__(self, t: Time) -> tuple[Tensor, Tensor]:
        """(cos(pi t / 2), sin(pi t / 2))."""
        t = check_time(t)
        # cos written as a sine of 1 - t, so that alpha is exactly 0 at t = 1
        return torch.sin(math.pi / 2 * (1 - t)), torch.sin(math.pi / 2 * t)

    def logsnr_rate(self, t: Time) -> Tensor:
        """-pi / (alpha sigma)."""
        alpha, sigma = self(t)
        return -math.pi / (alpha * sigma)

    def time(self, logsnr: Tensor) -> Tensor:
        """2 / pi atan(exp(-lambda / 2))."""
        return 2 / math.pi * torch.atan(torch.exp(-logsnr / 2))
