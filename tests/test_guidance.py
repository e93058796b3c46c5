"""Classifier-free guidance, against the closed forms of Gaussian mixtures."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from erdpaper import guidance, sampling, schedules, targets
from erdpaper.posterior import GaussianMixture
from erdpaper.sampling import Prediction, times
from erdpaper.schedules import Schedule

F64 = torch.float64
# unequal in weight and width, so that nothing holds by symmetry
MEANS = torch.tensor([[2.0, 0.5], [-1.0, 1.5], [0.3, -2.0]], dtype=F64)
STDS = torch.tensor([0.4, 0.9, 0.6], dtype=F64)
LAW = GaussianMixture(MEANS, STDS, torch.tensor([0.5, 0.2, 0.3], dtype=F64))
CLASSES = [GaussianMixture(MEANS[k : k + 1], STDS[k : k + 1]) for k in range(3)]
NULL = 3
LINEAR, VP = schedules.Linear(), schedules.VP()
PATHS = [LINEAR, VP, schedules.GVP(), schedules.Cosine()]
LABEL = torch.tensor([0, 1, 2, 2, 0, 1])


class Bayes(nn.Module):
    """The best network that can be trained with dropped labels, and the batches it has seen."""

    def __init__(self, schedule: Schedule, target: str) -> None:
        super().__init__()
        self.schedule, self.target = schedule, target
        self.seen: list[tuple[int, list[int]]] = []

    def forward(self, x: Tensor, t: Tensor, label: Tensor) -> Tensor:
        self.seen.append((len(x), label.tolist()))
        y = torch.empty_like(x)
        for k, law in enumerate([*CLASSES, LAW]):
            rows = label == k
            alpha, sigma = self.schedule(t[rows])
            y[rows] = law.posterior_mean(x[rows], alpha, sigma, self.target)
        return y


def points(n: int = 6, seed: int = 0) -> Tensor:
    return 2 * torch.randn(n, 2, generator=torch.Generator().manual_seed(seed), dtype=F64)


def exact(schedule: Schedule, x: Tensor, t: float, label: Tensor) -> tuple[Prediction, Prediction]:
    """(unconditional, conditional) from the laws themselves."""
    rows = [sampling.exact(CLASSES[k], schedule)(x[i : i + 1], t) for i, k in enumerate(label)]
    conditional = Prediction(*(torch.cat(parts) for parts in zip(*rows, strict=True)))
    return sampling.exact(LAW, schedule)(x, t), conditional


@pytest.mark.parametrize("scale", [-1.0, 0.0, 0.4, 1.0, 2.5])
@pytest.mark.parametrize("target", targets.ALL, ids=lambda t: t.name)
def test_the_guided_score_is_that_of_the_tilted_density(target: targets.Target, scale: float):
    x, t = points().requires_grad_(), 0.4
    for schedule in PATHS:
        alpha, sigma = schedule(t)
        # q(x) P(class | x)^w, whose gradient autograd takes
        share = LAW.class_probabilities(x, alpha, sigma).gather(1, LABEL[:, None])[:, 0]
        tilted = LAW.log_density(x, alpha, sigma) + scale * share.log()
        (score,) = torch.autograd.grad(tilted.sum(), x)
        denoise = guidance.cfg(Bayes(schedule, target.name), schedule, target, LABEL, scale, NULL)
        guided = denoise(x.detach(), t)
        torch.testing.assert_close(-guided.eps / sigma, score, rtol=1e-7, atol=1e-7)
        torch.testing.assert_close(alpha * guided.x0 + sigma * guided.eps, x.detach())
        # and s_u + w (s_c - s_u), from the scores of the laws
        unconditional = LAW.score(x, alpha, sigma)
        of_class = [CLASSES[k].score(x[i : i + 1], alpha, sigma) for i, k in enumerate(LABEL)]
        by_hand = unconditional + scale * (torch.cat(of_class) - unconditional)
        torch.testing.assert_close(score, by_hand.detach())


@settings(max_examples=60)
@given(
    schedule=st.sampled_from(PATHS),
    t=st.floats(0.03, 0.97),
    scale=st.floats(-3, 9),
    seed=st.integers(0, 1000),
)
def test_guiding_any_target_guides_them_all(schedule: Schedule, t: float, scale: float, seed: int):
    x = points(seed=seed)
    expected = guidance.combine(*exact(schedule, x, t, LABEL), scale)
    for target in targets.ALL:
        model = Bayes(schedule, target.name)
        found = guidance.cfg(model, schedule, target, LABEL, scale, NULL)(x, t)
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


@settings(max_examples=60)
@given(scale=st.floats(-5, 20), alpha=st.floats(0.01, 1), sigma=st.floats(0.01, 1))
def test_a_combination_is_still_a_split_of_the_state(scale: float, alpha: float, sigma: float):
    x = points()
    parts = [Prediction(x0, (x - alpha * x0) / sigma) for x0 in (points(seed=1), points(seed=2))]
    both = guidance.combine(*parts, scale)
    by_hand = [(1 - scale) * u + scale * c for u, c in zip(*parts, strict=True)]
    torch.testing.assert_close(list(both), by_hand, rtol=1e-9, atol=1e-7)
    torch.testing.assert_close(alpha * both.x0 + sigma * both.eps, x, rtol=1e-9, atol=1e-7)


def test_scale_one_is_conditional_and_scale_zero_unconditional_to_the_bit() -> None:
    u, c = exact(VP, points(), 0.5, LABEL)
    for scale, expected in ((0.0, u), (1.0, c)):
        found = guidance.combine(u, c, scale)
        assert torch.equal(found.x0, expected.x0) and torch.equal(found.eps, expected.eps)


CALLS = [
    (1.0, [(6, LABEL.tolist())]),
    (0.0, [(6, [NULL] * 6)]),
    (1.5, [(12, [NULL] * 6 + LABEL.tolist())]),
]


@pytest.mark.parametrize(("scale", "calls"), CALLS)
def test_the_network_is_called_once_with_what_is_needed(scale: float, calls: Any) -> None:
    model = Bayes(VP, "v")
    guidance.cfg(model, VP, "v", LABEL, scale, NULL)(points(), 0.5)
    assert model.seen == calls


def test_guidance_acts_inside_its_interval_edges_included() -> None:
    x, (low, high) = points(), (0.2, 0.8)
    model = Bayes(LINEAR, "u")
    denoise = guidance.cfg(model, LINEAR, "u", LABEL, 3.0, NULL, (low, high))
    inside = {0.1: False, 0.2 - 1e-6: False, 0.2: True, 0.5: True, 0.8: True, 0.8 + 1e-6: False}
    for t, guided in inside.items():
        model.seen.clear()
        unconditional, conditional = exact(LINEAR, x, t, LABEL)
        expected = guidance.combine(unconditional, conditional, 3.0 if guided else 1.0)
        torch.testing.assert_close(denoise(x, t), expected)
        assert model.seen[0][0] == (12 if guided else 6)
    # an edge that is on the grid is inside, in whichever way it was rounded
    for t in (math.nextafter(0.8, 1), math.nextafter(0.2, 0)):
        model.seen.clear()
        denoise(x, t)
        assert model.seen[0][0] == 12


def test_an_interval_leaves_the_steps_outside_it_conditional() -> None:
    x, grid = points(), times.uniform(10, 0.95, 0.05)

    def end(interval: tuple[float, float] | None, scale: float) -> Tensor:
        model = Bayes(LINEAR, "v")
        denoise = guidance.cfg(model, LINEAR, "v", LABEL, scale, NULL, interval)
        return sampling.ddim(denoise, x, LINEAR, grid)

    torch.testing.assert_close(end((0.96, 1.0), 4.0), end(None, 1.0))
    torch.testing.assert_close(end((0.0, 0.96), 4.0), end(None, 4.0))
    assert not torch.allclose(end((0.0, 0.5), 4.0), end(None, 4.0))


def test_one_class_serves_all_samples() -> None:
    x = points()
    for label in (2, torch.tensor(2), torch.full((6,), 2, dtype=torch.int32)):
        found = guidance.cfg(Bayes(VP, "eps"), VP, "eps", label, 2.0, NULL)(x, 0.6)
        every = guidance.cfg(Bayes(VP, "eps"), VP, "eps", torch.full((6,), 2), 2.0, NULL)(x, 0.6)
        assert torch.equal(found.x0, every.x0)


class Wide(nn.Module):
    """Tells classes apart in every channel of an image."""

    def forward(self, x: Tensor, t: Tensor, label: Tensor) -> Tensor:
        factor = label[:, None] * torch.arange(1, 5)
        return torch.ones_like(x) * factor[..., None, None]


def test_every_channel_of_an_image_is_guided() -> None:
    x = torch.zeros(2, 4, 3, 3)
    found = guidance.cfg(Wide(), LINEAR, "x0", torch.tensor([1, 2]), 1.5, 7)(x, 0.5).x0
    for i, label in enumerate([1, 2]):
        for channel in range(4):
            by_hand = (channel + 1) * (7 + 1.5 * (label - 7))
            torch.testing.assert_close(found[i, channel], torch.full((3, 3), by_hand))
    assert found.dtype == torch.float32


def test_sampling_with_guidance_does_not_draw_from_the_tilted_density() -> None:
    """Two centred Gaussians, where each step of the guided flow is known.

    In X = x / alpha and k = sigma / alpha, dX/dk = k [(1 - w) / (S_u + k^2) + w / (S_c + k^2)] X,
    so that X / sqrt((S_u + k^2)^(1 - w) (S_c + k^2)^w) is constant along it.
    """
    s_u, s_c, w = 1.44, 0.25, 2.5

    class Centred(nn.Module):
        def forward(self, x: Tensor, t: Tensor, label: Tensor) -> Tensor:
            alpha, sigma = LINEAR(t[:, None])
            variance = torch.where(label == NULL, s_u, s_c)[:, None]
            return sigma / (alpha**2 * variance + sigma**2) * x

    start, last = 0.99, 0.01
    x = points(3)
    denoise = guidance.cfg(Centred(), LINEAR, "eps", 0, w, NULL)
    grid = times.in_logsnr(LINEAR, 400, *(float(LINEAR.logsnr(t)) for t in (start, last)), False)
    found = sampling.heun(denoise, x, LINEAR, grid)

    def spread(t: float) -> float:
        k2 = float(1 / LINEAR.snr(t))
        return (s_u + k2) ** ((1 - w) / 2) * (s_c + k2) ** (w / 2)

    expected = x / (1 - start) * spread(last) / spread(start) * (1 - last)
    torch.testing.assert_close(found, expected, rtol=5e-4, atol=0)
    tilted = ((1 - w) / s_u + w / s_c) ** -0.5
    assert abs(spread(0.0) / tilted - 1) > 0.3


def guided(**changed: Any) -> sampling.Denoiser:
    arguments: dict[str, Any] = {"label": LABEL, "scale": 2.0, "null": NULL, "interval": None}
    return guidance.cfg(Bayes(VP, "v"), VP, "v", **arguments | changed)


PAIR = exact(VP, points(), 0.5, LABEL)
BAD = [
    (lambda: guided(scale=math.nan), "scale must be a finite number, got nan"),
    (lambda: guided(scale=math.inf), "scale must be a finite number, got inf"),
    (lambda: guidance.combine(*PAIR, -math.inf), "scale must be a finite number, got -inf"),
    (
        lambda: guidance.combine(PAIR[0], Prediction(*(part[:1] for part in PAIR[1])), 2.0),
        "must have one shape",
    ),
    (lambda: guided(interval=(0.8, 0.2)), "0 <= low < high <= 1, got 0.8 and 0.2"),
    (lambda: guided(interval=(0.0, 800)), "0 <= low < high <= 1, got 0.0 and 800"),
    (lambda: guided(interval=(math.nan, 1)), "0 <= low < high <= 1, got nan and 1"),
    (lambda: guided(label=LABEL.double()), r"integers of shape \(N,\), got torch.float64 \(6,\)"),
    (lambda: guided(label=LABEL[None]), r"integers of shape \(N,\), got torch.int64 \(1, 6\)"),
    (lambda: guided(label=True), r"integers of shape \(N,\), got torch.bool \(\)"),
    (
        lambda: guided()(points(5), 0.5),
        r"one class for each sample, got \(6,\) for 5 samples",
    ),
    (
        lambda: sampling.from_model(Bayes(VP, "v"), VP, "v", LABEL)(points(1), 0.5),
        r"one class for each sample, got \(6,\) for 1 samples",
    ),
]


@pytest.mark.parametrize(("call", "message"), BAD)
def test_a_bad_argument_gets_one_sentence(call, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
