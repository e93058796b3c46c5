"""Controlled diffusion of known images, and the ways to join states of several levels [T 3.1.1]."""

import math
from collections.abc import Iterable
from functools import cache

import numpy as np
import torch
from scipy.special import stdtrit
from torch import Tensor

from erdpaper import sampling, spectral
from erdpaper.regimes import bands, endpoints
from erdpaper.regimes.endpoint_arms import (
    TIMESTEPS,
    Arm,
    Result,
    exact,
    of_law,
    plain,
    shaped_noise,
    shares,
    trajectory,
)
from erdpaper.regimes.outcomes import Interval
from erdpaper.regimes.system import System
from erdpaper.sampling import Denoiser
from erdpaper.schedules import Cosine

# log-SNR of controlled diffusion, from noise to data
LEVELS = tuple(sorted([-9 + k / 2 for k in range(33)] + list(TIMESTEPS.values())))
# neighbouring levels whose estimates are compared, and the grid that sequential states walk
PAIRS = ((-4.0, -3.5), (0.0, 0.5), (4.0, 4.5))
_WALK = tuple(-6 + k / 2 for k in range(22))
JOINED = ("direct", "sequential", "shared")
# of images with a synthetic spectrum, whose covariance has SIDE^4 entries
SIDE = 32
_SEED = 110
_MEAN_OF = 500


def reached(system: System, levels: Iterable[float]) -> tuple[float, ...]:
    """Rising log-SNRs, those noisier than the schedule gets replaced by its noisiest."""
    last = float(system.schedule.logsnr(1.0))
    return tuple(sorted({max(level, last) for level in levels}))


def times(system: System, levels: tuple[float, ...]) -> list[float]:
    """Times of log-SNRs."""
    return list(system.schedule.time(torch.tensor(levels, dtype=torch.float64)).tolist())


@cache
def class_means(system: System) -> Tensor:
    """Means of the first 500 training images of each class, decoded, (K, C, H, W)."""
    firsts = [system.data("train", k)[0][:_MEAN_OF] for k in range(len(system.classes))]
    return torch.stack([system.decode(x).mean(0) for x in firsts])


def first_estimates(system: System, scale: float, start: Tensor) -> tuple[Tensor, Tensor]:
    """Mean estimates of noise (N, ...) at EDM's first level, and their due values, (K, ...) each.

    Class k of K, or of N where there are more classes than samples, is asked for with this guidance
    by every K-th sample. With exact means m of all training states and m_k of a class, and no
    signal left, guidance gives m + scale (m_k - m).
    """
    K = min(len(system.classes), len(start))
    labels = torch.arange(len(start)) % K
    t = float(sampling.times.karras(system.schedule, 1)[0])
    x0hat = system.denoiser(labels, scale)(start, t).x0
    found = torch.stack([x0hat[labels == k].mean(0) for k in range(K)])
    means = torch.stack([system.data("train", k)[0].mean(0) for k in range(K)])
    m = system.data("train", None)[0].mean(0)
    return found, m + scale * (means - m)


def synthetic(power: Tensor, n: int, seed: int) -> Interval:
    """Detail's level less outline's for the exact denoiser of images with this power (H, H)."""
    schedule, law = Cosine(), shaped_noise(power)
    generator = torch.Generator().manual_seed(seed)
    start = torch.randn(n, 1, *power.shape, generator=generator, dtype=torch.float64)
    run = trajectory(of_law(law, schedule), schedule, start, Arm(sampler="heun"))
    logsnr = schedule.logsnr(torch.tensor([each.t for each in run.looked], dtype=torch.float64))
    return endpoints.settling(endpoints.bare(logsnr, run.looked, run.end))["gap"]


