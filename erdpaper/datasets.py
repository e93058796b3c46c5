"""Datasets kept in the repository's data folder, checked against their checksums and read offline.

Images leave this module as torch tensors scaled to [-1, 1]: a stored byte b becomes b / 127.5 - 1.
"""

import gzip
import hashlib
import os
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

# the value of a notebook's parameter `model` for which the pages and their claims are
OWN_MODEL = "fashion"
FASHION_CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)

# file prefix and number of images of each split
_FASHION_SPLITS = {"train": ("train", 60_000), "test": ("t10k", 10_000)}
_SIDE = 28
_RESTORE = (
    "get it back with `git checkout -- data/fashion-mnist` or from the Debian package "
    "dataset-fashion-mnist"
)


class DatasetError(RuntimeError):
    """A data file is missing, damaged or not the file it should be; the message says which."""


@dataclass(frozen=True)
class Images:
    """Labelled images.

    images: (N, 1, H, W), values in [-1, 1].  labels: (N,), int64.
    """

    images: Tensor
    labels: Tensor

    @property
    def flat(self) -> Tensor:
        """The images as vectors, (N, H * W), sharing memory with `images`."""
        return self.images.flatten(1)

    def __len__(self) -> int:
        """Number of images N."""
        return self.images.shape[0]


def data_dir() -> Path:
    """Find the folder that holds claims.yml, the datasets and the results.

    It is the folder named by the environment variable ERDPAPER_DATA if that is set, else `data/`
    beside the package, as in a clone of the repository (an installed wheel carries no data).

    Raises DatasetError where neither exists.
    """
    named = os.environ.get("ERDPAPER_DATA")
    if named:
        if not Path(named).is_dir():
            raise DatasetError(f"ERDPAPER_DATA names {named!r}, which is not a folder")
        return Path(named).resolve()
    beside = Path(__file__).resolve().parents[1] / "data"
    if not (beside / "claims.yml").is_file():
        raise DatasetError(
            f"no data folder with a claims.yml at {beside}; "
            "work in a clone of the repository or set ERDPAPER_DATA to its data folder"
        )
    return beside


def fashion_mnist(split: str = "train", dtype: torch.dtype = torch.float32) -> Images:
    """Read Fashion-MNIST (Xiao, Rasul and Vollgraf 2017) from `data/fashion-mnist`.

    split: "train" (60,000 images, 6,000 a class) or "test" (10,000, 1,000 a class).
    Returns images (N, 1, 28, 28) of `dtype` in [-1, 1] and labels (N,), indices into
    FASHION_CLASSES.  Both files are compared with SHA256SUMS before they are parsed.

    Raises ValueError for an unknown split or a dtype that is not floating point, DatasetError
    for a file that is missing, truncated, altered or mistaken for another.
    """
    if split not in _FASHION_SPLITS:
        raise ValueError(f"split must be one of {', '.join(_FASHION_SPLITS)}, not {split!r}")
    if not dtype.is_floating_point:
        raise ValueError(f"dtype must be a floating point type, not {dtype}")
    folder = data_dir() / "fashion-mnist"
    prefix, count = _FASHION_SPLITS[split]
    pixels = _read(folder, f"{prefix}-images-idx3-ubyte.gz", (count, _SIDE, _SIDE))
    labels = _read(folder, f"{prefix}-labels-idx1-ubyte.gz", (count,))
    scaled = pixels.to(dtype).div_(127.5).sub_(1.0)
    return Images(scaled.unsqueeze(1), labels.to(torch.int64))


def _read(folder: Path, name: str, shape: tuple[int, ...]) -> Tensor:
    """Verify and parse one gzipped idx file of unsigned bytes."""
    path = folder / name
    packed = _load(path)
    _verify(path, packed)
    return _parse_idx(path, gzip.decompress(packed), shape)


def _load(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise DatasetError(f"{path} is missing; {_RESTORE}") from None
    except OSError as error:
        raise DatasetError(f"{path} cannot be read ({error.strerror}); {_RESTORE}") from error


def _checksums(folder: Path) -> dict[str, str]:
    """File name -> sha256, from a file that `sha256sum -c` reads as well."""
    lines = _load(folder / "SHA256SUMS").decode("ascii", "replace").splitlines()
    pairs = (line.split() for line in lines)
    return {pair[1].lstrip("*"): pair[0] for pair in pairs if len(pair) == 2}


def _verify(path: Path, packed: bytes) -> None:
    expected = _checksums(path.parent)
    if path.name not in expected:
        raise DatasetError(f"{path.parent / 'SHA256SUMS'} has no line for {path.name}; {_RESTORE}")
    found = hashlib.sha256(packed).hexdigest()
    if found == expected[path.name]:
        return
    twin = next((name for name, digest in expected.items() if digest == found), None)
    raise DatasetError(f"{path} {_difference(packed, twin)}; {_RESTORE}")


def _difference(packed: bytes, twin: str | None) -> str:
    """What is wrong with a file whose checksum does not fit, in words."""
    if twin is not None:
        return f"holds the contents of {twin}"
    if not packed:
        return "is truncated (it is empty)"
    try:
        gzip.decompress(packed)
    except EOFError:
        return f"is truncated (its gzip stream is unfinished after {len(packed)} bytes)"
    except (OSError, zlib.error):
        return "is altered or damaged (it is not a valid gzip file)"
    return "is altered (it unpacks, but its sha256 is not the one in SHA256SUMS)"


def _parse_idx(path: Path, raw: bytes, shape: tuple[int, ...]) -> Tensor:
    """Parse the idx format: magic (0, 0, 8 = unsigned byte, rank), big-endian sizes, the bytes."""
    header = struct.pack(f">BBBB{len(shape)}I", 0, 0, 8, len(shape), *shape)
    size = len(header) + int(torch.Size(shape).numel())
    if raw[: len(header)] != header or len(raw) != size:
        raise DatasetError(
            f"{path} is not an idx file of unsigned bytes of shape {shape}; {_RESTORE}"
        )
    # bytearray: torch refuses to share memory with read-only bytes
    return torch.frombuffer(bytearray(raw), dtype=torch.uint8, offset=len(header)).reshape(shape)
