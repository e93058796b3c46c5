"""Small random images, latents and networks in place of those in data/, for the image tests."""

import pytest
import torch
from torch import Tensor

from erdpaper import datasets
from erdpaper.datasets import Images
from erdpaper.images import data, grid, measure
from erdpaper.models.autoencoder import Autoencoder
from erdpaper.models.classifier import Classifier

N = 2_000


def latents(split: str = "train") -> tuple[Tensor, Tensor]:
    """Ten clouds around means of their own, (N, 4, 7, 7), mean variance 1."""
    means = torch.randn(10, *data.SHAPE, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(1 if split == "train" else 2)
    labels = torch.randint(10, (N,), generator=generator)
    noise = torch.randn(N, *data.SHAPE, generator=generator)
    return 0.6 * means[labels] + 0.8 * noise, labels


def images(split: str = "train", dtype: torch.dtype = torch.float32) -> Images:
    generator = torch.Generator().manual_seed(3 if split == "train" else 4)
    pixels = torch.rand(400, 1, 28, 28, generator=generator) * 2 - 1
    return Images(pixels.to(dtype), torch.arange(400) % 10)


def install(patch: pytest.MonkeyPatch) -> None:
    """Replace all that would be read from data/."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        coder = Autoencoder.from_name("KL-fashion-tiny").eval().requires_grad_(False)
        judge = Classifier().eval().requires_grad_(False)
    patch.setattr(data, "latents", latents)
    patch.setattr(data, "autoencoder", lambda: coder)
    patch.setattr(data, "classifier", lambda: judge)
    patch.setattr(datasets, "fashion_mnist", images)
    forget()


def forget() -> None:
    """Empty what remembers the data."""
    for cached in (measure.reference, measure.reference_moments, grid.signal):
        cached.cache_clear()
