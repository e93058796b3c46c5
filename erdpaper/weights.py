"""Loss weights on a target's own squared error: ERD and the baselines it is compared with.

Every weight has one signature, (alpha, sigma, target, ...) -> raw weight, with the shape of alpha
and sigma. With SNR = alpha^2 / sigma^2 and W the weight that the same loss puts on the x_0-error,

    w_y = W / (c_x - c_eps alpha / sigma)^2,

so min_snr and p2 mean the same objective for every target. ERD does not: its weight is the
root-mean-square amplitude

    w_y = sqrt((c_x alpha)^2 + (c_eps sigma)^2)                                      [P 11, E.1]

of the target's two channels after each is scaled by how strongly it shows in x_t.

`normalised` turns a raw weight into a function of t with mean 1 over the training distribution of
t; `for_scheduler` does so for a diffusers scheduler.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from inspect import signature
from typing import Any, Literal

import torch
from torch import Tensor

from erdpaper import schedules
from erdpaper.schedules import Discrete, Schedule, Time
from erdpaper.targets import Coefficient, Target, as_pair, get

Weight = Callable[..., Tensor]
Allocation = Literal["t", "logsnr"]
LOGSNR_RANGE = (-10.0, 10.0)
PREDICTION_TYPES = {"sample": "x0", "epsilon": "eps", "v_prediction": "v"}
# three divides the number of midpoints, so that every third one is a midpoint of a coarser grid
_NODES = 3 * 21845


def uniform(alpha: Coefficient, sigma: Coefficient, target: str | Target) -> Tensor:
    """1 at every noise level."""
    get(target)
    return torch.ones_like(as_pair(alpha, sigma)[0])


def erd(alpha: Coefficient, sigma: Coefficient, target: str | Target) -> Tensor:
    """The ERD score [P 11].

    alpha for x0, sigma for eps, sqrt(2) alpha sigma for v, sqrt(alpha^2 + sigma^2) for u.
    """
    alpha, sigma = as_pair(alpha, sigma)
    c_x, c_eps = get(target).coefficients(alpha, sigma)
    return torch.hypot(c_x * alpha, c_eps * sigma)


def _x0_error_gain(alpha: Tensor, sigma: Tensor, target: Target) -> tuple[Tensor, Tensor]:
    """(g, g alpha / sigma) for g = |d x_0 / d y| at fixed x_t, written so that 0/0 never occurs."""
    c_x, c_eps = target.coefficients(alpha, sigma)
    bottom = (c_x * sigma - c_eps * alpha).abs()
    gain = torch.where(c_eps == 0, 1 / c_x.abs(), sigma / bottom)
    scaled = torch.where(c_x == 0, 1 / c_eps.abs(), alpha / bottom)
    return gain, scaled


def min_snr(
    alpha: Coefficient, sigma: Coefficient, target: str | Target, gamma: float = 5.0
) -> Tensor:
    """Min-SNR-gamma: W = min(SNR, gamma) on the x_0-error.

    So min(1, gamma / SNR) for eps and, on a VP path, min(SNR, gamma) / (SNR + 1) for v. Finite
    everywhere: at sigma = 0 the x0 weight is gamma, at alpha = 0 the eps weight is 1.
    """
    if not gamma > 0:
        raise ValueError(f"gamma must be positive, got {gamma}")
    gain, scaled = _x0_error_gain(*as_pair(alpha, sigma), get(target))
    return torch.minimum(scaled.square(), gamma * gain.square())


def p2(
    alpha: Coefficient,
    sigma: Coefficient,
    target: str | Target,
    gamma: float = 1.0,
    k: float = 1.0,
) -> Tensor:
    """P2: W = SNR / (k + SNR)^gamma on the x_0-error; eps: 1 / (k + SNR)^gamma.

    At sigma = 0 the x0 weight is the limit SNR^(1 - gamma): 1 for gamma = 1, inf below, 0 above.
    """
    if not (gamma >= 0 and k > 0):
        raise ValueError(f"P2 needs gamma >= 0 and k > 0, got gamma={gamma} and k={k}")
    alpha, sigma = as_pair(alpha, sigma)
    gain, scaled = _x0_error_gain(alpha, sigma, get(target))
    snr = (alpha / sigma).square()
    # the second is the limit of the first at infinite SNR, where that is inf / inf
    finite = scaled.square() / (k + snr).pow(gamma)
    at_data = gain.square() * snr.pow(1 - gamma)
    return torch.where(scaled.isinf(), at_data, finite)


def total_variation(first: Tensor, second: Tensor) -> Tensor:
    """The share of one allocation that would have to move to make the other.

    Both are weights at the same equally likely times, scaled here to the same sum; from 0 (the
    same) to 1 (nothing in common).
    """
    return (first / first.sum() - second / second.sum()).abs().sum() / 2


METHODS: dict[str, Weight] = {"uniform": uniform, "erd": erd, "min_snr": min_snr, "p2": p2}


def training_times(schedule: Schedule) -> Tensor:
    """Times that stand for what training draws: a table's nodes or midpoints of [0, 1]; float64."""
    if isinstance(schedule, Discrete):
        return torch.arange(1, schedule.T + 1, dtype=torch.float64) / schedule.T
    return (torch.arange(_NODES, dtype=torch.float64) + 0.5) / _NODES


