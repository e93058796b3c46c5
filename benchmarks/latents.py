"""How fast latents come from encoded files, beside torch's default way to read an array on disk.

Both give batches of random examples mean + std noise, times the factor, from moments of the shape
of ImageNet's at 256 pixels, in turn so that both see the same machine, files in the page cache:

    shards     fullscale.data.shards.Shards.take, memory-mapped safetensors, in this process
    memmap     a Dataset over np.memmap, DataLoader with its default collate, in this process
    +W         the same loader with W workers
    noise      the normal numbers alone, which each of them draws

Printed are latents a second, the median over the turns, and shards' ratio to each, the median of
the turns' ratios.

    python benchmarks/latents.py [--count 16384] [--per-shard 2048] [--batches 40] [--workers 2]
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, RandomSampler

from erdpaper.fullscale.data.shards import Index, Shard, Shards, checksum

SHAPE = (4, 32, 32)
FACTOR = 0.18215
BATCH = 256


def write(folder: Path, count: int, per_shard: int) -> None:
    """The same moments as encoded files and as one array (count, 2, *SHAPE)."""
    generator = torch.Generator().manual_seed(0)
    array = np.memmap(folder / "array", np.float16, "w+", shape=(count, 2, *SHAPE))
    files = []
    for first in range(0, count, per_shard):
        n = min(per_shard, count - first)
        mean, std = torch.rand(2, n, *SHAPE, generator=generator).half()
        path = folder / f"shard-{len(files):05d}.safetensors"
        save_file({"mean": mean, "std": std, "labels": torch.arange(n) % 1000}, path)
        files.append(Shard(path.name, n, checksum(path)))
        array[first : first + n, 0], array[first : first + n, 1] = mean.numpy(), std.numpy()
    array.flush()
    classes = tuple(map(str, range(1000)))
    facts = ("latents", "random numbers", "none", FACTOR, "moments", False, SHAPE, classes, count)
    Index(*facts, tuple(files)).write(folder)


class Array(Dataset[tuple[Tensor, Tensor]]):
    """Mean and std of an example of an array on disk."""

    def __init__(self, path: Path, count: int) -> None:
        self.array = np.memmap(path, np.float16, "r", shape=(count, 2, *SHAPE))

    def __len__(self) -> int:
        return len(self.array)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        mean, std = torch.from_numpy(np.array(self.array[index]))
        return mean, std


def from_array(path: Path, count: int, workers: int) -> Iterator[Tensor]:
    data = Array(path, count)
    sampler = RandomSampler(data, replacement=True, num_samples=10**9)
    generator = torch.Generator().manual_seed(1)
    for mean, std in DataLoader(data, BATCH, sampler=sampler, num_workers=workers):
        noise = torch.randn(mean.shape, generator=generator)
        yield mean.float().addcmul_(std.float(), noise).mul_(FACTOR)


def from_shards(folder: Path) -> Iterator[Tensor]:
    data, generator = Shards(folder), torch.Generator().manual_seed(1)
    while True:
        yield data.take(torch.randint(len(data), (BATCH,)), generator)


def noise_alone() -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(1)
    while True:
        yield torch.randn(BATCH, *SHAPE, generator=generator)


def seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description="time the reader of encoded data")
    parser.add_argument("--count", type=int, default=16_384)
    parser.add_argument("--per-shard", type=int, default=2048)
    parser.add_argument("--batches", type=int, default=40)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder, options.count, options.per_shard)
        ways = {
            "shards": from_shards(folder),
            "memmap": from_array(folder / "array", options.count, 0),
            f"memmap +{options.workers}": from_array(
                folder / "array", options.count, options.workers
            ),
            "noise": noise_alone(),
        }
        turns: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(options.repeats + 1):
            for way, batches in ways.items():
                some = islice(batches, options.batches)
                turns[way].append(seconds(lambda some=some: [None for _ in some]))
        print(
            f"{options.count} latents of {SHAPE} in files of {options.per_shard}, batches of "
            f"{BATCH}, {torch.get_num_threads()} thread(s), torch {torch.__version__}, "
            f"median of {options.repeats}"
        )
        for way, found in turns.items():
            # the first turn fills the page cache
            rate = options.batches * BATCH / statistics.median(found[1:])
            pairs = zip(turns["shards"][1:], found[1:], strict=True)
            ratio = statistics.median(other / own for own, other in pairs)
            print(f"  {way:10s} {rate:10,.0f} latents/s   shards x {ratio:5.2f}")


if __name__ == "__main__":
    main()
