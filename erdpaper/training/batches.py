"""Batches of noisy data: what the network is shown, what is asked of it, and with which weight.

For data x_0, noise eps and times t, a batch holds x_t = alpha x_0 + sigma eps, the target
y = c_x x_0 + c_eps eps and the weight w(t); the loss of a batch is

    mean over the batch of w(t) ||f(x_t, t) - y||^2 / D                                    [P 1]

with D coordinates. Batches of a stack of networks (`models.Stack`) have a leading axis of networks.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from erdpaper.schedules import Discrete, Schedule
from erdpaper.targets import Target, expand, get
from erdpaper.training.truncation import SoftTruncation

_CDF_NODES = 4097


class Batch(NamedTuple):
    """x_t (..., N, D...), t (..., N), y like x_t, weight (..., N); ... is an axis of networks.

    label (..., N) is None where the network is shown none.
    """

    x: Tensor
    t: Tensor
    y: Tensor
    weight: Tensor
    label: Tensor | None = None


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
    numbers to t. On a discrete schedule t is moved up to the next node of its table. `stratified`
    puts one of the N uniform numbers of a batch into each N-th of [0, 1), for data in random order.
    `truncation` draws the times instead of `times`, from a smallest one that each batch has anew,
    and multiplies the weight; both together raise ValueError.
    """

    schedule: Schedule
    target: str | Target
    weight: Callable[[Tensor], Tensor] = unweighted
    times: TimeMap = EVERY_TIME
    stratified: bool = False
    truncation: SoftTruncation | None = None

    def __post_init__(self) -> None:
        if self.truncation is not None and self.times is not EVERY_TIME:
            raise ValueError("give `times` or a truncation, not both: each draws the times")

    def batch(self, x0: Tensor, generator: torch.Generator, label: Tensor | None = None) -> Batch:
        """One draw of times and noise for data x0 (N, D...), in its dtype and on its device."""
        u = torch.rand(len(x0), generator=generator, dtype=torch.float64)
        if self.stratified:
            u = (torch.arange(len(x0), dtype=torch.float64) + u) / len(x0)
        eps = torch.randn(x0.shape, generator=generator, dtype=x0.dtype).to(x0.device)
        t, factor = self._times(u, generator)
        if isinstance(self.schedule, Discrete):
            t = ((t * self.schedule.T).floor() + 1).clamp(max=self.schedule.T) / self.schedule.T
        alpha, sigma = self.schedule(t)
        y = get(self.target).make(x0, eps, alpha.to(x0), sigma.to(x0))
        x = expand(alpha, x0) * x0 + expand(sigma, x0) * eps
        return Batch(x, t.to(x0), y, (factor * self.weight(t)).to(x0), label)

    def _times(self, u: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        if self.truncation is None:
            return self.times(u), torch.ones_like(u)
        # drawn last, so that the noise of a seed stays that of other objectives
        number = torch.rand((), generator=generator, dtype=torch.float64)
        return self.truncation.draw(u, self.truncation.start(number))

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
    """Batches of K independent draws on a leading axis, for K networks; all with labels or none."""

    def draw() -> Batch:
        batches = [one() for one in draws]
        x, t, y, weight = map(torch.stack, zip(*[batch[:4] for batch in batches], strict=True))
        labels = [batch.label for batch in batches if batch.label is not None]
        return Batch(x, t, y, weight, torch.stack(labels) if labels else None)

    return draw


def loss_of(model: nn.Module, batch: Batch) -> Tensor:
    """The weighted mean squared error [P 1], one number per network: () or (K,)."""
    loss: Tensor = (batch.weight * squared_error(model, batch)).mean(-1)
    return loss


def squared_error(model: nn.Module, batch: Batch) -> Tensor:
    """The unweighted squared error of each sample, its mean over coordinates: (..., N)."""
    labels = () if batch.label is None else (batch.label,)
    error: Tensor = (model(batch.x, batch.t, *labels) - batch.y).square()
    return error.flatten(batch.t.ndim).mean(-1)
