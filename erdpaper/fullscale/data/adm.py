"""Samples in the format of ADM: an npz with `arr_0`, bytes (N, H, W, C), and labels as `arr_1`.

A file can be larger than memory: it is written from parts and read in batches. What made it is kept
as JSON in the comment of the zip archive, where no reader of npz looks.
"""

import json
import math
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import torch
from numpy.lib import format as npy
from torch import Tensor

from erdpaper.datasets import DatasetError
from erdpaper.files import replacing

_IMAGES, _LABELS = "arr_0.npy", "arr_1.npy"
# a fixed date, so that equal samples are equal files
_DATE = (1980, 1, 1, 0, 0, 0)
# a zip comment holds no more
_COMMENT = 65_535


class Shape(NamedTuple):
    """Number, height, width and channels of images."""

    number: int
    height: int
    width: int
    channels: int


def write(
    path: Path,
    shape: Shape,
    parts: Iterable[np.ndarray[Any, Any]],
    labels: np.ndarray[Any, Any] | None,
    facts: Mapping[str, Any],
) -> None:
    """Write images that come in parts (n, H, W, C), bytes, one after another, and labels (N,).

    The file appears as a whole or not at all. Parts that do not add up to `shape`: ValueError.
    """
    comment = json.dumps(facts).encode()
    if len(comment) > _COMMENT:
        raise ValueError(f"the facts take {len(comment):,} bytes, more than {_COMMENT:,}")
    with replacing(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        archive.comment = comment
        with _member(archive, _IMAGES) as file:
            _write_images(file, shape, parts)
        if labels is not None:
            with _member(archive, _LABELS) as file:
                npy.write_array(file, labels.astype(np.int64), allow_pickle=False)


def _member(archive: zipfile.ZipFile, name: str) -> IO[bytes]:
    return archive.open(zipfile.ZipInfo(name, _DATE), "w", force_zip64=True)


def _write_images(file: IO[bytes], shape: Shape, parts: Iterable[np.ndarray[Any, Any]]) -> None:
    header = {"descr": "|u1", "fortran_order": False, "shape": tuple(shape)}
    npy.write_array_header_1_0(file, header)
    written = 0
    for part in parts:
        if part.dtype != np.uint8 or part.shape[1:] != shape[1:]:
            found = f"{part.dtype} {part.shape}"
            raise ValueError(f"a part must be bytes (n, *{shape[1:]}), got {found}")
        file.write(np.ascontiguousarray(part).data)
        written += len(part)
    if written != shape.number:
        raise ValueError(f"the parts hold {written:,} images, not {shape.number:,}")


def facts(path: Path) -> dict[str, Any] | None:
    """What `write` was told of a file, None of a file that others wrote."""
    with _archive(path) as archive:
        try:
            found = json.loads(archive.comment or b"null")
        except ValueError:
            return None
    return found if isinstance(found, dict) else None


class Images:
    """The images `arr_0` of an npz, read in batches.

    Raises DatasetError for a file that is missing, no npz, or without images as bytes (N, H, W, C)
    of 1 or 3 channels.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with _archive(path) as archive, self._open(archive) as file:
            self.shape = self._header(file)

    def batches(self, size: int) -> Iterator[Tensor]:
        """Bytes (n, H, W, C), n = size but for the last."""
        row = math.prod(self.shape[1:])
        with _archive(self.path) as archive, self._open(archive) as file:
            self._header(file)
            for first in range(0, self.shape.number, size):
                n = min(size, self.shape.number - first)
                raw = bytearray(file.read(n * row))
                if len(raw) != n * row:
                    raise DatasetError(f"{self.path} ends after {first:,} images and a part")
                yield torch.frombuffer(raw, dtype=torch.uint8).reshape(n, *self.shape[1:])

    def _open(self, archive: zipfile.ZipFile) -> IO[bytes]:
        if _IMAGES not in archive.namelist():
            raise DatasetError(f"{self.path} holds no images: an array arr_0 is missing")
        return archive.open(_IMAGES)

    def _header(self, file: IO[bytes]) -> Shape:
        try:
            version = npy.read_magic(file)
            first = version == (1, 0)
            read: Any = npy.read_array_header_1_0 if first else npy.read_array_header_2_0
            shape, fortran, dtype = read(file)
        except ValueError as error:
            raise DatasetError(f"{self.path}: arr_0 is no array of numpy ({error})") from None
        if dtype != np.uint8 or len(shape) != 4 or shape[3] not in (1, 3) or fortran:
            raise DatasetError(
                f"{self.path}: arr_0 must be bytes (N, H, W, 1 or 3), got {dtype} {shape}"
            )
        return Shape(*shape)


def arrays(path: Path, names: Iterable[str]) -> dict[str, np.ndarray[Any, Any]]:
    """Those of the named arrays that an npz holds."""
    with _archive(path):
        pass
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in names if name in file.files}


def holds_images(path: Path) -> bool:
    """Whether an npz has an array `arr_0`."""
    with _archive(path) as archive:
        return _IMAGES in archive.namelist()


@contextmanager
def _archive(path: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except FileNotFoundError:
        raise DatasetError(f"{path} is missing") from None
    except OSError as error:
        raise DatasetError(f"{path} cannot be read ({error.strerror})") from None
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise DatasetError(f"{path} is no npz, or a damaged one ({error})") from None
