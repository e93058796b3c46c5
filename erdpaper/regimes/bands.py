"""Images by bands of spatial frequency, and the levels at which a band is resolved [T 3.1]."""

import numpy as np
import torch
from torch import Tensor

from erdpaper import spectral
from erdpaper.regimes import outcomes
from erdpaper.regimes.outcomes import Interval

Band = tuple[int, int | None]
# cycles per image, ends included: outline and detail, and the bands that images are compared by
OUTLINE: Band = (0, 3)
DETAIL: Band = (7, None)
BANDS: dict[str, Band] = {
    "1 to 3 cycles": (1, 3),
    "4 to 6 cycles": (4, 6),
    "7 to 14 cycles": (7, 14),
}


def energy(images: Tensor, band: Band | None) -> Tensor:
    """Sum of squares of images (N, C, H, H) in a band, or in all, over C, (N,)."""
    if band is None:
        return images.square().sum((1, 2, 3)) / images.shape[1]
    return spectral.radial_power(images).total(*band)


def settles(logsnr: np.ndarray, shares: np.ndarray, level: float = 0.5) -> float:
    """The log-SNR from which on shares (R,) stay below a level, linear between the R levels.

    The first log-SNR if they always are, the last if they end above it.
    """
    above = np.flatnonzero(shares >= level)
    if len(above) == 0:
        return float(logsnr[0])
    k = int(above[-1])
    if k == len(shares) - 1:
        return float(logsnr[-1])
    part = (shares[k] - level) / (shares[k] - shares[k + 1])
    return float(logsnr[k] + part * (logsnr[k + 1] - logsnr[k]))


def content(images: Tensor, reference: dict[str, float]) -> dict[str, Interval]:
    """Power of images in each of BANDS over that of a reference, by `content_of`."""
    power = spectral.radial_power(images)
    return {
        name: outcomes.resampled(power.total(*band).numpy() / reference[name], float)
        for name, band in BANDS.items()
    }


def content_of(images: Tensor) -> dict[str, float]:
    """Mean power of images in each of BANDS."""
    power = spectral.radial_power(images)
    return {name: float(power.total(*band).mean()) for name, band in BANDS.items()}


def largest_fall(curve: np.ndarray) -> float:
    """How far values (R,) ever fall below an earlier one, over the last."""
    return float((np.maximum.accumulate(curve) - curve).max() / curve[-1])


def filtered_level(power: Tensor, modes: Tensor) -> float:
    """Log-SNR at which a filter frequency by frequency leaves half of a band unsettled.

    At SNR r, the best linear estimate of a mode with variance S leaves S / (1 + r S); power and
    modes (rings of the band,).
    """
    logsnr = torch.linspace(-20, 20, 4001, dtype=torch.float64)
    left = power / (1 + logsnr.exp()[:, None] * power)
    shares = (left * modes).sum(1) / (power * modes).sum()
    return settles(logsnr.numpy(), shares.numpy())


def curve(rings: list[list[float]], modes: np.ndarray, band: Band) -> np.ndarray:
    """Power in a band at each level, (R,), from radial power (R, rings)."""
    stop = None if band[1] is None else band[1] + 1
    return np.asarray((np.asarray(rings) * modes)[:, band[0] : stop].sum(1))
