"""The paper's exact statements about one instant of training, held against finite differences.

The left sides are differences of a network's outputs along its own gradient, which automatic
differentiation gives; the right sides are sums over kernel blocks in closed form. The two share no
code. float64, the paper's network at its initialisation.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.func import functional_call, grad, jacrev

from erdpaper.dynamics import flow, tangent, terms
from erdpaper.dynamics.law import Law, Samples
from erdpaper.models.mlp import MLP
from erdpaper.ntk import layerwise
from erdpaper.toys.spec import LAW, SCHEDULES, Toy

LEVELS = (-4.0, 0.0, 4.0)
POINTS, POPULATION = 64, 256


class Errors(NamedTuple):
    """Relative errors of forward and of central differences, one per step."""

    forward: list[float]
    central: list[float]


def difference_errors(
    model: MLP,
    direction: Tensor,
    quantity: Callable[[MLP], Tensor],
    expected: Tensor,
    scale: Tensor,
    steps: Sequence[float],
) -> Errors:
    """Differences of a quantity along a direction against an expected derivative, over a scale."""
    here = quantity(model)
    found = Errors([], [])
    for step in steps:
        sides = []
        for sign in (1, -1):
            tangent.move(model, direction, sign * step)
            sides.append(quantity(model))
            tangent.move(model, direction, -sign * step)
        for errors, slope in (
            (found.forward, (sides[0] - here) / step),
            (found.central, (sides[0] - sides[1]) / (2 * step)),
        ):
            errors.append(float(((slope - expected).abs() / scale).max()))
    return found


def _start(target: str) -> tuple[MLP, Law]:
    return Toy(target, "VP").network().double(), Law(LAW, SCHEDULES["VP"], target)


def joint(steps: Sequence[float], noisy: bool, generator: torch.Generator) -> Errors:
    """[P 18] for the flow of 1/2 E ||f - y||^2 on 256 points, x0 as target, with either labels.

    The labels are the data, or E[y | x], a function of x as the proposition writes them.
    """
    model, law = _start("x0")
    data = law.draw(POPULATION, generator)
    data = data._replace(weight=torch.ones_like(data.weight))
    data = data if noisy else flow.clean(data)
    e = terms.residual(model, data) + data.xi
    kernel = layerwise(model, (data.x, data.t))
    drift = -torch.einsum("nmde,me->nd", kernel, e) / POPULATION
    signal, noise = terms.directions(model, data)

    def residuals(network: MLP) -> Tensor:
        return terms.residual(network, data) + data.xi

    return difference_errors(model, -(signal + noise), residuals, drift, drift.abs().max(), steps)


class Surrogate(NamedTuple):
    """Errors of [P 45] and [P 46] along one step of SGD with one sample."""

    residual: Errors
    excess: Errors


def surrogate(target: str, steps: Sequence[float], generator: torch.Generator) -> Surrogate:
    """[P 45] and [P 46] at three noise levels, 64 points each, for a batch of one sample."""
    model, law = _start(target)
    levels = terms.joined([law.at(level, POINTS, generator) for level in LEVELS])
    sample = law.draw(1, generator)
    kernel = layerwise(model, (levels.x, levels.t), (sample.x, sample.t))[:, 0] * sample.weight
    r_tau = terms.residual(model, sample)[0]
    contraction, forcing = kernel @ r_tau, kernel @ sample.xi[0]
    r = terms.residual(model, levels)

    def term(moved: Tensor) -> Tensor:
        each = levels.weight * (r * moved).sum(-1)
        return each.view(len(LEVELS), -1).mean(-1)

    coupling, forced = term(contraction), term(forcing)
    direction = -(_gradient(model, sample))
    drift = -(contraction + forcing)
    return Surrogate(
        difference_errors(
            model,
            direction,
            lambda net: terms.residual(net, levels),
            drift,
            drift.abs().max(),
            steps,
        ),
        difference_errors(
            model,
            direction,
            lambda net: terms.excess(net, levels, len(LEVELS)),
            -coupling - forced,
            coupling.abs() + forced.abs(),
            steps,
        ),
    )


def _gradient(model: MLP, samples: Samples) -> Tensor:
    """The gradient of the sampled loss [P 35], by automatic differentiation of that loss."""
    y = samples.bayes - samples.xi

    def loss(state: dict[str, Tensor]) -> Tensor:
        f = functional_call(model, state, (samples.x, samples.t))
        half: Tensor = ((f - y).square().sum(-1) * samples.weight / 2).mean()
        return half

    return torch.cat([part.flatten() for part in grad(loss)(tangent.state(model)).values()])


def split_error(model: MLP, samples: Samples, representation: bool = False) -> float:
    """How far the sampled gradient is from M J^T r + M J^T xi with explicit Jacobians [P 36, 77].

    With `representation` J is W (d h / d parameters of h), and only those parameters count.
    """
    below = sum(p.numel() for p in model.hidden.parameters())
    J = _jacobian(model, samples, representation)
    r = terms.residual(model, samples)
    weight = samples.weight / len(samples.x)
    parts = [torch.einsum("n,ndp,nd->p", weight, J, v) for v in (r, samples.xi)]
    whole = _gradient(model, samples)
    whole = whole[:below] if representation else whole
    return float((whole - parts[0] - parts[1]).norm() / whole.norm())


def _jacobian(model: MLP, samples: Samples, representation: bool) -> Tensor:
    state = tangent.state(model)
    if not representation:
        found = jacrev(lambda p: functional_call(model, p, (samples.x, samples.t)))(state)
        return torch.cat([part.flatten(2) for part in found.values()], -1)
    hidden = {name: p for name, p in state.items() if name.startswith("hidden")}
    readout = model.readout.weight.detach()
    rows = []
    # one point at a time: the features have as many Jacobians as they are wide
    for x, t in zip(samples.x, samples.t, strict=True):

        def features(p: dict[str, Tensor], x: Tensor = x, t: Tensor = t) -> Tensor:
            full = state | p
            h: Tensor = functional_call(_Features(model), _prefixed(full), (x[None], t[None]))[0]
            return h

        found = jacrev(features)(hidden)
        rows.append(readout @ torch.cat([part.flatten(1) for part in found.values()], -1))
    return torch.stack(rows)


class _Features(torch.nn.Module):
    """The part of a network below its readout, as a module of its own."""

    def __init__(self, network: MLP) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.network.features(x, t)


def _prefixed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"network.{name}": value for name, value in state.items()}


def order(steps: Sequence[float], errors: Sequence[float]) -> float:
    """The slope of log error against log step, by least squares."""
    return float(np.polyfit(np.log(steps), np.log(errors), 1)[0])
