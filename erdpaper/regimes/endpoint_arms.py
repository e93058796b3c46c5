"""Trajectories of many kinds, and what is kept of them for the chapter on endpoint estimates."""

from dataclasses import asdict, dataclass
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from erdpaper import sampling, spectral
from erdpaper.posterior import Empirical, Gaussian, Posterior
from erdpaper.regimes import bands, endpoints
from erdpaper.regimes.endpoints import Views
from erdpaper.regimes.system import System
from erdpaper.sampling import Denoiser, Endpoint, Hooks, Prediction, Recorder
from erdpaper.schedules import Schedule, StableDiffusion

SAMPLERS = {"ddpm": "ancestral", "heun": "Heun"}
GRIDS = {"sd": "timestep 800", "cosine": "a fifth of cosine time", "edm": "a fifth of EDM's steps"}
# calls of a network in a run; every second one is looked at, of heun those that are states
CALLS = 50
_KEPT = range(0, CALLS, 2)
FIFTH = len(_KEPT) // 5
# log-SNR of Stable Diffusion's timesteps
TIMESTEPS = {k: float(StableDiffusion().logsnr(k / 1000)) for k in (1000, 800, 600, 400)}
_SEED = 10
# classes that are asked for at most: fewer than two samples of one would not vary
_CLASSES = 10

Result = dict[str, Any]


@dataclass(frozen=True)
class Arm:
    """One way to sample: space, sampler "ddpm" or "heun", grid of times, guidance, classes or none.

    denoiser: "network"; or "linear", "training", exact for a Gaussian with the mean and covariance
    of the training states and for these states themselves, without classes.
    """

    space: str = "latents"
    sampler: str = "ddpm"
    grid: str = "edm"
    guidance: float = 1.0
    classes: bool = True
    denoiser: str = "network"
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse a sampler that no run is made with."""
        if self.sampler not in SAMPLERS:
            raise ValueError(f"the sampler must be {' or '.join(SAMPLERS)}, not {self.sampler!r}")

    @property
    def key(self) -> str:
        """A name for a file and for finding it again."""
        what = f"guidance {self.guidance:g}" if self.classes else "no class"
        return f"{self.space} {self.sampler} {self.grid} {what} {self.denoiser}"


class Trajectory(NamedTuple):
    """What was looked at of a run, its end (N, ...), and the classes asked for, if any."""

    looked: list[Endpoint]
    end: Tensor
    labels: Tensor | None


def grid(schedule: Schedule, name: str, steps: int) -> Tensor:
    """Times of `steps` steps: "edm", "cosine" (equal steps in t), or "sd".

    "sd" has the log-SNRs of Stable Diffusion's timesteps in equal steps from 1000 down to 0.
    """
    if name == "edm":
        return sampling.times.karras(schedule, steps)
    even = sampling.times.uniform(steps)
    if name == "cosine":
        return even
    if name != "sd":
        raise ValueError(f"the grid must be edm, cosine or sd, not {name!r}")
    return torch.cat([schedule.time(StableDiffusion().logsnr(even[:-1])), even[-1:]])


def trajectory(
    denoise: Denoiser, schedule: Schedule, start: Tensor, arm: Arm, labels: Tensor | None = None
) -> Trajectory:
    """Run an arm's sampler from noise (N, ...) of unit variance."""
    recorder = Recorder(_KEPT)
    steps = CALLS if arm.sampler == "ddpm" else CALLS // 2
    sampler = sampling.ddpm if arm.sampler == "ddpm" else sampling.heun
    generator = torch.Generator().manual_seed(_SEED + arm.seed)
    times = grid(schedule, arm.grid, steps)
    hooks = Hooks(on_prediction=recorder)
    end = sampler(denoise, start, schedule, times, generator, hooks=hooks)
    rows = zip(recorder.times.tolist(), recorder.states, recorder.endpoints, strict=True)
    return Trajectory([Endpoint(*row) for row in rows], end, labels)


