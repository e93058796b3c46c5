"""Denoisers: from an exact posterior, and from a network that predicts a target."""

from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor, nn

from erdpaper.posterior import Posterior
from erdpaper.sampling.base import Denoiser, Prediction
from erdpaper.schedules import Schedule
from erdpaper.targets import Target, get

Conversion = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def exact(posterior: Posterior, schedule: Schedule) -> Denoiser:
    """The denoiser (E[x_0 | x_t], E[eps | x_t]) of an exact posterior, for points (N, d)."""

    # a grid's times come back, as in `from_function`
    known = lru_cache(maxsize=10_000)(schedule)

    def denoise(x: Tensor, t: float) -> Prediction:
        return Prediction(*posterior.endpoints(x, *known(t)))

    return denoise


def _factors(conversion: Conversion, alpha: Tensor, sigma: Tensor) -> tuple[float, float]:
    """The factors of y and x_t in a conversion, which is linear in both."""
    y, x_t = torch.eye(2, dtype=torch.float64)
    of_y, of_x = conversion(y, x_t, alpha, sigma).tolist()
    return of_y, of_x


def _combined(factors: tuple[float, float], y: Tensor, x_t: Tensor) -> Tensor:
    of_y, of_x = factors
    return y if factors == (1, 0) else torch.add(of_y * y, x_t, alpha=of_x)


def ask(model: nn.Module, x: Tensor, t: float, label: Tensor | None = None) -> Tensor:
    """The answer of a network to a batch x (N, ...) at one time, with a label (N,) or none."""
    check_label(label, x)
    y: Tensor = model(x, torch.full((len(x),), t, dtype=x.dtype, device=x.device), label)
    if y.shape != x.shape:
        shapes = f"{tuple(y.shape)} for {tuple(x.shape)}"
        raise ValueError(f"the model must answer in the shape it is shown, got {shapes}")
    return y


def check_label(label: Tensor | None, x: Tensor) -> None:
    """Refuses labels that are not one per sample of x (N, ...)."""
    if label is not None and label.shape != x.shape[:1]:
        shapes = f"{tuple(label.shape)} for {len(x)} samples"
        raise ValueError(f"label must hold one class for each sample, got {shapes}")


def from_function(
    predict: Callable[[Tensor, float], Tensor], schedule: Schedule, target: str | Target
) -> Denoiser:
    """The denoiser of any function predict(x, t) -> y that predicts a target, x and y (N, ...).

    No gradients are kept. A call raises ValueError where the target does not determine both x0
    and eps: eps at alpha = 0, x0 at sigma = 0.
    """
    wanted = get(target)

    # a grid's times come back with every batch, and each twice within one run of heun
    @lru_cache(maxsize=10_000)
    def factors(t: float) -> tuple[tuple[float, float], tuple[float, float]]:
        alpha, sigma = schedule(t)
        return _factors(wanted.to_x0, alpha, sigma), _factors(wanted.to_eps, alpha, sigma)

    @torch.no_grad()
    def denoise(x: Tensor, t: float) -> Prediction:
        to_x0, to_eps = factors(t)
        y = predict(x, t)
        return Prediction(_combined(to_x0, y, x), _combined(to_eps, y, x))

    return denoise


def from_model(
    model: nn.Module, schedule: Schedule, target: str | Target, label: Tensor | None = None
) -> Denoiser:
    """The denoiser of a network that predicts a target, called model(x, t, label).

    x is (N, ...), t (N,) in x's dtype and on its device, label (N,) what was given here. The model
    stays in the mode (train or eval) it is in; otherwise as `from_function`.
    """
    return from_function(lambda x, t: ask(model, x, t, label), schedule, target)