def rings_of(size: int) -> int:
    """How many rings of spatial frequency images (size, size) have."""
    return round(math.hypot(size // 2, size // 2)) + 1


def power_of_modes(rings: Tensor, size: int) -> Tensor:
    """Power at every mode of an image (H, H) from that of rings (R,)."""
    along = torch.fft.fftfreq(size, 1 / size, dtype=torch.float64)
    return rings[torch.hypot(along[:, None], along).round().long()]


def known(system: System, split: str, classes: bool, n: int, denoiser: str = "network") -> Result:
    """What estimates of the first n images of a split show, at LEVELS, one draw an image.

    Of them an image that is the only one of its class is left out: it varies about no mean. Levels
    noisier than the schedule are replaced by its noisiest.
    """
    x0, labels = (part[:n] for part in system.data(split, None))
    several = labels.bincount()[labels] > 1
    x0, labels = x0[several], labels[several]
    if denoiser == "network":
        denoise = system.denoiser(labels if classes else None, 1.0)
    else:
        denoise = exact(system, denoiser)
    generator = torch.Generator().manual_seed(_SEED)
    levels = reached(system, LEVELS)
    at_times = times(system, levels)
    found = sampling.controlled(denoise, x0, system.schedule, at_times, generator)
    views = endpoints.view(system, found, x0, labels)
    groups = views if classes else views._replace(groups=torch.zeros_like(labels))
    means = class_means(system)
    right = torch.stack([endpoints.nearest_mean(e, means) == labels for e in views.estimates])
    at = {k: levels.index(max(level, levels[0])) for k, level in TIMESTEPS.items()}
    every = endpoints.errors(views)
    return {
        "known": [system.name, split, "with a class" if classes else "no class", denoiser],
        "n": len(x0),
        "logsnr": plain(views.logsnr),
        "settling": endpoints.settling(groups),
        "unsettled": shares(groups),
        "explained": plain(1 - endpoints.unsettled(every.mean(1))),
        "explained_at": {str(k): endpoints.explained(views, i) for k, i in at.items()},
        "outline_at": {str(k): endpoints.explained(views, i, bands.OUTLINE) for k, i in at.items()},
        "nearest": plain(right.double().mean(1)),
        "nearest_first": endpoints.share(right[at[1000]].numpy()),
        "rings": plain(endpoints.rings(views)),
        "state": plain(views.state),
        "end": plain(spectral.radial_power(views.goal.images).power.mean(0)),
    }


def joined(system: System, n: int, repeats: int) -> Result:
    """Errors and components of n test images by three ways to join states, drawn many times."""
    x0, labels = (part[:n] for part in system.data("test", None))
    denoise = system.denoiser(labels, 1.0)
    every = {
        way: [repeat(system, denoise, x0, way, _SEED + 1 + r) for r in range(repeats)]
        for way in JOINED
    }
    errors = {k: torch.stack([e for e, _ in v]).numpy() for k, v in every.items()}  # (M, 6, N)
    counts = {k: np.array([c for _, c in v], float) for k, v in every.items()}  # (M, 6)
    firsts = range(0, 2 * len(PAIRS), 2)
    differ = {
        "error": [_farthest(*(errors[w].mean(2)[:, k] for w in JOINED[:2])) for k in firsts],
        "components": [_farthest(*(counts[w][:, k] for w in JOINED[:2])) for k in firsts],
    }
    return {
        "joined": system.name,
        "n": n,
        "repeats": repeats,
        "pairs": PAIRS,
        "differ": {k: plain(np.array(v)) for k, v in differ.items()},
        "components": {k: plain(v.mean(0)) for k, v in counts.items()},
        "error": {k: plain(v.mean((0, 2))) for k, v in errors.items()},
        "correlation": {k: plain(np.array(_correlations(v))) for k, v in errors.items()},
        "variance": {k: plain(np.array(_of_differences(v))) for k, v in errors.items()},
    }


def repeat(
    system: System, denoise: Denoiser, x0: Tensor, way: str, seed: int
) -> tuple[Tensor, list[int]]:
    """Squared errors (6, N) and k_0.99 (6,) at the levels of PAIRS, of one draw of the noise."""
    generator = torch.Generator().manual_seed(seed)
    wanted = [level for pair in PAIRS for level in pair]
    if way == "sequential":
        walk = reached(system, _WALK)
        walked = sampling.sequential(x0, system.schedule, times(system, walk), generator)
        states = [s for level, s in zip(walk, walked, strict=True) if level in wanted]
    else:
        noise = torch.randn(x0.shape, generator=generator) if way == "shared" else None
        at = times(system, tuple(wanted))
        states = list(sampling.direct(x0, system.schedule, at, generator, noise))
    found = list(sampling.endpoints(denoise, states))
    errors = [(each.x0hat - x0).double().flatten(1).square().mean(1) for each in found]
    return torch.stack(errors), [spectral.components_for(each.x0hat) for each in found]


def _farthest(direct: np.ndarray, other: np.ndarray) -> float:
    """Farther end of the 95 % interval of the relative difference of two means (Welch)."""
    parts = [v.var(ddof=1) / len(v) for v in (direct, other)]
    square, gap = sum(parts), abs(other.mean() - direct.mean())
    if square == 0:
        return float(gap / direct.mean())
    freedom = square**2 / sum(p**2 / (len(direct) - 1) for p in parts)
    return float((gap + stdtrit(freedom, 0.975) * np.sqrt(square)) / direct.mean())


def _correlations(errors: np.ndarray) -> list[float]:
    """Correlation over draws (M, 6, N) at each pair of levels, pooled over the images."""
    rest = errors - errors.mean(0)
    pairs = [(rest[:, k], rest[:, k + 1]) for k in range(0, rest.shape[1], 2)]
    return [float((a * b).sum() / np.sqrt((a**2).sum() * (b**2).sum())) for a, b in pairs]


def _of_differences(errors: np.ndarray) -> list[float]:
    """Variance over draws of the difference at each pair of levels, mean over the images."""
    steps = errors[:, 1::2] - errors[:, ::2]
    return list(map(float, steps.var(0, ddof=1).mean(1)))
