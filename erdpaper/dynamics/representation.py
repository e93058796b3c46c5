"""Gradients of the representation h, the part below the readout f = W h [P Prop 3.7, D.3].

For one sample the gradient that v = r or v = xi sends to the parameters of h is M J_h^T W^T v. Its
squared norm is M^2 v^T K v with K = W J_h J_h^T W^T, (d x d): the diagonal block of the kernel
without what the readout's own parameters add, (||h||^2 + 1) I.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from erdpaper.dynamics.law import Samples
from erdpaper.dynamics.tangent import pull
from erdpaper.dynamics.terms import residual
from erdpaper.models.mlp import MLP, scale_factors
from erdpaper.ntk import diagonal, feature_norms


class Norms(NamedTuple):
    """Norms of every sample's signal, noise and whole gradient of the representation, (N,) each."""

    signal: Tensor
    noise: Tensor
    total: Tensor


def norms(model: MLP, samples: Samples) -> Norms:
    """Norms of M J_h^T W^T v for v = r, xi and r + xi [P 77]."""
    weight, bias = scale_factors(model.readout)
    with torch.no_grad():
        h = model.features(samples.x, samples.t)
        own = (weight * h).square().sum(-1) + bias**2
        identity = torch.eye(model.readout.out_features).to(h)
        K = diagonal(model, (samples.x, samples.t)) - own[:, None, None] * identity
    r = residual(model, samples)

    def norm(v: Tensor) -> Tensor:
        energy = torch.einsum("ni,nij,nj->n", v, K, v).clamp(min=0)
        lengths: Tensor = samples.weight * energy.sqrt()
        return lengths

    return Norms(norm(r), norm(samples.xi), norm(r + samples.xi))


def bound(model: MLP, samples: Samples) -> Tensor:
    """M ||grad h||_F ||W||_op (||r|| + ||xi||), (N,) [P 78]."""
    weight, _ = scale_factors(model.readout)
    with torch.no_grad():
        operator = weight * torch.linalg.matrix_norm(model.readout.weight, 2)
        size = feature_norms(model, (samples.x, samples.t)).sqrt()
    lengths = residual(model, samples).norm(dim=-1) + samples.xi.norm(dim=-1)
    whole: Tensor = samples.weight * size * operator * lengths
    return whole


def batch_norms(model: MLP, samples: Samples) -> tuple[float, float]:
    """Norms of the mean signal and the mean noise gradient of a batch, representation only."""
    weight = samples.weight[:, None] / len(samples.x)
    parts = pull(
        model, samples.x, samples.t, weight * residual(model, samples), weight * samples.xi
    )
    below = sum(p.numel() for p in model.hidden.parameters())
    signal, noise = (float(part[:below].norm()) for part in parts)
    return signal, noise
