"""U-ViT, a transformer with long skips in which time and label are tokens (Bao et al. 2023).

The sequence is [label, time, patches], plus learned positions. Of `depth` blocks, which is odd, the
first half keep what they put out, and the last half take it back in reverse order: token by token,
a linear map of (h, kept) side by side. State dicts carry the official names. Official weights
were trained on n = k + 1 = 1..1000, which is what is embedded here: 1000 t.

`torch.compile` and autocast go around a model and change only its speed.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from erdpaper.models.transformer import (
    Attention,
    Mlp,
    PatchEmbed,
    Sizes,
    check_inputs,
    named,
    run,
    time_features,
    unpatchify,
)


@dataclass(frozen=True)
class UViTConfig(Sizes):
    """The sizes of a U-ViT; `depth` counts all blocks; `conv`: a 3x3 convolution ends it."""

    conv: bool

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.depth % 2 == 0:
            raise ValueError(f"depth must be odd (in, middle, out blocks), got {self.depth}")


class Block(nn.Module):
    """Attention and an MLP on normed tokens, after a linear map of what a long skip brings."""

    def __init__(self, width: int, heads: int, skip: bool = False) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attn = Attention(width, heads, qkv_bias=False)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = Mlp(width, F.gelu)
        self.skip_linear = nn.Linear(2 * width, width) if skip else None

    def forward(self, h: Tensor, kept: Tensor | None = None) -> Tensor:
        """Tokens (N, L, D), for a block with a skip also those it gets back -> (N, L, D)."""
        if self.skip_linear is not None and kept is not None:
            h = self.skip_linear(torch.cat([h, kept], -1))  # (N, L, 2 D) -> (N, L, D)
        h = h + self.attn(self.norm1(h))  # (N, L, D)
        out: Tensor = h + self.mlp(self.norm2(h))  # (N, L, D)
        return out


class UViT(nn.Module):
    """Images (N, C, H, W), times t in [0, 1] and labels -> predictions (N, C, H, W).

    t is a scalar or (N,); label is (N,) int64 or None, the null class `null` for every sample.
    Inputs of a wrong shape and a label for a model without classes raise ValueError. With
    `recompute` set, blocks keep nothing for the gradients but their inputs.
    """

    # what is sharded as one, by the name that accelerate looks for
    _no_split_modules = ("Block",)

    def __init__(self, config: UViTConfig) -> None:
        super().__init__()
        self.config = config
        self.null = config.classes
        self.recompute = False
        width, half = config.width, config.depth // 2
        self.patch_embed = PatchEmbed(config)
        self.label_emb = nn.Embedding(config.classes + 1, width) if config.classes else None
        self.extras = 2 if config.classes else 1
        self.pos_embed = nn.Parameter(torch.empty(1, self.extras + config.tokens, width))
        self.in_blocks = nn.ModuleList(Block(width, config.heads) for _ in range(half))
        self.mid_block = Block(width, config.heads)
        self.out_blocks = nn.ModuleList(Block(width, config.heads, skip=True) for _ in range(half))
        self.norm = nn.LayerNorm(width)
        self.decoder_pred = nn.Linear(width, config.patch**2 * config.channels)
        final = nn.Conv2d(config.channels, config.channels, 3, padding=1)
        self.final_layer = final if config.conv else nn.Identity()
        self.reset_parameters()

    @classmethod
    def from_name(cls, name: str, **overrides: Any) -> Self:
        """A new network with the sizes of `CONFIGS[name]`, some fields of which may be replaced."""
        return cls(named(CONFIGS, name, overrides))

    def reset_parameters(self) -> None:
        """Draw positions and linear maps from N(0, 0.02^2), cut at +-2; the rest is torch's own."""
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def _embedded(self, x: Tensor, t: Tensor, label: Tensor | None) -> Tensor:
        """The first tokens, (N, extras + L, D)."""
        check_inputs(self.config, x, t, label)
        patches = self.patch_embed(x)  # (N, L, D)
        time = time_features(t.expand(len(x)), self.config.width)  # (N, D)
        parts = [time.to(patches.dtype)[:, None], patches]
        if self.label_emb is not None:
            if label is None:
                label = torch.full((len(x),), self.null, device=x.device)  # (N,)
            parts.insert(0, self.label_emb(label).to(patches.dtype)[:, None])
        return torch.cat(parts, 1) + self.pos_embed  # (N, extras + L, D)

    def _states(self, x: Tensor, t: Tensor, label: Tensor | None) -> Iterator[Tensor]:
        """All tokens after each block, `depth` tensors (N, extras + L, D), one at a time."""
        h = self._embedded(x, t, label)  # (N, extras + L, D)
        kept = []
        for block in self.in_blocks:
            h = run(block, self.recompute, h)  # (N, extras + L, D)
            kept.append(h)
            yield h
        h = run(self.mid_block, self.recompute, h)  # (N, extras + L, D)
        yield h
        for block in self.out_blocks:
            h = run(block, self.recompute, h, kept.pop())  # (N, extras + L, D)
            yield h

    def forward(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        """The prediction (N, C, H, W)."""
        for h in self._states(x, t, label):
            last = h[:, self.extras :]  # (N, L, D)
        pixels = self.decoder_pred(self.norm(last))  # (N, L, patch^2 C)
        prediction: Tensor = self.final_layer(unpatchify(pixels, self.config.patch))  # (N, C, H, W)
        return prediction

    def hidden(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> list[Tensor]:
        """The patches' tokens after each block, in the order in which blocks run: (N, L, D) each.

        Those of time and label are left out, so that place l is patch l, as in a DiT.
        """
        return [h[:, self.extras :] for h in self._states(x, t, label)]


# fmt: off
CONFIGS: dict[str, UViTConfig] = {
    #                                  size channels patch width depth heads classes conv
    "U-ViT-M/2":            UViTConfig(  32,    4,     2,   768,   17,   12,   1000,  True),
    "U-ViT-L/2":            UViTConfig(  32,    4,     2,  1024,   21,   16,   1000,  True),
    "U-ViT-H/2":            UViTConfig(  32,    4,     2,  1152,   29,   16,   1000, False),
    "U-ViT-S-celeba":       UViTConfig(  64,    3,     4,   512,   13,    8,      0,  True),
    "U-ViT-fashion":        UViTConfig(  28,    1,     4,    96,    5,    4,     10,  True),
    "U-ViT-fashion-latent": UViTConfig(   7,    4,     1,    96,    5,    4,     10,  True),
}
# fmt: on
