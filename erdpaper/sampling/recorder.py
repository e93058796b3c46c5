"""A hook that keeps what a sampler saw and was told."""

from collections.abc import Container

import torch
from torch import Tensor

from erdpaper.sampling.base import Prediction


class Recorder:
    """Keeps states and endpoint estimates of R calls; used as `Hooks(on_prediction=recorder)`.

    `calls` holds the numbers of the calls to keep, counted from 0 over all runs that the recorder
    sees; by default all. `heun` makes two calls a step, the second at a trial point: the even
    numbers are its states, so there `calls=range(0, 2 * steps, 2)`.
    """

    def __init__(self, calls: Container[int] | None = None) -> None:
        self._wanted, self._seen = calls, 0
        self._times: list[float] = []
        self._states: list[Tensor] = []
        self._endpoints: list[Tensor] = []

    def __call__(self, x: Tensor, t: float, prediction: Prediction) -> Prediction:
        """Keep copies, and pass the prediction on unchanged."""
        if self._wanted is None or self._seen in self._wanted:
            self._times.append(t)
            self._states.append(x.detach().clone())
            self._endpoints.append(prediction.x0.detach().clone())
        self._seen += 1
        return prediction

    @property
    def times(self) -> Tensor:
        """The times t of the calls, (R,), float64."""
        return torch.tensor(self._times, dtype=torch.float64)

    @property
    def states(self) -> Tensor:
        """The states x_t, (R, N, ...)."""
        return _stacked(self._states)

    @property
    def endpoints(self) -> Tensor:
        """The endpoint estimates x0hat, (R, N, ...) [T 3.1]."""
        return _stacked(self._endpoints)

    @property
    def residuals(self) -> Tensor:
        """x0hat - x_t, (R, N, ...) [T Fig 3.4]."""
        return self.endpoints - self.states


def _stacked(kept: list[Tensor]) -> Tensor:
    if not kept:
        raise ValueError("nothing was recorded: no sampler ran, or none of the calls was wanted")
    return torch.stack(kept)
