"""Mean and covariance of features that arrive in batches, in float64."""

import torch
from torch import Tensor


class Moments:
    """Mean and covariance of all features (n, d) given so far.

    Batches are merged pairwise (Chan, Golub and LeVeque 1983), so that nothing is lost where the
    mean is far larger than the spread. The sums of a batch are computed on its device and kept on
    the CPU.
    """

    def __init__(self, d: int) -> None:
        if d < 1:
            raise ValueError(f"features must have at least 1 coordinate, got {d}")
        self.d = d
        self.count = 0
        self._mean = torch.zeros(d, dtype=torch.float64)
        # the sum of (x - mean) (x - mean)^T
        self._scatter = torch.zeros(d, d, dtype=torch.float64)

    def update(self, features: Tensor) -> "Moments":
        """Add a batch (n, d), n = 0 allowed; returns itself."""
        if features.ndim != 2 or features.shape[1] != self.d:
            raise ValueError(f"features must be (n, {self.d}), got {tuple(features.shape)}")
        if not bool(features.isfinite().all()):
            raise ValueError("features must be finite numbers")
        if len(features):
            x = features.detach().double()
            mean = x.mean(0)
            x = x - mean
            self._join(len(x), mean.cpu(), (x.T @ x).cpu())
        return self

    def merge(self, other: "Moments") -> "Moments":
        """Add all that another one, which stays as it is, was given; returns itself."""
        if other.d != self.d:
            raise ValueError(f"features must be (n, {self.d}), got those of {other.d} coordinates")
        if other.count:
            self._join(other.count, other._mean, other._scatter)
        return self

    def _join(self, count: int, mean: Tensor, scatter: Tensor) -> None:
        total = self.count + count
        step = mean - self._mean
        self._scatter = self._scatter + scatter + step.outer(step) * (self.count * count / total)
        self._mean = self._mean + step * (count / total)
        self.count = total

    @property
    def mean(self) -> Tensor:
        """The mean, (d,), in the unit of the features."""
        if self.count < 1:
            raise ValueError("a mean needs at least 1 sample, got 0")
        return self._mean

    @property
    def covariance(self) -> Tensor:
        """The unbiased covariance, (d, d), in the square of that unit."""
        if self.count < 2:
            raise ValueError(f"a covariance needs at least 2 samples, got {self.count}")
        return self._scatter / (self.count - 1)
