"""What `erdpaper encode` does: images into latents, or bytes, that training streams from disk.

Every file of `per_shard` images is the work of one process, encoded in batches of its own, so that
neither the number of processes nor an interruption changes a byte of it. Worker processes decode
images while the device encodes those before.
"""

import os
import shutil
from collections.abc import Iterator, Sequence
from datetime import timedelta
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from torch import Tensor
from tqdm import tqdm

from erdpaper.datasets import DatasetError
from erdpaper.fullscale.data import sources
from erdpaper.fullscale.data.shards import INDEX, Index, names
from erdpaper.fullscale.data.sources import Images, Where
from erdpaper.fullscale.encoding import decoding
from erdpaper.fullscale.encoding.decoding import cut
from erdpaper.fullscale.encoding.workfolder import Work, file_name
from erdpaper.fullscale.pretrained import encoder
from erdpaper.fullscale.pretrained.encoder import Encoder

# a process that is done waits for the others, and all of them for a long listing
_PATIENCE = timedelta(days=2)
# images that a worker hands over at a time when they are only looked at
_CHECKED = 32


class Request(NamedTuple):
    """What to encode and how; `out` is the folder of the result.

    side: that of the images, in pixels; encoder: an AutoencoderKL, none for bytes; sample: keep one
    draw of its posterior, by `seed`, rather than mean and std; flip: each image left to right too.
    batch, workers: how many images the device, and processes that decode for it, have at a time.
    """

    where: Where
    out: Path
    side: int | None = None
    encoder: str | None = None
    sample: bool = False
    flip: bool = False
    per_shard: int = 8192
    batch: int = 32
    workers: int | None = None
    seed: int = 0
    cpu: bool = False

    @property
    def pixels(self) -> int:
        """The side of an image."""
        return sources.SIDES[self.where.kind] if self.side is None else self.side

    @property
    def stored(self) -> str:
        """Which tensors are kept, a name of `shards.STORED`."""
        if self.encoder is None:
            return "pixels"
        return "sample" if self.sample else "moments"

    def plan(self) -> dict[str, Any]:
        """What decides which bytes are written."""
        local = self.encoder is not None and Path(self.encoder).exists()
        return {
            "source": str(self.where),
            "side": self.pixels,
            "encoder": str(Path(self.encoder or "").resolve()) if local else self.encoder,
            "stored": self.stored,
            "flipped": self.flip,
            "per_shard": self.per_shard,
            "seed": self.seed if self.stored == "sample" else None,
        }


class Encoded(NamedTuple):
    """A finished folder.

    untouched: it was finished before, and every file has its checksum; anew: the names of files
    that had been finished, were found damaged and are made anew.
    """

    folder: Path
    untouched: bool
    anew: tuple[str, ...]


def run(request: Request) -> Encoded:
    """Encode all images, or go on with those that are missing.

    What is finished is compared with its checksums and kept, and made anew where it is damaged.
    Raises ValueError for a wrong request and DatasetError for images, or a folder, with which one
    cannot go on.
    """
    work = Work(request.out, request.plan())
    work.compare()
    state = PartialState(cpu=request.cpu, timeout=_PATIENCE)
    untrue = state.is_main_process and work.tidy()
    state.wait_for_everyone()
    if work.finished:
        return Encoded(request.out, True, ())
    anew = _encode(request, work, state)
    # where no file was damaged, what says which files there are was
    return Encoded(request.out, False, anew or ((INDEX,) if untrue else ()))


def check(where: Where, side: int | None = None, workers: int | None = None) -> int:
    """Decode all images without keeping any; how many there are.

    The first that is broken raises DatasetError, which names it.
    """
    images = sources.find(where)
    count = decoding.workers(workers, 1)
    parts = cut(range(len(images)), _CHECKED)
    with tqdm(desc="checking", total=len(images), unit=" images", unit_scale=True) as bar:
        for found in decoding.batches(images, side or sources.SIDES[where.kind], parts, count):
            bar.update(len(found))
    return len(images)


