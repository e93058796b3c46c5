"""An encoded folder of pixels as a reference for `erdpaper evaluate`, in the format of ADM."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from erdpaper.fullscale import adm
from erdpaper.fullscale.shards import Shards

_PART = 1024


def pack(folder: Path, out: Path) -> Path:
    """Write the images of a folder, unflipped and in their order, with their labels, as an npz.

    Raises DatasetError for a folder that `erdpaper encode` did not write, and ValueError for one
    that holds latents, which are no images.
    """
    data = Shards(folder)
    if data.index.stored != "pixels":
        raise ValueError(
            f"{folder} holds latents; a reference needs pixels, encoded without --encoder"
        )
    if not out.parent.is_dir():
        raise ValueError(f"the folder {out.parent} of --out does not exist")
    channels, height, width = data.shape
    shape = adm.Shape(len(data), height, width, channels)
    labels = None if data.labels is None else data.labels.numpy()
    adm.write(out, shape, _parts(data), labels, {"source": data.index.source})
    return out


def _parts(data: Shards) -> Iterator[np.ndarray[Any, Any]]:
    for indices in torch.arange(len(data)).split(_PART):
        yield data.pixels(indices).permute(0, 2, 3, 1).numpy()
