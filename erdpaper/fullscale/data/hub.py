"""Images of the library `datasets`, by hub name or from a folder on disk.

The library runs no code that comes with a data set; it is an optional extra of this package.
"""

import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from erdpaper.datasets import DatasetError
from erdpaper.fullscale.data import crops, folders


class Rows:
    """The rows of a data set: their only column of images, and their only one of classes, if any.

    place: a hub name, a folder that the library can read, or one that `save_to_disk` wrote.
    Raises DatasetError if there is no such data set or split, no or more than one column of images
    or classes, or an image without a class.
    """

    def __init__(self, name: str, place: str, split: str) -> None:
        kind = _library()
        rows = _loaded(kind, place, split)
        image, label = _columns(kind, place, rows.features)
        self.name, self.labels = name, torch.zeros(len(rows), dtype=torch.int64)
        self.classes: tuple[str, ...] = ()
        if label is not None:
            self.classes, self.labels = _labels(place, rows, label)
        if not len(rows):
            raise DatasetError(f"the split {split!r} of {place!r} holds no images")
        self._place, self._image = place, image
        # encoded, so that what cannot be decoded is told by its number and name
        self._rows = rows.select_columns([image]).cast_column(image, kind.Image(decode=False))

    def __len__(self) -> int:
        """How many rows."""
        return len(self.labels)

    def pixels(self, index: int, side: int) -> crops.Pixels:
        """One image as a square (side, side, 3)."""
        found = self._rows[index][self._image] or {}
        path, raw = found.get("path"), found.get("bytes")
        name = f"image {index} of {self._place!r}" + (f" ({path})" if path else "")
        if raw is not None:
            image = folders.rgb(io.BytesIO(raw), name)
        elif path is not None:
            image = folders.rgb(Path(path), name)
        else:
            raise DatasetError(f"{name} is missing")
        return crops.centre(image, side)


def _library() -> Any:
    try:
        import datasets
    except ImportError:
        raise DatasetError(
            "the library `datasets` is not installed; get it with `pip install erdpaper[hub]`"
        ) from None
    return datasets


def _loaded(kind: Any, place: str, split: str) -> Any:
    """The rows of a split."""
    try:
        # what `save_to_disk` writes has one of these
        if any((Path(place) / name).is_file() for name in ("dataset_dict.json", "state.json")):
            found = kind.load_from_disk(place)
        else:
            found = kind.load_dataset(place, split=split)
    # the library raises errors of its own, of the hub's and of every format it reads
    except Exception as error:
        said = str(error).strip().splitlines() or [type(error).__name__]
        raise DatasetError(f"no data set can be loaded from {place!r} ({said[0]})") from error
    if not isinstance(found, dict):
        return found
    if split not in found:
        raise DatasetError(f"{place!r} has no split {split!r}; it has {', '.join(found)}")
    return found[split]


def _columns(kind: Any, place: str, features: Any) -> tuple[str, str | None]:
    """The names of the columns of images and of classes."""
    images, labels = (
        [name for name, feature in features.items() if isinstance(feature, wanted)]
        for wanted in (kind.Image, kind.ClassLabel)
    )
    if len(images) != 1:
        raise DatasetError(f"{place!r} must have one column of images, not {len(images)}")
    if len(labels) > 1:
        raise DatasetError(f"{place!r} must have one column of classes, not {', '.join(labels)}")
    return images[0], labels[0] if labels else None


def _labels(place: str, rows: Any, column: str) -> tuple[tuple[str, ...], Tensor]:
    """The names of the classes, and the class of each row."""
    classes = tuple(rows.features[column].names)
    # None becomes nan in numpy
    found = np.asarray(rows.select_columns([column]).with_format("numpy")[:][column], float)
    bad = np.flatnonzero(~((found >= 0) & (found < len(classes))))
    if len(bad):
        raise DatasetError(f"image {bad[0]} of {place!r} has no class; encode another split")
    return classes, torch.from_numpy(found).long()
