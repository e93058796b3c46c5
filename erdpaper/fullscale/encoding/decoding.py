"""Images decoded by worker processes, batch after batch in a fixed order."""

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from erdpaper.datasets import DatasetError
from erdpaper.fullscale.data.sources import Images

# seconds within which a death is signalled
_SIGNALLED = 2.0


class _Squares(Dataset[Tensor | str]):
    """Images as (3, side, side) bytes; of a broken one, what is wrong with it."""

    def __init__(self, images: Images, side: int) -> None:
        self._images, self._side = images, side

    def __getitem__(self, index: int) -> Tensor | str:
        try:
            pixels = self._images.pixels(index, self._side)
        # an exception would reach the main process inside a traceback's text
        except DatasetError as error:
            return str(error)
        return torch.tensor(pixels).permute(2, 0, 1)


def _together(found: Sequence[Tensor | str]) -> Tensor | str:
    broken = next((each for each in found if isinstance(each, str)), None)
    return broken or torch.stack([each for each in found if isinstance(each, Tensor)])


def batches(
    images: Images, side: int, parts: Sequence[Sequence[int]], workers: int, pinned: bool = False
) -> Iterator[Tensor]:
    """The images (n, 3, side, side), bytes, of each part's indices, part after part.

    The first image in this order that is broken raises DatasetError, which names it.
    """
    loader = DataLoader(
        _Squares(images, side),
        batch_sampler=(list(part) for part in parts),
        num_workers=workers,
        collate_fn=_together,
        pin_memory=pinned,
    )
    try:
        for found in loader:
            if isinstance(found, str):
                raise DatasetError(found)
            yield found
    except (RuntimeError, EOFError, ConnectionError) as error:
        if not _killed(error):
            raise
        raise DatasetError(
            "a process that decodes images was killed, perhaps for want of memory: "
            "ask for fewer --workers, or for a smaller --batch"
        ) from error


def cut(whole: range, size: int) -> list[range]:
    """A range in parts of `size`, the last one as long as it comes."""
    return [whole[first : first + size] for first in range(0, len(whole), size)]


def workers(wanted: int | None, processes: int) -> int:
    """How many workers each process gets: the number wanted, else its share of this machine."""
    return max(1, (os.cpu_count() or 1) // processes) if wanted is None else wanted


def _killed(error: Exception) -> bool:
    """Whether an error of the loader says that a worker was killed.

    torch has no class of its own for it, and where a batch was on its way then, the connection to
    the worker breaks instead. What was raised inside a worker is repeated as caught there.
    """
    text = str(error)
    if isinstance(error, RuntimeError):
        return text.startswith("DataLoader worker (pid")
    if text.startswith("Caught "):
        return False
    # torch's handler of the signal tells of the death once, wherever its parent is: let it be here
    with suppress(RuntimeError):
        time.sleep(_SIGNALLED)
    return True
