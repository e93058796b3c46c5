"""Points (x, t) at which a kernel is evaluated, and the tiles in which it is."""

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn

from erdpaper.models.mlp import MLP

Points = tuple[Tensor, Tensor | float]
Part = TypeVar("Part")


def checked(model: nn.Module, points: Points) -> tuple[Tensor, Tensor]:
    """x (N, ...) and t (N,) in the model's dtype and on its device; ValueError on bad points."""
    like = next(model.parameters(), None)
    if like is None:
        raise ValueError("a model without parameters has no tangent kernel")
    if not (isinstance(points, tuple) and len(points) == 2 and isinstance(points[0], Tensor)):
        raise ValueError("points must be a pair (x, t) of a tensor and its times")
    x, t = points[0].to(like), torch.as_tensor(points[1], dtype=like.dtype, device=like.device)
    if x.ndim < 2 or len(x) == 0:
        raise ValueError(f"points x must have shape (N, d) with N at least 1, not {tuple(x.shape)}")
    if isinstance(model, MLP) and x.shape[1:] != (model.readout.out_features,):
        raise ValueError(
            f"points of shape {tuple(x.shape)} do not fit a network on (N, "
            f"{model.readout.out_features})"
        )
    if t.ndim > 1 or t.shape not in ((), x.shape[:1]):
        raise ValueError(f"times must be a scalar or one per point, not {tuple(t.shape)}")
    if not bool(torch.isfinite(x).all() and torch.isfinite(t).all()):
        raise ValueError("points and times must be finite")
    return x, t.expand(len(x))


def both(
    model: nn.Module, first: Points, second: Points | None
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor] | None]:
    """Two checked sets of points of one shape; the second stays None where it is not given."""
    rows = checked(model, first)
    columns = None if second is None else checked(model, second)
    if columns is not None and rows[0].shape[1:] != columns[0].shape[1:]:
        shapes = f"{tuple(rows[0].shape)} and {tuple(columns[0].shape)}"
        raise ValueError(f"the two sets of points differ in more than their number: {shapes}")
    return rows, columns


def tiled(
    prepare: Callable[[tuple[Tensor, Tensor]], Part],
    contract: Callable[[Part, Part], Tensor],
    first: tuple[Tensor, Tensor],
    second: tuple[Tensor, Tensor] | None,
    chunk: int,
) -> Tensor:
    """A kernel (N, M, d, d) from tiles of at most `chunk` points either way.

    `prepare` turns some points into what `contract` makes a tile (n, m, d, d) of. Without a second
    set the kernel is symmetric, and tiles below the diagonal are those above it, transposed.
    """
    columns = first if second is None else second
    blocks: Tensor | None = None
    for top in range(0, len(first[0]), chunk):
        here = slice(top, top + chunk)
        row = prepare((first[0][here], first[1][here]))
        for left in range(top if second is None else 0, len(columns[0]), chunk):
            there = slice(left, left + chunk)
            same = second is None and left == top
            tile = contract(row, row if same else prepare((columns[0][there], columns[1][there])))
            if blocks is None:
                blocks = tile.new_empty(len(first[0]), len(columns[0]), *tile.shape[2:])
            blocks[here, there] = tile
            if second is None and not same:
                blocks[there, here] = tile.permute(1, 0, 3, 2)
    assert blocks is not None  # there is at least one point
    return blocks
