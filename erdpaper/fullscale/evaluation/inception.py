"""Inception-v3 in the form that FID is defined by (Szegedy et al. 2016; Heusel et al. 2017).

The network of 2015-12-05, whose blocks differ from the paper's: average pooling leaves out the
padding, and the last block pools by the maximum. Names are those of the usual port to PyTorch, so
that its state dict loads. ADM's protocol (Dhariwal & Nichol 2021) resizes images as TensorFlow 1
did, shifts bytes to (b - 128) / 128 and reads

- `pool`, the mean over the last 8x8 map: 2048 features, for FID, precision and recall;
- `spatial`, the first 7 channels of the 17x17 map of block 6d, rows first: 2023, for sFID;
- `logits` without their bias, over 1008 classes, for the Inception score.

`divisor` makes every layer that many times narrower, for a network that is no Inception but is
asked in the same way; of the first 7 channels it then has 7 / divisor, at least one.
"""

from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SIDE = 299
CLASSES = 1008
SPATIAL = 7
# pooling as in the network of 2015: the padding counts for nothing
_average = partial(F.avg_pool2d, kernel_size=3, stride=1, padding=1, count_include_pad=False)
_maximum = partial(F.max_pool2d, kernel_size=3, stride=2)

Size = int | tuple[int, int]


class Features(NamedTuple):
    """pool (N, d), spatial (N, s) or None, probabilities (N, K) or None; float32."""

    pool: Tensor
    spatial: Tensor | None
    probabilities: Tensor | None


def resize(images: Tensor, side: int = SIDE) -> Tensor:
    """Images (N, C, H, W), float32, bilinear to (N, C, side, side) as TensorFlow 1 did.

    Pixel i of the result lies at i H / side of the source, without the half-pixel shift of later
    conventions and without smoothing; the last pixel is repeated beyond the edge.
    """
    for axis in (-1, -2):
        images = _resized(images, axis, side)
    return images


def _resized(images: Tensor, axis: int, side: int) -> Tensor:
    length = images.shape[axis]
    # in float32, as it was there
    place = torch.arange(side, dtype=torch.float32, device=images.device) * (length / side)
    low = place.long().clamp(max=length - 1)
    high = (low + 1).clamp(max=length - 1)
    share = (place - low).view(-1, *[1] * (-axis - 1)).to(images)
    return torch.lerp(images.index_select(axis, low), images.index_select(axis, high), share)


class Conv(nn.Module):
    """Convolution without bias, batch norm, ReLU."""

    def __init__(
        self, inputs: int, outputs: int, kernel: Size, stride: int = 1, padding: Size = 0
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) -> (N, outputs, H', W')."""
        return F.relu(self.bn(self.conv(x)), inplace=True)


def _row(inputs: int, outputs: int, length: int) -> Conv:
    return Conv(inputs, outputs, (1, length), padding=(0, length // 2))


def _column(inputs: int, outputs: int, length: int) -> Conv:
    return Conv(inputs, outputs, (length, 1), padding=(length // 2, 0))


class BlockA(nn.Module):
    """35x35, to 7 `part` channels and `pooled` of the pooling branch."""

    def __init__(self, inputs: int, part: int, pooled: int) -> None:
        super().__init__()
        # part is 32 in the published network
        self.branch1x1 = Conv(inputs, 2 * part, 1)
        self.branch5x5_1 = Conv(inputs, 3 * part // 2, 1)
        self.branch5x5_2 = Conv(3 * part // 2, 2 * part, 5, padding=2)
        self.branch3x3dbl_1 = Conv(inputs, 2 * part, 1)
        self.branch3x3dbl_2 = Conv(2 * part, 3 * part, 3, padding=1)
        self.branch3x3dbl_3 = Conv(3 * part, 3 * part, 3, padding=1)
        self.branch_pool = Conv(inputs, pooled, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, 35, 35) -> (N, 7 part + pooled, 35, 35)."""
        five = self.branch5x5_2(self.branch5x5_1(x))
        three = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch1x1(x), five, three, self.branch_pool(_average(x))], 1)


class BlockB(nn.Module):
    """35x35 to 17x17."""

    def __init__(self, inputs: int, part: int) -> None:
        super().__init__()
        self.branch3x3 = Conv(inputs, 12 * part, 3, stride=2)
        self.branch3x3dbl_1 = Conv(inputs, 2 * part, 1)
        self.branch3x3dbl_2 = Conv(2 * part, 3 * part, 3, padding=1)
        self.branch3x3dbl_3 = Conv(3 * part, 3 * part, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, 35, 35) -> (N, inputs + 15 part, 17, 17)."""
        three = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch3x3(x), three, _maximum(x)], 1)


class BlockC(nn.Module):
    """17x17, with `inner` channels between convolutions of 7x1 and 1x7."""

    def __init__(self, inputs: int, inner: int) -> None:
        super().__init__()
        outputs = inputs // 4
        self.branch1x1 = Conv(inputs, outputs, 1)
        self.branch7x7_1 = Conv(inputs, inner, 1)
        self.branch7x7_2 = _row(inner, inner, 7)
        self.branch7x7_3 = _column(inner, outputs, 7)
        self.branch7x7dbl_1 = Conv(inputs, inner, 1)
        self.branch7x7dbl_2 = _column(inner, inner, 7)
        self.branch7x7dbl_3 = _row(inner, inner, 7)
        self.branch7x7dbl_4 = _column(inner, inner, 7)
        self.branch7x7dbl_5 = _row(inner, outputs, 7)
        self.branch_pool = Conv(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, 17, 17) -> the same shape."""
        seven = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
        twice = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        twice = self.branch7x7dbl_5(self.branch7x7dbl_4(twice))
        return torch.cat([self.branch1x1(x), seven, twice, self.branch_pool(_average(x))], 1)


