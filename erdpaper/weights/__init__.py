"""Loss weights on a target's own squared error: ERD and the weights it is compared with.

Every weight has one signature, (alpha, sigma, target, ...) -> raw weight, with the shape of alpha
and sigma. With SNR = alpha^2 / sigma^2 and W the weight that the same loss puts on the x_0-error,

    w_y = W / (c_x - c_eps alpha / sigma)^2,

so min_snr, p2, edm and sigmoid mean the same objective for every target. ERD does not: its weight
is the root-mean-square amplitude

    w_y = sqrt((c_x alpha)^2 + (c_eps sigma)^2)                                      [P 11, E.1]

of the target's two channels after each is scaled by how strongly it shows in x_t. What that stands
for can be measured, see `recoverable`.

`normalised` turns a raw weight into a function of t with mean 1 over the training distribution of
t, uniform or one of `densities`; `for_scheduler` does so for a diffusers scheduler.
"""

from erdpaper.weights import densities, recoverable
from erdpaper.weights.densities import Density, training_times
from erdpaper.weights.normalisation import LOGSNR_RANGE, Allocation, Normalised, normalised
from erdpaper.weights.practice import edm, edm_allocation, sigmoid
from erdpaper.weights.raw import METHODS, Weight, erd, min_snr, p2, total_variation, uniform
from erdpaper.weights.recoverable import OnlineRecoverability
from erdpaper.weights.schedulers import PREDICTION_TYPES, for_scheduler

__all__ = [
    "LOGSNR_RANGE",
    "METHODS",
    "PREDICTION_TYPES",
    "Allocation",
    "Density",
    "Normalised",
    "OnlineRecoverability",
    "Weight",
    "densities",
    "edm",
    "edm_allocation",
    "erd",
    "for_scheduler",
    "min_snr",
    "normalised",
    "p2",
    "recoverable",
    "sigmoid",
    "total_variation",
    "training_times",
    "uniform",
]
