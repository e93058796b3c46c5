"""Sets of images to be encoded: what each holds, in an order that no machine changes.

- a folder of class folders, as ImageNet comes, with or without `train/` above them;
- CelebA's aligned images with its list of partitions;
- CIFAR-10's binary files;
- a data set of the library `datasets` (`hub`).

Sets without classes have none, and the label 0 for all.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from erdpaper.datasets import DatasetError
from erdpaper.fullscale.data import cifar10, crops, folders, hub

Kind = Literal["images", "dataset", "cifar10", "celeba"]
# the side to which images are cut if none is named
SIDES: dict[Kind, int] = {"images": 256, "dataset": 256, "cifar10": 32, "celeba": 64}

# partitions of CelebA, by the numbers in its list
_PARTITIONS = {"train": "0", "valid": "1", "test": "2"}
_ALIGNED, _LIST = "img_align_celeba", "list_eval_partition.txt"


class Images(Protocol):
    """N images.  name: where they come from; labels (N,), int64; classes: their names, if any."""

    name: str
    classes: tuple[str, ...]
    labels: Tensor

    def __len__(self) -> int:
        """How many."""

    def pixels(self, index: int, side: int) -> crops.Pixels:
        """One image as a square (side, side, 3), DatasetError with its name if it is broken."""


class Listing(NamedTuple):
    """Files below a folder: names (N,), as bytes of the file system, and labels (N,) of each.

    Bytes in one array, since a list of a million texts is copied into every process that reads it.
    """

    names: NDArray[np.bytes_]
    labels: Tensor
    classes: tuple[str, ...]


class Where(NamedTuple):
    """Images: of which kind, at which place (a folder or hub name), and which part of them.

    classes: how many classes there must be, if that is known.
    """

    kind: Kind
    place: str
    split: str = "train"
    classes: int | None = None

    def __str__(self) -> str:
        """All of it, with the place in full."""
        path = Path(self.place)
        return f"{self.kind} {path.resolve() if path.exists() else self.place} ({self.split})"


def find(where: Where, listing: Listing | None = None) -> Images:
    """The images of a place; a listing made before spares looking through its folders.

    Raises DatasetError for what is missing or empty, for another number of classes than wanted,
    and for images that are no longer those of the listing.
    """
    name, place, split = str(where), Path(where.place), where.split
    found: Images
    if where.kind == "images":
        found = class_folders(name, place, split, listing)
    elif where.kind == "celeba":
        found = celeba(name, place, split, listing)
    elif where.kind == "cifar10":
        found = Records(name, place, split)
    else:
        found = hub.Rows(name, where.place, split)
    if where.classes not in (None, len(found.classes)):
        raise DatasetError(f"{place} holds {len(found.classes)} classes, not {where.classes}")
    if listing is not None and not torch.equal(found.labels, listing.labels):
        raise DatasetError(f"{place} no longer holds the images of which some are encoded")
    return found


def listing_of(images: Images) -> Listing:
    """What to remember of images, so that a later look finds the same in the same order."""
    if isinstance(images, Files):
        return images.listing
    return Listing(_bytes([]), images.labels, images.classes)


class Files:
    """Images that are files below `root`, in the order of a listing; size: what each must have."""

    def __init__(
        self,
        name: str,
        root: Path,
        listing: Listing,
        crop: crops.Crop,
        size: tuple[int, int] | None = None,
    ) -> None:
        self.name, self.root, self.listing, self.crop, self.size = name, root, listing, crop, size
        self.labels, self.classes = listing.labels, listing.classes

    def __len__(self) -> int:
        """How many files."""
        return len(self.labels)

    def pixels(self, index: int, side: int) -> crops.Pixels:
        """One image as a square (side, side, 3)."""
        path = self.root / os.fsdecode(bytes(self.listing.names[index]))
        image = folders.rgb(path, str(path))
        if self.size not in (None, image.size):
            raise DatasetError(f"{path} has {image.size} pixels, not {self.size}")
        return self.crop(image, side)


class Records:
    """The images of CIFAR-10's binary files, in their order."""

    classes: tuple[str, ...] = cifar10.CLASSES

    def __init__(self, name: str, folder: Path, split: str) -> None:
        pixels, self.labels = cifar10.read_bytes(folder, split)
        self.name, self._pixels = name, pixels.permute(0, 2, 3, 1).contiguous().numpy()

    def __len__(self) -> int:
        """How many records."""
        return len(self.labels)

    def pixels(self, index: int, side: int) -> crops.Pixels:
        """One image as a square (side, side, 3)."""
        return crops.centre(Image.fromarray(self._pixels[index]), side)


