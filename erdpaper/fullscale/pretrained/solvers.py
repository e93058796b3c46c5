"""Sampling by the schedulers of diffusers, with the hooks of this package's own samplers.

The thesis samples Stable Diffusion with `DPMSolverMultistepScheduler` in its stochastic form and
DDPM ancestrally [T 3.2]. A scheduler keeps its own coefficients and history; here it is told what
the hooks left of a prediction, in the target that it expects.
"""

from typing import Any

import torch
from diffusers import DDPMScheduler, DPMSolverMultistepScheduler
from torch import Tensor
from tqdm import tqdm

from erdpaper import targets
from erdpaper.fullscale.pretrained import loading
from erdpaper.sampling import Denoiser, Hooks
from erdpaper.schedules import Discrete, from_diffusers

_KNOWN = (DDPMScheduler, DPMSolverMultistepScheduler)
# options under which the noise level of a step is not that of its index in the table
_OFF_TABLE = ("karras_sigmas", "exponential_sigmas", "beta_sigmas", "lu_lambdas", "flow_sigmas")
# where log-SNR / 2 begins: a cosine table ends in levels that a solver's first step cannot bridge
_LEAST = -5.1


def dpm_solver(schedule: Discrete) -> DPMSolverMultistepScheduler:
    """The thesis' solver, SDE-DPM-Solver++ of second order, for any variance-preserving table.

    It is told x0, which it needs, and takes equal steps in the index from log-SNR -10.2, or from
    the noisiest level of a table that ends before.
    """
    if schedule.path != "vp":
        raise ValueError(f"the solver needs a variance-preserving table, got {schedule}")
    abar = schedule.alpha.square()
    betas = 1 - abar / torch.cat([abar.new_ones(1), abar[:-1]])
    return DPMSolverMultistepScheduler(
        num_train_timesteps=schedule.T,
        trained_betas=betas.tolist(),
        prediction_type="sample",
        algorithm_type="sde-dpmsolver++",
        lambda_min_clipped=_LEAST,
    )


def follow(
    denoise: Denoiser,
    x: Tensor,
    scheduler: Any,
    steps: int,
    generator: torch.Generator | list[torch.Generator] | None = None,
    *,
    hooks: Hooks | None = None,
    progress: bool = False,
) -> Tensor:
    """Samples by a `DDPMScheduler` or `DPMSolverMultistepScheduler`, from noise x (N, ...).

    Without hooks the result is that of the scheduler's own pipeline with this x as its latents
    and the same generator, one for all or one for each sample. `denoise` must know the
    scheduler's table; it is asked at t = (k + 1) / T for each of the scheduler's indices k. The
    scheduler given is not changed. Raises ValueError for any other scheduler, for a noise spacing
    that leaves the table, and for a number of steps that the table does not have.
    """
    scheduler = _fresh(scheduler, steps)
    hooks, table = hooks or Hooks(), from_diffusers(scheduler)
    wanted = targets.get(loading.target(scheduler))
    for k in tqdm(scheduler.timesteps, unit="step", disable=not progress):
        x, (x0, eps) = hooks.call(denoise, x, float(table.time_at(k)))
        y = wanted.make(x0, eps, *table.at(k))
        x = scheduler.step(y, k, x, generator=generator, return_dict=False)[0]
    return x


def _fresh(scheduler: Any, steps: int) -> Any:
    """A copy of a scheduler, ready for a number of steps, if it is one that can be followed."""
    name, config = type(scheduler).__name__, getattr(scheduler, "config", None)
    if config is None or not isinstance(scheduler, _KNOWN):
        known = " or ".join(kind.__name__ for kind in _KNOWN)
        raise ValueError(f"the scheduler must be a {known}, not a {name}")
    used = next((option for option in _OFF_TABLE if config.get(f"use_{option}", False)), None)
    if used is not None:
        raise ValueError(f"{name} with use_{used} leaves the table of noise levels; turn it off")
    if str(config.get("variance_type", "")).startswith("learned"):
        raise ValueError(f"{name} with a learned variance is not supported; use a fixed one")
    most = config.num_train_timesteps
    if isinstance(steps, bool) or not isinstance(steps, int) or not 1 <= steps <= most:
        raise ValueError(f"the number of steps must be an integer in 1..{most}, got {steps!r}")
    kind: Any = type(scheduler)
    copy = kind.from_config(config)
    copy.set_timesteps(steps)
    return copy
