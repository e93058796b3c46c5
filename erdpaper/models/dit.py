"""DiT, a transformer on patches conditioned through adaptive layer norms (Peebles & Xie 2023).

With c = embed(t) + embed(label) and shifts s, scales g and gates a linear in silu(c), a block does

    h <- h + a_1 attention((1 + g_1) norm(h) + s_1)
    h <- h + a_2 mlp((1 + g_2) norm(h) + s_2)

All s, g, a and the readout are 0 at the start (adaLN-Zero), so every block is the identity and the
output is exactly 0. State dicts carry the official names, and official checkpoints load by them;
those were trained on indices k = 0..999, which `models.official.Indexed` feeds.

`torch.compile` and autocast go around a model and change only its speed.
"""

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
    gelu_tanh,
    named,
    run,
    sincos_positions,
    time_features,
    unpatchify,
)

TIME_FEATURES = 256


@dataclass(frozen=True)
class DiTConfig(Sizes):
    """The sizes of a DiT; `learn_sigma`: it also puts out what a variance is made from."""

    learn_sigma: bool


def modulated(h: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """(1 + scale) norm(h) + shift; h (N, L, D), shift and scale (N, 1, D)."""
    return torch.addcmul(shift, F.layer_norm(h, h.shape[-1:], eps=1e-6), 1 + scale)


def modulation(width: int, count: int) -> nn.Sequential:
    """c (N, D) -> `count` vectors side by side, (N, count D)."""
    return nn.Sequential(nn.SiLU(), nn.Linear(width, count * width))


class TimeEmbedder(nn.Module):
    """t (N,) in [0, 1] -> (N, D)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        layers = nn.Linear(TIME_FEATURES, width), nn.SiLU(), nn.Linear(width, width)
        self.mlp = nn.Sequential(*layers)

    def forward(self, t: Tensor) -> Tensor:
        """(N,) -> (N, D)."""
        dtype = next(self.parameters()).dtype
        features = time_features(t, TIME_FEATURES)  # (N, 256)
        embedded: Tensor = self.mlp(features.to(dtype))  # (N, D)
        return embedded


class LabelEmbedder(nn.Module):
    """Labels (N,) in 0..classes -> (N, D); the last one is the null class."""

    def __init__(self, classes: int, width: int) -> None:
        super().__init__()
        self.embedding_table = nn.Embedding(classes + 1, width)

    def forward(self, label: Tensor) -> Tensor:
        """(N,) -> (N, D)."""
        embedded: Tensor = self.embedding_table(label)  # (N, D)
        return embedded


class Block(nn.Module):
    """Attention and an MLP, each on modulated tokens and behind a gate."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attn = Attention(width, heads, qkv_bias=True)
        self.mlp = Mlp(width, gelu_tanh)
        self.adaLN_modulation = modulation(width, 6)

    def forward(self, h: Tensor, c: Tensor) -> Tensor:
        """Tokens (N, L, D), condition (N, D) -> (N, L, D)."""
        s1, g1, a1, s2, g2, a2 = self.adaLN_modulation(c)[:, None].chunk(6, -1)  # (N, 1, D) each
        h = torch.addcmul(h, a1, self.attn(modulated(h, s1, g1)))  # (N, L, D)
        return torch.addcmul(h, a2, self.mlp(modulated(h, s2, g2)))  # (N, L, D)


class FinalLayer(nn.Module):
    """Tokens -> the pixels of their patches."""

    def __init__(self, width: int, outputs: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, outputs)
        self.adaLN_modulation = modulation(width, 2)

    def forward(self, h: Tensor, c: Tensor) -> Tensor:
        """Tokens (N, L, D), condition (N, D) -> (N, L, outputs)."""
        shift, scale = self.adaLN_modulation(c)[:, None].chunk(2, -1)  # (N, 1, D) each
        pixels: Tensor = self.linear(modulated(h, shift, scale))  # (N, L, outputs)
        return pixels


class DiT(nn.Module):
    """Images (N, C, H, W), times t in [0, 1] and labels -> predictions (N, C, H, W).

    t is a scalar or (N,); label is (N,) int64 or None, the null class `null` for every sample. With
    `learn_sigma`, the default of the ImageNet configs, the network puts out 2 C channels:
    `model(x, t, label)` returns the first C, the prediction, and `halves` both. Inputs of a wrong
    shape and a label for a model without classes raise ValueError. With `recompute` set, blocks
    keep nothing for the gradients but their inputs.
    """

    # what is sharded as one, by the name that accelerate looks for
    _no_split_modules = ("Block",)

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.config = config
        self.null = config.classes
        self.recompute = False
        self.x_embedder = PatchEmbed(config)
        self.t_embedder = TimeEmbedder(config.width)
        self.y_embedder = LabelEmbedder(config.classes, config.width) if config.classes else None
        self.pos_embed: Tensor
        positions = sincos_positions(config.width, config.size // config.patch)
        self.register_buffer("pos_embed", positions)  # (1, L, D)
        self.blocks = nn.ModuleList(Block(config.width, config.heads) for _ in range(config.depth))
        outputs = config.patch**2 * config.channels * (2 if config.learn_sigma else 1)
        self.final_layer = FinalLayer(config.width, outputs)
        self.reset_parameters()

    @classmethod
    def from_name(cls, name: str, **overrides: Any) -> Self:
        """A new network with the sizes of `CONFIGS[name]`, some fields of which may be replaced."""
        return cls(named(CONFIGS, name, overrides))

    def reset_parameters(self) -> None:
        """Draw all weights as the original does; the output is 0 afterwards."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        nn.init.xavier_uniform_(self.x_embedder.proj.weight.view(self.config.width, -1))
        for weight in self.t_embedder.parameters():
            if weight.ndim > 1:
                nn.init.normal_(weight, std=0.02)
        if self.y_embedder is not None:
            nn.init.normal_(self.y_embedder.embedding_table.weight, std=0.02)
        modulations = [part.adaLN_modulation[1] for part in (*self.blocks, self.final_layer)]
        for layer in (*modulations, self.final_layer.linear):
            nn.init.zeros_(layer.weight)

    def _embedded(self, x: Tensor, t: Tensor, label: Tensor | None) -> tuple[Tensor, Tensor]:
        """The first tokens (N, L, D) and the condition (N, D)."""
        check_inputs(self.config, x, t, label)
        h = self.x_embedder(x) + self.pos_embed  # (N, L, D)
        c = self.t_embedder(t.expand(len(x)))  # (N, D)
        if self.y_embedder is not None:
            if label is None:
                label = torch.full((len(x),), self.null, device=x.device)  # (N,)
            c = c + self.y_embedder(label)  # (N, D)
        return h, c

    def _output(self, x: Tensor, t: Tensor, label: Tensor | None) -> Tensor:
        h, c = self._embedded(x, t, label)  # (N, L, D), (N, D)
        for block in self.blocks:
            h = run(block, self.recompute, h, c)  # (N, L, D)
        return unpatchify(self.final_layer(h, c), self.config.patch)  # (N, C or 2 C, H, W)

    def forward(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        """The prediction (N, C, H, W); with `learn_sigma` the first of the `halves`."""
        return self._output(x, t, label)[:, : self.config.channels]

    def halves(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The prediction and what the variance is made from, each (N, C, H, W).

        The second is v of Nichol & Dhariwal (2021): (v + 1)/2 interpolates between the smallest
        and the largest log-variance of a step. Without `learn_sigma`: ValueError.
        """
        if not self.config.learn_sigma:
            raise ValueError("this model puts out no variance; build it with learn_sigma=True")
        prediction, variance = self._output(x, t, label).chunk(2, 1)  # (N, C, H, W) each
        return prediction, variance

    def hidden(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> list[Tensor]:
        """The tokens after each block, `depth` tensors (N, L, D); the last is what is read out."""
        h, c = self._embedded(x, t, label)  # (N, L, D), (N, D)
        states = []
        for block in self.blocks:
            h = block(h, c)  # (N, L, D)
            states.append(h)
        return states


# fmt: off
CONFIGS: dict[str, DiTConfig] = {
    #                                size channels patch width depth heads classes learn_sigma
    "DiT-S/2":            DiTConfig(   32,    4,     2,   384,   12,    6,   1000,   True),
    "DiT-S/4":            DiTConfig(   32,    4,     4,   384,   12,    6,   1000,   True),
    "DiT-S/8":            DiTConfig(   32,    4,     8,   384,   12,    6,   1000,   True),
    "DiT-B/2":            DiTConfig(   32,    4,     2,   768,   12,   12,   1000,   True),
    "DiT-B/4":            DiTConfig(   32,    4,     4,   768,   12,   12,   1000,   True),
    "DiT-B/8":            DiTConfig(   32,    4,     8,   768,   12,   12,   1000,   True),
    "DiT-L/2":            DiTConfig(   32,    4,     2,  1024,   24,   16,   1000,   True),
    "DiT-L/4":            DiTConfig(   32,    4,     4,  1024,   24,   16,   1000,   True),
    "DiT-L/8":            DiTConfig(   32,    4,     8,  1024,   24,   16,   1000,   True),
    "DiT-XL/2":           DiTConfig(   32,    4,     2,  1152,   28,   16,   1000,   True),
    "DiT-XL/4":           DiTConfig(   32,    4,     4,  1152,   28,   16,   1000,   True),
    "DiT-XL/8":           DiTConfig(   32,    4,     8,  1152,   28,   16,   1000,   True),
    "DiT-S-celeba":       DiTConfig(   64,    3,     4,   384,   12,    6,      0,  False),
    "DiT-fashion":        DiTConfig(   28,    1,     4,    96,    4,    4,     10,  False),
    "DiT-fashion-latent": DiTConfig(    7,    4,     1,    96,    4,    4,     10,  False),
}
# fmt: on