def class_folders(name: str, place: Path, split: str, listing: Listing | None = None) -> Files:
    """The images of the class folders at `place`, or at `split` in it.

    Classes are in alphabetical order, files within each too; hidden ones are left out. A class
    folder without images raises DatasetError, which names it.
    """
    root = _class_root(place, split)
    if listing is None:
        classes = folders.class_names(root)
        names = [_class_files(root, each) for each in classes]
        counts = torch.tensor([len(each) for each in names])
        labels = torch.arange(len(classes)).repeat_interleave(counts)
        listing = Listing(_bytes([path for each in names for path in each]), labels, classes)
    return Files(name, root, listing, crops.centre)


def _class_root(place: Path, split: str) -> Path:
    inside = place / split
    # a class may be called `train`: a split is a folder of folders
    if inside.is_dir() and any(entry.is_dir() for entry in os.scandir(inside)):
        return inside
    if split != "train":
        raise DatasetError(f"{place} holds no folder {split!r} with a folder of images per class")
    return place


def _class_files(root: Path, name: str) -> list[str]:
    with os.scandir(root / name) as entries:
        found = [entry.name for entry in entries if _is_image(entry.name)]
    if not found:
        raise DatasetError(f"{root / name} holds no images ({', '.join(folders.SUFFIXES)})")
    return [f"{name}/{each}" for each in sorted(found)]


def _is_image(name: str) -> bool:
    return name[0] != "." and name.lower().endswith(folders.SUFFIXES)


def _bytes(names: Sequence[str]) -> NDArray[np.bytes_]:
    return np.array([os.fsencode(name) for name in names], dtype=np.bytes_)


def celeba(name: str, place: Path, split: str, listing: Listing | None = None) -> Files:
    """The aligned images of a partition of CelebA (Liu et al. 2015).

    split: "train" (162,770 images, those of the paper's reference [52]), "valid", "test" or "all".
    Needed are `img_align_celeba/` and `list_eval_partition.txt`, directly in the folder or in the
    `Img/` and `Eval/` of the archive. An image of the list that is missing raises DatasetError.
    """
    if split not in (*_PARTITIONS, "all"):
        known = ", ".join((*_PARTITIONS, "all"))
        raise ValueError(f"the split of CelebA must be one of {known}, not {split!r}")
    root = _first(place, _ALIGNED, f"Img/{_ALIGNED}")
    if listing is None:
        names = _faces(place, split)
        there = set(os.listdir(root))
        missing = next((each for each in names if each not in there), None)
        if missing is not None:
            raise DatasetError(f"{root / missing} is missing, but {_LIST} lists it")
        listing = Listing(_bytes(names), torch.zeros(len(names), dtype=torch.int64), ())
    return Files(name, root, listing, crops.celeba, crops.CELEBA_SIZE)


def _faces(place: Path, split: str) -> list[str]:
    """The files of a split."""
    path = _first(place, _LIST, f"Eval/{_LIST}")
    pairs = [line.split() for line in path.read_text().splitlines() if line.strip()]
    if any(len(pair) != 2 or pair[1] not in _PARTITIONS.values() for pair in pairs):
        raise DatasetError(f"{path} has other lines than a name and 0, 1 or 2")
    wanted = tuple(_PARTITIONS.values()) if split == "all" else (_PARTITIONS[split],)
    names = sorted(name for name, partition in pairs if partition in wanted)
    if not names:
        raise DatasetError(f"{path} lists no images of the split {split!r}")
    return names


def _first(place: Path, *names: str) -> Path:
    found = next((place / name for name in names if (place / name).exists()), None)
    if found is None:
        raise DatasetError(
            f"{place / names[0]} is missing; CelebA needs {_ALIGNED} (unpacked) and {_LIST}"
        )
    return found
