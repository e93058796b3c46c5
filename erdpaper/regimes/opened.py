"""The systems of full scale, from the reader's own copies of models and data.

What a system reads is named by environment variables; all it needs are checked before anything is
loaded.
"""

import hashlib
import os
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from erdpaper import guidance, sampling
from erdpaper.fullscale.data import cifar10, folders
from erdpaper.fullscale.pretrained import cifar10_unet, judge, loading, stable_diffusion
from erdpaper.regimes.system import Label, System, check_classes

VARIABLES = {
    "ERDPAPER_CIFAR10": "the folder with CIFAR-10's binary files (data_batch_1.bin ... )",
    "ERDPAPER_CIFAR10_MODEL": "a folder or hub name of a class-conditional UNet2DModel; guidance, "
    "and sampling without a class, need an eleventh class for none",
    "ERDPAPER_STABLE_DIFFUSION": "a folder or hub name of a StableDiffusionPipeline",
    "ERDPAPER_IMAGENET": "a folder that holds a folder of images for each class, named as prompts "
    "shall name it",
    "ERDPAPER_CLIP": "a folder or hub name of a CLIPModel, which judges the images",
}
# every so many-th image of a folder is left for testing, the others are for estimating
_HELD_OUT = 5
# images of a class at most: 1,000 of 512 x 512 pixels take 0.8 GB before they are encoded
_MOST = 1_000


_NAMES = {
    "cifar10": ("ERDPAPER_CIFAR10", "ERDPAPER_CIFAR10_MODEL", "ERDPAPER_CLIP"),
    "stable-diffusion": ("ERDPAPER_STABLE_DIFFUSION", "ERDPAPER_IMAGENET", "ERDPAPER_CLIP"),
}


def cifar() -> System:
    """CIFAR-10 by a class-conditional network in pixels, judged by CLIP."""
    return _cifar(*_settings("cifar10"))


def stable() -> System:
    """Stable Diffusion in latents, with folders of images as data, judged by CLIP.

    The classes are the folders' names; class i is asked for as "a photo of a <name>", and for none
    by the empty text. Of each folder the first 1,000 images in order of names are used: every fifth
    is of the split "test", the others of "train", neither of which the model was trained on as
    such. They are encoded when a class is first asked for.
    """
    return _stable(*_settings("stable-diffusion"))


def origin(model: str) -> tuple[tuple[str, str], ...]:
    """What tells one model's results from another's: what each environment variable names.

    With the SHA-256 of the weights, if it is a folder with some.
    """
    return tuple(zip(_NAMES[model], map(_described, _settings(model)), strict=True))


def _described(name: str) -> str:
    # a hub name is no folder, and finds nothing
    weights = sorted(Path(name).rglob("*.safetensors"))
    if not weights:
        return name
    whole = hashlib.sha256()
    for path in weights:
        with path.open("rb") as file:
            whole.update(hashlib.file_digest(file, "sha256").digest())
    return f"{name}, SHA-256 {whole.hexdigest()}"


def _settings(model: str) -> list[str]:
    """The values of a model's environment variables, ValueError for the first that is not set."""
    names = _NAMES[model]
    for name in names:
        if not os.environ.get(name):
            raise ValueError(f"set the environment variable {name} to {VARIABLES[name]}")
    return [os.environ[name] for name in names]


@cache
def _cifar(folder: str, name: str, clip: str) -> System:
    for split in ("train", "test"):
        cifar10.files(folder, split)
    model = cifar10_unet.load(name)

    @cache
    def images(split: str) -> tuple[Tensor, Tensor]:
        found = cifar10.read(folder, split)
        return found.images, found.labels

    def data(split: str, label: int | None) -> tuple[Tensor, Tensor]:
        check_classes(label, cifar10.CLASSES)
        x, labels = images(split)
        chosen = slice(None) if label is None else labels == label
        return x[chosen], labels[chosen]

    return System(
        "cifar10",
        model.schedule,
        cifar10.SHAPE,
        cifar10.CLASSES,
        model.denoiser,
        data,
        lambda x: x.clamp(-1, 1),
        judge.load(clip, cifar10.CLASSES),
    )


@cache
def _stable(name: str, images: str, clip: str) -> System:
    classes = folders.class_names(images)
    called = [each.replace("_", " ") for each in classes]
    pipe = stable_diffusion.load(name)
    schedule, target = stable_diffusion.schedule(pipe), loading.target(pipe.scheduler)
    none = len(classes)
    network = stable_diffusion.network(pipe, [judge.PROMPT.format(each) for each in called])

    def denoiser(label: Label, scale: float = 1.0) -> sampling.Denoiser:
        check_classes(label, classes)
        label, scale = (none, 1.0) if label is None else (label, scale)
        return guidance.cfg(network, schedule, target, label, scale, none)

    @cache
    def latents(label: int) -> Tensor:
        folder, size = Path(images) / classes[label], stable_diffusion.image_size(pipe)
        return stable_diffusion.encode_folder(pipe, folder, size, _MOST)

    def data(split: str, label: int | None) -> tuple[Tensor, Tensor]:
        check_classes(label, classes)
        wanted = range(len(classes)) if label is None else [label]
        parts = [_split(latents(each), split) for each in wanted]
        sizes = torch.tensor([len(part) for part in parts])
        labels = torch.tensor(wanted).repeat_interleave(sizes)
        # the first of each class, then the second: the first n of all are of all classes
        turn = torch.cat([torch.arange(size) for size in sizes.tolist()]).argsort(stable=True)
        return torch.cat(parts)[turn], labels[turn]

    return System(
        "stable-diffusion",
        schedule,
        stable_diffusion.latent_shape(pipe),
        classes,
        denoiser,
        data,
        lambda z: stable_diffusion.decode(pipe, z),
        judge.load(clip, called),
    )


def _split(z: Tensor, split: str) -> Tensor:
    if split not in ("train", "test"):
        raise ValueError(f"split must be train or test, not {split!r}")
    held_out = torch.arange(len(z)) % _HELD_OUT == _HELD_OUT - 1
    return z[held_out if split == "test" else ~held_out]
