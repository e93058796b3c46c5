"""Images kept as files, a folder for each class."""

from pathlib import Path
from typing import IO

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from erdpaper.datasets import DatasetError

SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".webp")


def class_names(root: str | Path) -> tuple[str, ...]:
    """The names of the folders in a folder, in alphabetical order, hidden ones left out."""
    root = Path(root)
    if not root.is_dir():
        raise DatasetError(f"{root} is not a folder; it must hold a folder of images per class")
    names = sorted(path.name for path in root.iterdir() if path.is_dir() and path.name[0] != ".")
    if not names:
        raise DatasetError(f"{root} holds no folders; it must hold a folder of images per class")
    return tuple(names)


def read_images(folder: str | Path, size: int, limit: int | None = None) -> Tensor:
    """The images of a folder, (N, 3, size, size), bytes, in the order of their names.

    Each is cut to its central square and resized; at most `limit` of them. The first file that
    looks like an image by its name and cannot be read raises DatasetError, which names it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DatasetError(f"{folder} is not a folder of images")
    paths = [path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES]
    if not paths:
        raise DatasetError(f"{folder} holds no images ({', '.join(SUFFIXES)})")
    return torch.stack([_square(path, size) for path in sorted(paths)[:limit]])


def rgb(source: Path | IO[bytes], name: str) -> Image.Image:
    """An image, decoded to the end, DatasetError with its name if it cannot be."""
    try:
        with Image.open(source) as image:
            return image.convert("RGB")
    except FileNotFoundError:
        raise DatasetError(f"{name} is missing") from None
    # Pillow reports what is broken in a file in more ways than it documents
    except Exception as error:
        raise DatasetError(f"{name} cannot be read as an image ({error})") from error


def _square(path: Path, size: int) -> Tensor:
    """(3, size, size), bytes."""
    fitted = ImageOps.fit(rgb(path, str(path)), (size, size), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(fitted)).permute(2, 0, 1)
