"""Products with a network's Jacobian J (N d x P), which is never formed.

A direction is one vector of all parameters, (P,). Kernel actions are two products:
Theta v = J (J'^T v) [P 2].
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.func import functional_call, jvp, vjp


def state(model: nn.Module) -> dict[str, Tensor]:
    """The parameters of a model by name, detached."""
    return {name: p.detach() for name, p in model.named_parameters()}


def pullback(model: nn.Module, x: Tensor, t: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """f at the points, (N, d), and what makes a direction sum_i J_i^T v_i, (P,), of v (N, d)."""
    f, transposed, *_ = vjp(lambda now: functional_call(model, now, (x, t)), state(model))
    return f, lambda v: torch.cat([part.flatten() for part in transposed(v)[0].values()])


def pull(model: nn.Module, x: Tensor, t: Tensor, *cotangents: Tensor) -> tuple[Tensor, ...]:
    """sum_i J_i^T v_i for each set of cotangents v (N, d): directions (P,)."""
    _, back = pullback(model, x, t)
    return tuple(back(v) for v in cotangents)


def pushed(model: nn.Module, x: Tensor, t: Tensor, direction: Tensor) -> tuple[Tensor, Tensor]:
    """f at the points, (N, d), and J_i direction, (N, d): how f moves along a direction (P,)."""
    now = state(model)
    parts = direction.split([p.numel() for p in now.values()])
    tangent = {name: part.view_as(now[name]) for name, part in zip(now, parts, strict=True)}
    f, moved, *_ = jvp(lambda p: functional_call(model, p, (x, t)), (now,), (tangent,))
    return f, moved


def push(model: nn.Module, x: Tensor, t: Tensor, direction: Tensor) -> Tensor:
    """J_i direction at every point, (N, d)."""
    return pushed(model, x, t, direction)[1]


@torch.no_grad()
def move(model: nn.Module, direction: Tensor, by: float) -> None:
    """Add `by` times a direction (P,) to the parameters, in place."""
    parts = direction.split([p.numel() for p in model.parameters()])
    for p, part in zip(model.parameters(), parts, strict=True):
        p.add_(part.view_as(p), alpha=by)
