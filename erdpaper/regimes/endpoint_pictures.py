"""Pictures of states and estimates in rows, and the axis of noise levels of curves."""

from collections.abc import Sequence

import torch
from matplotlib.axes import Axes
from torch import Tensor

from erdpaper.regimes.system import System
from erdpaper.sampling import Endpoint
from erdpaper.schedules import StableDiffusion

# timesteps far enough apart for a small panel
_MARKED = (1000, 600, 200)


def strip(ax: Axes, images: Tensor, rows: Sequence[str], columns: Sequence[str]) -> None:
    """Show images (R, K, C, H, W) with values in [-1, 1] as R named rows of K named columns."""
    if images.shape[:2] != (len(rows), len(columns)):
        raise ValueError(
            f"{len(rows)} x {len(columns)} names need as many images, got {tuple(images.shape[:2])}"
        )
    height, width = images.shape[-2:]
    # (R, K, C, H, W) -> (R H, K W, C)
    sheet = images.permute(0, 3, 1, 4, 2).flatten(2, 3).flatten(0, 1).clamp(-1, 1)
    ax.imshow((sheet + 1) / 2, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    ax.set_yticks([(k + 0.5) * height - 0.5 for k in range(len(rows))], rows)
    ax.set_xticks([(k + 0.5) * width - 0.5 for k in range(len(columns))], columns)
    ax.tick_params(length=0)
    ax.grid(False)
    ax.spines[:].set_visible(False)


def triple(system: System, found: Sequence[Endpoint], sample: int) -> Tensor:
    """x_t, x0hat and their residual of one sample at each level, decoded, (3, R, C, H, W)."""
    x, x0hat, residual = (
        torch.stack([part[sample] for part in parts])
        for parts in zip(*((e.x_t, e.x0hat, e.residual) for e in found), strict=True)
    )
    return torch.stack([system.decode(part) for part in (x, x0hat, residual)])


def levels(system: System, found: Sequence[Endpoint]) -> list[str]:
    """The log-SNR of each level as the name of a column."""
    return [f"{float(system.schedule.logsnr(each.t)):.1f}" for each in found]


def at_timesteps(ax: Axes, low: float, high: float) -> None:
    """Limit a log-SNR axis, noise at left, and mark Stable Diffusion's timesteps above it."""
    ax.set_xlim(low, high)
    upper = ax.secondary_xaxis("top")
    table = StableDiffusion()
    places = [float(table.logsnr(k / table.T)) for k in _MARKED]
    upper.set_xticks(places, [str(k) for k in _MARKED])
    upper.tick_params(labelsize=8, colors="#555555")
