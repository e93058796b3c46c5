"""What the rehearsal of a full-scale run needs beside its commands: images, and comparisons.

The images are those of Fashion-MNIST in colour, as files in class folders, the way ImageNet comes.
Comparisons are made anew from files, without the modules that wrote them.
"""

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from erdpaper import datasets
from erdpaper.datasets import FASHION_CLASSES
from erdpaper.files import write_atomically
from erdpaper.fullscale.data import adm
from erdpaper.fullscale.evaluation import extractors
from erdpaper.fullscale.rehearsals import small_vae

_BATCH = 100


def folder_name(label: int) -> str:
    """The folder of a class, named so that its place in the order is the label."""
    return f"n{label:02d}-{FASHION_CLASSES[label].split('/')[0].lower().replace(' ', '-')}"


def write_images(folder: Path, per_class: int) -> None:
    """The first training images of each class, as JPEG files in a folder for the class."""
    for label, images in enumerate(_of_classes("train", per_class)):
        for number, image in enumerate(images):
            path = folder / folder_name(label) / f"{number:05d}.JPEG"
            write_atomically(path, _jpeg(image))


def write_broken(folder: Path) -> None:
    """Two images of which the second ends too early."""
    image = next(_of_classes("train", 1))[0]
    whole = _jpeg(image)
    for name, contents in (("00000.JPEG", whole), ("00001.JPEG", whole[: len(whole) // 2])):
        write_atomically(folder / folder_name(0) / name, contents)


def write_reference(path: Path, per_class: int) -> None:
    """The first test images of each class, as a reference in ADM's format."""
    images = torch.cat(list(_of_classes("test", per_class))).numpy()
    adm.write(path, adm.Shape(*images.shape), [images], None, {"source": "Fashion-MNIST, test"})


def link_autoencoder(path: Path) -> None:
    """The small autoencoder under a name in the folder of the rehearsal."""
    if not path.exists():
        path.symlink_to(small_vae.folder().resolve(), target_is_directory=True)


def images_of(path: Path) -> NDArray[np.uint8]:
    """The images of an npz in ADM's format, (N, H, W, C)."""
    with np.load(path) as file:
        found: NDArray[np.uint8] = file["arr_0"]
    return found


def losses_of(run: Path) -> NDArray[np.float64]:
    """The loss of every step of a run folder."""
    with (run / "losses.csv").open(newline="") as file:
        return np.array([float(row["loss"]) for row in csv.DictReader(file)])


def shards_of(folder: Path) -> dict[str, Tensor]:
    """All tensors of an encoded folder, joined in the order of its files."""
    states = [load_file(path) for path in sorted(folder.glob("shard-*.safetensors"))]
    return {name: torch.cat([state[name] for state in states]) for name in states[0]}


def different_files(first: Path, second: Path, pattern: str) -> int:
    """Files of a pattern, in either folder, that the other lacks or has with other bytes."""
    names = {path.name for folder in (first, second) for path in folder.glob(pattern)}
    contents = [
        [path.read_bytes() if path.exists() else None for path in (first / name, second / name)]
        for name in names
    ]
    return sum(one != other for one, other in contents)


@torch.no_grad()
def encoding_errors(images: Path, encoded: Path, autoencoder: Path) -> dict[str, float]:
    """How far shards are from what diffusers says of the same files.

    The largest difference over the value, or over a tenth of the root mean square where that is
    larger; of `mean` and of `std`.
    """
    # imported here, as in `models.unet`
    from diffusers import AutoencoderKL

    paths = sorted(images.glob("*/*.JPEG"))
    pixels = torch.from_numpy(np.stack([np.array(Image.open(path)) for path in paths]))
    network: Any = AutoencoderKL.from_pretrained(autoencoder, use_safetensors=True).eval()
    parts = (pixels.permute(0, 3, 1, 2).float() / 127.5 - 1).split(_BATCH)
    posteriors = [network.encode(part).latent_dist for part in parts]
    kept, errors = shards_of(encoded), {}
    for name in ("mean", "std"):
        direct = torch.cat([getattr(posterior, name) for posterior in posteriors])
        size = direct.abs().clamp(min=float(direct.square().mean().sqrt()) / 10)
        errors[name] = float(((kept[name].float() - direct).abs() / size).max())
    return errors


def frechet(first: Path, second: Path, weights: Path) -> float:
    """The Fréchet distance of two npz files in an extractor's features, in float64.

    With X and Y the centred features over the roots of n - 1 and m - 1, the trace of the root of
    both covariances' product is the nuclear norm of X Y'.
    """
    extractor = extractors.load(weights, torch.device("cpu"))
    laws = []
    for path in (first, second):
        parts = torch.from_numpy(images_of(path)).split(_BATCH)
        pool = torch.cat([extractor(part).pool for part in parts]).double().numpy()
        laws.append((pool.mean(0), (pool - pool.mean(0)) / np.sqrt(len(pool) - 1)))
    (mean, x), (other, y) = laws
    spread = (x**2).sum() + (y**2).sum() - 2 * np.linalg.norm(x @ y.T, "nuc")
    return float(((mean - other) ** 2).sum() + spread)


def reported(report: Path, name: str) -> float:
    """The first value of a report of `erdpaper evaluate` whose name begins so."""
    values: dict[str, float] = json.loads(report.read_text(encoding="utf-8"))["values"]
    return next(value for key, value in values.items() if key.startswith(name))


def _of_classes(split: str, per_class: int) -> Iterator[Tensor]:
    """The first images of every class, (per_class, 28, 28, 3), bytes."""
    clothes = datasets.fashion_mnist(split)
    for label in range(len(FASHION_CLASSES)):
        chosen = clothes.images[clothes.labels == label][:per_class]
        grey = ((chosen + 1) * 127.5).round().to(torch.uint8)
        yield grey.permute(0, 2, 3, 1).expand(-1, -1, -1, 3).contiguous()


def _jpeg(image: Tensor) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image.numpy()).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()
