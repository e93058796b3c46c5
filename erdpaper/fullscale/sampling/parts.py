"""Images that are made in parts, each a file of its own, until all of them become one npz.

A part holds images first..first + n - 1 and says so by its name; it appears as a whole. Which parts
there are depends on how often the work was interrupted, and what they hold does not.
"""

import json
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from erdpaper.files import write_atomically
from erdpaper.fullscale.data import adm

_NAME = re.compile(r"part-(\d+)-(\d+)\.safetensors")


class Parts:
    """The parts of `count` images in the work folder beside a file that is to be."""

    def __init__(self, out: Path, count: int, facts: Mapping[str, Any]) -> None:
        self.out, self.count, self.facts = out, count, dict(facts)
        self.folder = out.with_name(f"{out.name}.parts")

    def finished(self) -> bool:
        """Whether the file is there; ValueError if it, or the folder, is of another configuration.

        A file of others is never replaced.
        """
        if self.out.exists():
            found = adm.facts(self.out)
            if found is None:
                raise ValueError(f"{self.out} exists and is no file of erdpaper sample")
            self._compare(self.out, found)
            return True
        config = self.folder / "config.json"
        if config.exists():
            self._compare(self.folder, json.loads(config.read_text()))
        return False

    def _compare(self, path: Path, found: dict[str, Any]) -> None:
        # through JSON, which knows no tuples
        wanted = json.loads(json.dumps(self.facts))
        for name in sorted(found.keys() | wanted.keys()):
            if found.get(name) != wanted.get(name):
                raise ValueError(
                    f"{path} holds samples with {name} {found.get(name)!r}, "
                    f"not {wanted.get(name)!r}: name another --out or delete it"
                )

    def open(self) -> None:
        """Make the work folder, and clear it of what a kill in the middle of writing left."""
        write_atomically(self.folder / "config.json", json.dumps(self.facts, indent=1) + "\n")
        for left in (*self.folder.glob(".*.tmp"), *self.out.parent.glob(f".{self.out.name}.*.tmp")):
            left.unlink()

    def spans(self) -> list[range]:
        """Those that are there, in order."""
        found = [_NAME.fullmatch(path.name) for path in self.folder.glob("part-*")]
        numbers = sorted((int(m[1]), int(m[2])) for m in found if m is not None)
        return [range(first, first + n) for first, n in numbers]

    def missing(self, size: int) -> list[range]:
        """What is not there, in ranges of at most `size` images, in order."""
        edges = [range(0), *self.spans(), range(self.count, self.count)]
        gaps = [range(before.stop, after.start) for before, after in pairwise(edges)]
        return [gap[first : first + size] for gap in gaps for first in range(0, len(gap), size)]

    def keep(self, span: range, images: Tensor, labels: Tensor | None) -> None:
        """Write one part: images (n, H, W, C), bytes, and labels (n,)."""
        state = {"images": images.contiguous()}
        if labels is not None:
            state["labels"] = labels
        write_atomically(self._path(span), save(state))

    def join(self, shape: adm.Shape) -> None:
        """Write the file, a part in memory at a time, and delete the folder."""
        spans = self.spans()
        ends = [0, *(span.stop for span in spans)]
        if [*(span.start for span in spans), self.count] != ends:
            raise ValueError(f"the parts in {self.folder} overlap: delete that folder")
        parts = (self._read(span, "images") for span in spans)
        labels = [self._read(span, "labels") for span in spans] if self._labelled(spans) else None
        joined = None if labels is None else np.concatenate(labels)
        adm.write(self.out, shape, parts, joined, self.facts)
        self.clear()

    def clear(self) -> None:
        """Delete the work folder."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _path(self, span: range) -> Path:
        return self.folder / f"part-{span.start:08d}-{len(span)}.safetensors"

    def _labelled(self, spans: list[range]) -> bool:
        with self._opened(spans[0]) as part:
            return "labels" in part.keys()  # noqa: SIM118

    def _read(self, span: range, name: str) -> np.ndarray[Any, Any]:
        with self._opened(span) as part:
            found: np.ndarray[Any, Any] = part.get_tensor(name)
        return found

    @contextmanager
    def _opened(self, span: range) -> Iterator[Any]:
        path = self._path(span)
        try:
            with safe_open(path, "np") as part:
                yield part
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{path} cannot be read ({error}): delete it and go on") from None
