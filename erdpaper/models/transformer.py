"""What DiT and U-ViT share: sizes, patches, embeddings of time and place, attention.

Images are (N, C, H, W) with H = W; tokens are (N, L, D), L = (H / patch)^2 patches in reading
order, D the width. Time t is in [0, 1] and is embedded as 1000 t.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

# node k of a table of 1000 is t = (k + 1)/1000, and is embedded as k + 1
TIME_SCALE = 1000
MLP_RATIO = 4


@dataclass(frozen=True)
class Sizes:
    """The sizes of an image transformer; a wrong one raises ValueError.

    `size` is the side of the (square) image or latent in pixels, `patch` the side of a patch,
    `depth` the number of blocks, `classes` the number of labels without the null class (0: the
    model takes no label).
    """

    size: int
    channels: int
    patch: int
    width: int
    depth: int
    heads: int
    classes: int

    def __post_init__(self) -> None:
        positive = {f.name: getattr(self, f.name) for f in fields(Sizes) if f.name != "classes"}
        for name, value in positive.items():
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if self.classes < 0:
            raise ValueError(f"classes must be 0 (no label) or more, got {self.classes}")
        if self.size % self.patch:
            raise ValueError(f"patch {self.patch} does not divide the image side {self.size}")
        if self.width % 4 or self.width % self.heads:
            raise ValueError(
                f"width must be a multiple of 4 and of the {self.heads} heads, got {self.width}"
            )

    @property
    def tokens(self) -> int:
        """The number of patches, L."""
        return (self.size // self.patch) ** 2


AnySizes = TypeVar("AnySizes", bound=Sizes)


def named(configs: Mapping[str, AnySizes], name: str, overrides: Mapping[str, Any]) -> AnySizes:
    """The config of that name with some fields replaced; ValueError lists what there is."""
    if name not in configs:
        raise ValueError(f"no model is called {name!r}; there are {', '.join(configs)}")
    known = [f.name for f in fields(configs[name])]
    unknown = [key for key in overrides if key not in known]
    if unknown:
        raise ValueError(f"{name} has no {', '.join(unknown)}; it has {', '.join(known)}")
    return replace(configs[name], **overrides)


def check_inputs(sizes: Sizes, x: Tensor, t: Tensor, label: Tensor | None) -> None:
    """Raise ValueError unless x (N, C, H, W), t () or (N,) and label (N,) int64 fit the model."""
    image = (sizes.channels, sizes.size, sizes.size)
    if x.ndim != 4 or x.shape[1:] != image:
        raise ValueError(f"x must be (N, {', '.join(map(str, image))}), got {tuple(x.shape)}")
    if t.ndim and t.shape != x.shape[:1]:
        raise ValueError(f"t must be a scalar or ({len(x)},), got {tuple(t.shape)}")
    if label is None:
        return
    if not sizes.classes:
        raise ValueError("this model has no classes, so it takes no label")
    if label.shape != x.shape[:1] or label.dtype != torch.int64:
        raise ValueError(f"label must be ({len(x)},) int64, got {tuple(label.shape)} {label.dtype}")


def patchify(x: Tensor, patch: int) -> Tensor:
    """(N, C, H, W) -> (N, L, patch^2 C): row, column and channel within a patch, in this order."""
    x = x.unflatten(2, (-1, patch)).unflatten(4, (-1, patch))  # (N, C, h, p, w, q)
    return x.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)  # (N, h w, p q C)


def unpatchify(tokens: Tensor, patch: int) -> Tensor:
    """(N, L, patch^2 C) -> (N, C, H, W) with H = W: undoes `patchify`."""
    side = math.isqrt(tokens.shape[1])
    x = tokens.unflatten(1, (side, side)).unflatten(3, (patch, patch, -1))  # (N, h, w, p, q, C)
    image: Tensor = x.permute(0, 5, 1, 3, 2, 4).flatten(4).flatten(2, 3)  # (N, C, h p, w q)
    return image


def time_features(t: Tensor, size: int) -> Tensor:
    """t (N,) -> cosines, then sines, of 1000 t f_i, (N, size); f_i = 1e-4^(2 i / size).

    In the precision of t, but at least float32: half precision cannot hold the phases.
    """
    t = t.to(torch.promote_types(t.dtype, torch.float32))
    exponent = torch.arange(size // 2, dtype=t.dtype, device=t.device) / (size // 2)
    phase = TIME_SCALE * t[:, None] * torch.exp(-math.log(1e4) * exponent)  # (N, size / 2)
    return torch.cat([phase.cos(), phase.sin()], -1)  # (N, size)


def sincos_positions(width: int, side: int) -> Tensor:
    """Fixed positions of side x side patches, (1, side^2, width), float32.

    The first half of the coordinates is about the column, the second about the row; each half is
    sines, then cosines, of position times 1e-4^(4 i / width).
    """
    frequencies = 1e-4 ** (torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    phase = torch.arange(side, dtype=torch.float64)[:, None] * frequencies  # (side, width / 4)
    line = torch.cat([phase.sin(), phase.cos()], -1)  # (side, width / 2)
    columns = line[None].expand(side, -1, -1)  # (row, column, width / 2)
    rows = line[:, None].expand(-1, side, -1)
    return torch.cat([columns, rows], -1).flatten(0, 1)[None].float()


def run(block: nn.Module, recompute: bool, *inputs: Any) -> Tensor:
    """block(*inputs).

    recompute: what its gradients need is not kept, but computed again on the way back.
    """
    if recompute and torch.is_grad_enabled():
        again: Tensor = checkpoint(block, *inputs, use_reentrant=False)
        return again
    output: Tensor = block(*inputs)
    return output


class PatchEmbed(nn.Module):
    """Images (N, C, H, W) -> tokens (N, L, D): one linear map of every patch."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.patch = sizes.patch
        # a convolution in name and shape, for the official weights; `forward` does without
        self.proj = nn.Conv2d(sizes.channels, sizes.width, sizes.patch, sizes.patch)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, L, D)."""
        # a product of matrices keeps the tokens contiguous, which a convolution does not
        weight = self.proj.weight.permute(0, 2, 3, 1).flatten(1)  # (D, p q C)
        return F.linear(patchify(x, self.patch), weight, self.proj.bias)  # (N, L, D)


class Attention(nn.Module):
    """Multi-head self-attention; queries, keys and values come from one product."""

    def __init__(self, width: int, heads: int, qkv_bias: bool) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=qkv_bias)
        self.proj = nn.Linear(width, width)

    def forward(self, h: Tensor) -> Tensor:
        """(N, L, D) -> (N, L, D)."""
        qkv = self.qkv(h).unflatten(2, (3, self.heads, -1))  # (N, L, 3, heads, D / heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind()  # (N, heads, L, D / heads) each
        mixed = F.scaled_dot_product_attention(q, k, v)  # (N, heads, L, D / heads)
        out: Tensor = self.proj(mixed.transpose(1, 2).flatten(2))  # (N, L, D)
        return out


def gelu_tanh(x: Tensor) -> Tensor:
    """GELU in its approximation by tanh, of a tensor of any shape.

    ``x (1 + tanh(z / 2)) / 2 = x / (1 + exp(-z))`` with ``z = sqrt(8 / pi) (x + 0.044715 x^3)``.
    """
    plain = x.device.type == "cpu" and x.dtype in (torch.float32, torch.float64)
    if torch.is_grad_enabled() or not plain:
        return F.gelu(x, approximate="tanh")
    # on CPUs a sigmoid takes a third of the time of tanh, a quarter of sampling with a small model
    z = x.square().mul_(0.044715).add_(1).mul_(x).mul_(math.sqrt(8 / math.pi))
    return z.sigmoid_().mul_(x)


class Mlp(nn.Module):
    """Two layers with GELU between them, the hidden one four times as wide."""

    def __init__(self, width: int, activation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, MLP_RATIO * width)
        self.fc2 = nn.Linear(MLP_RATIO * width, width)
        self.activation = activation

    def forward(self, h: Tensor) -> Tensor:
        """(N, L, D) -> (N, L, D)."""
        hidden = self.activation(self.fc1(h))  # (N, L, 4 D)
        out: Tensor = self.fc2(hidden)  # (N, L, D)
        return out
