"""What a law of x_0 lets anyone recover, at any noise level, from its hidden variance on a grid.

rho_y = sqrt(E||E[y | x_t]||^2 / d) is the recoverable signal that the ERD score stands for [P 3.4].
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from erdpaper.posterior.base import Posterior
from erdpaper.schedules import signal_and_noise
from erdpaper.targets import Coefficient, Target, as_pair, get


@dataclass(frozen=True)
class RecoverableSignal:
    """Hidden variance F per coordinate at rising log-SNR levels (L,), and E||x_0||^2 / d.

    Between the levels F is interpolated without overshoot; beyond them it is constant.
    """

    logsnr: Tensor
    hidden_variance: Tensor
    energy: float

    @classmethod
    def of(cls, posterior: Posterior, logsnr: Tensor) -> "RecoverableSignal":
        """That of an exact posterior, computed at the given levels."""
        hidden = posterior.hidden_variance(*signal_and_noise(logsnr, "vp")).value
        return cls(logsnr, hidden / posterior.dim, float(posterior.second_moment()) / posterior.dim)

    def standardised(self, variance: float) -> "RecoverableSignal":
        """That of the data shifted to mean 0 and scaled to E||x_0||^2 = d.

        variance: tr Cov(x_0) / d of the data as they are. Dividing data by c moves what is seen at
        log-SNR l to l + 2 log c, and F is the floor of x_0 times 1 + SNR.
        """
        logsnr = self.logsnr + math.log(variance)
        stretch = (1 + logsnr.exp()) / (1 + self.logsnr.exp()) / variance
        return RecoverableSignal(logsnr, self.hidden_variance * stretch, 1.0)

    def rms(self, alpha: Coefficient, sigma: Coefficient, target: str | Target) -> Tensor:
        """rho_y at noise levels of any shape, float64."""
        # imported here: it takes a second, and a posterior is mostly asked for other things
        from scipy.interpolate import PchipInterpolator

        alpha, sigma = (c.double() for c in as_pair(alpha, sigma))
        c_x, c_eps = get(target).coefficients(alpha, sigma)
        levels = (2 * (alpha / sigma).log()).clamp(float(self.logsnr[0]), float(self.logsnr[-1]))
        hidden = torch.from_numpy(PchipInterpolator(self.logsnr, self.hidden_variance)(levels))
        floor = get(target).split(alpha, sigma)[1].square() * hidden
        return (c_x.square() * self.energy + c_eps.square() - floor).clamp(min=0).sqrt()
