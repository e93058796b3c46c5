"""Expectations under a mixture of isotropic Gaussians, each with its own error estimate."""

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor
from torch.quasirandom import SobolEngine

Integrand = Callable[[Tensor], Tensor]

# 7.5 standard deviations leave out a mass of 1e-12; every second node is the coarser rule that
# gauges the error
_REACH, _HALF_NODES, _MOST_NODES = 7.5, 54, 1 << 20
_POINTS, _SCRAMBLES, _BATCH = 1 << 12, 8, 1 << 15


class Component(NamedTuple):
    """One component of the law of x_t: its weight, mean (d,) and standard deviation."""

    weight: float
    mean: Tensor
    std: float


def expectation(parts: Sequence[Component], integrand: Integrand) -> tuple[float, float]:
    """(value, error) of E g(x), g taking points (n, d) to (n,), by the best rule for these parts.

    That is `trapezoid` in one or two dimensions, unless one part is so much wider than another
    that its grid would be too large, and else `quasi_monte_carlo`.
    """
    dim = len(parts[0].mean)
    nodes = [(2 * half + 1) ** dim for half in _half_nodes(parts)] if dim <= 2 else [math.inf]
    rule = trapezoid if max(nodes) <= _MOST_NODES else quasi_monte_carlo
    return rule(parts, integrand)


def trapezoid(parts: Sequence[Component], integrand: Integrand) -> tuple[float, float]:
    """(value, error) by the trapezoidal rule around each component, in one or two dimensions.

    For analytic integrands against a Gaussian the rule converges exponentially in 1 / step
    (Trefethen & Weideman 2014); the error is the distance to the rule with twice the step. The
    step is the same for all components, small enough for the narrowest.
    """
    fine, rough = 0.0, 0.0
    for part, half in zip(parts, _half_nodes(parts), strict=True):
        grid, fine_rule, coarse_rule = _rule(int(half), len(part.mean))
        values = _evaluate(integrand, part.mean + part.std * grid, len(parts))
        fine += part.weight * float(values @ fine_rule)
        rough += part.weight * float(values @ coarse_rule)
    # what lies beyond the reach is seen by neither rule
    return fine, max(abs(fine - rough), 1e-11 * abs(fine))


def quasi_monte_carlo(parts: Sequence[Component], integrand: Integrand) -> tuple[float, float]:
    """(value, standard error) from scrambled Sobol points in any dimension, each time the same."""
    cumulative = torch.tensor([part.weight for part in parts], dtype=torch.float64).cumsum(0)
    means = torch.stack([part.mean for part in parts])
    stds = torch.tensor([part.std for part in parts], dtype=torch.float64)
    replicates = []
    for scramble in range(_SCRAMBLES):
        sobol = SobolEngine(means.shape[1] + 1, scramble=True, seed=scramble)
        # scrambled points can touch 0 and 1, where the normal quantile is infinite
        points = sobol.draw(_POINTS, dtype=torch.float64).clamp(1e-12, 1 - 1e-12)
        k = torch.searchsorted(cumulative[:-1], points[:, 0].contiguous(), right=True)
        x = means[k] + stds[k, None] * torch.special.ndtri(points[:, 1:])
        replicates.append(float(_evaluate(integrand, x, len(parts)).mean()))
    spread = torch.tensor(replicates, dtype=torch.float64)
    return float(spread.mean()), float(spread.std() / _SCRAMBLES**0.5)


def _half_nodes(parts: Sequence[Component]) -> list[float]:
    """Nodes on either side of each component's mean; infinite beside a component of no width."""
    narrowest = min(part.std for part in parts)
    if narrowest == 0:
        return [math.inf]
    return [2.0 * math.ceil(_HALF_NODES / 2 * part.std / narrowest) for part in parts]


@lru_cache(maxsize=8)
def _rule(half: int, dim: int) -> tuple[Tensor, Tensor, Tensor]:
    """Nodes (M, dim) of the standard normal, fine weights (M,) and weights on every second node."""
    line = torch.linspace(-_REACH, _REACH, 2 * half + 1, dtype=torch.float64)
    # counted from the centre, which belongs to both rules
    even = (torch.arange(-half, half + 1) % 2 == 0).double()
    grid = torch.cartesian_prod(*[line] * dim).reshape(-1, dim)
    coarse = torch.cartesian_prod(*[even] * dim).reshape(-1, dim).prod(-1)
    inside = grid.square().sum(-1) <= _REACH**2
    grid, coarse = grid[inside], coarse[inside]
    density = torch.exp(-0.5 * grid.square().sum(-1))
    return grid, density / density.sum(), density * coarse / (density * coarse).sum()


def _evaluate(integrand: Integrand, x: Tensor, components: int) -> Tensor:
    # in batches, for the integrand looks at every pair of a point and a component
    rows = max(1, _BATCH // components)
    return torch.cat([integrand(x[i : i + rows]) for i in range(0, len(x), rows)])
