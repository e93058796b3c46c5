"""A small network for pixels: convolutions for texture, a perceptron in the middle for the whole.

The image is folded (28x28 to 14x14x4), passes a convolutional block at 14x14 and one at 7x7, and
between them and their mirror images the coarse grid, as one vector, passes the blocks of
`models.latent_mlp`. Every block is conditioned by adaLN-Zero. Skip connections add.
"""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from erdpaper.models.latent_mlp import Block
from erdpaper.models.mlp import TimeEmbedding


@dataclass(frozen=True)
class Config:
    """size, channels of images; widths at half and quarter size; channels, width, depth inside."""

    size: int
    channels: int
    fine: int
    coarse: int
    inner_channels: int
    width: int
    depth: int
    embedding: int = 128
    classes: int = 10


class ConvBlock(nn.Module):
    """h + gate * conv(silu(conv((1 + scale) * norm(h) + shift))), 3x3 convolutions."""

    def __init__(self, channels: int, embedding: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(1, channels, affine=False)
        self.modulation = nn.Linear(embedding, 3 * channels)
        self.inner = nn.Conv2d(channels, channels, 3, padding=1)
        self.outer = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, h: Tensor, c: Tensor) -> Tensor:
        """h (N, channels, H, W), c (N, embedding) -> like h."""
        shift, scale, gate = self.modulation(c)[..., None, None].chunk(3, 1)  # (N, channels, 1, 1)
        inner = torch.addcmul(shift, self.norm(h), 1 + scale)  # (N, channels, H, W)
        inner = self.outer(nn.functional.silu(self.inner(inner)))  # (N, channels, H, W)
        return torch.addcmul(h, gate, inner)


class Hourglass(nn.Module):
    """model(x, t, label): x (N, C, S, S), t in [0, 1], label (N,) or None, all unconditional.

    `null` is the index of the class that stands for none.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        if config.size % 4:
            raise ValueError(f"the size of images must be a multiple of 4, got {config.size}")
        self.config, self.null = config, config.classes
        folded, e = 4 * config.channels, config.embedding
        self.grid = (config.inner_channels, config.size // 4, config.size // 4)
        d = config.inner_channels * (config.size // 4) ** 2
        self.time = TimeEmbedding(e, 1000.0)
        self.embed = nn.Sequential(nn.Linear(e, e), nn.SiLU(), nn.Linear(e, e))
        self.label = nn.Embedding(config.classes + 1, e)
        self.first = nn.Conv2d(folded, config.fine, 3, padding=1)
        self.fine_in, self.fine_out = ConvBlock(config.fine, e), ConvBlock(config.fine, e)
        self.down = nn.Conv2d(4 * config.fine, config.coarse, 1)
        self.coarse_in, self.coarse_out = ConvBlock(config.coarse, e), ConvBlock(config.coarse, e)
        self.gather = nn.Conv2d(config.coarse, config.inner_channels, 1)
        self.inward, self.outward = nn.Linear(d, config.width), nn.Linear(config.width, d)
        self.blocks = nn.ModuleList(Block(config.width, e) for _ in range(config.depth))
        self.spread = nn.Conv2d(config.inner_channels, config.coarse, 1)
        self.up = nn.Conv2d(config.coarse, 4 * config.fine, 1)
        self.norm = nn.GroupNorm(1, config.fine)
        self.last = nn.Conv2d(config.fine, folded, 3, padding=1)
        self._start()

    @classmethod
    def from_name(cls, name: str, **overrides: Any) -> "Hourglass":
        """An untrained network of a known configuration, with some fields replaced."""
        if name not in CONFIGS:
            raise ValueError(f"unknown network {name!r}; use one of {', '.join(CONFIGS)}")
        return cls(replace(CONFIGS[name], **overrides))

    def _start(self) -> None:
        # adaLN-Zero: every block is the identity and the output 0
        for name, parameter in self.named_parameters():
            if "modulation" in name or name.startswith("last"):
                nn.init.zeros_(parameter)
        nn.init.normal_(self.label.weight, std=0.02)

    def forward(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        """The prediction, of x's shape."""
        if label is None:
            label = torch.full((len(x),), self.null, device=x.device)
        embedded = self.embed(self.time(t.expand(len(x))))  # (N, embedding)
        c = nn.functional.silu(embedded + self.label(label))  # (N, embedding)
        fine = self.first(nn.functional.pixel_unshuffle(x, 2))  # (N, fine, S/2, S/2)
        fine = self.fine_in(fine, c)
        coarse = self.down(nn.functional.pixel_unshuffle(fine, 2))  # (N, coarse, S/4, S/4)
        coarse = self.coarse_in(coarse, c)
        h = self.inward(self.gather(coarse).flatten(1))  # (N, width)
        for block in self.blocks:
            h = block(h, c)  # (N, width)
        coarse = coarse + self.spread(self.outward(h).unflatten(1, self.grid))
        coarse = self.coarse_out(coarse, c)  # (N, coarse, S/4, S/4)
        fine = fine + nn.functional.pixel_shuffle(self.up(coarse), 2)
        fine = self.fine_out(fine, c)  # (N, fine, S/2, S/2)
        y = self.last(nn.functional.silu(self.norm(fine)))  # (N, 4 C, S/2, S/2)
        return nn.functional.pixel_shuffle(y, 2)


CONFIGS = {
    #                               size channels fine coarse inner width depth
    "Hourglass-fashion":      Config(28,  1,       32,  64,    12,   640,  4),
    "Hourglass-fashion-tiny": Config(28,  1,       8,   8,     4,    32,   1),
}  # fmt: skip
