"""The flow of densities behind the probability-flow ODE [T 2.39-2.41], on exact laws.

The forward process dx = f x dt + g dW [T 2.39] with f = alpha' / alpha and
``g^2 = sigma^2 |d lambda / dt|`` has densities q that obey the Fokker-Planck equation. Written as
a continuity equation,

    d/dt log q + div v + v . grad log q = 0,        v = f x - (1/2) g^2 grad log q,

so that a point that moves with v, without noise, has the law q at all times [T 2.41]: the 1/2 comes
from the second derivative in Fokker-Planck. Along such a path d/dt log q(x(t), t) = -div v.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from erdpaper.posterior import Posterior
from erdpaper.sampling import Denoiser, Prediction
from erdpaper.schedules import Schedule

LogDensity = Callable[[Tensor], Tensor]


class Continuity(NamedTuple):
    """d/dt log q, div v and v . grad log q at points, (N,) each; for the true flow the sum is 0."""

    rate: Tensor
    divergence: Tensor
    carried: Tensor


def continuity(
    law: Posterior, schedule: Schedule, x: Tensor, t: float, factor: float = 0.5
) -> Continuity:
    """The parts of the continuity equation for v = f x - factor g^2 grad log q at points (N, d).

    Only log q is asked for; all its derivatives are automatic.
    """
    time = torch.full((len(x),), t, dtype=torch.float64, requires_grad=True)
    x = x.detach().double().requires_grad_()
    log_q = law.log_density(x, *schedule(time))
    score, rate = torch.autograd.grad(log_q.sum(), (x, time), create_graph=True)
    alpha, sigma = schedule(t)
    drift = schedule.rates(t)[0] / alpha
    g2 = sigma.square() * schedule.logsnr_rate(t).abs()
    v = drift * x - factor * g2 * score
    return Continuity(rate.detach(), _divergence(v, x), (v * score).sum(-1).detach())


def _divergence(v: Tensor, x: Tensor) -> Tensor:
    """div v at points (N, d), (N,); v must be a function of x row by row."""
    directions = torch.eye(x.shape[1], dtype=x.dtype)[:, None].expand(-1, len(x), -1)  # (d, N, d)
    (rows,) = torch.autograd.grad(v, x, directions, is_grads_batched=True)  # (d, N, d)
    return torch.diagonal(rows, dim1=0, dim2=2).sum(-1)


def with_factor(denoise: Denoiser, schedule: Schedule, factor: float) -> Denoiser:
    """The denoiser that makes an ODE solver follow f x - factor g^2 score; 1/2 changes nothing."""

    def scaled(x: Tensor, t: float) -> Prediction:
        alpha, sigma = schedule(t)
        eps = 2 * factor * denoise(x, t).eps
        return Prediction((x - sigma * eps) / alpha, eps)

    return scaled


def standard_normal(x: Tensor) -> Tensor:
    """log N(x; 0, I) of points (N, d), (N,)."""
    return -0.5 * (x.square() + math.log(2 * math.pi)).sum(-1)


def log_likelihood(
    denoise: Denoiser,
    x: Tensor,
    schedule: Schedule,
    t: float,
    steps: int,
    last: float = 1.0,
    terminal: LogDensity = standard_normal,
) -> Tensor:
    """log q(x_t) of points (N, d) in nats, (N,), by following the flow to a time `last` [T 2.2.1].

    In X = x / alpha and u = log(sigma / alpha) the flow is dX/du = (sigma / alpha) eps, so

        log q(x_t) = log terminal(x_last) + d log(alpha_last / alpha_t) + int div (dX/du) du.

    `steps` Runge-Kutta steps of order four, equal in u; the divergence is exact, from d backward
    passes, so the denoiser must be differentiable. alpha > 0 at `last` (ValueError otherwise).
    """
    if not 0 < t < last <= 1 or steps < 1:
        raise ValueError(f"need 0 < t < last <= 1 and steps >= 1, got {t}, {last} and {steps}")
    alphas = [float(schedule(time)[0]) for time in (t, last)]
    if alphas[1] == 0:
        raise ValueError("the flow in x / alpha ends where alpha = 0: choose an earlier last time")
    ends = [-schedule.logsnr(time).item() / 2 for time in (t, last)]

    def speed(X: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        """(dX/du, its divergence)."""
        time = float(schedule.time(-2 * u).clamp(max=last))
        alpha = float(schedule(time)[0])
        with torch.enable_grad():
            X = X.detach().requires_grad_()
            moved = u.exp() * denoise(alpha * X, time).eps
            return moved.detach(), _divergence(moved, X)

    X = x.detach().double() / alphas[0]
    gained = X.new_zeros(len(X))
    grid = torch.linspace(ends[0], ends[1], steps + 1, dtype=torch.float64)
    for u, h in zip(grid[:-1], grid.diff(), strict=True):
        k1, d1 = speed(X, u)
        k2, d2 = speed(X + h / 2 * k1, u + h / 2)
        k3, d3 = speed(X + h / 2 * k2, u + h / 2)
        k4, d4 = speed(X + h * k3, u + h)
        X = X + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        gained = gained + h / 6 * (d1 + 2 * d2 + 2 * d3 + d4)
    return terminal(alphas[1] * X) + X.shape[1] * math.log(alphas[1] / alphas[0]) + gained
