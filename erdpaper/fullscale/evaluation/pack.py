"""An encoded folder of pixels as a reference for `erdpaper evaluate`, in the format of ADM."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from erdpaper.fullscale.data import adm
from erdpaper.fullscale.data.shards import Shards

_PART = 1024


def pack(folder: Path, out: Path) -> Path:
    """Write the images of a folder, unflipped and in their order, with their labels, as an npz.

    Raises DatasetError for a folder that `erdpaper encode` did not write, or one with a file that
    has not its checksum, and ValueError for one that holds latents, which are no images.
    """
    data = Shards(folder)
    if data.index.stored != "pixels":
        raise ValueError(
            f"{folder} holds latents; a reference needs pixels, encoded without --encoder"
        )
    if not out.parent.is_dir():
        raise ValueError(f"the folder {out.parent} of --out does not exist")
    # whatever is compared with a damaged reference is measured wrongly, and nothing shows it
    data.verify()
    channels, height, width = data.shape
    shape = adm.Shape(len(data), height, width, channels)
    labels = None if data.labels is None else data.labels.numpy()
    adm.write(out, shape, _parts(data), labels, {"source": data.index.source})
    return out


def _parts(data: Shards) -> Iterator[np.ndarray[Any, Any]]:
    for indices in torch.arange(len(data)).split(_PART):
        yield data.pixels(indices).permute(0, 2, 3, 1).numpy()
