"""The terms of the excess dynamics at one noise level, for one batch [P Thm 3.3, C.4].

With r = f - E[y | x] at the points of a level, a batch of B samples with weights M_b and the
directions g_r = 1/B sum M_b J_b^T r_b and g_xi = 1/B sum M_b J_b^T xi_b, the excess
lbar = M / 2 E ||r||^2 obeys

    d lbar / d tau = - M E<r, J g_r> - M E<r, J g_xi>  =  - coupling - forcing         [P 4, 46]

where J g_xi = F is what the paper writes M(lambda_tau) Theta(., (x_tau, lambda_tau)) xi_tau.
Expectations are means over the points of the level.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from erdpaper.dynamics.law import Samples
from erdpaper.dynamics.tangent import pullback, pushed


class Terms(NamedTuple):
    """One number per noise level, (L,) each.

    excess lbar, the coupling and the forcing term, the forcing's squared norm E ||F||^2 and that of
    the whole update, E ||J (g_r + g_xi)||^2.
    """

    excess: Tensor
    coupling: Tensor
    forcing: Tensor
    forcing_norm: Tensor
    update_norm: Tensor

    @property
    def slope(self) -> Tensor:
        """d lbar / d tau [P 46]."""
        return -self.coupling - self.forcing


def joined(levels: Sequence[Samples]) -> Samples:
    """Levels of equally many points, one after another, for `terms`."""
    if len({len(level.x) for level in levels}) != 1:
        raise ValueError("noise levels must have equally many points")
    return Samples(*(torch.cat(parts) for parts in zip(*levels, strict=True)))


def residual(model: nn.Module, samples: Samples) -> Tensor:
    """r = f - E[y | x], (N, d)."""
    with torch.no_grad():
        r: Tensor = model(samples.x, samples.t) - samples.bayes
    return r


def directions(model: nn.Module, batch: Samples, r: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """(g_r, g_xi), (P,) each: the two parts of a batch's gradient [P 36]; r as `residual` has it.

    Another r keeps the kernel of this network under the residuals of another.
    """
    f, back = pullback(model, batch.x, batch.t)
    r = f - batch.bayes if r is None else r
    weight = batch.weight[:, None] / len(batch.x)
    return back(weight * r), back(weight * batch.xi)


def excess(model: nn.Module, levels: Samples, count: int) -> Tensor:
    """lbar of `count` joined noise levels, (count,) [P 26]."""
    energy = residual(model, levels).square().sum(-1) * levels.weight
    return energy.view(count, -1).mean(-1) / 2


def terms(
    model: nn.Module,
    levels: Samples,
    count: int,
    g: tuple[Tensor, Tensor],
    r: Tensor | None = None,
) -> Terms:
    """The terms at `count` joined noise levels for a step along the directions g = (g_r, g_xi)."""
    (f, by_r), (_, by_xi) = (pushed(model, levels.x, levels.t, part) for part in g)
    r = f - levels.bayes if r is None else r

    def mean(values: Tensor, weight: Tensor | float = 1.0) -> Tensor:
        return (weight * values.sum(-1)).view(count, -1).mean(-1)

    M = levels.weight
    return Terms(
        mean(r.square(), M / 2),
        mean(r * by_r, M),
        mean(r * by_xi, M),
        mean(by_xi.square()),
        mean((by_r + by_xi).square()),
    )
