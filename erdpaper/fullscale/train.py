"""What `erdpaper train` does at any scale: find the row, look at its data, then train.

A preset of `images.presets` brings its data; one of `fullscale.presets` is given a folder of
encoded data, which must be of its shape and have its classes. The run's configuration says which
data they were, by the checksum of their index, wherever the folder is.
"""

import warnings
from pathlib import Path

from erdpaper.fullscale import presets
from erdpaper.fullscale.data import shards
from erdpaper.images import build, command
from erdpaper.images.build import Found
from erdpaper.images.presets import PRESETS, TOOLS, Preset, Tool


def row(preset: str) -> Preset | Tool:
    """A row of any scale by its name, ValueError if there is none."""
    if preset in presets.PRESETS:
        return presets.PRESETS[preset]
    try:
        return build.known(preset)
    except ValueError:
        known = ", ".join([*PRESETS, *TOOLS, *presets.PRESETS])
        raise ValueError(f"unknown preset {preset!r}; use one of {known}") from None


def train(request: command.Request, data: Path | None = None) -> Path:
    """Train a preset on the data of a folder, if it needs one; the path of the finished network.

    Raises ValueError for a wrong request, DatasetError for a folder that is no encoded data, and
    TrainingError where training cannot go on.
    """
    return command.train(request, found(request.preset, data))


def found(preset: str, data: Path | None) -> Found | None:
    """The row of a preset with the data of a folder, None for one that brings its data."""
    asked = row(preset)
    if preset not in presets.PRESETS or isinstance(asked, Tool):
        if data is not None:
            raise ValueError(f"{preset} brings its own data; leave out --data")
        return None
    wanted = presets.DATA[asked.data]
    if data is None:
        raise ValueError(
            f"{preset} trains on {wanted.title}: name a folder that `erdpaper encode` wrote, "
            "by --data FOLDER"
        )
    there = shards.Shards(data)
    _check(preset, wanted, there)
    index = there.index
    if index.count != wanted.examples:
        warnings.warn(
            f"{data} holds {index.count:,} images, not the {wanted.examples:,} of {wanted.title}",
            stacklevel=2,
        )
    facts = {
        "source": index.source,
        "encoder": index.encoder,
        "factor": index.factor,
        "stored": index.stored,
        "flipped": index.flipped,
        "examples": index.count,
        "index": shards.checksum(data / shards.INDEX),
    }
    return Found(asked, there, facts)


def _check(preset: str, wanted: presets.Data, there: shards.Shards) -> None:
    if there.shape != wanted.shape:
        raise ValueError(
            f"{there.folder} holds examples of {_sizes(there.shape)}, "
            f"and {preset} trains on {_sizes(wanted.shape)} ({wanted.title})"
        )
    classes = len(there.index.classes)
    # data with classes serve a network without; it is not shown them
    if wanted.classes and classes != wanted.classes:
        raise ValueError(
            f"{there.folder} holds {classes} classes, and {preset} trains on {wanted.classes}"
        )


def _sizes(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
