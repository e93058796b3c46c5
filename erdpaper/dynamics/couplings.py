"""What single samples of a batch do to the excess of a noise level [P 5, 46].

With u = M E[J^T r], the gradient of lbar at a level, a sample contributes M_i <J_i u, r_i> to the
coupling and M_i <J_i u, xi_i> to the forcing; a batch contributes the mean over its samples. So
one product per level gives every batch that can be made of a large sample.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from erdpaper.dynamics.law import Samples
from erdpaper.dynamics.tangent import pull, push
from erdpaper.dynamics.terms import residual


class Contributions(NamedTuple):
    """Of every sample to coupling and forcing at a level, (S,) each, and the level's excess, ()."""

    coupling: Tensor
    forcing: Tensor
    excess: Tensor

    @property
    def rate(self) -> tuple[float, float]:
        """The population's coupling over excess, and its standard error."""
        each = self.coupling / self.excess
        return float(each.mean()), float(each.std() / len(each) ** 0.5)


def contributions(model: nn.Module, level: Samples, samples: Samples) -> Contributions:
    """Contributions of samples from all noise levels to one level."""
    r = residual(model, level)
    weight = level.weight[:, None] / len(level.x)
    (u,) = pull(model, level.x, level.t, weight * r)
    moved = push(model, samples.x, samples.t, u)
    coupling = samples.weight * (moved * residual(model, samples)).sum(-1)
    forcing = samples.weight * (moved * samples.xi).sum(-1)
    return Contributions(coupling, forcing, (weight * r.square()).sum() / 2)


def negative_share(
    coupling: Tensor, batch: int, generator: torch.Generator, batches: int = 4_096
) -> float:
    """The share of batches, made of these samples at random, whose coupling is negative."""
    if not 1 <= batch <= len(coupling):
        raise ValueError(f"a batch has 1 to {len(coupling)} of the samples, got {batch}")
    chosen = torch.randint(len(coupling), (batches, batch), generator=generator)
    return float((coupling[chosen].mean(-1) < 0).double().mean())


def far_share(values: Tensor, distance: Tensor, limit: float = 1.0) -> float:
    """The share of a sum of non-negative values (S,) from samples further away than the limit."""
    return float(values[distance.abs() > limit].sum() / values.sum())
