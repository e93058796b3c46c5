"""Small folders of encoded data, for the tests of training at full scale."""

from pathlib import Path

import torch
from safetensors.torch import save_file

from erdpaper.fullscale.data.shards import Index, Shard, checksum


def write(
    folder: Path, shape: tuple[int, ...] = (4, 7, 7), classes: int = 10, n: int = 150
) -> Path:
    """n posteriors of latents and their flips in two files, around a mean for each class."""
    folder.mkdir(parents=True)
    generator = torch.Generator().manual_seed(5)
    means = torch.randn(max(classes, 1), *shape, generator=generator)
    labels = torch.randint(max(classes, 1), (n,), generator=generator)
    shards = []
    for k, part in enumerate(labels.split(100)):
        mean = means[part] + 0.5 * torch.randn(len(part), *shape, generator=generator)
        tensors = {
            "mean": mean.half(),
            "std": torch.full_like(mean, 0.1).half(),
            "mean_flipped": mean.flip(-1).half().contiguous(),
            "std_flipped": torch.full_like(mean, 0.2).half(),
            "labels": part.clone(),
        }
        path = folder / f"shard-{k:05d}.safetensors"
        save_file(tensors, path)
        shards.append(Shard(path.name, len(part), checksum(path)))
    Index(
        kind="latents",
        source="random numbers",
        encoder="none",
        factor=0.5,
        stored="moments",
        flipped=True,
        shape=shape,
        classes=tuple(f"class {k}" for k in range(classes)),
        count=n,
        shards=tuple(shards),
    ).write(folder)
    return folder
