"""Samplers: from noise to data with any denoiser.

A denoiser is any callable denoise(x, t) -> Prediction(x0, eps), t a number in [0, 1], such that
x = alpha x0 + sigma eps. A sampler walks a strictly falling grid of times, data at 0. With (a, s)
at t, (a', s') at the next time t', h = t - t' and fresh standard normal noise z:

    ddim      x' = a' x0 + sqrt(s'^2 - w^2) eps + w z,    w = eta s' sqrt(1 - (a s' / (a' s))^2)
    ddpm      ddim with eta = 1, a draw from q(x_t' | x_t, x0)                        [T 2.20]
    heun      dX/dk = eps in X = x / a, k = s / a: an Euler step to k', then the trapezoid rule
    euler     x' = x - h (alpha' x0 + sigma' eps), Euler on the probability-flow ODE  [T 2.41]
    sde       x' = x - h (alpha' x0 + sigma' eps + g^2 / (2 s) eps) + g sqrt(h) z     [T 2.40]
    langevin  x' = x - c / (2 s) eps + sqrt(c) z, at one noise level with step c     [T 2.2]

where alpha' and sigma' are rates in t, ``g^2 = s^2 |d lambda / dt|``, and -eps / s is the score, so
that alpha' x0 + sigma' eps = f x - g^2 score / 2 with f = d log alpha / dt. Coefficients are
computed in float64 before the walk; the state keeps its dtype and device.

Every call of a denoiser passes two hooks, on_state before it and on_prediction after it.

`controlled` asks a denoiser about noisy states of known clean data instead, without a walk.
"""

from erdpaper.sampling import noise, times
from erdpaper.sampling.ancestral import ddim, ddpm
from erdpaper.sampling.base import Denoiser, Hooks, OnPrediction, OnState, Prediction, Times
from erdpaper.sampling.controlled import (
    Endpoint,
    State,
    controlled,
    direct,
    endpoints,
    sequential,
)
from erdpaper.sampling.denoisers import exact, from_function, from_model
from erdpaper.sampling.langevin import annealed_langevin, langevin
from erdpaper.sampling.ode import euler, heun, sde
from erdpaper.sampling.recorder import Recorder

__all__ = [
    "Denoiser",
    "Endpoint",
    "Hooks",
    "OnPrediction",
    "OnState",
    "Prediction",
    "Recorder",
    "State",
    "Times",
    "annealed_langevin",
    "controlled",
    "ddim",
    "ddpm",
    "direct",
    "endpoints",
    "euler",
    "exact",
    "from_function",
    "from_model",
    "heun",
    "langevin",
    "noise",
    "sde",
    "sequential",
    "times",
]