@dataclass(frozen=True)
class Normalised:
    """t -> weight, with mean 1 over the training distribution of t; see `normalised`."""

    fn: Weight
    schedule: Schedule
    target: Target
    allocation: Allocation
    logsnr_range: tuple[float, float]
    mean: float = 1.0

    def __call__(self, t: Time) -> Tensor:
        """The weight at times t, of their shape."""
        alpha, sigma = self.schedule(t)
        score = self.fn(alpha, sigma, self.target)
        if self.allocation == "logsnr":
            low, high = self.logsnr_range
            logsnr = self.schedule.logsnr(t)
            inside = (logsnr >= low) & (logsnr <= high)
            # the rate is infinite at the ends, which lie outside the range
            score = torch.where(inside, score * self.schedule.logsnr_rate(t).abs(), 0)
        return score / self.mean


def normalised(
    fn: Weight,
    schedule: Schedule,
    target: str | Target,
    allocation: Allocation = "t",
    logsnr_range: tuple[float, float] = LOGSNR_RANGE,
) -> Normalised:
    """The weight as a function of t with mean 1 over uniform t, of a table over its nodes [P 11].

    allocation "t": the raw weight multiplies the loss at uniformly drawn t. allocation "logsnr":
    the raw weight is the allocation M over log-SNR itself [P E.2], so the loss at uniform t carries
    `M |d lambda / dt|`; it is 0 outside `logsnr_range`, without which it would diverge at the ends.
    A weight with no finite mean raises ValueError.
    """
    if allocation not in ("t", "logsnr"):
        raise ValueError(f"allocation must be 't' or 'logsnr', got {allocation!r}")
    if not -math.inf < logsnr_range[0] < logsnr_range[1] < math.inf:
        raise ValueError(f"logsnr_range must be finite (low, high), low < high, got {logsnr_range}")
    raw = Normalised(fn, schedule, get(target), allocation, logsnr_range)
    mean, drift = _mean(raw)
    if not (0 < mean < math.inf and drift < 0.02):
        name = getattr(getattr(fn, "func", fn), "__name__", repr(fn))
        raise ValueError(
            f"{name} for {raw.target.name} on {schedule!r} has no finite positive mean over t, "
            "so it cannot be normalised"
        )
    return replace(raw, mean=mean)


def _mean(raw: Normalised) -> tuple[float, float]:
    """The mean of a raw weight over t, and its relative change when the grid is thinned."""
    if isinstance(raw.schedule, Discrete):
        return float(raw(training_times(raw.schedule)).mean()), 0.0
    values, width = _values_on_grid(raw)
    mean = float(values.mean())
    # a midpoint sum that moves when two thirds of the grid are dropped is of a divergent integral
    return mean * width, abs(float(values[1::3].mean()) / mean - 1) if mean else math.inf


def _values_on_grid(raw: Normalised) -> tuple[Tensor, float]:
    t = training_times(raw.schedule)
    if raw.allocation == "t":
        return raw(t), 1.0
    # integrated over log-SNR, where the Jacobian cancels and nothing is singular
    low = max(raw.logsnr_range[0], float(raw.schedule.logsnr(1.0)))
    width = raw.logsnr_range[1] - low
    if width <= 0:
        return torch.zeros_like(t), 1.0
    alpha, sigma = raw.schedule(raw.schedule.time(low + width * t))
    return raw.fn(alpha, sigma, raw.target), width


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
    steps = torch.as_tensor(timesteps).double()
    if schedule.path == "vp":
        if not bool((steps == steps.round()).all()):
            raise ValueError("timesteps of this scheduler must be whole numbers, its indices")
        return schedule.time_at(steps.long())
    sigma = steps / schedule.T
    if not bool(((sigma >= schedule.sigma[0] * (1 - 1e-6)) & (sigma <= 1)).all()):
        raise ValueError(f"flow-match timesteps must lie in the training table, (0, {schedule.T}]")
    return schedule.time(2 * (torch.log1p(-sigma) - sigma.log()))


def _check_method(method: str, options: Mapping[str, float]) -> None:
    if method not in METHODS:
        raise ValueError(f"unknown method {method!r}; use one of {', '.join(METHODS)}")
    # all methods begin with alpha, sigma, target
    known = list(signature(METHODS[method]).parameters)[3:]
    unknown = [name for name in options if name not in known]
    if unknown:
        takes = f"the options {', '.join(known)}" if known else "no options"
        raise ValueError(f"method {method!r} takes {takes}, not {', '.join(unknown)}")


def for_scheduler(
    scheduler: Any,
    timesteps: Tensor,
    method: str = "erd",
    allocation: Allocation = "t",
    **options: float,
) -> Tensor:
    """Loss weights for a diffusers scheduler, one per timestep, float32, mean 1 over its table.

    `scheduler` is a DDPM, DDIM, DPM-Solver, ... scheduler with prediction_type "sample", "epsilon"
    or "v_prediction", or a flow-match one (target u); `timesteps` is what the training loop drew;
    `method` is "erd", "min_snr" (option gamma), "p2" (options gamma, k) or "uniform". Multiply the
    per-sample mean squared error by the result. Every call works through the whole table, so a
    training loop computes the weights once and indexes them::

        table = weights.for_scheduler(scheduler, torch.arange(T))  # T = num_train_timesteps
        loss = (table[timesteps] * error).mean()

    A flow-match scheduler's timesteps are no indices: pass all of a fresh scheduler's `timesteps`
    and index the table with the positions that the loop draws from them.
    """
    _check_method(method, options)
    schedule, target = schedules.from_diffusers(scheduler), _scheduler_target(scheduler)
    fn = partial(METHODS[method], **options)
    weight = normalised(fn, schedule, target, allocation)
    device = torch.as_tensor(timesteps).device
    return weight(_scheduler_times(schedule, torch.as_tensor(timesteps).cpu())).float().to(device)
