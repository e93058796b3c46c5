"""Collapse in trained systems: whether what is sampled is a training image.

The exact denoiser of a training set ends at one of its images, from the collapse on at the one that
the state was made of. A network that has learned the law behind the images does neither. The
control are test images: a network that brings back a training image by memory does so more often
than one that it has never seen.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from erdpaper import sampling, speciation
from erdpaper.metrics import nearest_distances
from erdpaper.posterior import Empirical
from erdpaper.regimes.decided import STEPS
from erdpaper.regimes.system import System
from erdpaper.training.stream import generator_for

# a stream of random numbers of its own
_NOISE = 4
# k = sigma / alpha at which sampling starts
_FIRST = 80.0


def exact_denoiser(system: System) -> sampling.Denoiser:
    """That of the training states as they are, E[x_0 | x_t] over all of them."""
    law = Empirical(system.data("train", None)[0].flatten(1))
    flat = sampling.exact(law, system.schedule)

    def denoise(x: Tensor, t: float) -> sampling.Prediction:
        found = flat(x.flatten(1), t)
        return sampling.Prediction(*(part.reshape(x.shape) for part in found))

    return denoise


def copies(system: System, denoise: sampling.Denoiser, n: int, seed: int = 0) -> Tensor:
    """Whether each of n ancestral samples from noise is a copy of a training state, (n,).

    A copy: the nearest training state is less than a third as far as the second nearest.
    """
    times = sampling.times.karras(system.schedule, STEPS, sigma_max=_FIRST)
    generator = generator_for(seed, _NOISE)
    x = sampling.ddpm(denoise, system.start(n, seed), system.schedule, times, generator)
    data = system.data("train", None)[0].flatten(1)
    first, second = _two_nearest(x.flatten(1), data).unbind(1)
    return first < second / 3


def _two_nearest(x: Tensor, data: Tensor) -> Tensor:
    """Distances (N, 2) to the nearest two rows of data."""
    parts = [
        torch.cdist(part.double(), data.double()).topk(2, largest=False).values
        for part in x.split(20)
    ]
    return torch.cat(parts)


class Returns(NamedTuple):
    """Whether U-turns end nearest to where they began, (L, N), of training and of test states."""

    train: Tensor
    test: Tensor


def returns(system: System, levels: Tensor, n: int, seed: int = 0) -> Returns:
    """U-turns of n training and n test states to each level of log-SNR and back by the network.

    The end counts as a return if no training state is nearer to it than the state at the beginning.
    """
    free, data = system.denoiser(None, 1.0), system.data("train", None)[0].flatten(1)
    generator = generator_for(seed, _NOISE)
    starts = []
    for split in ("train", "test"):
        x, _ = system.data(split, None)
        starts.append(x[torch.randperm(len(x), generator=generator)[:n]])
    found: tuple[list[Tensor], list[Tensor]] = ([], [])
    for level in levels.tolist():
        for x0, rows in zip(starts, found, strict=True):
            end = _turned(system, free, x0, level, generator).flatten(1)
            own = (end.double() - x0.flatten(1).double()).norm(dim=1)
            # to rounding, for a training state is among the data
            rows.append(own <= nearest_distances(end, data) * (1 + 1e-9))
    return Returns(*(torch.stack(rows) for rows in found))


def _turned(
    system: System,
    denoise: sampling.Denoiser,
    x0: Tensor,
    level: float,
    generator: torch.Generator,
) -> Tensor:
    t = speciation.in_time(system.schedule, level)
    alpha, sigma = (float(part) for part in system.schedule(t))
    noise = torch.randn(x0.shape, generator=generator)
    k = float(torch.tensor(-level / 2, dtype=torch.float64).exp())
    times = sampling.times.karras(system.schedule, STEPS, sigma_max=k)
    return sampling.ddpm(denoise, alpha * x0 + sigma * noise, system.schedule, times, generator)
