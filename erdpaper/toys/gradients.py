"""What a sample's gradient is made of [P C.2, Prop 3.7].

With r = f - f* and xi = f* - y, the gradient of 1/2 ||f - y||^2 is J^T r + J^T xi: a part that
training can use up and a part, the Bayes noise, whose mean given x_t is 0.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call, vjp, vmap

from erdpaper import targets
from erdpaper.toys.spec import LAW, noisy

_ROWS = 16


class Parts(NamedTuple):
    """Root-mean-square norms over samples of J^T r, J^T xi and their sum, per time (T,)."""

    signal: Tensor
    noise: Tensor
    total: Tensor


def parts(
    model: nn.Module,
    target: str,
    schedule: str,
    times: Tensor,
    samples: int,
    generator: torch.Generator,
) -> Parts:
    """Norms of the two parts of a sample's gradient over all parameters, at times (T,)."""
    rows = []
    for t in times.tolist():
        x, y, bayes = _drawn(target, schedule, t, samples, generator)
        total = torch.zeros(3, dtype=torch.float64)
        # a few samples at a time, for each has as many numbers as the network
        for part in zip(*(z.split(_ROWS) for z in (x, bayes, bayes - y)), strict=True):
            signal, noise = _pulled_back(model, t, *part)
            each = (signal, noise, signal + noise)
            total += torch.stack([g.square().sum(dtype=torch.float64) for g in each])
        rows.append((total / samples).sqrt())
    return Parts(*torch.stack(rows, 1))


def _drawn(
    target: str, schedule: str, t: float, samples: int, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """x_t, y and E[y | x_t], each (N, 2)."""
    alpha, sigma, x0, eps, x = noisy(schedule, t, samples, generator)
    y = targets.get(target).make(x0, eps, alpha, sigma)
    return x, y, LAW.posterior_mean(x, alpha, sigma, target)


def _pulled_back(
    model: nn.Module, t: float, x: Tensor, bayes: Tensor, xi: Tensor
) -> tuple[Tensor, Tensor]:
    """J^T (f - f*) and J^T xi of every sample, (N, P) each."""
    parameters = {name: p.detach() for name, p in model.named_parameters()}
    like = next(iter(parameters.values()))

    def one(point: Tensor, exact: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        def answer(state: dict[str, Tensor]) -> Tensor:
            time = torch.full((1,), t, dtype=point.dtype)
            prediction: Tensor = functional_call(model, state, (point[None], time))[0]
            return prediction

        f, pull, *_ = vjp(answer, parameters)
        signal, forced = (
            torch.cat([g.flatten() for g in pull(part)[0].values()]) for part in (f - exact, noise)
        )
        return signal, forced

    pulled: tuple[Tensor, Tensor] = vmap(one)(x.to(like), bayes.to(like), xi.to(like))
    return pulled


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
