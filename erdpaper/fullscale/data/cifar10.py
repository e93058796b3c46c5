"""CIFAR-10: the files of its binary version."""

from pathlib import Path

import torch
from torch import Tensor

from erdpaper.datasets import DatasetError, Images

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
