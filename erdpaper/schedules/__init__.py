"""Noise schedules: how much signal and how much noise there is at time t.

Convention: x_t = alpha(t) x_0 + sigma(t) eps, t in [0, 1], s(0) = (1, 0); the log-SNR
lambda = log(alpha^2 / sigma^2) falls from +inf at t = 0. A schedule is called as
``alpha, sigma = s(t)`` and returns nothing else [P 2.1, F.1].

A discrete schedule is a table of T noise levels. Index k = 0..T-1 stands at t = (k + 1) / T;
between two nodes the log-SNR is interpolated linearly. Where it is infinite at one end it cannot
be: between t = 0 and the first node sigma^2 (linear path: sigma) grows linearly, and before a last
node without signal alpha falls linearly.
"""

from erdpaper.schedules.base import (
    Path,
    Schedule,
    Time,
    logsnr_from_ou_time,
    ou_time,
    signal_and_noise,
)
from erdpaper.schedules.continuous import GVP, VP, Linear
from erdpaper.schedules.table import DDPM, Cosine, Discrete, StableDiffusion, from_diffusers

__all__ = [
    "DDPM",
    "GVP",
    "VP",
    "Cosine",
    "Discrete",
    "Linear",
    "Path",
    "Schedule",
    "StableDiffusion",
    "Time",
    "from_diffusers",
    "logsnr_from_ou_time",
    "ou_time",
    "signal_and_noise",
]
