"""The kernel of the paper's network in closed form, without a Jacobian.

A layer z_l = w_l W_l a_(l-1) + b_l c_l (weights W, biases c, fixed factors w, b) has the Jacobian
B_l (w_l a_(l-1), b_l), B_l = d f / d z_l, so that

    Theta = sum over layers of (w_l^2 a_(l-1) . a'_(l-1) + b_l^2) B_l B'_l^T,

with B_readout = I and B_l = B_(l+1) w_(l+1) W_(l+1) diag(silu'(z_l)) below it. That is 2 N M n d^2
operations for a layer of n units in place of 2 N M n^2 d^2.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from erdpaper.models.mlp import MLP, scale_factors
from erdpaper.ntk.points import Points, both, checked, tiled

_CHUNK = 512  # points a side of a tile: products large enough, tiles that stay in cache
_FEATURE_CHUNK = 8  # points whose width x width matrices are held at once, and stay in cache


class _Layer(NamedTuple):
    """What a layer adds to the kernel: a (N, n_(l-1)), B (N, d, n_l), w_l^2 and b_l^2."""

    a: Tensor
    B: Tensor
    weight: float
    bias: float


def layerwise(model: MLP, first: Points, second: Points | None = None) -> Tensor:
    """Theta between two sets of points, (N, M, d, d), for the paper's network [P 2, 14].

    Without `second` it is between all pairs of `first`; with many points that is half of the work.
    TypeError if the model is no `models.mlp.MLP`; ValueError on bad points. The kernel has the
    model's dtype and device and does not track gradients.
    """
    _known(model)
    rows, columns = both(model, first, second)
    return tiled(lambda points: list(_sweep(model, *points)), _pairs, rows, columns, _CHUNK)


def diagonal(model: MLP, points: Points) -> Tensor:
    """The blocks Theta(point i, point i) alone, (N, d, d); arguments and errors as `layerwise`."""
    _known(model)
    blocks = []
    for x, t in zip(*(part.split(_CHUNK) for part in checked(model, points)), strict=True):
        layers = _sweep(model, x, t)
        parts = [_squares(p)[:, None, None] * (p.B @ p.B.mT) for p in layers]
        blocks.append(torch.stack(parts).sum(0))
    return torch.cat(blocks)


def feature_norms(model: MLP, points: Points) -> Tensor:
    """||d h / d hidden parameters||_F^2 at every point, (N,), h the features [P 78, D.3].

    Errors as `layerwise`.
    """
    _known(model)
    norms = []
    for x, t in zip(*(part.split(_FEATURE_CHUNK) for part in checked(model, points)), strict=True):
        layers = _sweep(model, x, t, readout=False)
        parts = [_squares(p) * p.B.square().sum((1, 2)) for p in layers]
        norms.append(torch.stack(parts).sum(0))
    return torch.cat(norms)


def _known(model: nn.Module) -> None:
    if not isinstance(model, MLP):
        raise TypeError(
            f"the closed form knows models.mlp.MLP only, not {type(model).__name__}; use empirical"
        )


@torch.no_grad()
def _sweep(model: MLP, x: Tensor, t: Tensor, readout: bool = True) -> Iterator[_Layer]:
    """Every layer's part, from the last layer down: one pass up, one down.

    Without the readout it is the features, d = width, whose layers are swept.
    """
    hidden: list[nn.Linear] = list(model.hidden)  # type: ignore[arg-type]
    entering, slopes = [model.inputs(x, t)], []
    for layer in hidden:
        z = layer(entering[-1])  # (N, width)
        gate = z.sigmoid()
        entering.append(z * gate)
        slopes.append(gate * (1 + z * (1 - gate)))  # silu'(z)

    if readout:
        weight, bias = scale_factors(model.readout)
        d = model.readout.out_features
        identity = torch.eye(d, dtype=x.dtype, device=x.device).expand(len(x), d, d)
        yield _Layer(entering[-1], identity, weight**2, bias**2)
        B = (weight * model.readout.weight) * slopes[-1][:, None]  # (N, d, width)
    else:
        B = slopes[-1].diag_embed()  # (N, width, width)
    for k in reversed(range(len(hidden))):
        weight, bias = scale_factors(hidden[k])
        yield _Layer(entering[k], B, weight**2, bias**2)
        if k:
            W = weight * hidden[k].weight
            # of the features a diagonal one, which needs no product
            diagonal = not readout and k == len(hidden) - 1
            B = slopes[k][..., None] * W if diagonal else B @ W
            B = B * slopes[k - 1][:, None]  # (N, d, width)


def _squares(part: _Layer) -> Tensor:
    """w^2 |a|^2 + b^2, (N,)."""
    return part.weight * part.a.square().sum(-1) + part.bias


def _pairs(first: list[_Layer], second: list[_Layer]) -> Tensor:
    """Theta between all pairs of two sweeps, (n, m, d, d)."""
    (n, d), m = first[0].B.shape[:2], len(second[0].B)
    total = first[0].B.new_zeros(n, d, m, d)
    for p, q in zip(first, second, strict=True):
        inner = p.weight * (p.a @ q.a.T) + p.bias  # (n, m)
        outer = p.B.flatten(0, 1) @ q.B.flatten(0, 1).T  # (n d, m d)
        total.addcmul_(outer.view(n, d, m, d), inner[:, None, :, None])
    return total.permute(0, 2, 1, 3)
