"""Weights for the schedulers of diffusers."""

from collections.abc import Mapping
from functools import partial
from inspect import signature
from typing import Any

import torch
from torch import Tensor

from erdpaper import schedules
from erdpaper.schedules import Discrete
from erdpaper.targets import Target, get
from erdpaper.weights.normalisation import Allocation, normalised
from erdpaper.weights.practice import edm_allocation, sigmoid
from erdpaper.weights.raw import METHODS, Weight

PREDICTION_TYPES = {"sample": "x0", "epsilon": "eps", "v_prediction": "v"}
# these are given as allocations over log-SNR and mean something else as weights at uniform t
_OVER_LOGSNR: dict[str, Weight] = {"edm": edm_allocation, "sigmoid": sigmoid}
_ALL = METHODS | _OVER_LOGSNR


def _scheduler_target(scheduler: Any) -> Target:
    if "FlowMatch" in type(scheduler).__name__:
        return get("u")
    kind = scheduler.config.get("prediction_type", "epsilon")
    if kind not in PREDICTION_TYPES:
        known = ", ".join(PREDICTION_TYPES)
        raise ValueError(f"prediction_type {kind!r} has no weight here; known are {known}")
    return get(PREDICTION_TYPES[kind])


def _scheduler_times(schedule: Discrete, timesteps: Tensor) -> Tensor:
    """diffusers counts VP tables 0..T-1 and flow matching as T sigma; both become t in [0, 1]."""
    steps = torch.as_tensor(timesteps)
    if schedule.path == "linear" and not steps.is_floating_point():
        # as diffusers' own `step` refuses them: index 0 would be the noisiest level of the table
        raise ValueError(
            "flow-match timesteps must be floating-point values of scheduler.timesteps, not "
            f"indices, got {steps.dtype}"
        )
    steps = steps.double()
    if schedule.path == "vp":
        if not bool((steps == steps.round()).all()):
            raise ValueError("timesteps of this scheduler must be whole numbers, its indices")
        return schedule.time_at(steps.long())
    sigma = steps / schedule.T
    if not bool(((sigma >= schedule.sigma[0] * (1 - 1e-6)) & (sigma <= 1)).all()):
        raise ValueError(f"flow-match timesteps must lie in the training table, (0, {schedule.T}]")
    return schedule.time(2 * (torch.log1p(-sigma) - sigma.log()))


def _check_method(method: str, options: Mapping[str, float]) -> None:
    if method not in _ALL:
        raise ValueError(f"unknown method {method!r}; use one of {', '.join(_ALL)}")
    # all methods begin with alpha, sigma, target
    known = list(signature(_ALL[method]).parameters)[3:]
    unknown = [name for name in options if name not in known]
    if unknown:
        takes = f"the options {', '.join(known)}" if known else "no options"
        raise ValueError(f"method {method!r} takes {takes}, not {', '.join(unknown)}")


def _allocation(method: str, asked: Allocation | None) -> Allocation:
    if method not in _OVER_LOGSNR:
        return asked or "t"
    if asked == "t":
        raise ValueError(f"method {method!r} is an allocation over log-SNR, not a weight over t")
    return asked or "logsnr"


def for_scheduler(
    scheduler: Any,
    timesteps: Tensor,
    method: str = "erd",
    allocation: Allocation | None = None,
    **options: float,
) -> Tensor:
    """Loss weights for a diffusers scheduler, one per timestep, float32, mean 1 over its table.

    `scheduler` is a DDPM, DDIM, DPM-Solver, ... scheduler with prediction_type "sample", "epsilon"
    or "v_prediction", or a flow-match one (target u); `timesteps` is what the training loop drew,
    uniformly. `method` is "erd", "min_snr" (option gamma), "p2" (options gamma, k) or "uniform",
    weights over t unless ``allocation="logsnr"`` is asked for; or "sigmoid" (option bias) or "edm"
    (options data_std, mean, std: its weight together with its sampling, see `edm_allocation`),
    which are allocations over log-SNR and nothing else. Multiply the per-sample mean squared error
    by the result. Every call works through the whole table, so a training loop computes the weights
    once and indexes them::

        table = weights.for_scheduler(scheduler, torch.arange(T))  # T = num_train_timesteps
        loss = (table[timesteps] * error).mean()

    A flow-match scheduler's timesteps are floating-point and no indices, which raise ValueError:
    pass all of a fresh scheduler's `timesteps` and index the table with the positions that the loop
    draws from them.
    """
    _check_method(method, options)
    allocation = _allocation(method, allocation)
    schedule, target = schedules.from_diffusers(scheduler), _scheduler_target(scheduler)
    fn = partial(_ALL[method], **options)
    weight = normalised(fn, schedule, target, allocation)
    device = torch.as_tensor(timesteps).device
    return weight(_scheduler_times(schedule, torch.as_tensor(timesteps).cpu())).float().to(device)
