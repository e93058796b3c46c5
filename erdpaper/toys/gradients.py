"""What a sample's gradient is made of [P C.2, Prop 3.7].

With r = f - f* and xi = f* - y, the gradient of 1/2 ||f - y||^2 is J^T r + J^T xi: a part that
training can use up and a part, the Bayes noise, whose mean given x_t is 0.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from erdpaper import ntk, targets
from erdpaper.models.mlp import MLP
from erdpaper.toys.spec import LAW, noisy


class Parts(NamedTuple):
    """Root-mean-square norms over samples of J^T r, J^T xi and their sum, per time (T,)."""

    signal: Tensor
    noise: Tensor
    total: Tensor


def parts(
    model: MLP,
    target: str,
    schedule: str,
    times: Tensor,
    samples: int,
    generator: torch.Generator,
) -> Parts:
    """Norms of the two parts of a sample's gradient over all parameters, at times (T,).

    From the blocks of the tangent kernel: ||J^T v||^2 is v^T Theta(x, x) v.
    """
    rows = []
    for t in times.tolist():
        x, y, bayes = _drawn(target, schedule, t, samples, generator)
        like = next(model.parameters())
        x, bayes, xi = x.to(like), bayes.to(like), (bayes - y).to(like)
        with torch.no_grad():
            residual = model(x, torch.full((samples,), t, dtype=x.dtype)) - bayes
        kernel = ntk.diagonal(model, (x, t)).double()
        vectors = torch.stack([residual, xi, residual + xi]).double()
        squares = torch.einsum("pni,nij,pnj->p", vectors, kernel, vectors)
        rows.append((squares / samples).sqrt())
    return Parts(*torch.stack(rows, 1))


def _drawn(
    target: str, schedule: str, t: float, samples: int, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """x_t, y and E[y | x_t], each (N, 2)."""
    alpha, sigma, x0, eps, x = noisy(schedule, t, samples, generator)
    y = targets.get(target).make(x0, eps, alpha, sigma)
    return x, y, LAW.posterior_mean(x, alpha, sigma, target)


def expected(
    model: nn.Module,
    target: str,
    schedule: str,
    times: Tensor,
    samples: int,
    generator: torch.Generator,
) -> Tensor:
    """The mean gradient E[J^T r] at times (T,), from so many samples each, (T, P) float64."""
    parameters = list(model.parameters())
    rows = []
    for t in times.tolist():
        x, _, bayes = _drawn(target, schedule, t, samples, generator)
        x, bayes = x.to(parameters[0]), bayes.to(parameters[0])
        f = model(x, torch.full((samples,), t, dtype=x.dtype))
        half = (f - bayes).square().sum(-1).mean() / 2
        gradient = torch.autograd.grad(half, parameters)
        rows.append(torch.cat([g.flatten() for g in gradient]).double())
    return torch.stack(rows)


def conflicts(first: Tensor, second: Tensor) -> float:
    """The share of pairs of times whose gradients point apart in both of two draws (T, P).

    Directions that are lost in the noise of the draws would point apart in both a quarter of the
    time.
    """
    above = torch.triu_indices(len(first), len(first), 1).unbind()
    apart = [(mean @ mean.T)[above] < 0 for mean in (first, second)]
    return float((apart[0] & apart[1]).double().mean())
