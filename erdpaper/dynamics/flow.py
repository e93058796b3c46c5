"""Runs: the stochastic surrogate as an actual path, and the population flow beside it [P C.3].

SGD with a step eta moves training time tau by eta. Samples may be fresh at every step, or held for
a while; held, the path has a limit as eta goes to 0, which is the surrogate [P 41]. With fresh
samples the limit is the population flow, d theta / d tau = - E[M J^T r], which no noise enters.
"""

from collections.abc import Callable, Iterator

import torch
from torch import nn

from erdpaper.dynamics.law import Law, Samples
from erdpaper.dynamics.tangent import move, pullback
from erdpaper.dynamics.terms import Terms, directions, terms

Signal = Callable[[], Samples]


def fresh(law: Law, batch: int, generator: torch.Generator, like: torch.Tensor) -> Signal:
    """A new batch at every step, in the dtype of `like`."""
    return lambda: law.draw(batch, generator).to(like)


def held(signals: list[Samples], steps: int) -> Signal:
    """Each of the batches for so many steps, one after another."""
    queue = iter([signal for signal in signals for _ in range(steps)])
    return lambda: next(queue)


def sgd(
    model: nn.Module, signal: Signal, lr: float, steps: int, levels: Samples, count: int
) -> Iterator[Terms]:
    """Move the model in place by SGD; before every step the terms at `count` joined levels."""
    if steps < 1 or not lr > 0:
        raise ValueError(f"a run needs steps >= 1 and a positive lr, got {steps} and {lr}")
    for _ in range(steps):
        g = directions(model, signal())
        yield terms(model, levels, count, g)
        move(model, g[0] + g[1], -lr)


def descend(model: nn.Module, signal: Signal, lr: float, steps: int) -> None:
    """The same moves without measuring anything."""
    for _ in range(steps):
        batch = signal()
        weight = batch.weight[:, None] / len(batch.x)
        f, back = pullback(model, batch.x, batch.t)
        move(model, back(weight * (f - batch.bayes + batch.xi)), -lr)


def clean(samples: Samples) -> Samples:
    """Samples whose labels are E[y | x], so that their gradient has no noise."""
    return samples._replace(xi=torch.zeros_like(samples.xi))
