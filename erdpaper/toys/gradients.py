"""What a sample's gradient is made of [P C.2, Prop 3.7].

With r = f - f* and xi = f* - y, the gradient of 1/2 ||f - y||^2 is J^T r + J^T xi: a part that
training can use up and a part, the Bayes noise, whose mean given x_t is 0.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call, vjp, vmap

from erdpaper import targets
from erdpaper.toys.spec import LAW, SCHEDULES


class Parts(NamedTuple):
    """Per time: root-mean-square norms over samples (T,), and the mean gradients (T, P)."""

    signal: Tensor
    noise: Tensor
    total: Tensor
    mean: Tensor


def parts(
    model: nn.Module,
    target: str,
    schedule: str,
    times: Tensor,
    samples: int,
    generator: torch.Generator,
) -> Parts:
    """Norms of the two parts of a sample's gradient over all parameters, at times (T,).

    `mean` is that of J^T r alone, since the mean of the other part is 0.
    """
    rows = []
    for t in times.tolist():
        alpha, sigma = SCHEDULES[schedule](t)
        x0 = LAW.sample(samples, generator)
        eps = torch.randn(x0.shape, generator=generator, dtype=x0.dtype)
        x, y = alpha * x0 + sigma * eps, targets.get(target).make(x0, eps, alpha, sigma)
        bayes = LAW.posterior_mean(x, alpha, sigma, target)
        signal, noise = _pulled_back(model, x, t, bayes, bayes - y)
        norms = [g.double().square().sum(-1).mean().sqrt() for g in (signal, noise, signal + noise)]
        rows.append((*norms, signal.mean(0)))
    return Parts(*(torch.stack(column) for column in zip(*rows, strict=True)))


def _pulled_back(
    model: nn.Module, x: Tensor, t: float, bayes: Tensor, xi: Tensor
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


def conflicts(mean: Tensor) -> float:
    """The share of pairs of times whose mean gradients (T, P) have a negative inner product."""
    products = mean.double() @ mean.double().T
    above = torch.triu_indices(len(mean), len(mean), 1)
    return float((products[above[0], above[1]] < 0).double().mean())