class BlockD(nn.Module):
    """17x17 to 8x8."""

    def __init__(self, inputs: int, part: int) -> None:
        super().__init__()
        self.branch3x3_1 = Conv(inputs, 6 * part, 1)
        self.branch3x3_2 = Conv(6 * part, 10 * part, 3, stride=2)
        self.branch7x7x3_1 = Conv(inputs, 6 * part, 1)
        self.branch7x7x3_2 = _row(6 * part, 6 * part, 7)
        self.branch7x7x3_3 = _column(6 * part, 6 * part, 7)
        self.branch7x7x3_4 = Conv(6 * part, 6 * part, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, 17, 17) -> (N, inputs + 16 part, 8, 8)."""
        three = self.branch3x3_2(self.branch3x3_1(x))
        seven = self.branch7x7x3_2(self.branch7x7x3_1(x))
        seven = self.branch7x7x3_4(self.branch7x7x3_3(seven))
        return torch.cat([three, seven, _maximum(x)], 1)


class BlockE(nn.Module):
    """8x8, to 64 `part` channels; `maximum`: the pooling branch takes the largest, not the mean."""

    def __init__(self, inputs: int, part: int, maximum: bool) -> None:
        super().__init__()
        self.maximum = maximum
        self.branch1x1 = Conv(inputs, 10 * part, 1)
        self.branch3x3_1 = Conv(inputs, 12 * part, 1)
        self.branch3x3_2a = _row(12 * part, 12 * part, 3)
        self.branch3x3_2b = _column(12 * part, 12 * part, 3)
        self.branch3x3dbl_1 = Conv(inputs, 14 * part, 1)
        self.branch3x3dbl_2 = Conv(14 * part, 12 * part, 3, padding=1)
        self.branch3x3dbl_3a = _row(12 * part, 12 * part, 3)
        self.branch3x3dbl_3b = _column(12 * part, 12 * part, 3)
        self.branch_pool = Conv(inputs, 6 * part, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, 8, 8) -> (N, 64 part, 8, 8)."""
        three = self.branch3x3_1(x)
        twice = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        pooled = F.max_pool2d(x, 3, stride=1, padding=1) if self.maximum else _average(x)
        outputs = [
            self.branch1x1(x),
            *(self.branch3x3_2a(three), self.branch3x3_2b(three)),
            *(self.branch3x3dbl_3a(twice), self.branch3x3dbl_3b(twice)),
            self.branch_pool(pooled),
        ]
        return torch.cat(outputs, 1)


class Inception(nn.Module):
    """Bytes or floats (N, 3, H, W) from 0 to 255 -> `Features`; for evaluation only."""

    def __init__(self, divisor: int = 1, classes: int = CLASSES) -> None:
        super().__init__()
        if divisor < 1 or 16 % divisor:
            raise ValueError(f"the divisor must be 1, 2, 4, 8 or 16, got {divisor}")
        part, self.seen = 32 // divisor, max(1, SPATIAL // divisor)
        self.Conv2d_1a_3x3 = Conv(3, part, 3, stride=2)
        self.Conv2d_2a_3x3 = Conv(part, part, 3)
        self.Conv2d_2b_3x3 = Conv(part, 2 * part, 3, padding=1)
        self.Conv2d_3b_1x1 = Conv(2 * part, 5 * part // 2, 1)
        self.Conv2d_4a_3x3 = Conv(5 * part // 2, 6 * part, 3)
        self.Mixed_5b = BlockA(6 * part, part, part)
        self.Mixed_5c = BlockA(8 * part, part, 2 * part)
        self.Mixed_5d = BlockA(9 * part, part, 2 * part)
        self.Mixed_6a = BlockB(9 * part, part)
        self.Mixed_6b = BlockC(24 * part, 4 * part)
        self.Mixed_6c = BlockC(24 * part, 5 * part)
        self.Mixed_6d = BlockC(24 * part, 5 * part)
        self.Mixed_6e = BlockC(24 * part, 6 * part)
        self.Mixed_7a = BlockD(24 * part, part)
        self.Mixed_7b = BlockE(40 * part, part, maximum=False)
        self.Mixed_7c = BlockE(64 * part, part, maximum=True)
        self.fc = nn.Linear(64 * part, classes)
        self.eval().requires_grad_(False)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Features:
        """See the module docstring."""
        x = (resize(images.to(self.fc.weight.dtype)) - 128) / 128  # (N, 3, 299, 299)
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))  # (N, 64, 147, 147)
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(_maximum(x)))  # (N, 192, 71, 71)
        x = self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(_maximum(x))))  # (N, 288, 35, 35)
        x = self.Mixed_6d(self.Mixed_6c(self.Mixed_6b(self.Mixed_6a(x))))  # (N, 768, 17, 17)
        # the branch that comes first in the block's channels, laid out as TensorFlow did
        spatial = x[:, : self.seen].permute(0, 2, 3, 1).flatten(1)  # (N, 2023)
        x = self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(self.Mixed_6e(x))))  # (N, 2048, 8, 8)
        pool = x.mean((2, 3))  # (N, 2048)
        return Features(pool, spatial, F.linear(pool, self.fc.weight).softmax(1))
