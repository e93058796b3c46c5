"""When to steer: what pushes within three windows of the thesis' times do to the samples."""

import torch
from torch import Tensor

from erdpaper.interventions import steering
from erdpaper.interventions.window import Window
from erdpaper.regimes.push_runs import Bench, Vector
from erdpaper.sampling import Hooks
from erdpaper.schedules import Schedule, StableDiffusion

# in thousandths of Stable Diffusion's time
TIMES = {"early": (800, 1000), "middle": (400, 800), "late": (0, 400)}


def thesis_window(schedule: Schedule, low: int, high: int) -> Window:
    """The window of Stable Diffusion's times low..high in thousandths, at equal log-SNR.

    The ends 0 and 1000 are those of the schedule.
    """
    inner = [None if t in (0, 1000) else thesis_logsnr(t) for t in (low, high)]
    edges = [
        end if logsnr is None else float(schedule.time(torch.tensor(logsnr).double()))
        for logsnr, end in zip(inner, (0.0, 1.0), strict=True)
    ]
    return Window(*edges)


def thesis_logsnr(t: int) -> float:
    """The log-SNR of Stable Diffusion's time t in thousandths."""
    return float(StableDiffusion().logsnr(torch.tensor(t / 1000, dtype=torch.float64)))


def windows(schedule: Schedule) -> dict[str, Window]:
    """The three of `TIMES`, by name."""
    return {name: thesis_window(schedule, *ends) for name, ends in TIMES.items()}


def equal_strength(bench: Bench, vector: Vector, push: float, window: Window) -> Hooks:
    """The hook with the s* whose total push over the whole grid is `push` radii."""
    schedule, grid = bench.system.schedule, bench.grid
    delta = steering.at_push(bench.delta(vector), push * bench.radius, schedule, grid)
    return Hooks(on_state=steering.Steering(delta, schedule, grid, window))


def displacement(bench: Bench, vector: Vector, moved: Tensor, plain: Tensor) -> float:
    """Mean of moved - plain (N, *shape) along a vector, in radii; both with the same noise."""
    delta = bench.delta(vector).flatten()
    along = delta / delta.norm()
    return float(((moved - plain).flatten(1) @ along).mean()) / bench.radius


def linear_displacement(bench: Bench, vector: Vector, push: float, window: Window) -> float:
    """The same in closed form for the Gaussian of the source class, at a total push in radii."""
    schedule, grid, how = bench.system.schedule, bench.grid, bench.setting
    law = bench.law
    eta = 1.0 if how.sampler == "ddpm" else 0.0
    response = steering.gaussian_response(law.variances, schedule, grid, eta)  # (R, k)
    inside = torch.tensor([t in window for t in grid[:-1].tolist()])
    alpha = schedule(grid[:-1])[0] * inside
    # a total push of 1 spreads over the calls in proportion to alpha
    kept = (alpha / alpha.sum()) @ response  # (k,)
    delta = bench.delta(vector).flatten().double()
    # across the basis, where the class has no variance, nothing is kept
    return push * float((kept * (delta @ law.basis).square()).sum() / delta.square().sum())
