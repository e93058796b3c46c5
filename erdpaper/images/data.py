"""What the image models are trained on: pixels, and the latents of the autoencoder.

The latents of the training images are kept as bytes, `z = byte / 24 - 5.3125` (byte 0..255, what
lies outside is clamped), so that nothing has to be encoded before a training starts. Rounding adds
an error of standard deviation 0.012 to coordinates whose mean variance is 1.
"""

from functools import cache
from pathlib import Path

import torch
from safetensors.torch import load_file, save
from torch import Tensor

from erdpaper import datasets
from erdpaper.datasets import FASHION_CLASSES, Images
from erdpaper.files import write_atomically
from erdpaper.models.autoencoder import Autoencoder
from erdpaper.models.classifier import Classifier
from erdpaper.tasks import missing

CLASSES = len(FASHION_CLASSES)
_STEPS_PER_UNIT = 24
_ZERO = 127.5
SHAPE = (4, 7, 7)
FOLDER = "fashion-models"


def folder() -> Path:
    """Where the models of Fashion-MNIST and their latents are kept."""
    return datasets.data_dir() / FOLDER


def to_bytes(z: Tensor) -> Tensor:
    """Latents as bytes, clamped to 0..255."""
    return (z * _STEPS_PER_UNIT + _ZERO).round().clamp(0, 255).to(torch.uint8)


def from_bytes(stored: Tensor) -> Tensor:
    """Bytes as latents, float32."""
    return (stored.float() - _ZERO) / _STEPS_PER_UNIT


def write_latents(path: Path, autoencoder: Autoencoder, images: Images) -> None:
    """Encode images and keep their latents as bytes, with their labels."""
    with torch.no_grad():
        z = torch.cat([autoencoder.encode(part) for part in images.images.split(500)])
    state = {"latents": to_bytes(z), "labels": images.labels.to(torch.uint8)}
    write_atomically(path, save(state))


@cache
def latents(split: str = "train") -> tuple[Tensor, Tensor]:
    """Latents (N, 4, 7, 7), float32, and labels (N,); "train" or "test"."""
    if split not in ("train", "test"):
        raise ValueError(f"split must be one of train, test, not {split!r}")
    path = folder() / f"latents-{split}.safetensors"
    state = read(path, "fashion-autoencoder")
    return from_bytes(state["latents"]), state["labels"].long()


@cache
def autoencoder() -> Autoencoder:
    """The kept autoencoder, for evaluation."""
    model = Autoencoder.from_name("KL-fashion")
    model.load_state_dict(read(folder() / "autoencoder.safetensors", "fashion-autoencoder"))
    return model.eval().requires_grad_(False)


@cache
def classifier() -> Classifier:
    """The kept classifier, for evaluation."""
    model = Classifier()
    model.load_state_dict(read(folder() / "classifier.safetensors", "fashion-classifier"))
    return model.eval().requires_grad_(False)


def read(path: Path, preset: str) -> dict[str, Tensor]:
    """Tensors of a kept file, half precision as single."""
    try:
        state = load_file(path)
    except FileNotFoundError:
        raise missing(path, f"erdpaper train --preset {preset}") from None
    return {
        name: part.float() if part.dtype == torch.half else part for name, part in state.items()
    }
