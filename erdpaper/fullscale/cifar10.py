"""CIFAR-10: the files of its binary version, and class-conditional networks of diffusers."""

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import DDPMScheduler, UNet2DModel
from torch import Tensor

from erdpaper import guidance, sampling
from erdpaper.datasets import DatasetError, Images
from erdpaper.fullscale import loading
from erdpaper.fullscale.networks import Adapter
from erdpaper.schedules import DDPM, Discrete, from_diffusers

CLASSES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)
SHAPE = (3, 32, 32)
# images in a file
RECORDS = 10_000

_FILES = {
    "train": tuple(f"data_batch_{number}.bin" for number in range(1, 6)),
    "test": ("test_batch.bin",),
}
_PIXELS = 3 * 32 * 32
# samples that the network sees at once
_BATCH = 250


def read(folder: str | Path, split: str = "train") -> Images:
    """CIFAR-10 (Krizhevsky 2009) from the files of `cifar-10-binary.tar.gz`, unpacked.

    split: "train" (50,000 images) or "test" (10,000). Returns images (N, 3, 32, 32) in [-1, 1]
    and labels (N,), indices into CLASSES. A record is a byte of label and 3,072 of pixels, red,
    green and blue planes one after another. A file that is missing, of another size, or that holds
    a label above 9 raises DatasetError, which names it, before any is parsed.
    """
    pixels, labels = read_bytes(folder, split)
    return Images(pixels.float().div_(127.5).sub_(1), labels)


def read_bytes(folder: str | Path, split: str = "train") -> tuple[Tensor, Tensor]:
    """The same images as bytes (N, 3, 32, 32), and their labels (N,), int64."""
    paths = files(folder, split)
    records = torch.cat([_records(path) for path in paths])  # (N, 1 + 3072)
    return records[:, 1:].reshape(-1, *SHAPE), records[:, 0].long()


def files(folder: str | Path, split: str) -> list[Path]:
    """The files of a split, DatasetError for one that is missing or of another size."""
    if split not in _FILES:
        raise ValueError(f"split must be one of {', '.join(_FILES)}, not {split!r}")
    paths = [Path(folder) / name for name in _FILES[split]]
    for path in paths:
        _check_size(path)
    return paths


def _check_size(path: Path) -> None:
    expected = RECORDS * (1 + _PIXELS)
    if not path.is_file():
        raise DatasetError(f"{path} is missing; unpack cifar-10-binary.tar.gz there")
    found = path.stat().st_size
    if found != expected:
        raise DatasetError(
            f"{path} has {found:,} bytes, not the {expected:,} of {RECORDS:,} images"
        )


def _records(path: Path) -> Tensor:
    # bytearray: torch refuses to share memory with read-only bytes
    raw = torch.frombuffer(bytearray(path.read_bytes()), dtype=torch.uint8)
    records = raw.reshape(-1, 1 + _PIXELS)
    worst = int(records[:, 0].max())
    if worst >= len(CLASSES):
        raise DatasetError(f"{path} holds a label of {worst}, beyond the {len(CLASSES)} classes")
    return records


@dataclass(frozen=True)
class Model:
    """A class-conditional network, its table, its target, and whether it knows a class for none."""

    network: Adapter
    schedule: Discrete
    target: str
    has_null: bool

    def denoiser(self, label: Tensor | int | None, scale: float = 1.0) -> sampling.Denoiser:
        """The denoiser of a class for all, of (N,) classes or, where it knows it, of none (None).

        Without a class for none there is plain conditional sampling only, as in the thesis' DDPM
        [T 3.2]: another scale, or no label, raises ValueError.
        """
        if not self.has_null and (label is None or scale != 1):
            raise ValueError(
                "this network knows no class for none: give a label, and a guidance scale of 1"
            )
        label, scale = (len(CLASSES), 1.0) if label is None else (label, scale)
        return guidance.cfg(self.network, self.schedule, self.target, label, scale, len(CLASSES))


def load(name: str | Path) -> Model:
    """A diffusers `UNet2DModel` with 10 class embeddings, or 11, the last for no class.

    name: a folder or hub name of the network alone, or of a pipeline that holds it as `unet`. Table
    and target are those of the scheduler that lies with it; without one, DDPM's and eps. Raises
    ValueError for a network that is not class-conditional or not for 3 x 32 x 32 pixels.
    """
    unet = _network(name)
    _check_network(name, unet.config)
    scheduler = _scheduler(name)
    schedule = DDPM() if scheduler is None else from_diffusers(scheduler)
    target = "eps" if scheduler is None else loading.target(scheduler)
    unet = unet.to(loading.device()).eval().requires_grad_(False)

    def answer(x: Tensor, index: Tensor, label: Tensor) -> Tensor:
        y: Tensor = unet(x, index, class_labels=label, return_dict=False)[0]  # (N, 3, 32, 32)
        return y

    adapter = Adapter(unet, answer, schedule.T, _BATCH)
    return Model(adapter, schedule, target, unet.config.num_class_embeds > len(CLASSES))


def _network(name: str | Path) -> Any:
    try:
        return UNet2DModel.from_pretrained(str(name), subfolder="unet", use_safetensors=True)
    except OSError:
        what = "UNet2DModel for CIFAR-10"
        return loading.pretrained(UNet2DModel, name, what, use_safetensors=True)


def _scheduler(name: str | Path) -> Any:
    """The scheduler of a pipeline or beside a network, None if there is none."""
    for folder in ("scheduler", None):
        with suppress(OSError):
            return DDPMScheduler.from_pretrained(str(name), subfolder=folder)
    return None


def _check_network(name: str | Path, config: Any) -> None:
    shape = (config.in_channels, config.sample_size, config.out_channels)
    if shape != (3, 32, 3):
        raise ValueError(f"{str(name)!r} is not for 3 x 32 x 32 pixels, which CIFAR-10 has")
    known = len(CLASSES)
    if config.class_embed_type is not None or config.num_class_embeds not in (known, known + 1):
        raise ValueError(
            f"{str(name)!r} must have {known} class embeddings, or {known + 1} with one for no "
            f"class, not {config.num_class_embeds}"
        )
