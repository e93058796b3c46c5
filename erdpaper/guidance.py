"""Classifier-free guidance: two predictions at one point, combined on all channels.

With a prediction y_u that knows no class and y_c that knows it, the guided one is

    y = y_u + w (y_c - y_u)                                     [T 2.45; P Tables 5, 8, 9]

so that w = 1 is plain conditional sampling and w = 0 unconditional. Given x_t, every target is a
fixed shift plus a fixed factor times any other, and the two weights 1 - w and w sum to 1: guiding
y, x0, eps or the score is the same thing. The guided score

    s_u + w (s_c - s_u) = grad log [q(x_t) P(class | x_t)^w]                            [T 2.43]

is that of a tilted density at every noise level. These densities are not the noisy versions of one
another, so that samplers do not draw from the tilted density at t = 0.
"""

import math

import torch
from torch import Tensor, nn

from erdpaper.sampling.base import Denoiser, Prediction
from erdpaper.sampling.denoisers import ask, check_label, from_function
from erdpaper.schedules import Schedule
from erdpaper.targets import Target

# an edge that lies on the grid counts as inside, in whichever way the two were rounded
_EDGE = 1e-9


def combine(unconditional: Prediction, conditional: Prediction, scale: float) -> Prediction:
    """unconditional + scale (conditional - unconditional), for x0 and for eps, all (N, ...).

    Where both are predictions at one x, so is the result: x = alpha x0 + sigma eps still holds.
    """
    _check_scale(scale)
    pairs = list(zip(unconditional, conditional, strict=True))
    if any(u.shape != c.shape for u, c in pairs):
        raise ValueError("the two predictions must have one shape")
    return Prediction(*(torch.lerp(u, c, scale) for u, c in pairs))


def cfg(
    model: nn.Module,
    schedule: Schedule,
    target: str | Target,
    label: Tensor | int,
    scale: float,
    null: int,
    interval: tuple[float, float] | None = None,
) -> Denoiser:
    """The guided denoiser of a network that predicts a target, called model(x, t, label).

    label is one class for all samples, or (N,) integers, one for each; null is the class that
    stands for none. Guidance acts where t lies in `interval` = (low, high), edges included, and
    everywhere without it; outside, the denoiser is the conditional one [P Table 9]. Where it acts,
    the network sees one batch of 2N, null labels first; at scale 1, and outside, only the N
    conditional samples, at scale 0 the N unconditional ones. No gradients are kept.
    """
    _check_scale(scale)
    low, high = (0.0, 1.0) if interval is None else interval
    if not 0 <= low < high <= 1:
        raise ValueError(f"the interval must satisfy 0 <= low < high <= 1, got {low} and {high}")
    classes = torch.as_tensor(label)
    if classes.ndim > 1 or classes.dtype not in (torch.int64, torch.int32):
        got = f"{classes.dtype} {tuple(classes.shape)}"
        raise ValueError(f"label must be an integer or integers of shape (N,), got {got}")

    def predict(x: Tensor, t: float) -> Tensor:
        w = scale if low - _EDGE <= t <= high + _EDGE else 1.0
        known = classes.to(x.device, torch.int64)
        known = known.expand(len(x)) if known.ndim == 0 else known  # (N,)
        check_label(known, x)
        if w == 1:
            return ask(model, x, t, known)
        unknown = torch.full_like(known, null)  # (N,)
        if w == 0:
            return ask(model, x, t, unknown)
        both = ask(model, torch.cat([x, x]), t, torch.cat([unknown, known]))  # (2N, ...)
        y_u, y_c = both.chunk(2)
        return torch.lerp(y_u, y_c, w)

    return from_function(predict, schedule, target)


def _check_scale(scale: float) -> None:
    if not math.isfinite(scale):
        raise ValueError(f"the guidance scale must be a finite number, got {scale}")
