"""What became of samples: their class, whether they lie between two, and what of the image changed.

Low spatial frequencies are those of four cycles an image or fewer, the mean included; high ones are
the rest.
"""

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from erdpaper.metrics import ClassAgreement, share
from erdpaper.regimes.system import System

_CYCLES = 4
# a sample counts as of one class from this probability on
SURE = 0.8
_MEAN_OF = 300
_OTHERS = 8
_RESAMPLES = 1000
_DIRECTIONS = 200
# fewer samples than these show nothing
_FEWEST = 10


class Judged(NamedTuple):
    """Images (N, C, H, W), their classes (N,), the largest probability (N,), features (N, F)."""

    images: Tensor
    classes: Tensor
    top: Tensor
    features: Tensor


class Interval(NamedTuple):
    """A value and its 95 % interval."""

    value: float
    low: float
    high: float


def judge(system: System, x: Tensor) -> Judged:
    """What the classifier says of clean states x (N, ...)."""
    images = system.decode(x)
    features, logits = system.look(images)
    top, classes = logits.softmax(1).max(1)
    return Judged(images, classes, top, features)


def low_pass(images: Tensor) -> Tensor:
    """The low spatial frequencies of images (..., H, W), a share of each image that is a sum."""
    H, W = images.shape[-2:]
    rows, columns = torch.fft.fftfreq(H) * H, torch.fft.rfftfreq(W) * W
    kept = rows[:, None].square() + columns.square() <= _CYCLES**2  # (H, W // 2 + 1)
    low: Tensor = torch.fft.irfft2(torch.fft.rfft2(images) * kept.to(images.device), s=(H, W))
    return low


def distances(images: Tensor, others: Tensor) -> Tensor:
    """RMS distance of paired images by pixel, in low and in high frequencies, (2, N)."""
    difference = images - others
    low = low_pass(difference)
    return torch.stack([b.flatten(1).square().mean(1).sqrt() for b in (low, difference - low)])


def positions(features: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """Place (N,) of features (N, F) on the line from the mean of one set (0) to another's (1)."""
    start, way = first.mean(0), second.mean(0) - first.mean(0)
    place: Tensor = (features - start) @ way / way.square().sum()
    return place


def hybrids(judged: Judged, first: Judged, second: Judged) -> Tensor:
    """Which samples lie between two classes: by probability and by features, (2, N) 0 or 1.

    first and second are samples of the classes themselves.
    """
    place = positions(judged.features, first.features, second.features)
    return torch.stack([judged.top < SURE, (place - 0.5).abs() < 1 / 6]).double()


@cache
def bootstrap(n: int) -> np.ndarray:
    """Weights (R, n) of n samples in each of R resamples, rows of sum 1, the same on every call.

    The means of values (..., n) over the resamples are values @ bootstrap(n).T.
    """
    rows = np.random.default_rng(0).integers(0, n, (_RESAMPLES, n))
    return np.stack([np.bincount(row, minlength=n) for row in rows]) / n


def interval(value: float, resampled: np.ndarray) -> Interval:
    """The percentile interval of resampled values (R,)."""
    low, high = np.quantile(resampled, [0.025, 0.975])
    return Interval(value, float(low), float(high))


@cache
def class_mean(system: System, label: int) -> Tensor:
    """Low frequencies of the mean of a class's first training images, decoded, (C, H, W)."""
    return low_pass(system.decode(system.data("train", label)[0][:_MEAN_OF]).mean(0))


def class_means(system: System, label: int, other: int) -> Tensor:
    """Those of a class, of the adversary's and of the first eight others, (K, C, H, W)."""
    third = [k for k in range(len(system.classes)) if k not in (label, other)]
    return torch.stack([class_mean(system, k) for k in (label, other, *third[:_OTHERS])])


class Shift(NamedTuple):
    """How far low frequencies moved towards a class mean, as shares of the way to it.

    contrast: less the mean movement towards the other classes, if any. random: the 95th percentile
    of the size of the mean movement along random low-frequency directions. n: samples.
    """

    towards: Interval
    contrast: Interval
    random: float
    n: int


def shift(judged: Judged, untouched: Judged, means: Tensor, kept: Tensor) -> Shift | None:
    """Movement of the kept (N,) samples from their untouched partners, by `class_means`.

    None where fewer than ten samples are kept.
    """
    n = int(kept.sum())
    if n < _FEWEST:
        return None
    moved = low_pass(judged.images - untouched.images)[kept].flatten(1)  # (n, D)
    ways = (means[1:] - means[0]).flatten(1)
    length = ways[0].norm()
    along = ways / ways.norm(dim=1, keepdim=True)
    shares = (moved @ along.T / length).double().numpy()  # (n, K - 1)
    others = shares[:, 1:].mean(1) if len(ways) > 1 else 0.0
    contrast = shares[:, 0] - others
    drawn = low_pass(torch.randn(_DIRECTIONS, *means.shape[1:], generator=_generator()))
    drawn = drawn.flatten(1) / drawn.flatten(1).norm(dim=1, keepdim=True)
    random = (moved.mean(0) @ drawn.T / length).abs().quantile(0.95)
    return Shift(_mean(shares[:, 0]), _mean(contrast), float(random), n)


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def _mean(values: np.ndarray) -> Interval:
    return interval(float(values.mean()), values @ bootstrap(len(values)).T)


def wilson(flags: np.ndarray) -> ClassAgreement:
    """The share of flags (N,), 0 or 1, that are set, with its 95 % Wilson interval."""
    return share(torch.from_numpy(flags == 1))


def resampled(values: np.ndarray, measure: Callable[[np.ndarray], np.ndarray | float]) -> Interval:
    """The interval of a measure of means (...,) over samples, values (..., N)."""
    means = np.moveaxis(values @ bootstrap(values.shape[-1]).T, -1, 0)  # (R, ...)
    return interval(float(measure(values.mean(-1))), np.array([float(measure(m)) for m in means]))
