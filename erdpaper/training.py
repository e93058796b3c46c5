"""The training loop: batches of noisy data in, a small record after every step out.

For data x_0, noise eps and times t, a batch holds x_t = alpha x_0 + sigma eps, the target
y = c_x x_0 + c_eps eps and the weight w(t); a step lowers

    mean over the batch of w(t) ||f(x_t, t) - y||^2 / D                                    [P 1]

(D coordinates) by Adam. `train` is a generator: whoever drives it decides when to look at the
network, and the same loop serves one network or a stack of independent ones (`models.Stack`),
whose batches carry a leading axis of networks.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from erdpaper.schedules import Discrete, Schedule
from erdpaper.targets import Target, expand, get

Decay = Literal["constant", "cosine"]
# how often the loss is looked at, which a GPU has to wait for
_CHECK_EVERY = 50
_CDF_NODES = 4097


class TrainingError(RuntimeError):
    """Training cannot go on; the message says at which step and why."""


class Batch(NamedTuple):
    """x_t (..., N, D...), t (..., N), y like x_t, weight (..., N); ... is an axis of networks."""

    x: Tensor
    t: Tensor
    y: Tensor
    weight: Tensor


class Record(NamedTuple):
    """After a step: how many are done, the loss before it, () or (K,), and its learning rate."""

    step: int
    loss: Tensor
    lr: float


Draw = Callable[[], Batch]
Data = Callable[[int, torch.Generator], Tensor]
TimeMap = Callable[[Tensor], Tensor]


def uniform_times(low: float = 0.0, high: float = 1.0) -> TimeMap:
    """Uniform numbers in [0, 1) -> t, uniform in [low, high)."""
    if not 0 <= low < high <= 1:
        raise ValueError(f"times need 0 <= low < high <= 1, got {low} and {high}")
    return lambda u: low + (high - low) * u


def density_times(weight: Callable[[Tensor], Tensor]) -> TimeMap:
    """Uniform numbers in [0, 1) -> t with a density proportional to weight(t).

    The inverse distribution function is linear between the quantiles of a fine grid. Drawing t so
    and weighting by 1 has the same expected gradient as drawing t uniformly and weighting by
    `weight`, and another variance.
    """
    edges = torch.linspace(0, 1, _CDF_NODES, dtype=torch.float64)
    mass = weight((edges[1:] + edges[:-1]) / 2)
    if not bool(((mass >= 0) & mass.isfinite()).all()) or float(mass.sum()) <= 0:
        raise ValueError("a density of t must be finite, at least 0 and not 0 everywhere")
    cumulated = torch.cat([mass.new_zeros(1), mass.cumsum(0) / mass.sum()])

    def times(u: Tensor) -> Tensor:
        cell = (torch.searchsorted(cumulated, u.double(), right=True) - 1).clamp(max=len(mass) - 1)
        share = (u - cumulated[cell]) / (cumulated[cell + 1] - cumulated[cell])
        return edges[cell] + share * (edges[cell + 1] - edges[cell])

    return times


def unweighted(t: Tensor) -> Tensor:
    """1 at every time."""
    return torch.ones_like(t)


EVERY_TIME = uniform_times()


@dataclass(frozen=True)
class Objective:
    """What is asked of the network: a target, on a schedule, at which times, with which weight.

    `weight` maps t (N,) to (N,), for instance `weights.normalised(...)`; `times` maps uniform
    numbers to t. On a discrete schedule t is moved up to the next node of its table.
    """

    schedule: Schedule
    target: str | Target
    weight: Callable[[Tensor], Tensor] = unweighted
    times: TimeMap = EVERY_TIME

    def batch(self, x0: Tensor, generator: torch.Generator) -> Batch:
        """One draw of times and noise for data x0 (N, D...), in its dtype and on its device."""
        t = self.times(torch.rand(len(x0), generator=generator, dtype=torch.float64))
        if isinstance(self.schedule, Discrete):
            t = ((t * self.schedule.T).floor() + 1).clamp(max=self.schedule.T) / self.schedule.T
        eps = torch.randn(x0.shape, generator=generator, dtype=x0.dtype).to(x0.device)
        alpha, sigma = self.schedule(t)
        y = get(self.target).make(x0, eps, alpha.to(x0), sigma.to(x0))
        x = expand(alpha, x0) * x0 + expand(sigma, x0) * eps
        return Batch(x, t.to(x0), y, self.weight(t).to(x0))

    def draw(
        self,
        data: Data,
        size: int,
        generator: torch.Generator,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> Draw:
        """Batch after batch of `size` points from data(n, generator), drawn on the CPU."""
        if size < 1:
            raise ValueError(f"a batch needs at least one sample, got {size}")
        return lambda: self.batch(data(size, generator).to(device, dtype), generator)


def together(draws: Sequence[Draw]) -> Draw:
    """The batches of K independent draws on a leading axis, for a stack of K networks."""
    return lambda: Batch(*map(torch.stack, zip(*[draw() for draw in draws], strict=True)))


def averaged(model: nn.Module, decay: float) -> AveragedModel:
    """An exponential moving average of a network, called like it; `train` keeps it up to date."""
    if not 0 < decay < 1:
        raise ValueError(f"the decay of a moving average must lie between 0 and 1, got {decay}")
    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay))


def loss_of(model: nn.Module, batch: Batch) -> Tensor:
    """The weighted mean squared error [P 1], one number per network: () or (K,)."""
    error = (model(batch.x, batch.t) - batch.y).square()
    per_sample = error.flatten(batch.t.ndim).mean(-1)
    loss: Tensor = (batch.weight * per_sample).mean(-1)
    return loss


def train(
    model: nn.Module,
    draw: Draw,
    steps: int,
    lr: float = 1e-3,
    decay: Decay = "constant",
    average: AveragedModel | None = None,
) -> Iterator[Record]:
    """Train a network, or a stack of them, in place by Adam; one record after every step.

    decay "cosine" lets the learning rate fall to 0 along a half cosine. A loss that is not finite
    raises TrainingError with its step, within 50 steps.
    """
    if steps < 1 or not 0 < lr < math.inf:
        raise ValueError(f"training needs steps >= 1 and a positive lr, got {steps} and {lr}")
    if decay not in ("constant", "cosine"):
        raise ValueError(f"decay must be 'constant' or 'cosine', got {decay!r}")
    optimiser = torch.optim.Adam(model.parameters(), lr=lr, fused=True)
    falling = CosineAnnealingLR(optimiser, steps) if decay == "cosine" else None
    return _steps(model, draw, steps, optimiser, falling, average)


def _steps(
    model: nn.Module,
    draw: Draw,
    steps: int,
    optimiser: torch.optim.Optimizer,
    falling: LRScheduler | None,
    average: AveragedModel | None,
) -> Iterator[Record]:
    for step in range(1, steps + 1):
        rate = float(optimiser.param_groups[0]["lr"])
        optimiser.zero_grad()
        loss = loss_of(model, draw())
        # networks of a stack share no parameter, so the sum trains each by its own loss
        torch.autograd.backward(loss.sum())
        optimiser.step()
        if falling is not None:
            falling.step()
        if average is not None:
            average.update_parameters(model)
        if (step % _CHECK_EVERY == 0 or step == steps) and not bool(loss.isfinite().all()):
            raise TrainingError(f"the loss is not finite at step {step}; try a lower learning rate")
        yield Record(step, loss.detach(), rate)
