"""Convolutional UNets for images: diffusers' `UNet2DModel`, called like every other network here.

A time t in [0, 1] enters as 1000 t, the count that published UNets use; a class enters by a learned
vector that diffusers adds to the embedded time. The last row of that table is the null class, which
stands for "no class" in classifier-free guidance.

Every level but the last halves height and width by a convolution of stride 2 with padding 1, which
takes an odd size n to (n + 1) / 2; the way up doubles that to n + 1, and the skip connection of
size n does not fit. `UNet2DModel` neither crops nor pads, so the side of an image must be a
multiple of 2^(levels - 1): 28 serves up to three levels (28, 14, 7), an odd side one level only.
"""

from dataclasses import dataclass, fields, replace
from typing import Any, Self

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class UNetConfig:
    """The sizes of a UNet; a wrong one raises ValueError.

    `size` is the side of the (square) image or latent in pixels. Each entry of `widths` is a level
    with that many channels, half the side of the one before, with `layers` residual blocks on the
    way down and one more on the way up. Levels in `attention`, counted from 0, attend over
    positions in heads of `head` channels, and so does the middle. Norms have `groups` groups.
    With `adm`, the time scales and shifts, and sizes change inside residual blocks, as in ADM;
    otherwise it is added, and plain convolutions change sizes, as in DDPM, or, with `biggan`,
    residual blocks, as in BigGAN and DDPM++. `classes` counts the labels without the null class
    (0: the model takes no label).
    """

    size: int
    channels: int
    widths: tuple[int, ...]
    attention: tuple[int, ...]
    layers: int
    head: int
    groups: int
    classes: int
    dropout: float = 0.0
    adm: bool = False
    biggan: bool = False

    def __post_init__(self) -> None:
        for name in ("size", "channels", "layers", "head", "groups"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.classes < 0:
            raise ValueError(f"classes must be 0 (no label) or more, got {self.classes}")
        if not self.widths or any(width < 1 or width % self.groups for width in self.widths):
            wanted = f"one or more multiples of the {self.groups} groups"
            raise ValueError(f"widths must be {wanted}, got {self.widths}")
        levels = len(self.widths)
        if self.size % 2 ** (levels - 1):
            wanted = f"a multiple of {2 ** (levels - 1)} for {levels} levels"
            raise ValueError(f"size must be {wanted}, got {self.size}")
        if not set(self.attention) <= set(range(levels)):
            raise ValueError(f"attention must name levels 0..{levels - 1}, got {self.attention}")
        # diffusers would round the number of heads down; the middle is as wide as the last level
        if any(self.widths[level] % self.head for level in {*self.attention, levels - 1}):
            raise ValueError(f"head must divide the widths that attend, got {self.head}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must lie in [0, 1), got {self.dropout}")


class UNet(nn.Module):
    """Images (N, C, H, W), times t in [0, 1] and labels -> predictions (N, C, H, W).

    t is a scalar or (N,); label is (N,) int64 or None, the null class `null` for every sample.
    Inputs of a wrong shape and a label for a model without classes raise ValueError. Initial values
    are diffusers' own, and so are the names in `unet`, into which its checkpoints load. With
    `recompute` set, its blocks keep nothing for the gradients but their inputs.
    """

    # what is sharded as one, by the name that accelerate looks for
    _no_split_modules = ("ResnetBlock2D",)

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        self.null = config.classes
        self.unet: nn.Module = _build(config)

    @classmethod
    def from_name(cls, name: str, **overrides: Any) -> Self:
        """A new network with the sizes of `CONFIGS[name]`, some fields of which may be replaced."""
        if name not in CONFIGS:
            raise ValueError(f"no UNet is called {name!r}; there are {', '.join(CONFIGS)}")
        known = [field.name for field in fields(UNetConfig)]
        unknown = [key for key in overrides if key not in known]
        if unknown:
            raise ValueError(f"a UNet has no {', '.join(unknown)}; it has {', '.join(known)}")
        return cls(replace(CONFIGS[name], **overrides))

    def forward(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        """The prediction (N, C, H, W)."""
        self._check(x, t, label)
        # the embedding is computed in float32, whatever the dtype of the network
        steps = 1000 * t.to(x.device, torch.float32).expand(len(x))  # (N,)
        if label is None and self.null:
            label = torch.full((len(x),), self.null, device=x.device)  # (N,)
        prediction: Tensor = self.unet(x, steps, label).sample  # (N, C, H, W)
        return prediction

    @property
    def recompute(self) -> bool:
        """Whether activations are computed again for the gradients."""
        unet: Any = self.unet
        return bool(unet.is_gradient_checkpointing)

    @recompute.setter
    def recompute(self, on: bool) -> None:
        unet: Any = self.unet
        if on:
            unet.enable_gradient_checkpointing()
        else:
            unet.disable_gradient_checkpointing()

    def _check(self, x: Tensor, t: Tensor, label: Tensor | None) -> None:
        image = (self.config.channels, self.config.size, self.config.size)
        if x.ndim != 4 or x.shape[1:] != image:
            raise ValueError(f"x must be (N, {', '.join(map(str, image))}), got {tuple(x.shape)}")
        if t.ndim and t.shape != x.shape[:1]:
            raise ValueError(f"t must be a scalar or ({len(x)},), got {tuple(t.shape)}")
        if label is None:
            return
        if not self.null:
            raise ValueError("this model has no classes, so it takes no label")
        if label.shape != x.shape[:1] or label.dtype != torch.int64:
            got = f"{tuple(label.shape)} {label.dtype}"
            raise ValueError(f"label must be ({len(x)},) int64, got {got}")


def _build(config: UNetConfig) -> Any:
    """The network of diffusers with these sizes."""
    # imported here: it takes seconds, and few of the networks are of this kind
    from diffusers import UNet2DModel

    inside = config.adm or config.biggan
    plain, change = ("Resnet{}sampleBlock2D", "resnet") if inside else ("{}Block2D", "conv")
    levels = range(len(config.widths))
    kinds = ["Attn{}Block2D" if level in config.attention else plain for level in levels]
    model: Any = UNet2DModel
    return model(
        sample_size=config.size,
        in_channels=config.channels,
        out_channels=config.channels,
        block_out_channels=config.widths,
        layers_per_block=config.layers,
        down_block_types=tuple(kind.format("Down") for kind in kinds),
        up_block_types=tuple(kind.format("Up") for kind in reversed(kinds)),
        downsample_type=change,
        upsample_type=change,
        resnet_time_scale_shift="scale_shift" if config.adm else "default",
        attention_head_dim=config.head,
        norm_num_groups=config.groups,
        # or the attention of the middle has no norm in the manner of ADM
        attn_norm_num_groups=config.groups,
        dropout=config.dropout,
        num_class_embeds=config.classes + 1 if config.classes else None,
    )


# Parameters, in this order: 1,806,529, 1,090,564, 51,971,587, 78,700,803, 62,513,667, 35,751,939.
# The documents give no more of the first CelebA network than ADM and 50 M [P Tab 2, G]: its widths
# are ours. The second is DDIM's, UNet-cifar10 is laid out as DDPM's, with classes added. The third
# follows the DDPM++ of Soft Truncation's code, whose parameters are 61,804,419: that one attends
# once on the way up and not after each of five blocks, has a 1x1 convolution past the blocks that
# change sizes, divides each sum by sqrt(2), starts the last convolution of every block at 0 and
# counts time as 999 t.
# fmt: off
CONFIGS: dict[str, UNetConfig] = {
    # size, channels, widths, attention, layers, head, groups, classes, dropout
    "UNet-fashion":        UNetConfig(28, 1, (32, 64, 96),         (2,),   1,  32,  8, 10),
    "UNet-fashion-latent": UNetConfig( 7, 4, (80,),                (0,),   1,  40,  8, 10),
    "UNet-celeba":         UNetConfig(64, 3, (128, 256, 256, 320), (2, 3), 2,  64, 32, 0, adm=True),
    "UNet-celeba-ddim":    UNetConfig(64, 3, (128, 256, 256, 256, 512), (2,), 2, 256, 32, 0, 0.1),
    "UNet-celeba-ddpmpp":  UNetConfig(64, 3, (128, 256, 256, 256), (2,),   4, 256, 32, 0, 0.1,
                                      biggan=True),
    "UNet-cifar10":        UNetConfig(32, 3, (128, 256, 256, 256), (1,),   2, 256, 32, 10, 0.1),
}
# fmt: on
