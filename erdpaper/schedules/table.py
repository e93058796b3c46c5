"""Schedules given by a table of noise levels, the known ones and those of diffusers."""

import math
from typing import Any

import torch
from torch import Tensor

from erdpaper.schedules.base import (
    Path,
    Schedule,
    Time,
    check_reached,
    check_time,
    signal_and_noise,
)


class Discrete(Schedule):
    """A table of T noise levels from least to most; the module docstring says what lies between.

    `alpha` and `sigma` (T,) lie on one path. Zero terminal SNR (alpha = 0 at the end) is allowed.
    """

    def __init__(
        self, alpha: Tensor, sigma: Tensor, path: Path = "vp", name: str = "Discrete"
    ) -> None:
        alpha, sigma = alpha.double(), sigma.double()
        if alpha.ndim != 1 or alpha.shape != sigma.shape or len(alpha) < 2:
            raise ValueError("a table needs alpha and sigma of one shape (T,) with T >= 2")
        if path not in ("vp", "linear"):
            raise ValueError(f"path must be 'vp' or 'linear', got {path!r}")
        logsnr = 2 * (alpha.log() - sigma.log())
        if not bool((sigma > 0).all() and (alpha >= 0).all() and (logsnr.diff() < 0).all()):
            raise ValueError("a table needs alpha >= 0, sigma > 0 and a log-SNR that falls")
        length = alpha.square() + sigma.square() if path == "vp" else alpha + sigma
        if not bool((length - 1).abs().max() < 1e-5):
            rule = "alpha^2 + sigma^2" if path == "vp" else "alpha + sigma"
            raise ValueError(f"a table on the {path} path needs {rule} = 1")
        self.alpha, self.sigma, self.path, self.name = alpha, sigma, path, name
        self.T = len(alpha)
        self._logsnr = logsnr
        self._rate = self._node_rates()

    @classmethod
    def from_betas(cls, betas: Tensor, name: str) -> "Discrete":
        """abar_k = prod_{j <= k} (1 - beta_j), on the variance-preserving path [T 2.18]."""
        log_abar = torch.log1p(-betas.double()).cumsum(0)
        return cls(torch.exp(log_abar / 2), torch.sqrt(-torch.expm1(log_abar)), "vp", name)

    def _node_rates(self) -> Tensor:
        """d lambda / dt at the nodes by central differences, at the ends by `_rate_at_ends`."""
        step = self._logsnr.diff() * self.T
        rate = (torch.cat([step[:1], step]) + torch.cat([step, step[-1:]])) / 2
        one = torch.ones((), dtype=torch.float64)
        rate[0] = self._rate_at_ends(self.alpha[0], self.sigma[0], one, one)[0]
        if bool(self._logsnr[-1].isinf()):
            rate[-2] = self._rate_at_ends(self.alpha[-2], self.sigma[-2], one, one)[1]
        return rate

    def _rate_at_ends(
        self, alpha: Tensor, sigma: Tensor, share: Tensor, left: Tensor
    ) -> tuple[Tensor, Tensor]:
        """d lambda / dt in the first cell, a share of it done, and in the last, a part left."""
        if self.path == "vp":
            return -self.T / (share * alpha.square()), -2 * self.T / (left * sigma.square())
        return -2 * self.T / (share * alpha), -2 * self.T / (left * sigma)

    def at(self, k: Tensor | int) -> tuple[Tensor, Tensor]:
        """(alpha, sigma) of table index k = 0..T-1, float64, exactly as tabulated."""
        k = torch.as_tensor(k)
        if k.is_floating_point() or k.dtype == torch.bool:
            raise TypeError(f"an index must be an integer, not {k.dtype}; s(t) takes times")
        if not bool(((k >= 0) & (k < self.T)).all()):
            raise ValueError(f"an index must lie in 0..{self.T - 1}")
        return self.alpha.to(k.device)[k], self.sigma.to(k.device)[k]

    def time_at(self, k: Tensor | int) -> Tensor:
        """The time (k + 1) / T of index k, float64."""
        self.at(k)
        return (torch.as_tensor(k).double() + 1) / self.T

    def index(self, t: Time) -> Tensor:
        """The index nearest to time t; closer to 0 than to the first node: ValueError."""
        k = torch.round(check_time(t).double() * self.T).long() - 1
        if bool((k < 0).any()):
            raise ValueError(f"a time below {0.5 / self.T:g} is clean data and has no index")
        return k

    def __call__(self, t: Time) -> tuple[Tensor, Tensor]:
        """(alpha, sigma) at time t, the table's where t is a node (to rounding)."""
        t = check_time(t)
        position = t.double() * self.T - 1
        cell = position.floor().clamp(0, self.T - 2).long()
        fraction = position - cell
        table = self._logsnr.to(t.device)
        low, high = table[cell], table[cell + 1]
        logsnr = torch.where(high.isinf(), low, low + (high - low) * fraction.clamp(0, 1))
        alpha, sigma = signal_and_noise(logsnr, self.path)
        alpha, sigma = self._towards_data(alpha, sigma, position)
        alpha, sigma = self._towards_zero_signal(alpha, sigma, fraction, high.isinf())
        return alpha.to(t.dtype), sigma.to(t.dtype)

    def _towards_data(
        self, alpha: Tensor, sigma: Tensor, position: Tensor
    ) -> tuple[Tensor, Tensor]:
        share = (position + 1).clamp(0, 1)
        if self.path == "vp":
            variance = share * self.sigma[0].square()
            first = torch.sqrt(1 - variance), torch.sqrt(variance)
        else:
            first = 1 - share * self.sigma[0], share * self.sigma[0]
        return torch.where(position < 0, first[0], alpha), torch.where(
            position < 0, first[1], sigma
        )

    def _towards_zero_signal(
        self, alpha: Tensor, sigma: Tensor, fraction: Tensor, ends: Tensor
    ) -> tuple[Tensor, Tensor]:
        # the last cell of a table with zero terminal SNR: alpha falls linearly, log-SNR cannot
        last = alpha * (1 - fraction)
        rest = torch.sqrt(1 - last.square()) if self.path == "vp" else 1 - last
        return torch.where(ends, last, alpha), torch.where(ends, rest, sigma)

    def logsnr_rate(self, t: Time) -> Tensor:
        """d lambda / dt: central differences at the nodes, linear between them.

        Exact before the first node and before a last node without signal.
        """
        t = check_time(t)
        alpha, sigma = self(t.double())
        position = t.double() * self.T - 1
        cell = position.floor().clamp(0, self.T - 2).long()
        table = self._rate.to(t.device)
        low, high, fraction = table[cell], table[cell + 1], position - cell
        first, last = self._rate_at_ends(alpha, sigma, position + 1, 1 - fraction)
        rate = torch.where(high.isinf(), last, low + (high - low) * fraction)
        return torch.where(position < 0, first, rate).to(t.dtype)

    def time(self, logsnr: Tensor) -> Tensor:
        """The time of a log-SNR; below the last of the table there is none (ValueError)."""
        table = self._logsnr.to(logsnr.device)
        wanted = check_reached(logsnr.double(), float(table[-1]))
        cell = (torch.searchsorted(-table, -wanted) - 1).clamp(0, self.T - 2)
        alpha, sigma = signal_and_noise(wanted, self.path)
        fraction = (wanted - table[cell]) / (table[cell + 1] - table[cell])
        ends = 1 - alpha / self.alpha.to(alpha.device)[cell]
        position = cell + torch.where(table[cell + 1].isinf(), ends, fraction)
        share = sigma / self.sigma[0].to(sigma.device)
        share = share.square() if self.path == "vp" else share
        return (torch.where(wanted > table[0], share, position + 1) / self.T).to(logsnr.dtype)

    def __repr__(self) -> str:
        return f"{self.name}(T={self.T})"


