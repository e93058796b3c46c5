"""A residual perceptron on small latents, conditioned by adaLN-Zero as DiT is.

The latent is taken as one vector. Each block is

    h <- h + gate * W2 silu(W1 ((1 + scale) * norm(h) + shift)),

with shift, scale and gate linear in one embedding of time and class, all 0 at the start. The input
is added to the output with a gain for each coordinate that is linear in the same embedding
and 0 at the start too: the share of a target that can be read off x_t itself need not pass the
blocks, which are too narrow for it. On latents of 4x7x7 it learns far more per second of a CPU than
attention over 49 tokens does.
"""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from erdpaper.models.mlp import TimeEmbedding


@dataclass(frozen=True)
class Config:
    """shape (C, H, W) of a latent, width and number of the blocks, size of the embedding."""

    shape: tuple[int, int, int]
    width: int
    depth: int
    embedding: int
    classes: int = 10


class Block(nn.Module):
    """One residual block, see the module docstring."""

    def __init__(self, width: int, embedding: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.modulation = nn.Linear(embedding, 3 * width)
        self.inner = nn.Linear(width, width)
        self.outer = nn.Linear(width, width)

    def forward(self, h: Tensor, c: Tensor) -> Tensor:
        """h (N, width), c (N, embedding) -> (N, width)."""
        shift, scale, gate = self.modulation(c).chunk(3, -1)  # (N, width) each
        inner = torch.addcmul(shift, self.norm(h), 1 + scale)  # (N, width)
        inner = self.outer(nn.functional.silu(self.inner(inner)))  # (N, width)
        return torch.addcmul(h, gate, inner)


class LatentMLP(nn.Module):
    """model(x, t, label): x (N, C, H, W), t in [0, 1], label (N,) or None, all unconditional.

    `null` is the index of the class that stands for none.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config, self.null = config, config.classes
        d = config.shape[0] * config.shape[1] * config.shape[2]
        self.time = TimeEmbedding(config.embedding, 1000.0)
        self.embed = nn.Sequential(
            nn.Linear(config.embedding, config.embedding),
            nn.SiLU(),
            nn.Linear(config.embedding, config.embedding),
        )
        self.label = nn.Embedding(config.classes + 1, config.embedding)
        self.first = nn.Linear(d, config.width)
        self.blocks = nn.ModuleList(
            Block(config.width, config.embedding) for _ in range(config.depth)
        )
        self.norm = nn.LayerNorm(config.width, elementwise_affine=False, eps=1e-6)
        self.modulation = nn.Linear(config.embedding, 2 * config.width)
        self.modulated_gain = nn.Linear(config.embedding, d)
        self.last = nn.Linear(config.width, d)
        self._start()

    @classmethod
    def from_name(cls, name: str, **overrides: Any) -> "LatentMLP":
        """An untrained network of a known configuration, with some fields replaced."""
        if name not in CONFIGS:
            raise ValueError(f"unknown network {name!r}; use one of {', '.join(CONFIGS)}")
        return cls(replace(CONFIGS[name], **overrides))

    def _start(self) -> None:
        # adaLN-Zero: every block is the identity and the output 0
        for name, parameter in self.named_parameters():
            if "modulat" in name or name.startswith("last"):
                nn.init.zeros_(parameter)
        nn.init.normal_(self.label.weight, std=0.02)

    def _condition(self, x: Tensor, t: Tensor, label: Tensor | None) -> Tensor:
        if label is None:
            label = torch.full((len(x),), self.null, device=x.device)
        embedded = self.embed(self.time(t.expand(len(x))))  # (N, embedding)
        return nn.functional.silu(embedded + self.label(label))

    def hidden(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> list[Tensor]:
        """The states after every block, (N, width) each."""
        c = self._condition(x, t, label)
        h, states = self.first(x.flatten(1)), []
        for block in self.blocks:
            h = block(h, c)  # (N, width)
            states.append(h)
        return states

    def forward(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        """The prediction, of x's shape."""
        c = self._condition(x, t, label)  # (N, embedding)
        h = self.first(x.flatten(1))  # (N, width)
        for block in self.blocks:
            h = block(h, c)  # (N, width)
        shift, scale = self.modulation(c).chunk(2, -1)  # (N, width) each
        y = self.last(torch.addcmul(shift, self.norm(h), 1 + scale))  # (N, C * H * W)
        return torch.addcmul(y, self.modulated_gain(c), x.flatten(1)).view_as(x)


CONFIGS = {
    #                       shape      width depth embedding
    "MLP-latent":    Config((4, 7, 7), 512,  5,    128),
    "MLP-latent-S":  Config((4, 7, 7), 256,  4,    64),
}  # fmt: skip
