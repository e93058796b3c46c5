"""What a training step costs: floating-point operations and memory, from the shapes alone.

With L tokens of width D (L with those of label and time for U-ViT), an image of one patch having P
numbers and O put out for it, a forward pass multiplies and adds, counted as two operations,

    DiT block      24 L D^2 + 4 L^2 D + 12 D^2         (projections and MLP, attention, adaLN)
    U-ViT block    24 L D^2 + 4 L^2 D, and 4 L D^2 more behind a long skip
    ends           2 L D (P + O), and the embedding of t

and a step does three times that: forward, and backward for inputs and for weights. For every token
a block keeps so many numbers for the gradients, in float32 or, of these, in half precision,

    DiT block      20 D = 6 D + 14 D       (input and normed input, twice, two branches; the rest)
    U-ViT block    16 D = 2 D + 14 D, and 2 D more in half precision behind a long skip

attention being fused. What is recomputed is kept for one block at a time, beside every block's
input. Other networks are run once, on one image of noise on the CPU, and what torch counts and
keeps is taken; in half precision it is taken to be half as much.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from erdpaper.models.dit import TIME_FEATURES, DiT, DiTConfig
from erdpaper.models.uvit import UViT, UViTConfig

FULL, HALF = 4, 2


class Memory(NamedTuple):
    """Bytes on one device at the fullest moment of a step, without what libraries take.

    moments: AdamW's two.  average: that of the weights.  copies: weights in half precision, or
    gathered under FSDP.  exchange: where several processes add up gradients.
    """

    parameters: int
    gradients: int
    moments: int
    average: int
    copies: int
    exchange: int
    activations: int

    @property
    def total(self) -> int:
        """All of it."""
        return sum(self)


class Way(NamedTuple):
    """How a step is computed: half precision, recomputing, over how many processes, sharded."""

    half: bool = False
    recompute: bool = False
    processes: int = 1
    shard: bool = False


def parameters(model: nn.Module) -> int:
    """How many numbers are trained."""
    return sum(p.numel() for p in model.parameters())


def forward_operations(model: nn.Module, *inputs: Any) -> int:
    """Floating-point operations for one image; other networks than transformers need inputs."""
    if isinstance(model, DiT):
        return _dit_operations(model.config)
    if isinstance(model, UViT):
        return _uvit_operations(model.config)
    # the fused attention of CPUs is not counted
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter, torch.no_grad():
        model(*inputs)
    return int(counter.get_total_flops())


def step_operations(forward: int, batch: int) -> int:
    """Floating-point operations of a step; what is only recomputed does not count."""
    return 3 * forward * batch


def activations(model: nn.Module, way: Way, *inputs: Any) -> int:
    """Bytes kept for the gradients of one image; others than transformers need inputs."""
    if isinstance(model, DiT):
        return _dit_kept(model.config, way)
    if isinstance(model, UViT):
        return _uvit_kept(model.config, way)
    return kept(model, *inputs) // (2 if way.half else 1)


def memory(model: nn.Module, images: int, way: Way, *inputs: Any) -> Memory:
    """The memory of one device that holds `images` at a time."""
    n = parameters(model)
    own = -(-n // way.processes) if way.shard else n
    # what products need of the weights for the gradients, of one block where it is made again
    copies = HALF * (_largest(model) if way.recompute else n) if way.half else 0
    if way.shard:
        # FSDP gathers the next block while one computes, and a block's gradients before their sum
        copies += 3 * FULL * _largest(model)
    exchange = FULL * n if way.processes > 1 and not way.shard else 0
    return Memory(
        *(FULL * own, FULL * own, 2 * FULL * own, FULL * own),
        copies,
        exchange,
        images * activations(model, way, *inputs),
    )


def kept(model: nn.Module, *inputs: Any) -> int:
    """Bytes that torch keeps for the gradients of a call, the weights and inputs left out.

    Of blocks that are recomputed, their inputs.
    """
    given = [part for part in inputs if isinstance(part, Tensor)]
    known = {_storage(part) for part in (*model.parameters(), *model.buffers(), *given)}
    found: dict[int, Tensor] = {}

    def keep(part: Tensor) -> Tensor:
        if _storage(part) not in known:
            found.setdefault(_storage(part), part)
        return part

    with _inputs_of_blocks(model, keep), torch.autograd.graph.saved_tensors_hooks(keep, _same):
        model(*inputs)
    return sum(part.untyped_storage().nbytes() for part in found.values())


def _same(part: Tensor) -> Tensor:
    return part


def _storage(part: Tensor) -> int:
    return int(part.untyped_storage()._cdata)


@contextmanager
def _inputs_of_blocks(model: nn.Module, keep: Any) -> Iterator[None]:
    """Keep the inputs of blocks that are recomputed, which torch holds where no hook sees them."""
    blocks = _blocks(model) if getattr(model, "recompute", False) else []
    hooks = [
        block.register_forward_pre_hook(
            lambda _, given: [keep(part) for part in given if isinstance(part, Tensor)] and None
        )
        for block in blocks
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _blocks(model: nn.Module) -> list[nn.Module]:
    names = getattr(model, "_no_split_modules", ())
    return [part for part in model.modules() if type(part).__name__ in names]


def _largest(model: nn.Module) -> int:
    """Parameters of the largest part that FSDP gathers at once."""
    blocks = [parameters(block) for block in _blocks(model)]
    return max([*blocks, parameters(model) - sum(blocks)])


def _dit_operations(c: DiTConfig) -> int:
    tokens, width = c.tokens, c.width
    patch = c.patch**2 * c.channels
    out = patch * (2 if c.learn_sigma else 1)
    block = 24 * tokens * width**2 + 4 * tokens**2 * width + 12 * width**2
    ends = 2 * tokens * width * (patch + out) + 4 * width**2
    return c.depth * block + ends + 2 * width * (TIME_FEATURES + width)


def _uvit_operations(c: UViTConfig) -> int:
    tokens, width = _tokens(c), c.width
    block = 24 * tokens * width**2 + 4 * tokens**2 * width
    skips = c.depth // 2 * 4 * tokens * width**2
    ends = 4 * c.tokens * width * c.patch**2 * c.channels
    conv = 2 * 9 * c.channels**2 * c.size**2 if c.conv else 0
    return c.depth * block + skips + ends + conv


def _tokens(c: UViTConfig) -> int:
    return c.tokens + (2 if c.classes else 1)


def _dit_kept(c: DiTConfig, way: Way) -> int:
    rest = HALF if way.half else FULL
    # means and deviations of two norms, and the scale of each row of attention
    small = FULL * c.tokens * (4 + c.heads) + rest * 12 * c.width
    block = c.tokens * c.width * (6 * FULL + 14 * rest) + small
    ends = c.tokens * c.width * (2 * FULL + rest)
    return ends + _blocks_kept(c.depth, block, c.tokens * c.width, way)


def _uvit_kept(c: UViTConfig, way: Way) -> int:
    rest = HALF if way.half else FULL
    tokens, half = _tokens(c), c.depth // 2
    block = tokens * c.width * (2 * FULL + 14 * rest) + FULL * tokens * (4 + c.heads)
    skip = tokens * c.width * 2 * rest
    skips = skip if way.recompute else half * skip
    ends = tokens * c.width * (FULL + rest)
    return ends + skips + _blocks_kept(c.depth, block, tokens * c.width, way)


def _blocks_kept(depth: int, block: int, numbers: int, way: Way) -> int:
    return depth * FULL * numbers + block if way.recompute else depth * block