def _check_steps(T: int) -> int:
    if isinstance(T, bool) or not isinstance(T, int) or T < 2:
        raise ValueError(
            f"the number of noise levels T must be an integer of at least 2, got {T!r}"
        )
    return T


def DDPM(T: int = 1000) -> Discrete:
    """The linear-beta table of DDPM: beta from 1e-4 to 0.02 in T equal steps."""
    return Discrete.from_betas(
        torch.linspace(1e-4, 0.02, _check_steps(T), dtype=torch.float64), "DDPM"
    )


def Cosine(T: int = 1000) -> Discrete:
    """The cosine table of IDDPM [P G.1]: abar = f(t)/f(0), f = cos^2((t + .008)/1.008 pi/2).

    No beta exceeds .999.
    """
    t = torch.arange(_check_steps(T) + 1, dtype=torch.float64) / T
    f = torch.cos((t + 0.008) / 1.008 * math.pi / 2).square()
    return Discrete.from_betas((1 - f[1:] / f[:-1]).clamp(max=0.999), "Cosine")


def StableDiffusion(T: int = 1000) -> Discrete:
    """The "scaled linear" table of Stable Diffusion: sqrt(beta) from sqrt(.00085) to sqrt(.012)."""
    root = torch.linspace(0.00085**0.5, 0.012**0.5, _check_steps(T), dtype=torch.float64)
    return Discrete.from_betas(root.square(), "StableDiffusion")


def from_diffusers(scheduler: Any) -> Discrete:
    """The training table of a diffusers scheduler, whatever inference steps are set.

    Schedulers with `alphas_cumprod` (DDPM, DDIM, DPM-Solver, Euler, ...) give a variance-preserving
    table, flow-match ones a linear path with the configured (static) shift. Anything else raises
    TypeError.
    """
    name = type(scheduler).__name__
    if "FlowMatch" in name:
        T, shift = int(scheduler.config.num_train_timesteps), float(scheduler.config.shift)
        if scheduler.config.get("invert_sigmas", False):
            raise TypeError(
                f"{name} with invert_sigmas counts noise backwards and is not supported"
            )
        sigma = torch.arange(1, T + 1, dtype=torch.float64) / T
        if not scheduler.config.get("use_dynamic_shifting", False):
            sigma = shift * sigma / (1 + (shift - 1) * sigma)
        return Discrete(1 - sigma, sigma, "linear", name)
    if scheduler.config.get("use_flow_sigmas", False):
        raise TypeError(
            f"{name} with use_flow_sigmas has no table of its own; give a FlowMatch one"
        )
    if not hasattr(scheduler, "alphas_cumprod"):
        raise TypeError(f"{name} has neither alphas_cumprod nor a flow-match configuration")
    abar = scheduler.alphas_cumprod.double()
    return Discrete(abar.sqrt(), (1 - abar).sqrt(), "vp", name)