def sampled(system: System, arm: Arm, n: int) -> Trajectory:
    """The trajectories of n samples of an arm, equally many of each class, of the first ten."""
    labels = torch.arange(n) % min(len(system.classes), _CLASSES) if arm.classes else None
    if arm.denoiser == "network":
        denoise = system.denoiser(labels, arm.guidance)
    else:
        denoise = exact(system, arm.denoiser)
    return trajectory(denoise, system.schedule, system.start(n, arm.seed), arm, labels)


@cache
def law(system: System, name: str) -> Posterior:
    """The law of the training states for which a denoiser is exact, "linear" or "training"."""
    x = system.data("train", None)[0].flatten(1)
    if name == "linear":
        return Gaussian.fitted(x.double())
    if name == "training":
        return Empirical(x)
    raise ValueError(f"the denoiser must be network, linear or training, not {name!r}")


def exact(system: System, name: str) -> Denoiser:
    """An exact denoiser of states (N, ...)."""
    return of_law(law(system, name), system.schedule)


def of_law(law: Posterior, schedule: Schedule) -> Denoiser:
    """The exact denoiser of a law of flattened states."""
    inner = sampling.exact(law, schedule)

    def denoise(x: Tensor, t: float) -> Prediction:
        return Prediction(*(part.view_as(x) for part in inner(x.flatten(1), t)))

    return denoise


def shaped_noise(power: Tensor) -> Gaussian:
    """Gaussian images (H, H), flattened, with power (H, H) at the modes of their transform."""
    size = len(power)
    basis = torch.fft.fft2(torch.eye(size * size, dtype=torch.float64).view(-1, size, size))
    covariance = torch.fft.ifft2(basis * power).real.flatten(1)
    covariance = (covariance + covariance.T) / 2
    return Gaussian(torch.zeros(size * size, dtype=torch.float64), covariance)


def measured(system: System, arm: Arm, n: int, real: dict[str, float]) -> Result:
    """Everything that is kept of an arm; `real` is `bands.content_of` real images."""
    run = sampled(system, arm, n)
    views = endpoints.view(system, run.looked, run.end, run.labels)
    squares = endpoints.distances(views)
    same = endpoints.same_class(views)
    result: Result = {
        "arm": asdict(arm),
        "n": n,
        "logsnr": plain(views.logsnr),
        "settling": endpoints.settling(views),
        "unsettled": shares(views),
        "distance": {k: plain(v.mean(1) ** 0.5) for k, v in squares.items()},
        "closed": {k: endpoints.closed(v, FIFTH) for k, v in squares.items()},
        "same": plain(same.mean(1)),
        "same_fifth": endpoints.share(same[FIFTH]),
        "explained_first": endpoints.explained(views, 0),
        "own_first": endpoints.own_nearest(views),
        "spread_first": endpoints.spread(views),
        "rings": plain(endpoints.rings(views)),
        "state": plain(views.state),
        "end": plain(spectral.radial_power(views.goal.images).power.mean(0)),
        "content": bands.content(views.goal.images, real),
    }
    if run.labels is not None:
        asked = views.estimates[0].classes == run.labels
        result["asked_first"] = endpoints.share(asked.numpy())
    elif arm.denoiser == "network":
        flags = endpoints.recognised(system, run.looked, views.goal)
        result["shown"] = plain(flags.double().mean(1))
        result["visible"] = endpoints.visible(views, flags)
    return result


def shares(views: Views) -> dict[str, Any]:
    """Unsettled shares of outline and detail at each level."""
    return {
        name: plain(endpoints.unsettled(endpoints.errors(views, band).mean(1)))
        for name, band in (("low", bands.OUTLINE), ("high", bands.DETAIL))
    }


def plain(values: Tensor | np.ndarray) -> Any:
    """Numbers as lists, to four significant digits."""
    return np.vectorize(lambda v: float(f"{v:.4g}"))(np.asarray(values)).tolist()
