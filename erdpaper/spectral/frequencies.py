"""Power of images by radial frequency [T 3.1]."""

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor


class Radial(NamedTuple):
    """Power of N images on R rings of spatial frequency, float64.

    frequency: 0, 1, ..., R - 1, cycles per image side, (R,); a mode belongs to the nearest ring.
    power: ``|F|^2 / H^2`` averaged over the modes of a ring and the channels, (N, R).
    modes: how many modes a ring has, (R,); rings above H / 2 lack the modes beyond the corners.

    sum(modes * power) is the sum of squares over pixels, averaged over channels (Parseval).
    """

    frequency: Tensor
    power: Tensor
    modes: Tensor

    def total(self, low: int, high: int | None = None) -> Tensor:
        """Power summed over the modes of the rings low..high, or of all from low, (N,)."""
        stop = None if high is None else high + 1
        return (self.power * self.modes)[:, low:stop].sum(1)


def radial_power(images: Tensor) -> Radial:
    """Radial power of square images (N, C, H, H) or (N, H, H); ValueError for others."""
    if images.ndim not in (3, 4) or 0 in images.shape or not images.is_floating_point():
        got = f"{images.dtype} {tuple(images.shape)}"
        raise ValueError(f"images must be floating (N, C, H, H) or (N, H, H), got {got}")
    if images.shape[-1] != images.shape[-2]:
        raise ValueError(f"images must be square, got {tuple(images.shape[-2:])}")
    x = images.detach().double()
    x = x[:, None] if x.ndim == 3 else x
    transform = torch.fft.fft2(x, norm="ortho")
    power = (transform.real.square() + transform.imag.square()).mean(1)  # (N, H, H)
    rings = _rings(x.shape[-1]).to(x.device)
    modes = torch.bincount(rings).double()
    sums = power.new_zeros(len(x), len(modes)).index_add_(1, rings, power.flatten(1))
    return Radial(torch.arange(len(modes), device=x.device).double(), sums / modes, modes)


@lru_cache(maxsize=8)
def _rings(size: int) -> Tensor:
    """The ring of each mode of a transform (H, H), (H * H,)."""
    along = torch.fft.fftfreq(size, 1 / size, dtype=torch.float64)
    return torch.hypot(along[:, None], along).round().long().flatten()


def slope(frequency: Tensor, power: Tensor, low: float, high: float) -> float:
    """The exponent a of the best power = c frequency^a for low <= frequency <= high.

    Least squares in logarithms, every frequency (R,) alike. ValueError if fewer than two lie in the
    range, or one there is not positive, or its power.
    """
    if frequency.ndim != 1 or frequency.shape != power.shape:
        shapes = f"{tuple(frequency.shape)} and {tuple(power.shape)}"
        raise ValueError(f"frequency and power must be rows of one length, got {shapes}")
    inside = (frequency >= low) & (frequency <= high)
    x, y = frequency[inside].double(), power[inside].double()
    if len(x) < 2:
        raise ValueError(f"a slope needs two frequencies in {low:g}..{high:g}, and has {len(x)}")
    if not bool((x > 0).all() and (y > 0).all()):
        raise ValueError("a slope in logarithms needs positive frequencies and powers")
    x, y = x.log(), y.log()
    x = x - x.mean()
    return float((x * y).sum() / x.square().sum())
