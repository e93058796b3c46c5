"""Tensors that FSDP spreads over processes: made whole, laid out again, or taken in part.

FSDP (version 2, `torch.distributed.fsdp.fully_shard`) turns every parameter into a DTensor, of
which each process holds a part. All functions here leave plain tensors as they are.
"""

from typing import TYPE_CHECKING, TypeGuard

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor


def distributed(part: Tensor) -> "TypeGuard[DTensor]":
    """Whether a tensor is spread over processes."""
    # plain ones are told apart without the import, which takes longer than many a run
    if type(part) in (Tensor, nn.Parameter):
        return False
    from torch.distributed.tensor import DTensor

    return isinstance(part, DTensor)


def sharded(module: nn.Module) -> bool:
    """Whether a network is spread over processes."""
    return any(distributed(part) for part in module.parameters())


def whole(part: Tensor) -> Tensor:
    """All of a tensor, in every process; all processes must call this at the same place."""
    part = part.detach()
    return part.full_tensor() if distributed(part) else part


def own(part: Tensor) -> Tensor:
    """What this process holds of a tensor, sharing its memory."""
    part = part.detach()
    return part.to_local() if distributed(part) else part


def laid_out(value: Tensor, like: Tensor) -> Tensor:
    """A whole tensor, which every process has, spread as `like` is."""
    if not distributed(like) or distributed(value):
        return value
    from torch.distributed.tensor import distribute_tensor

    value = value.to(like.device)
    # every process has the values already, so nothing is sent
    return distribute_tensor(value, like.device_mesh, like.placements, src_data_rank=None)


def spread(module: nn.Module, like: nn.Module) -> None:
    """Spread the parameters of a copy of a network as those of the network are."""
    parts = dict(module.named_parameters())
    for name, model in like.named_parameters():
        owner, _, last = name.rpartition(".")
        part = nn.Parameter(laid_out(parts[name].detach(), model), requires_grad=False)
        setattr(module.get_submodule(owner), last, part)


def finite(module: nn.Module) -> Tensor:
    """1.0 if all weights that this process holds are finite, else 0.0."""
    parts = [own(part).isfinite().all() for part in module.parameters()]
    return torch.stack(parts).all().float()
