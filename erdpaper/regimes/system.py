"""A diffusion model as the chapters on sampling need it: its data, its denoisers and its judge.

Everything that differs between small networks of clothes, a CIFAR-10 network and Stable Diffusion
is in a `System`; what is measured is written once, for any.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache

import torch
from torch import Tensor

from erdpaper import datasets, guidance, sampling
from erdpaper.datasets import OWN_MODEL
from erdpaper.images import data, keep, measure
from erdpaper.images.measure import Features
from erdpaper.images.presets import PRESETS
from erdpaper.images.spec import SCHEDULE
from erdpaper.schedules import Schedule

SPACES = ("pixels", "latents")
_DECODED = 500
# numbers of states that are decoded at once: 512 latents of Stable Diffusion, 1.6 GB of images
_NUMBERS = 1 << 23

# a class for all, (N,) classes, or None for no class
Label = Tensor | int | None


@dataclass(frozen=True)
class System:
    """States x have shape (N, ...); images are what `decode` makes of them.

    classes: names, in the order of the labels.
    denoiser(label, scale): the denoiser of one class for all samples, of (N,) classes, or without
    (None); scale is that of `guidance.cfg`, 1 for plain conditional sampling.
    data(split, label): clean states of a class, or of all (None), and their labels (N,).
    look(images): features (N, F) and logits (N, C) of a classifier that is no part of the model.
    """

    name: str
    schedule: Schedule
    shape: tuple[int, ...]
    classes: tuple[str, ...]
    denoiser: Callable[[Label, float], sampling.Denoiser] = field(repr=False)
    data: Callable[[str, int | None], tuple[Tensor, Tensor]] = field(repr=False)
    decode: Callable[[Tensor], Tensor] = field(repr=False)
    look: Callable[[Tensor], Features] = field(repr=False)

    def seen(self, x: Tensor) -> Features:
        """What the classifier says of states x, decoded; in parts if they are large."""
        size = max(1, _NUMBERS // math.prod(self.shape))
        parts = [self.look(self.decode(part)) for part in x.split(size)]
        return Features(*(torch.cat(each) for each in zip(*parts, strict=True)))

    def start(self, n: int, seed: int = 0) -> Tensor:
        """Standard normal noise (n, ...); sample i depends on the seed and i alone."""
        seeds = range(seed * _SEEDS_APART, seed * _SEEDS_APART + n)
        return sampling.noise.per_sample(seeds, self.shape)


_SEEDS_APART = 1_000_000


@cache
def fashion(space: str) -> System:
    """The kept network of Fashion-MNIST's pixels, or that of its autoencoder's latents."""
    if space not in SPACES:
        raise ValueError(f"the space must be one of {', '.join(SPACES)}, not {space!r}")
    preset = f"fashion-{space}"
    network, target = keep.model(preset), PRESETS[preset].target

    def denoiser(label: Label, scale: float = 1.0) -> sampling.Denoiser:
        check_classes(label, datasets.FASHION_CLASSES)
        label, scale = (data.CLASSES, 1.0) if label is None else (label, scale)
        return guidance.cfg(network, SCHEDULE, target, label, scale, data.CLASSES)

    in_pixels = space == "pixels"
    return System(
        preset,
        SCHEDULE,
        (1, 28, 28) if in_pixels else data.SHAPE,
        datasets.FASHION_CLASSES,
        denoiser,
        _pixels if in_pixels else _latents,
        _as_it_is if in_pixels else _decoded,
        measure.look,
    )


def check_classes(label: Label, classes: Sequence[str]) -> None:
    """Refuse a label, or labels (N,), of no class; None asks for none and passes."""
    if label is None:
        return
    wanted = torch.as_tensor(label)
    unknown = wanted[(wanted < 0) | (wanted >= len(classes))]
    if len(unknown):
        raise ValueError(f"a class must lie in 0..{len(classes) - 1}, got {int(unknown[0])}")


def open_system(model: str, space: str) -> System:
    """The system of a notebook's parameter `model`: fashion, cifar10 or stable-diffusion.

    `space`, "pixels" or "latents", chooses among those of fashion; the others have one space only,
    CIFAR-10's network pixels and Stable Diffusion latents. They read what the environment variables
    of `regimes.opened` name: ValueError for one that is not set.
    """
    if space not in SPACES:
        raise ValueError(f"the space must be one of {', '.join(SPACES)}, not {space!r}")
    if model == OWN_MODEL:
        return fashion(space)
    if model not in ("cifar10", "stable-diffusion"):
        raise ValueError(f"model must be fashion, cifar10 or stable-diffusion, not {model!r}")
    # imported here: its libraries take seconds, and need not be there for small networks
    from erdpaper.regimes import opened

    return opened.cifar() if model == "cifar10" else opened.stable()


def _of_class(x: Tensor, labels: Tensor, label: int | None) -> tuple[Tensor, Tensor]:
    check_classes(label, datasets.FASHION_CLASSES)
    if label is None:
        return x, labels
    wanted = labels == label
    return x[wanted], labels[wanted]


def _pixels(split: str, label: int | None) -> tuple[Tensor, Tensor]:
    found = _images(split)
    return _of_class(found.images, found.labels, label)


@cache
def _images(split: str) -> datasets.Images:
    return datasets.fashion_mnist(split)


def _latents(split: str, label: int | None) -> tuple[Tensor, Tensor]:
    return _of_class(*data.latents(split), label)


def _as_it_is(x: Tensor) -> Tensor:
    return x.clamp(-1, 1)


@torch.no_grad()
def _decoded(x: Tensor) -> Tensor:
    parts = [data.autoencoder().decode(part) for part in x.split(_DECODED)]
    return torch.cat(parts).clamp(-1, 1)
