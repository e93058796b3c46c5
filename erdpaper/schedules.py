"""Noise schedules: how much signal and how much noise there is at time t.

Convention: x_t = alpha(t) x_0 + sigma(t) eps, t in [0, 1], s(0) = (1, 0); the log-SNR
lambda = log(alpha^2 / sigma^2) falls from +inf at t = 0. A schedule is called as
``alpha, sigma = s(t)`` and returns nothing else [P 2.1, F.1].

A discrete schedule is a table of T noise levels. Index k = 0..T-1 stands at t = (k + 1) / T;
between two nodes the log-SNR is interpolated linearly. Where it is infinite at one end it cannot
be: between t = 0 and the first node sigma^2 (linear path: sigma) grows linearly, and before a last
node without signal alpha falls linearly.
"""

import math
from abc import ABC, abstractmethod
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

Path = Literal["vp", "linear"]
Time = Tensor | float


def _time(t: Time) -> Tensor:
    """t as a floating tensor (float64 for a plain number), checked to lie in [0, 1]."""
    t = t if isinstance(t, Tensor) else torch.tensor(t, dtype=torch.float64)
    if not t.is_floating_point():
        raise TypeError(f"a time must be a floating-point number, not {t.dtype}")
    if not bool(((t >= 0) & (t <= 1)).all()):
        raise ValueError("time must lie in [0, 1]: 0 is clean data, 1 is noise")
    return t


def _reached(logsnr: Tensor, last: float) -> Tensor:
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

    def snr(self, t: Time) -> Tensor:
        """alpha^2 / sigma^2 at time t; inf where sigma is 0."""
        alpha, sigma = self(t)
        return (alpha / sigma).square()

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


class Linear(Schedule):
    """alpha = 1 - t, sigma = t: the straight path of flow matching [P F.1]."""

    path: Path = "linear"

    def __call__(self, t: Time) -> tuple[Tensor, Tensor]:
        """(1 - t, t)."""
        t = _time(t)
        return 1 - t, t.clone()

    def logsnr_rate(self, t: Time) -> Tensor:
        """-2 / (t (1 - t))."""
        t = _time(t)
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
        integral = self._integral(_time(t))
        return torch.exp(-integral / 2), torch.sqrt(-torch.expm1(-integral))

    def logsnr(self, t: Time) -> Tensor:
        """-log(exp(B) - 1), exact also where alpha or sigma rounds to 1."""
        return logsnr_from_ou_time(self._integral(_time(t)) / 2)

    def logsnr_rate(self, t: Time) -> Tensor:
        """-B' / (1 - exp(-B))."""
        t = _time(t)
        beta = self.beta_min + (self.beta_max - self.beta_min) * t
        return beta / torch.expm1(-self._integral(t))

    def time(self, logsnr: Tensor) -> Tensor:
        """The root of B(t) = log(1 + exp(-lambda)); below lambda(1) there is none (ValueError)."""
        logsnr = _reached(logsnr, float(self.logsnr(1.0)))
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
        t = _time(t)
        # cos written as a sine of 1 - t, so that alpha is exactly 0 at t = 1
        return torch.sin(math.pi / 2 * (1 - t)), torch.sin(math.pi / 2 * t)

    def logsnr_rate(self, t: Time) -> Tensor:
        """-pi / (alpha sigma)."""
        alpha, sigma = self(t)
        return -math.pi / (alpha * sigma)

    def time(self, logsnr: Tensor) -> Tensor:
        """2 / pi atan(exp(-lambda / 2))."""
        return 2 / math.pi * torch.atan(torch.exp(-logsnr / 2))


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
        k = torch.round(_time(t).double() * self.T).long() - 1
        if bool((k < 0).any()):
            raise ValueError(f"a time below {0.5 / self.T:g} is clean data and has no index")
        return k

    def __call__(self, t: Time) -> tuple[Tensor, Tensor]:
        """(alpha, sigma) at time t, the table's where t is a node (to rounding)."""
        t = _time(t)
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
        t = _time(t)
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
        wanted = _reached(logsnr.double(), float(table[-1]))
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
