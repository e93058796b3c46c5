"""An encoding on its way: what it was asked for, the images it found, the files it has finished.

In the folder of encoded data, `work/` holds

- `plan.json`, what was asked for, written first and compared on every return;
- `images.safetensors`, the images in their order, listed once;
- `shard-00000.json`, name, count and checksum of a file that is finished.

A file is written as a whole and its checksum after it, so that a kill loses the file in work only.
"""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor
from tqdm import trange

from erdpaper.datasets import DatasetError
from erdpaper.files import write_atomically
from erdpaper.fullscale.data.shards import INDEX, Index, Shard, checksum
from erdpaper.fullscale.data.sources import Listing


@contextmanager
def written(path: Path) -> Iterator[None]:
    """What goes wrong with writing a file, in a sentence."""
    try:
        yield
    except OSError as error:
        raise DatasetError(
            f"{path} cannot be written ({os.strerror(error.errno or 0)}); "
            "what is finished is kept, and the same command goes on from there"
        ) from error


class Work:
    """The folder of an encoding; plan: what is asked for, as JSON can hold it."""

    def __init__(self, folder: Path, plan: Mapping[str, Any]) -> None:
        self.folder, self.plan = folder, dict(plan)
        self._inside = folder / "work"

    def compare(self) -> None:
        """Refuse, by a DatasetError, a folder that holds another encoding, or something else."""
        path = self._inside / "plan.json"
        if self.folder.exists() and not self.folder.is_dir():
            raise DatasetError(f"{self.folder} is not a folder")
        if not path.exists():
            others = set(os.listdir(self.folder)) - {"work"} if self.folder.is_dir() else set()
            if others:
                raise DatasetError(
                    f"{self.folder} holds {min(others)} and no encoding begun by this command; "
                    "name a new folder"
                )
            return
        there = _facts(path)
        if there is None:
            raise DatasetError(f"{path} is damaged; delete {self.folder} to encode anew")
        for name, asked in self.plan.items():
            if there.get(name) != asked:
                raise DatasetError(
                    f"{self.folder} holds an encoding with {name} {there.get(name)!r}, "
                    f"not {asked!r}; name another folder or delete that one"
                )

    def begin(self, facts: Mapping[str, Any]) -> None:
        """Write the plan with what has become known meanwhile, or compare it."""
        self.plan |= facts
        self.compare()
        self._write(self._inside / "plan.json", (json.dumps(self.plan, indent=1) + "\n").encode())

    def tidy(self) -> bool:
        """Delete what a kill left half-written, and an index that is not whole or not true.

        Whether there was such an index: then a file, a note or the index itself is damaged.
        """
        for folder in (self.folder, self._inside):
            for part in folder.glob(".*.tmp"):
                part.unlink()
        untrue = self.finished and not self._whole()
        if untrue:
            (self.folder / INDEX).unlink()
        return untrue

    def _whole(self) -> bool:
        """Whether the index can be read and all its files are those that were noted."""
        try:
            shards = Index.read(self.folder).shards
        except DatasetError:
            return False
        looked = trange(len(shards), desc="checking", unit=" files", delay=2)
        return all([self._noted(k) == shards[k] and self.has(k) for k in looked])

    @property
    def finished(self) -> bool:
        """Whether the index, which is written last, is there."""
        return (self.folder / INDEX).exists()

    def listing(self) -> Listing | None:
        """The images of an encoding that has begun."""
        path = self._inside / "images.safetensors"
        if not path.exists():
            return None
        try:
            with safe_open(path, "pt") as file:
                classes = json.loads(file.metadata()["classes"])
                raw, labels = file.get_tensor("names"), file.get_tensor("labels").clone()
        except (OSError, SafetensorError, KeyError, TypeError) as error:
            raise DatasetError(f"{path} cannot be read ({error}); delete {self.folder}") from None
        names = np.array(raw.numpy().tobytes().split(b"\0"), dtype=np.bytes_)
        return Listing(names, labels, tuple(classes))

    def keep_listing(self, listing: Listing) -> None:
        """Write the images down."""
        # no name of a file holds a zero byte
        raw = b"\0".join(listing.names.tolist())
        names = torch.tensor(np.frombuffer(raw, np.uint8))
        facts = {"classes": json.dumps(listing.classes)}
        contents = save({"names": names, "labels": listing.labels}, facts)
        self._write(self._inside / "images.safetensors", contents)

    def keep(self, number: int, tensors: Mapping[str, Tensor]) -> None:
        """Write a finished file, then its checksum."""
        path = self.folder / file_name(number)
        self._write(path, save({name: part.contiguous() for name, part in tensors.items()}))
        facts = Shard(path.name, len(tensors["labels"]), checksum(path))
        self._write(self._note(number), (json.dumps(asdict(facts)) + "\n").encode())

    def has(self, number: int) -> bool:
        """Whether a file is there and the one whose checksum was noted."""
        shard = self._noted(number)
        path = self.folder / file_name(number)
        return shard is not None and path.is_file() and checksum(path) == shard.sha256

    def kept(self, number: int) -> bool:
        """Whether a file was finished once, be it damaged since or not."""
        return self._note(number).exists()

    def finish(self, index: Index, count: int) -> None:
        """Write the index of `count` files, all of them finished."""
        noted = [self._noted(number) for number in range(count)]
        shards = tuple(shard for shard in noted if shard is not None)
        with written(self.folder / INDEX):
            replace(index, shards=shards).write(self.folder)

    def _noted(self, number: int) -> Shard | None:
        """What was noted of a file; a damaged note is none, and the file is made again."""
        found = _facts(self._note(number)) or {}
        return Shard(**found) if found.keys() == Shard.__annotations__.keys() else None

    def _note(self, number: int) -> Path:
        return self._inside / file_name(number).replace(".safetensors", ".json")

    def _write(self, path: Path, contents: bytes) -> None:
        with written(path):
            write_atomically(path, contents)


def _facts(path: Path) -> dict[str, Any] | None:
    """The JSON object of a file, None where there is none."""
    try:
        found = json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def file_name(number: int) -> str:
    """That of a file of encoded data."""
    return f"shard-{number:05d}.safetensors"
