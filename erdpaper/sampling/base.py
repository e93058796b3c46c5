"""What all samplers share: predictions, hooks and the walk along a grid of times."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor
from tqdm import tqdm

from erdpaper.schedules import Schedule

Item = TypeVar("Item")


class Prediction(NamedTuple):
    """What a denoiser says of a noisy batch x: the endpoint x0 [T 3.1] and the noise eps, as x."""

    x0: Tensor
    eps: Tensor


Denoiser = Callable[[Tensor, float], Prediction]
OnState = Callable[[Tensor, float], Tensor]
OnPrediction = Callable[[Tensor, float, Prediction], Prediction]
Times = Sequence[float] | Tensor


@dataclass(frozen=True)
class Hooks:
    """What is done around every call of a denoiser.

    `on_state(x, t) -> x` comes before the call and moves the state itself (steering);
    `on_prediction(x, t, prediction) -> prediction` comes after it and changes what the sampler
    is told (injection) or only looks (`Recorder`). A hook on predictions keeps
    x = alpha x0 + sigma eps: samplers differ in which of the two they read.
    """

    on_state: OnState | None = None
    on_prediction: OnPrediction | None = None

    def call(self, denoise: Denoiser, x: Tensor, t: float) -> tuple[Tensor, Prediction]:
        """The state after `on_state`, and the prediction there after `on_prediction`."""
        if self.on_state is not None:
            x = self.on_state(x, t)
        prediction = denoise(x, t)
        if self.on_prediction is not None:
            prediction = self.on_prediction(x, t, prediction)
        return x, prediction


NO_HOOKS = Hooks()


class Level(NamedTuple):
    """One noise level of a grid, as plain numbers."""

    t: float
    alpha: float
    sigma: float


def check_state(x: Tensor) -> Tensor:
    """x itself if it is a floating-point batch (N, ...)."""
    if x.ndim < 1 or not x.is_floating_point():
        got = f"{x.dtype} {tuple(x.shape)}"
        raise ValueError(f"the state must be a floating-point batch (N, ...), got {got}")
    return x


def check_times(times: Times) -> Tensor:
    """The grid as float64 on the CPU if it has two times or more, falling within [0, 1]."""
    grid = torch.as_tensor(times, dtype=torch.float64, device="cpu")
    if grid.ndim != 1 or len(grid) < 2 or not bool((grid.diff() < 0).all()):
        raise ValueError("times must be a sequence of at least two that fall strictly")
    if not bool(grid[0] <= 1 and grid[-1] >= 0):
        raise ValueError("times must lie in [0, 1]: 0 is clean data, 1 is noise")
    return grid


def noise_levels(schedule: Schedule, grid: Tensor) -> list[Level]:
    """alpha and sigma at every time of a grid, computed in float64."""
    alpha, sigma = schedule(grid)
    columns = (grid.tolist(), alpha.tolist(), sigma.tolist())
    return [Level(*row) for row in zip(*columns, strict=True)]


def bar(items: Sequence[Item], progress: bool) -> Iterable[Item]:
    """The items, with a progress bar on stderr if one is wanted."""
    return tqdm(items, unit="step") if progress else items


def walk(
    x: Tensor, schedule: Schedule, times: Times, progress: bool
) -> Iterable[tuple[Level, Level]]:
    """Each step of a grid as (level here, level there), after a check of state and times."""
    check_state(x)
    return bar(list(pairwise(noise_levels(schedule, check_times(times)))), progress)


def check_signal(schedule: Schedule, times: Times, sampler: str) -> None:
    """Refuses a grid that starts where alpha = 0 for a sampler that divides by alpha."""
    alpha, _ = schedule(check_times(times)[0])
    if not bool(alpha > 0):
        raise ValueError(f"{sampler} needs alpha > 0 at the first time; start it below t = 1")
