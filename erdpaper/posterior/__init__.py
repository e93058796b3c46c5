"""Exact truth: what the best possible network would answer, for laws of x_0 where that is known.

`Gaussian`, `GaussianMixture` and `Empirical` (a training set as it is) share one set of methods:
posterior means of any target, posterior covariance traces, class probabilities, score, log-density,
Bayes floor and recoverable energy.
"""

from erdpaper.posterior.base import Estimate, Moments, Posterior
from erdpaper.posterior.empirical import Empirical
from erdpaper.posterior.enclosure import Enclosure, enclose
from erdpaper.posterior.gaussian import Gaussian
from erdpaper.posterior.mixture import GaussianMixture
from erdpaper.posterior.recoverable import RecoverableSignal

__all__ = [
    "Empirical",
    "Enclosure",
    "Estimate",
    "Gaussian",
    "GaussianMixture",
    "Moments",
    "Posterior",
    "RecoverableSignal",
    "enclose",
]