def _encode(request: Request, work: Work, state: PartialState) -> tuple[str, ...]:
    """Finish a folder; the files of all processes that had been finished and were damaged."""
    side, coder = request.pixels, None
    shape: tuple[int, ...] = (3, side, side)
    if request.encoder is not None:
        coder = encoder.load(request.encoder, state.device)
        shape = coder.shape(side)
    with state.main_process_first():
        images = _begun(request, work, coder)
    files = cut(range(len(images)), request.per_shard)
    mine = range(state.process_index, len(files), state.num_processes)
    # shown only where there is much to compare
    looked = tqdm(mine, desc="checking", unit=" files", delay=2, disable=_quiet(state))
    missing = [number for number in looked if not work.has(number)]
    damaged = [file_name(number) for number in missing if work.kept(number)]
    left = sum(len(files[number]) for number in missing)
    _check_room(request, shape, left * state.num_processes)
    whole = sum(len(files[number]) for number in mine)
    with _bar(state, whole, whole - left) as bar:
        made = _files(request, images, [files[number] for number in missing], coder, bar)
        for number, tensors in zip(missing, made, strict=True):
            work.keep(number, tensors)
    anew = tuple(sorted(gather_object(damaged)))  # waits for all processes
    if state.is_main_process:
        work.finish(_index(request, images, coder, shape), len(files))
    state.wait_for_everyone()
    return anew


def _begun(request: Request, work: Work, coder: Encoder | None) -> Images:
    """The images, the same in the same order whenever an encoding goes on."""
    work.begin({"weights": None if coder is None else coder.digest})
    listing = work.listing()
    images = sources.find(request.where, listing)
    if listing is None:
        work.keep_listing(sources.listing_of(images))
    return images


def _check_room(request: Request, shape: tuple[int, ...], images: int) -> None:
    width = 1 if request.encoder is None else 2
    needed = images * prod(shape) * width * len(names(request.stored, request.flip))
    free = shutil.disk_usage(request.out).free
    if needed > free:
        raise DatasetError(
            f"{request.out} has room for {free / 1e9:.1f} GB, but {needed / 1e9:.1f} GB are needed"
        )


def _bar(state: PartialState, total: int, done: int) -> "tqdm[Any]":
    several = state.num_processes > 1
    return tqdm(
        desc=f"encoding (1 of {state.num_processes} processes)" if several else "encoding",
        total=total,
        initial=done,
        unit=" images",
        unit_scale=True,
        mininterval=1,
        disable=_quiet(state),
    )


def _quiet(state: PartialState) -> bool | None:
    """One bar for all processes, and none where nobody looks."""
    return None if state.is_main_process else True


def _files(
    request: Request,
    images: Images,
    files: Sequence[range],
    coder: Encoder | None,
    bar: "tqdm[Any]",
) -> Iterator[dict[str, Tensor]]:
    """The tensors of one file after another, each encoded in batches of its own."""
    parts = [part for whole in files for part in cut(whole, request.batch)]
    local = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    count = decoding.workers(request.workers, local)
    pinned = coder is not None and coder.device.type == "cuda"
    stream = decoding.batches(images, request.pixels, parts, count, pinned)
    for whole in files:
        found: dict[str, list[Tensor]] = {}
        for part in cut(whole, request.batch):
            for name, made in _made(request, next(stream), part, coder).items():
                found.setdefault(name, []).append(made)
            bar.update(len(part))
        labels = images.labels[whole.start : whole.stop]
        yield {name: torch.cat(each) for name, each in found.items()} | {"labels": labels}


def _made(
    request: Request, pixels: Tensor, indices: range, coder: Encoder | None
) -> dict[str, Tensor]:
    """What is kept of one batch."""
    if coder is None:
        return {"pixels": pixels}
    seed = request.seed if request.sample else None
    found = coder.tensors(pixels, indices, seed)
    if request.flip:
        flipped = coder.tensors(pixels.flip(-1), indices, seed, flipped=True)
        found |= {f"{name}_flipped": part for name, part in flipped.items()}
    return found


def _index(
    request: Request, images: Images, coder: Encoder | None, shape: tuple[int, ...]
) -> Index:
    """That of a finished folder, but for its files."""
    return Index(
        kind="pixels" if coder is None else "latents",
        source=images.name,
        encoder=request.plan()["encoder"],
        factor=None if coder is None else coder.factor,
        stored=request.stored,
        flipped=request.flip,
        shape=shape,
        classes=images.classes,
        count=len(images),
        shards=(),
    )
