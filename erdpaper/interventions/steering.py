"""Steering: a fixed vector added to the state while it is sampled [T 3.4.4].

Before every call of the denoiser at a time t in a window

    z <- z + s Delta alpha(t),    s = s_0 / N,    N the number of calls in the window.

The thesis says that s = s_0 / N makes the strength independent of the window, because the s add up
to s_0, its s star. What is added is s Delta alpha(t), and its sizes add up to the total push

    P = sum s ||Delta|| alpha(t) = s_0 ||Delta|| mean(alpha over the window),

which is small for a window at high noise and nearly s_0 ||Delta|| for one at low noise. Vectors and
windows are compared at one P (`at_push`); what becomes of equal pushes still differs by level, as
`gaussian_response` gives it in closed form.

The hook belongs to samplers that call once a level (ddim, ddpm, euler, sde). `heun` calls it again
at trial points, where a push moves a point that is thrown away: the hook refuses the second call.
"""

import math
from itertools import pairwise

import torch
from torch import Tensor

from erdpaper.interventions.window import Window
from erdpaper.sampling import Times
from erdpaper.sampling.base import check_times, noise_levels
from erdpaper.schedules import Schedule

_ROUNDING = 1e-9


def calls_by_formula(window: Window, steps: int) -> int:
    """N = floor(L / (1000 / steps)), L = 1000 (high - low) [T 3.4.4]; compare `Window.steps`.

    It counts a grid of equal steps that has one of the two edges, and is 0 for a window shorter
    than a step, where s_0 / N does not exist: ValueError.
    """
    found = math.floor((window.high - window.low) * steps + _ROUNDING)
    if found < 1:
        raise ValueError(f"the window is shorter than one of {steps} steps: its count would be 0")
    return found


def total_push(
    delta: Tensor,
    schedule: Schedule,
    times: Times,
    window: Window | None = None,
    strength: float = 1.0,
) -> float:
    """P = s_0 ||Delta|| mean of alpha over the calls in the window, in the unit of the state."""
    span = window or Window()
    _check_strength(strength)
    span.steps(times)
    levels = noise_levels(schedule, check_times(times)[:-1])
    alphas = [level.alpha for level in levels if level.t in span]
    return strength * float(delta.double().norm()) * sum(alphas) / len(alphas)


def at_push(
    delta: Tensor, push: float, schedule: Schedule, times: Times, window: Window | None = None
) -> Tensor:
    """Delta scaled so that its total push over a window of a grid is `push` >= 0, at s_0 = 1."""
    now = total_push(delta, schedule, times, window)
    if not 0 < now < math.inf:
        raise ValueError("a vector of length 0, or one that is not finite, has no direction")
    if not 0 <= push < math.inf:
        raise ValueError(f"the total push must be a number of at least 0, got {push}")
    return delta * (push / now)


class Steering:
    """The hook `on_state` for one grid of times: z + s Delta alpha(t) in the window.

    delta has the shape of one state; strength is s_0. The grid must be the one that the
    sampler walks: any other time raises ValueError, as does a second call at one level, which
    `heun` makes at its trial points. One hook serves any number of runs.
    """

    def __init__(
        self,
        delta: Tensor,
        schedule: Schedule,
        times: Times,
        window: Window | None = None,
        strength: float = 1.0,
    ) -> None:
        span = window or Window()
        _check_strength(strength)
        if not bool(delta.isfinite().all()):
            raise ValueError("a steering vector must be of finite numbers")
        share = strength / span.steps(times)
        levels = noise_levels(schedule, check_times(times)[:-1])
        self._factor = {at.t: share * at.alpha if at.t in span else 0.0 for at in levels}
        self._delta, self._first, self._last = delta, levels[0].t, math.nan

    def __call__(self, x: Tensor, t: float) -> Tensor:
        """The state x (N, ...) after the push at time t."""
        if t not in self._factor:
            raise ValueError(f"steering was made for another grid: t = {t} is none of its times")
        # at the first time a new run begins
        if t == self._last and t != self._first:
            raise ValueError("steering needs one call a level, as ddim and ddpm make, not heun")
        if x.shape[1:] != self._delta.shape:
            found = f"{tuple(self._delta.shape)} for {tuple(x.shape)}"
            raise ValueError(f"delta must have the shape of one state, got {found}")
        self._last = t
        factor = self._factor[t]
        return x + factor * self._delta.to(x) if factor else x


def gaussian_response(
    variances: Tensor, schedule: Schedule, times: Times, eta: float = 0.0
) -> Tensor:
    """What is left in the result of `sampling.ddim` of a unit push before each call, (R, K).

    For Gaussian data with these variances l (K,) along principal directions and their exact
    denoiser; R = len(times) - 1. One step multiplies a displacement by

        (a a' l + s w') / (a^2 l + s^2),    w'^2 = s'^2 (1 - eta^2 + eta^2 (a s' / (a' s))^2),

    and the products of all further steps are returned. For many small steps down to data they tend
    to sqrt(l / (a^2 l + s^2)) for eta = 0 and to a l / (a^2 l + s^2) for eta = 1 (`ddpm`): with its
    fresh noise the stochastic sampler forgets a push at high noise sooner.
    """
    levels = noise_levels(schedule, check_times(times))
    if not 0 <= eta <= 1:
        raise ValueError(f"eta must lie in [0, 1], got {eta}")
    if variances.ndim != 1 or not bool((variances >= 0).all()):
        raise ValueError("variances must be one row (K,) of numbers of at least 0")
    along = variances.double()
    response, found = torch.ones_like(along), []
    for here, there in reversed(list(pairwise(levels))):
        ratio = here.alpha * there.sigma / (there.alpha * here.sigma)
        kept = there.sigma * math.sqrt(1 - eta**2 + (eta * ratio) ** 2)
        step = here.alpha * there.alpha * along + here.sigma * kept
        response = response * step / (here.alpha**2 * along + here.sigma**2)
        found.append(response)
    return torch.stack(found[::-1])


def _check_strength(strength: float) -> None:
    if not math.isfinite(strength):
        raise ValueError(f"the strength of a push must be a finite number, got {strength}")
