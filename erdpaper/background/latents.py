"""Latent diffusion in the thesis's letters [T 2.46, 2.47], and what the autoencoder keeps."""

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from erdpaper.sampling import Denoiser
from erdpaper.schedules import Schedule


class Step(NamedTuple):
    """One step of 2.47 as numbers: beta_t, abar_t, abar_{t-1}, and the time that it starts at."""

    beta: float
    abar: float
    before: float
    t: float

    def noise(self, large: bool) -> float:
        """sigma_t: the root of beta_t, or of the variance of q(x_{t-1} | x_t, x_0) [T 2.20]."""
        return math.sqrt(self.beta if large else self.beta * self.shrink)

    @property
    def shrink(self) -> float:
        """(1 - abar_{t-1}) / (1 - abar_t)."""
        return (1 - self.before) / (1 - self.abar)


def steps(schedule: Schedule, times: Tensor) -> Iterator[Step]:
    """The steps along falling times, ``1 - beta_t = abar_t / abar_{t-1}``, on a VP path."""
    if schedule.path != "vp":
        raise ValueError(f"2.47 needs a variance-preserving schedule, not {schedule}")
    abar = schedule(times.double())[0].square().tolist()
    for (t, here), (_, there) in pairwise(zip(times.tolist(), abar, strict=True)):
        yield Step(1 - here / there, here, there, t)


def update(denoise: Denoiser, z: Tensor, step: Step, noise: Tensor, large: bool) -> Tensor:
    """z_{t-1} of 2.47 from z_t and standard normal noise, both (N, ...)."""
    eps = denoise(z, step.t).eps
    mean = (z - step.beta / math.sqrt(1 - step.abar) * eps) / math.sqrt(1 - step.beta)
    return mean + step.noise(large) * noise


def sample(
    denoise: Denoiser,
    z: Tensor,
    schedule: Schedule,
    times: Tensor,
    generator: torch.Generator,
    large: bool = False,
) -> Tensor:
    """2.47 along falling times that end at 0, where the last step adds no noise."""
    for step in steps(schedule, times):
        noise = torch.randn(z.shape, generator=generator, dtype=z.dtype)
        # at abar_0 = 1 the variance of 2.20 is 0, and beta's would only blur the result
        z = update(denoise, z, step, noise, large and step.before < 1)
    return z


def band_power(images: Tensor, bands: int) -> Tensor:
    """Mean power of images (N, C, H, H) in equal bands of the radial frequency, (bands,).

    Of images less their mean over all of them; frequencies from 0 to 1/2 cycle a pixel, those in
    the corners beyond 1/2 belong to the last band.
    """
    side = images.shape[-1]
    power = torch.fft.fft2((images - images.mean(0)).double()).abs().square().mean((0, 1))
    line = torch.fft.fftfreq(side, dtype=torch.float64)
    radius = torch.hypot(*torch.meshgrid(line, line, indexing="ij"))
    band = (radius / 0.5 * bands).long().clamp(max=bands - 1)
    sums = power.new_zeros(bands).index_add_(0, band.flatten(), power.flatten())
    return torch.div(sums, torch.bincount(band.flatten(), minlength=bands))
