"""Noise for a sampler to start from."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor


def per_sample(
    seeds: Iterable[int],
    shape: Sequence[int],
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Standard normal noise ``(N, *shape)``, row i drawn from a generator of its own with seeds[i].

    A row depends on its seed, `shape` and `dtype` alone: not on the other rows, the size of the
    batch, or the device, because all is drawn on the CPU. Scaled by sigma it is x at t = 1 where
    alpha = 0. Seeds are integers in [0, 2^63).
    """
    seeds = list(seeds)
    if not seeds or not all(isinstance(seed, int) and 0 <= seed < 2**63 for seed in seeds):
        raise ValueError("seeds must be one or more integers in [0, 2^63)")
    rows = [
        torch.randn(tuple(shape), generator=torch.Generator().manual_seed(seed), dtype=dtype)
        for seed in seeds
    ]
    return torch.stack(rows).to(device)
