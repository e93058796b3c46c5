"""Shapes of networks, as seen in a forward pass: the diagrams of A.6 as tables."""

from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode


class Row(NamedTuple):
    """One stage of a network: its name, and channels and side of what it puts out."""

    stage: str
    channels: int
    side: int


def parameters(model: nn.Module) -> int:
    """How many numbers a network learns."""
    return sum(p.numel() for p in model.parameters())


def flops(model: nn.Module, *inputs: Tensor) -> int:
    """Floating-point operations of one call, as torch counts them (two for a multiply-add)."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(*inputs)
    return int(counter.get_total_flops())


def seen(model: nn.Module, names: list[str], *inputs: Tensor) -> dict[str, tuple[int, ...]]:
    """The shapes that named submodules put out in one call, the last call of each counting."""
    found: dict[str, tuple[int, ...]] = {}

    def keep(name: str, output: object) -> None:
        first = output[0] if isinstance(output, tuple) else output
        if isinstance(first, Tensor):
            found[name] = tuple(first.shape)

    modules = dict(model.named_modules())
    missing = [name for name in names if name not in modules]
    if missing:
        raise ValueError(f"this network has no part called {', '.join(missing)}")
    handles = [
        modules[name].register_forward_hook(lambda _, __, out, name=name: keep(name, out))
        for name in names
    ]
    try:
        with torch.no_grad():
            model(*inputs)
    finally:
        for handle in handles:
            handle.remove()
    return found


class ClassicUNet(nn.Module):
    """The U-Net that A.6 describes (Ronneberger et al. 2015), for its shapes.

    Each level: two unpadded 3x3 convolutions with ReLU; 2x2 max pooling down, which doubles the
    channels; 2x2 up-convolution, which halves them; the skip connection is cropped and joined.
    """

    def __init__(self, channels: int = 1, width: int = 64, levels: int = 5) -> None:
        super().__init__()
        widths = [width * 2**k for k in range(levels)]
        sizes = list(zip([channels, *widths], widths, strict=False))
        self.down = nn.ModuleList(_double(i, o) for i, o in sizes)
        ups = [(o, i) for i, o in sizes[1:]][::-1]
        self.raise_ = nn.ModuleList(nn.ConvTranspose2d(i, o, 2, stride=2) for i, o in ups)
        self.up = nn.ModuleList(_double(i, o) for i, o in ups)
        self.readout = nn.Conv2d(width, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, S, S) -> (N, C, s, s), s < S."""
        skips = []
        for k, stage in enumerate(self.down):
            x = stage(F.max_pool2d(x, 2) if k else x)
            skips.append(x)
        skips.pop()
        for raise_, stage in zip(self.raise_, self.up, strict=True):
            x = raise_(x)
            skip = skips.pop()
            edge = (skip.shape[-1] - x.shape[-1]) // 2
            skip = skip[..., edge : edge + x.shape[-1], edge : edge + x.shape[-1]]
            x = stage(torch.cat([skip, x], 1))
        answer: Tensor = self.readout(x)
        return answer


def _double(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3), nn.ReLU(), nn.Conv2d(outputs, outputs, 3), nn.ReLU()
    )


def rows(shapes: dict[str, tuple[int, ...]]) -> list[Row]:
    """Image-shaped outputs (N, C, H, W) as rows."""
    return [Row(name, shape[1], shape[-1]) for name, shape in shapes.items() if len(shape) == 4]


def rise(stages: list[Row]) -> float:
    """The ratio of channels of neighbouring stages down that is farthest from 2."""
    ratios = [b.channels / a.channels for a, b in pairwise(stages)]
    return max(ratios, key=lambda ratio: abs(ratio - 2))
