"""The level at which a noisy rising curve crosses a threshold, with its uncertainty.

How often two posterior draws agree can only rise with the SNR, because a state with more noise can
be made from one with less. So the mean over samples is first made monotone (isotonic regression)
and then interpolated linearly.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression
from torch import Tensor

_SEED = 0


class Crossing(NamedTuple):
    """Where a curve crosses, and its bootstrap interval of 95 %, all in units of the levels."""

    estimate: float
    low: float
    high: float

    @property
    def half_width(self) -> float:
        """Half of the interval."""
        return (self.high - self.low) / 2


def crossing(
    levels: Tensor, values: Tensor, threshold: float, resamples: int = 1_000
) -> Crossing | None:
    """Where the mean over samples rises through a threshold; None where it does not.

    levels (L,) rise strictly; values (L, N), one per level and sample, NaN where a sample has none
    at a level. The bootstrap draws samples with all their levels, so that samples that share noise
    between levels keep it. A resample that never crosses counts as crossing at the end of the
    levels that is nearest. For a falling curve, negate values and threshold.
    """
    if levels.ndim != 1 or len(levels) < 2 or not bool((levels.diff() > 0).all()):
        raise ValueError("levels must be two or more that rise strictly")
    if values.ndim != 2 or len(values) != len(levels) or values.shape[1] < 2:
        wanted = f"({len(levels)}, N) with N >= 2"
        raise ValueError(f"values must be {wanted}, got {tuple(values.shape)}")
    if not math.isfinite(threshold) or resamples < 1:
        raise ValueError("a crossing needs a finite threshold and at least one resample")
    known = ~values.isnan()
    if not bool(known.any(1).all()):
        raise ValueError("every level needs a value of one sample or more")
    numbers = np.where(known.numpy(), values.double().numpy(), 0.0)
    counted, at = known.double().numpy(), levels.double().numpy()
    whole = _cross(at, numbers.sum(1) / counted.sum(1), threshold)
    if whole is None:
        return None
    n = values.shape[1]
    draws = np.random.default_rng(_SEED).multinomial(n, np.full(n, 1 / n), size=resamples)
    weights = np.maximum(draws @ counted.T, 1e-9)
    found = [_clamped(at, curve, threshold) for curve in (draws @ numbers.T) / weights]
    low, high = np.quantile(found, (0.025, 0.975))
    return Crossing(whole, float(low), float(high))


def _cross(
    levels: NDArray[np.float64], curve: NDArray[np.float64], threshold: float
) -> float | None:
    rising = isotonic_regression(curve).x
    k = int(np.searchsorted(rising, threshold))
    if k == len(rising) or (k == 0 and rising[0] > threshold):
        return None
    if rising[k] == threshold:
        return float(levels[k])
    share = (threshold - rising[k - 1]) / (rising[k] - rising[k - 1])
    return float(levels[k - 1] + share * (levels[k] - levels[k - 1]))


def _clamped(levels: NDArray[np.float64], curve: NDArray[np.float64], threshold: float) -> float:
    found = _cross(levels, curve, threshold)
    if found is not None:
        return found
    # the monotone curve has the mean of the curve itself and lies on one side of the threshold
    return float(levels[0] if curve.mean() > threshold else levels[-1])
