"""Injection: within a window of times the sampler is told of another class [T 3.4.1, 3.4.2].

The thesis gives no formula. Read here: with p the prediction for the class asked for and q that of
the adversary, the sampler gets, while t lies in the window,

    (1 - a) p + a q,    a in [0, 1] the strength.

Given x_t, every target is a fixed shift plus a fixed factor times any other and the two weights sum
to 1: mixing eps, x0, v or the score is the same thing, and x = alpha x0 + sigma eps still holds.

With guidance y_u + w (y - y_u) there seem to be three ways to do it. As all is linear they are two:

- the adversary's prediction is guided with the same w: mixed before guidance, as
  y_u + w (((1 - a) y_c + a y_q) - y_u), or after it, the result is the same;
- the adversary's prediction is not guided: mixed after guidance, or before it into both y_c and
  y_u, the result is (1 - a) (y_u + w (y_c - y_u)) + a y_q. It differs from the first unless w = 1.

The hook mixes after guidance, and which of the two it is lies in the adversary it is given.
"""

import torch
from torch import Tensor

from erdpaper.guidance import combine
from erdpaper.interventions.window import Window
from erdpaper.sampling import Denoiser, OnPrediction, Prediction


def injection(
    adversary: Denoiser, strength: float = 1.0, window: Window | None = None
) -> OnPrediction:
    """The hook `Hooks(on_prediction=injection(...))` that mixes in another denoiser's prediction.

    adversary: called at the same x (N, ...) and t; guided or not, see above. strength: a in
    [0, 1]; 0 changes nothing, 1 replaces the prediction. window: where it acts, everywhere by
    default. Outside the adversary is not called. In `heun` the second call of a step counts by its
    own time, so that the step that leaves the window is half injected.
    """
    check_strength(strength)
    span = window or Window()

    def on_prediction(x: Tensor, t: float, prediction: Prediction) -> Prediction:
        return combine(prediction, adversary(x, t), strength) if t in span else prediction

    return on_prediction


def check_strength(strength: float) -> None:
    """Refuse a strength that is no share."""
    if not 0 <= strength <= 1:
        raise ValueError(f"the strength of an injection must lie in [0, 1], got {strength}")


def turned(plain: Denoiser, adversary: Denoiser, seed: int = 0) -> Denoiser:
    """A control: an adversary as far from `plain` as the given one, in another direction.

    The difference of the two predictions is turned by a permutation of the coordinates of a sample
    with random signs, the same for all samples and times, so that it keeps its length in every
    sample and its direction as far as the true one does.
    """

    def turn(difference: Tensor) -> Tensor:
        noise = torch.Generator().manual_seed(seed)
        flat = difference.flatten(1)
        order = torch.randperm(flat.shape[1], generator=noise).to(flat.device)
        signs = (2 * torch.randint(2, (flat.shape[1],), generator=noise) - 1).to(flat)
        return (signs * flat[:, order]).reshape(difference.shape)

    def denoise(x: Tensor, t: float) -> Prediction:
        here, there = plain(x, t), adversary(x, t)
        return Prediction(*(p + turn(q - p) for p, q in zip(here, there, strict=True)))

    return denoise
