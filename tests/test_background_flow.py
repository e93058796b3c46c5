"""Flows, laws on a line, guidance and Langevin starts, against closed forms and quadrature."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kstest, norm, wasserstein_distance

from erdpaper import sampling, schedules
from erdpaper.background import flow, guided, line, modes
from erdpaper.posterior import Gaussian, GaussianMixture
from erdpaper.sampling import times
from erdpaper.schedules import Schedule

F64 = torch.float64
VP = schedules.VP()
PATHS = [VP, schedules.GVP(), schedules.Linear()]
LINE = GaussianMixture(
    torch.tensor([[-1.5], [0.4], [1.6]], dtype=F64),
    torch.tensor([0.35, 0.25, 0.3], dtype=F64),
    torch.tensor([0.5, 0.2, 0.3], dtype=F64),
    torch.tensor([0, 0, 1]),
)
PLANE = GaussianMixture.square()


def draws(law: GaussianMixture, schedule: Schedule, t: float, n: int) -> torch.Tensor:
    g = torch.Generator().manual_seed(0)
    alpha, sigma = schedule(t)
    return alpha * law.sample(n, g) + sigma * torch.randn(n, law.dim, generator=g, dtype=F64)


@pytest.mark.parametrize("schedule", PATHS, ids=repr)
@pytest.mark.parametrize("law", [LINE, PLANE], ids=["line", "plane"])
def test_the_flow_with_one_half_carries_the_density(
    law: GaussianMixture, schedule: Schedule
) -> None:
    for t in (0.05, 0.4, 0.9):
        x = draws(law, schedule, t, 50)
        parts = flow.continuity(law, schedule, x, t)
        assert float(sum(parts).abs().max()) < 1e-8 * float(parts.divergence.abs().max())
        wrong = flow.continuity(law, schedule, x, t, factor=1.0)
        assert float(sum(wrong).abs().max()) > 0.1 * float(parts.rate.abs().max())


def test_the_parts_of_the_continuity_equation_by_finite_differences() -> None:
    x, t, h = draws(LINE, VP, 0.3, 20), 0.3, 1e-5
    parts = flow.continuity(LINE, VP, x, t)
    late, early = (LINE.log_density(x, *VP(t + d)) for d in (h, -h))
    torch.testing.assert_close(parts.rate, (late - early) / (2 * h), rtol=1e-5, atol=1e-5)

    def v(y: torch.Tensor) -> torch.Tensor:
        # f = -beta / 2 and g^2 = beta on this path
        beta = 0.1 + 19.9 * t
        return -beta / 2 * y - beta / 2 * LINE.score(y, *VP(t))

    slope = (v(x + h) - v(x - h))[:, 0] / (2 * h)
    torch.testing.assert_close(parts.divergence, slope, rtol=1e-5, atol=1e-5)
    carried = (v(x) * LINE.score(x, *VP(t)))[:, 0]
    torch.testing.assert_close(parts.carried, carried, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("factor", [0.5, 1.0])
def test_a_factor_scales_what_the_score_does(factor: float) -> None:
    denoise = flow.with_factor(sampling.exact(LINE, VP), VP, factor)
    x, t, h = draws(LINE, VP, 0.4, 10), 0.4, 1e-4
    moved = sampling.euler(denoise, x, VP, [t, t - h])
    beta = 0.1 + 19.9 * t
    expected = x + h * (beta / 2 * x + factor * beta * LINE.score(x, *VP(t)))
    torch.testing.assert_close(moved, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("schedule", [VP, schedules.DDPM()], ids=repr)
def test_likelihood_of_a_correlated_gaussian(schedule: Schedule) -> None:
    law = Gaussian(
        torch.tensor([0.3, -1.0]).double(), torch.tensor([[2, 0.6], [0.6, 0.5]]).double()
    )
    x = draws(PLANE, schedule, 0.1, 10)
    end = schedule(0.9)
    found = flow.log_likelihood(
        sampling.exact(law, schedule), x, schedule, 0.1, 60, 0.9, lambda y: law.log_density(y, *end)
    )
    torch.testing.assert_close(found, law.log_density(x, *schedule(0.1)), rtol=0, atol=2e-3)


def test_likelihood_converges_with_order_four() -> None:
    x, end = draws(LINE, VP, 0.05, 20), VP(1.0)
    exact = LINE.log_density(x, *VP(0.05))
    errors = []
    for steps in (40, 80):
        found = flow.log_likelihood(
            sampling.exact(LINE, VP), x, VP, 0.05, steps, 1.0, lambda y: LINE.log_density(y, *end)
        )
        errors.append(float((found - exact).abs().mean()))
    assert math.log2(errors[0] / errors[1]) == pytest.approx(4, abs=0.5)
    assert errors[1] < 1e-4


def test_standard_normal() -> None:
    x = torch.randn(5, 3, dtype=F64)
    torch.testing.assert_close(
        flow.standard_normal(x), torch.from_numpy(norm.logpdf(x.numpy()).sum(-1))
    )


def test_distances_on_the_line_are_scipys() -> None:
    alpha, sigma = (float(c) for c in VP(0.2))
    x = draws(LINE, VP, 0.25, 500)

    def cdf(points: np.ndarray) -> np.ndarray:
        return line.cdf(LINE, torch.from_numpy(points), alpha, sigma).numpy()

    by_hand = sum(
        w * norm.cdf(0.3, alpha * m, math.hypot(alpha * s, sigma))
        for w, m, s in zip([0.5, 0.2, 0.3], [-1.5, 0.4, 1.6], [0.35, 0.25, 0.3], strict=True)
    )
    assert float(cdf(np.array([0.3]))[0]) == pytest.approx(by_hand)
    theirs = kstest(x[:, 0].numpy(), cdf).statistic
    assert line.kolmogorov(x, LINE, alpha, sigma) == pytest.approx(theirs)
    exact = draws(LINE, VP, 0.2, 200_000)[:, 0].numpy()
    theirs = wasserstein_distance(x[:, 0].numpy(), exact)
    assert line.wasserstein(x, LINE, alpha, sigma) == pytest.approx(theirs, abs=0.01)
    quantiles = line.quantiles(LINE, 100, alpha, sigma)[:, 0]
    middles = line.cdf(LINE, quantiles, alpha, sigma)
    torch.testing.assert_close(middles, line.middles(100), rtol=0, atol=1e-5)


def test_a_table_answers_as_the_denoiser_does() -> None:
    denoise = sampling.exact(LINE, VP)
    table = line.tabulated(denoise, VP)
    for t in (0.2, 0.9):
        x = draws(LINE, VP, t, 200)
        for ours, theirs in zip(table(x, t), denoise(x, t), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-3)


POINTS = torch.linspace(-6, 6, 1201, dtype=F64)


def test_a_grid_density_denoises_as_its_law() -> None:
    grid = line.GridDensity.of(POINTS, LINE.log_density(POINTS[:, None], 1.0, 0.0) + 7)
    x = draws(LINE, VP, 0.3, 50)
    for ours, theirs in zip(
        grid.denoiser(VP)(x, 0.3), sampling.exact(LINE, VP)(x, 0.3), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-8)
    assert grid.mean_of(POINTS.square()) == pytest.approx(float(LINE.second_moment()), rel=1e-6)


def test_total_variation_of_known_laws() -> None:
    grid = line.GridDensity.of(POINTS, -POINTS.square() / 2)
    edges = torch.linspace(-5, 5, 61, dtype=F64)
    assert grid.total_variation(line.noise_quantiles(100_000), edges) < 1e-3
    shifted = line.noise_quantiles(100_000) + 1
    # of two unit Gaussians one apart
    expected = 2 * norm.cdf(0.5) - 1
    assert grid.total_variation(shifted, edges) == pytest.approx(expected, abs=0.005)
    far = torch.full((10, 1), 9.0, dtype=F64)
    assert grid.total_variation(far, edges) == pytest.approx(1, abs=1e-5)


@given(st.floats(0, 5), st.floats(0.05, 0.95), st.integers(0, 1))
@settings(max_examples=30, deadline=None)
def test_both_kinds_of_guidance_are_one_score(gamma: float, t: float, label: int) -> None:
    x = torch.linspace(-3, 3, 21, dtype=F64)[:, None]
    alpha, sigma = VP(t)
    free = guided.free_score(LINE, x, alpha, sigma, label, gamma)
    bound = guided.classifier_score(LINE, x, alpha, sigma, label, gamma)
    torch.testing.assert_close(free, bound, rtol=1e-6, atol=1e-6)


def test_the_guided_denoiser_has_the_guided_score() -> None:
    x, t = torch.linspace(-3, 3, 21, dtype=F64)[:, None], 0.4
    alpha, sigma = VP(t)
    eps = guided.denoiser(LINE, VP, 0, 2.0)(x, t).eps
    expected = -sigma * guided.free_score(LINE, x, alpha, sigma, 0, 2.0)
    torch.testing.assert_close(eps, expected, rtol=0, atol=2e-3)


def test_the_tilted_density_at_its_ends() -> None:
    """gamma 0 is the law, gamma 1 that of the class."""
    free = guided.tilted(LINE, 1, 0.0, POINTS).density
    torch.testing.assert_close(free, LINE.log_density(POINTS[:, None], 1.0, 0.0).exp())
    own = guided.class_law(LINE, 1)
    bound = guided.tilted(LINE, 1, 1.0, POINTS).density
    expected = own.log_density(POINTS[:, None], 1.0, 0.0).exp()
    torch.testing.assert_close(bound, expected, rtol=1e-6, atol=1e-9)
    with pytest.raises(ValueError, match="class 7"):
        guided.class_law(LINE, 7)


def test_a_flow_given_the_tilted_denoiser_reaches_it() -> None:
    target = guided.tilted(LINE, 0, 3.0, POINTS[::3])
    denoise = line.tabulated(target.denoiser(VP), VP)
    grid = times.in_logsnr(VP, 40, -9.9, 8)
    found = sampling.heun(denoise, line.noise_quantiles(5_000), VP, grid)
    assert target.total_variation(found, torch.linspace(-4, 4, 61, dtype=F64)) < 0.01


def test_the_saddle_and_the_exact_share() -> None:
    law = modes.two_modes(2.0, 0.3)
    point = torch.tensor([[modes.saddle(law), 0.0]], dtype=F64)
    assert float(law.score(point, 1.0, 0.0).norm()) < 1e-8
    # where s^2 log(w1 / w2) = 2 m x up to what the zero of the score adds
    assert modes.saddle(law) == pytest.approx(0.09 * math.log(4) / 4, rel=0.05)
    overlapping = modes.two_modes(0.2, 0.3)
    g = torch.Generator().manual_seed(0)
    sampled = float((overlapping.sample(200_000, g)[:, 0] > 0).double().mean())
    assert modes.light_share(overlapping) == pytest.approx(sampled, abs=0.005)


def test_the_quick_denoiser_of_two_modes_is_the_exact_one() -> None:
    law = modes.two_modes(1.3, 0.4, light=0.3)
    for t in (0.1, 0.5, 0.9):
        x = draws(law, VP, t, 20)
        pair = (modes.denoiser(law, VP)(x, t), sampling.exact(law, VP)(x, t))
        for ours, theirs in zip(*pair, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


def test_where_chains_go_first() -> None:
    """Against Langevin dynamics with a small step from the midpoint."""
    law = modes.two_modes(2.0, 0.5)
    schedule = schedules.GVP()
    g = torch.Generator().manual_seed(0)
    start = torch.zeros(1_500, 2, dtype=F64)
    x = sampling.langevin(modes.denoiser(law, schedule), start, schedule, 0.02, 500, 0.01, g)
    found = float((x[:, 0] > 0).double().mean())
    expected = float(modes.reach_light(law, torch.zeros(1)))
    assert found == pytest.approx(expected, abs=0.05)
    ends = modes.reach_light(law, torch.tensor([-2.0, 2.0]))
    assert ends.tolist() == pytest.approx([0, 1], abs=1e-3)


def test_intervals_over_seeds() -> None:
    found = modes.interval([1.0, 2.0, 3.0])
    # t_{0.975, 2} = 4.3027
    assert found == pytest.approx((2.0, 4.3027 / math.sqrt(3)), rel=1e-4)
    with pytest.raises(ValueError, match="two seeds"):
        modes.interval([1.0])


def test_bad_times_get_one_sentence() -> None:
    denoise, x = sampling.exact(LINE, VP), torch.zeros(1, 1, dtype=F64)
    with pytest.raises(ValueError, match="0 < t < last"):
        flow.log_likelihood(denoise, x, VP, 0.5, 10, 0.2)
    with pytest.raises(ValueError, match="alpha = 0"):
        flow.log_likelihood(denoise, x, schedules.Linear(), 0.5, 10)
