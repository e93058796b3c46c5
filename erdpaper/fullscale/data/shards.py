"""Encoded data: a folder of safetensors files with an index, and the reader that training draws on.

`index.json`, written last, says what the folder holds and the sha256 of each of its files; a file
`shard-00000.safetensors` holds n images of shape (C, H, W):

- `mean`, `std` (n, C, H, W), float16: the posterior of an autoencoder, before its factor;
- or `sample`, float16: one draw of that posterior;
- or `pixels`, uint8;
- `labels` (n,), int64;
- `mean_flipped` and so on: the same of the images flipped left to right (pixels need none).
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from torch import Tensor
from tqdm import tqdm

from erdpaper.datasets import DatasetError
from erdpaper.files import write_atomically

FORMAT = 1
INDEX = "index.json"
# the tensors of an image, by what is stored of it
STORED = {"moments": ("mean", "std"), "sample": ("sample",), "pixels": ("pixels",)}
_FLIPPED = "_flipped"


@dataclass(frozen=True)
class Shard:
    """One file: its name, how many images it holds, its checksum."""

    file: str
    count: int
    sha256: str


@dataclass(frozen=True)
class Index:
    """What a folder holds: `count` images of `shape`, in the order of `shards`.

    kind: "latents" or "pixels"; source and encoder: what was encoded by what; factor: what latents
    are multiplied by (None for pixels); stored: a name of STORED; flipped: whether images come left
    to right as well; classes: their names, none for data without labels.
    """

    kind: str
    source: str
    encoder: str | None
    factor: float | None
    stored: str
    flipped: bool
    shape: tuple[int, ...]
    classes: tuple[str, ...]
    count: int
    shards: tuple[Shard, ...]

    @classmethod
    def read(cls, folder: Path) -> "Index":
        """The index of a folder, DatasetError if there is none or it is none."""
        path = folder / INDEX
        try:
            facts = json.loads(path.read_text())
        except FileNotFoundError:
            raise DatasetError(_no_index(folder)) from None
        except (OSError, ValueError) as error:
            raise DatasetError(f"{path} cannot be read ({error})") from None
        if not isinstance(facts, dict) or facts.pop("format", None) != FORMAT:
            raise DatasetError(f"{path} is no index of encoded data of format {FORMAT}")
        try:
            facts["shards"] = tuple(Shard(**shard) for shard in facts["shards"])
            lists = {name: tuple(facts[name]) for name in ("shape", "classes")}
            found = cls(**facts | lists)
            count = sum(shard.count for shard in found.shards)
        except (KeyError, TypeError) as error:
            raise DatasetError(f"{path} is no index of encoded data ({error})") from None
        if found.stored not in STORED or count != found.count:
            raise DatasetError(f"{path} contradicts itself: encode the data anew")
        return found

    def write(self, folder: Path) -> None:
        """Write it as a whole."""
        facts = {"format": FORMAT, **asdict(self)}
        write_atomically(folder / INDEX, json.dumps(facts, indent=1) + "\n")


def _no_index(folder: Path) -> str:
    if not folder.is_dir():
        return f"{folder} is not a folder; it must be one that `erdpaper encode` wrote"
    if next(folder.glob("shard-*.safetensors"), None) or (folder / "work").is_dir():
        return f"{folder} is not finished; give its `erdpaper encode` command again"
    return f"{folder} holds no {INDEX}; it must be a folder that `erdpaper encode` wrote"


def names(stored: str, flipped: bool) -> tuple[str, ...]:
    """The tensors of a file, labels left out."""
    plain = STORED[stored]
    twice = flipped and stored != "pixels"
    return (*plain, *(name + _FLIPPED for name in plain)) if twice else plain


def checksum(path: Path) -> str:
    """The sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Shards:
    """The images of a folder as a source of training data, read through memory maps.

    len() is N; labels (N,), int64, None for data without classes; shape that of one example, in
    model units: latents times their factor, pixels in [-1, 1]. index, folder: what it was made of.

    Opening reads the labels and every file's header, and raises DatasetError for a file that is
    missing or not of the index's shape; `verify` compares all bytes with the checksums.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.index = Index.read(self.folder)
        self.shape = self.index.shape
        counts = [shard.count for shard in self.index.shards]
        self._starts = np.cumsum([0, *counts])
        self._opened = [self._open(shard) for shard in self.index.shards]
        labels = [torch.from_numpy(each["labels"]) for each in self._opened]
        # a copy, since they are looked at all the time
        self.labels = torch.cat(labels).clone() if self.index.classes else None

    def __len__(self) -> int:
        """How many images, each counted once."""
        return self.index.count

    def __reduce__(self) -> tuple[Any, ...]:
        # a process that it is sent to opens the files itself
        return Shards, (self.folder,)

    def take(self, indices: Tensor, generator: torch.Generator) -> Tensor:
        """Examples (n, shape...), float32, of indices (n,) in 0..N-1, in their order.

        All chance comes from the generator, on the CPU: first the n choices of a flipped image, if
        there are any, then the n draws of the posterior mean + std noise, if it is stored.
        """
        n = len(indices)
        flip = np.zeros(n, dtype=bool)
        if self.index.flipped:
            flip = (torch.rand(n, generator=generator) < 0.5).numpy()
        found = self._rows(indices.numpy(), flip)
        if self.index.stored == "pixels":
            (pixels,) = found
            pixels[flip] = pixels[flip][..., ::-1]
            return torch.from_numpy(pixels).float().div_(127.5).sub_(1)
        if self.index.stored == "moments":
            mean, std = map(torch.from_numpy, found)
            z = torch.randn(mean.shape, generator=generator).mul_(std).add_(mean)
        else:
            z = torch.from_numpy(found[0]).float()
        return z.mul_(self.index.factor or 1.0)

    def pixels(self, indices: Tensor) -> Tensor:
        """Images (n, C, H, W) as they are stored, bytes, not flipped; for a folder of pixels."""
        (found,) = self._rows(indices.numpy(), np.zeros(len(indices), dtype=bool))
        return torch.from_numpy(found)

    def verify(self) -> None:
        """Compare every file with its checksum, DatasetError for the first that differs."""
        bar = tqdm(self.index.shards, desc=f"checking {self.folder.name}", unit=" files")
        for shard in bar:
            path = self.folder / shard.file
            if checksum(path) != shard.sha256:
                bar.close()
                raise DatasetError(
                    f"{path} is damaged (its sha256 is not that of {INDEX}); "
                    "give the `erdpaper encode` command again to make it anew"
                )

    def _rows(self, indices: NDArray[np.int64], flip: NDArray[np.bool_]) -> list[NDArray[Any]]:
        """The stored tensors (n, shape...) of some images, read file after file."""
        if len(indices) and not 0 <= indices.min() <= indices.max() < len(self):
            raise ValueError(f"indices must lie in 0..{len(self) - 1}, the images there are")
        wanted = STORED[self.index.stored]
        kinds = [self._opened[0][name].dtype for name in wanted]
        found = [np.empty((len(indices), *self.shape), kind) for kind in kinds]
        which = np.searchsorted(self._starts, indices, side="right") - 1
        rows = indices - self._starts[which]
        suffixed = flip & (self.index.stored != "pixels")
        group = 2 * which + suffixed
        # in the order in which they lie on the disk
        order = np.lexsort((rows, group))
        for part in np.split(order, np.flatnonzero(np.diff(group[order])) + 1):
            if not len(part):
                continue
            tensors = self._opened[which[part[0]]]
            suffix = _FLIPPED if suffixed[part[0]] else ""
            for into, name in zip(found, wanted, strict=True):
                # numpy's, since torch's own indexing of half precision is many times slower
                into[part] = tensors[name + suffix][rows[part]]
        return found

    def _open(self, shard: Shard) -> dict[str, NDArray[Any]]:
        """Maps of a file's tensors: nothing is read before it is looked at."""
        path = self.folder / shard.file
        try:
            with safe_open(path, "pt") as file:
                there = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError) as error:
            raise DatasetError(f"{path} cannot be read ({error}); encode it anew") from None
        kind = torch.uint8 if self.index.stored == "pixels" else torch.float16
        images = ((shard.count, *self.shape), kind)
        stored = names(self.index.stored, self.index.flipped)
        expected = dict.fromkeys(stored, images) | {"labels": ((shard.count,), torch.int64)}
        if {name: (tuple(part.shape), part.dtype) for name, part in there.items()} != expected:
            raise DatasetError(f"{path} does not hold what {INDEX} says; encode it anew")
        return {name: part.numpy() for name, part in there.items()}
