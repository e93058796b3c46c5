"""Reverse trajectories of the toy from the same starts, deterministic and ancestral [T 2.20, 3.1].

The denoiser is exact: nothing that is seen is a network's error.
"""

from functools import cache
from typing import Any

import torch
from torch import Tensor

from erdpaper.players.phase import law
from erdpaper.posterior import GaussianMixture
from erdpaper.sampling import Hooks, Recorder, ddim, exact
from erdpaper.sampling.noise import per_sample
from erdpaper.sampling.times import in_logsnr
from erdpaper.schedules import GVP

STARTS, STEPS, SEED = 24, 48, 20_261_127
ETA = {"deterministic": 0.0, "ancestral": 1.0}
_LOW, _HIGH = -8.0, 8.0


@cache
def data() -> dict[str, Any]:
    """The law, log-SNR, alpha and sigma of the R recorded states, and the walks of each sampler."""
    schedule, times = GVP(), in_logsnr(GVP(), STEPS, _LOW, _HIGH)
    alpha, sigma = schedule(times[:-1])
    levels = torch.linspace(_LOW, _HIGH, STEPS, dtype=torch.float64)
    columns = {"logsnr": levels, "alpha": alpha, "sigma": sigma}
    return {
        "law": law(),
        **{name: rounded(values, 5) for name, values in columns.items()},
        "walks": {name: walks(times, eta) for name, eta in ETA.items()},
    }


def walks(times: Tensor, eta: float) -> dict[str, Any]:
    """x_t and E[x_0 | x_t] of all starts at each recorded level, (R, STARTS, 2), and the ends."""
    schedule, recorder = GVP(), Recorder()
    alpha, sigma = (float(c) for c in schedule(times[0]))
    noise = per_sample(range(SEED, SEED + STARTS), (2,), torch.float64)
    x0 = GaussianMixture.square().sample(STARTS, torch.Generator().manual_seed(SEED))
    denoise, hooks = exact(GaussianMixture.square(), schedule), Hooks(on_prediction=recorder)
    start, generator = alpha * x0 + sigma * noise, torch.Generator().manual_seed(SEED + 1)
    ends = ddim(denoise, start, schedule, times, generator, eta=eta, hooks=hooks)
    kept = {"x": recorder.states, "x0hat": recorder.endpoints, "ends": ends}
    return {name: rounded(values, 3) for name, values in kept.items()}


def rounded(values: Tensor, digits: int) -> Any:
    """Nested lists with so many digits after the point."""
    return values.round(decimals=digits).tolist()
