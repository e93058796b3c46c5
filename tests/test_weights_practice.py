import itertools
import math
from functools import partial

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler, FlowMatchEulerDiscreteScheduler
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from scipy.integrate import quad
from torch import Tensor

from erdpaper import schedules, training, weights
from erdpaper.schedules import Schedule, signal_and_noise
from erdpaper.weights import densities

F64 = torch.float64
TARGETS = ["x0", "eps", "v", "u"]
CONTINUOUS = [schedules.Linear(), schedules.VP(), schedules.GVP()]
TABLES = [schedules.DDPM(), schedules.Cosine()]
LINE, VP, GVP = CONTINUOUS
interior = st.tuples(st.floats(1e-3, 2), st.floats(1e-3, 2))
UNIFORMS = torch.tensor([0.001, 0.02, 0.1, 0.3, 0.5, 0.7, 0.9, 0.98, 0.999], dtype=F64)


def slope(target: str, alpha: float, sigma: float) -> float:
    """By how much a target moves when x_0 moves by 1 at fixed x_t."""
    c = {"x0": (1.0, 0.0), "eps": (0.0, 1.0), "v": (-sigma, alpha), "u": (-1.0, 1.0)}[target]
    return c[0] - c[1] * alpha / sigma


@given(interior, st.floats(0.1, 5))
def test_edm_is_its_formula_on_the_x0_error_for_every_target(
    level: tuple[float, float], std: float
) -> None:
    alpha, sigma = level
    k = sigma / alpha
    expected = (k**2 + std**2) / (k * std) ** 2
    for target in TARGETS:
        weight = float(weights.edm(alpha, sigma, target, std)) * slope(target, *level) ** 2
        assert weight == pytest.approx(expected, rel=1e-9)


@given(interior, st.floats(0.1, 5), st.integers(0, 100))
def test_edm_gives_every_level_the_same_weight_on_the_error_of_its_network(
    level: tuple[float, float], std: float, seed: int
) -> None:
    k = level[1] / level[0]
    x0, eps, output = torch.randn(3, 20, generator=torch.Generator().manual_seed(seed), dtype=F64)
    x = x0 + k * eps
    skip, out = std**2 / (k**2 + std**2), k * std / math.hypot(k, std)
    denoised = skip * x + out * output
    sought = (x0 - skip * x) / out
    weight = weights.edm(*level, "x0", std)
    torch.testing.assert_close(
        weight * (denoised - x0).square(), (output - sought).square(), rtol=1e-6, atol=1e-9
    )


@given(interior, st.floats(-4, 6))
def test_sigmoid_is_its_formula_on_the_x0_error_for_every_target(
    level: tuple[float, float], bias: float
) -> None:
    alpha, sigma = level
    snr = (alpha / sigma) ** 2
    expected = snr / (1 + math.exp(math.log(snr) - bias))
    for target in TARGETS:
        weight = float(weights.sigmoid(alpha, sigma, target, bias)) * slope(target, *level) ** 2
        assert weight == pytest.approx(expected, rel=1e-9)


@given(interior, st.floats(-4, 6))
def test_sigmoid_is_p2_with_k_the_exponential_of_its_bias(
    level: tuple[float, float], bias: float
) -> None:
    c = math.exp(bias)
    for target in TARGETS:
        same = c * float(weights.p2(*level, target, k=c))
        assert float(weights.sigmoid(*level, target, bias)) == pytest.approx(same, rel=1e-9)


@given(st.floats(1e-4, math.pi / 2 - 1e-4))
def test_erd_for_eps_is_p2_of_one_half_and_edm_of_unit_data_is_uniform_for_v(angle: float) -> None:
    level = math.cos(angle), math.sin(angle)
    half = float(weights.p2(*level, "eps", gamma=0.5, k=1.0))
    assert float(weights.erd(*level, "eps")) == pytest.approx(half, rel=1e-9)
    assert float(weights.edm(*level, "v", data_std=1.0)) == pytest.approx(1, rel=1e-9)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("schedule", [*CONTINUOUS, *TABLES], ids=repr)
def test_the_sigmoid_allocation_never_rises_with_log_snr(schedule: Schedule, target: str) -> None:
    t = weights.training_times(schedule)[::20]
    t = t[schedule.logsnr(t).abs() < 15]
    alpha, sigma = schedule(t)
    levels = zip(alpha.tolist(), sigma.tolist(), strict=True)
    per_eps = [(slope(target, a, s) / slope("eps", a, s)) ** 2 for a, s in levels]
    allocation = weights.sigmoid(alpha, sigma, target) * torch.tensor(per_eps, dtype=F64)
    torch.testing.assert_close(allocation, torch.sigmoid(2 - schedule.logsnr(t)))
    assert bool((allocation.diff() >= -1e-12).all())  # log-SNR falls with t


LIMITS = [
    (weights.edm, "x0", math.inf, 4),
    (weights.edm, "eps", 1, math.inf),
    (weights.edm, "v", 1, 4),
    (weights.edm, "u", 1, 4),
    (weights.sigmoid, "x0", math.exp(2), 0),
    (weights.sigmoid, "eps", 0, 1),
    (weights.sigmoid, "v", 0, 0),
    (weights.sigmoid, "u", 0, 0),
    *((weights.edm_allocation, target, 0, 0) for target in TARGETS),
]


@pytest.mark.parametrize(("fn", "target", "at_data", "at_noise"), LIMITS)
def test_limits_at_both_ends(
    fn: weights.Weight, target: str, at_data: float, at_noise: float
) -> None:
    for ends, limit in (((1.0, 0.0), at_data), ((0.0, 1.0), at_noise)):
        near = tuple(max(c, 1e-7) for c in ends)
        assert float(fn(*ends, target)) == pytest.approx(limit)
        if math.isfinite(limit):
            assert float(fn(*near, target)) == pytest.approx(limit, abs=1e-5)
        else:
            assert float(fn(*near, target)) > 1e12


def edm_quantiles(schedule: Schedule, u: Tensor) -> np.ndarray:
    """ln(sigma / alpha) where the normal, cut where the schedule ends, has these quantiles."""
    last = (-float(schedule.logsnr(1.0)) / 2 + 1.2) / 1.2
    return np.asarray(stats.truncnorm(-np.inf, last, -1.2, 1.2).ppf(u.numpy()))


@pytest.mark.parametrize("schedule", CONTINUOUS, ids=repr)
def test_edm_draws_a_normal_log_noise_level(schedule: Schedule) -> None:
    density = densities.edm(schedule)
    t = training.density_times(density)(UNIFORMS)
    # t itself, for in log-noise the first cell of the inverse is coarse
    expected = schedule.time(torch.from_numpy(-2 * edm_quantiles(schedule, UNIFORMS)))
    torch.testing.assert_close(t, expected, rtol=0, atol=1e-4)
    total = sum(
        quad(lambda x: float(density(torch.tensor(x, dtype=F64))), a, b, limit=200)[0]
        for a, b in itertools.pairwise([0, 1e-3, 1e-2, 0.1, 0.5, 0.9, 1])
    )
    assert total == pytest.approx(1, rel=1e-6)
    assert float(density(torch.tensor(0.0, dtype=F64))) == 0


@pytest.mark.parametrize("schedule", TABLES, ids=repr)
def test_edm_on_a_table_gives_each_node_the_normal_mass_of_its_cell(
    schedule: schedules.Discrete,
) -> None:
    log_noise = -schedule.logsnr(weights.training_times(schedule)).numpy() / 2
    cdf = stats.norm(-1.2, 1.2).cdf(np.concatenate([[-np.inf], log_noise]))
    mass = densities.on_table(densities.edm(schedule), schedule)
    ours = mass(weights.training_times(schedule)) / schedule.T
    # the rate at the first node is that of the cell before it, a kink that log-SNR has
    assert float((ours - torch.from_numpy(np.diff(cdf)) / cdf[-1]).abs().sum()) < 2e-3
    single = weights.training_times(schedule).float()
    assert torch.equal(mass(single), (ours * schedule.T).float())


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (-0.5, 0.8), (1.0, 1.5)])
def test_logit_normal_has_the_quantiles_of_scipy(mean: float, std: float) -> None:
    density = densities.logit_normal(mean, std)
    t = training.density_times(density)(UNIFORMS)
    expected = torch.sigmoid(torch.from_numpy(stats.norm(mean, std).ppf(UNIFORMS.numpy())))
    torch.testing.assert_close(t, expected, rtol=0, atol=1e-5)
    ends = density(torch.tensor([0.0, 1.0, 1e-7, 1 - 1e-7], dtype=F64))
    assert ends[:2].tolist() == [0, 0] and float(ends[2:].max()) < 1e-6
    inner = torch.linspace(0.01, 0.99, 9, dtype=F64)
    torch.testing.assert_close(density(inner), densities.edm(LINE, mean, std)(inner))


def over(schedule: Schedule, density: densities.Density, fn) -> float:
    """The integral of fn(t) p(t), by scipy over log-SNR, in which p is smooth."""

    def integrand(level: float) -> float:
        t = schedule.time(torch.tensor(level, dtype=F64))
        return float(fn(t) * density(t) / schedule.logsnr_rate(t).abs())

    low = max(-30.0, float(schedule.logsnr(1.0)))
    marks = [low, *(x for x in (-10, -5, 0, 5, 10, 20) if x > low), 35]
    return sum(quad(integrand, a, b, limit=200)[0] for a, b in itertools.pairwise(marks))


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("schedule", CONTINUOUS, ids=repr)
def test_mean_1_under_a_density(schedule: Schedule, target: str) -> None:
    for density in (densities.edm(schedule), densities.logit_normal(0.3, 0.9)):
        for fn in (weights.edm, weights.erd):
            weight = weights.normalised(fn, schedule, target, density=density)
            assert over(schedule, density, weight) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("schedule", [LINE, GVP], ids=repr)
def test_the_mean_of_the_weight_of_edm_under_its_density_is_known(schedule: Schedule) -> None:
    t = torch.tensor([0.1, 0.4, 0.8], dtype=F64)
    snr, density = schedule.snr(t), densities.edm(schedule)
    # moments of the log-normal k: E k^-2 and E k^2
    means = {"x0": math.exp(2.4 + 2 * 1.44) + 4, "eps": 1 + 4 * math.exp(-2.4 + 2 * 1.44)}
    for target, raw in {"x0": snr + 4, "eps": 1 + 4 / snr}.items():
        weight = weights.normalised(weights.edm, schedule, target, density=density)
        torch.testing.assert_close(weight(t), raw / means[target], rtol=1e-7, atol=0)


@pytest.mark.parametrize("schedule", [*CONTINUOUS, *TABLES], ids=repr)
def test_the_log_snr_reading_makes_the_allocation_the_score_under_any_density(
    schedule: Schedule,
) -> None:
    density, span = densities.logit_normal(0.4, 1.2), (-6.0, 5.0)
    weight = weights.normalised(weights.sigmoid, schedule, "eps", "logsnr", span, density)
    t = weights.training_times(schedule)[::7]
    level = schedule.logsnr(t)
    t = t[(level > -6) & (level < 5)]
    if isinstance(schedule, schedules.Discrete):
        # the probability of a node is that of its cell
        cells = torch.stack([t - 1 / schedule.T, t], 1).clamp(min=0)
        edges = stats.norm(0.4, 1.2).cdf(torch.logit(cells).numpy())
        p = torch.from_numpy(np.diff(edges)[:, 0]) * schedule.T
    else:
        p = density(t)
    allocation = weight(t) * p / schedule.logsnr_rate(t).abs()
    ratio = allocation / torch.sigmoid(2 - schedule.logsnr(t))
    torch.testing.assert_close(ratio, ratio[0].expand_as(ratio), rtol=1e-5, atol=0)
    low = max(-6.0, float(schedule.logsnr(1.0)))
    integral = math.log1p(math.exp(2 - low)) - math.log1p(math.exp(2 - 5.0))
    # a table's sum over nodes is not the integral
    tolerance = 0.02 if isinstance(schedule, schedules.Discrete) else 1e-5
    assert float(ratio[0]) == pytest.approx(1 / integral, rel=tolerance)


@pytest.mark.parametrize("allocation", ["t", "logsnr"])
@pytest.mark.parametrize("schedule", [LINE, VP, schedules.Cosine()], ids=repr)
def test_batches_drawn_by_the_density_have_mean_weight_1(
    schedule: Schedule, allocation: weights.Allocation
) -> None:
    density = densities.logit_normal(-0.3, 1.1)
    weight = weights.normalised(weights.edm, schedule, "v", allocation, (-5.0, 5.0), density)
    times = training.density_times(density)
    objective = training.Objective(schedule, "v", weight, times)
    n = 200_000
    drawn = objective.batch(torch.zeros(n, 1), torch.Generator().manual_seed(3)).weight.double()
    assert float(drawn.mean()) == pytest.approx(1, abs=4 * float(drawn.std()) / n**0.5)


@pytest.mark.parametrize("allocation", ["t", "logsnr"])
@pytest.mark.parametrize("schedule", [LINE, schedules.DDPM()], ids=repr)
def test_a_flat_density_changes_nothing(schedule: Schedule, allocation: weights.Allocation) -> None:
    t = torch.linspace(0.1, 0.9, 9, dtype=F64)
    plain = weights.normalised(weights.erd, schedule, "eps", allocation)
    flat = weights.normalised(
        weights.erd, schedule, "eps", allocation, density=lambda t: torch.full_like(t, 7.0)
    )
    torch.testing.assert_close(flat(t), plain(t), rtol=1e-9, atol=0)


ABAR = DDPMScheduler().alphas_cumprod.double().numpy()
# the few last nodes lie below log-SNR -10
INSIDE = int((np.log(ABAR / (1 - ABAR)) >= -10).sum())


def test_edm_for_a_scheduler_is_its_sampling_times_its_weight() -> None:
    k = np.sqrt((1 - ABAR) / ABAR)
    rate = np.abs(np.gradient(np.log(ABAR / (1 - ABAR))))
    draw = stats.norm(-1.2, 1.2).pdf(np.log(k)) * rate
    expected = {"epsilon": (k**2 + 0.25) / 0.25, "sample": (k**2 + 0.25) / (k / 2) ** 2}
    for kind, weight in expected.items():
        scheduler = DDPMScheduler(prediction_type=kind)
        ours = weights.for_scheduler(scheduler, torch.arange(1000), "edm").double().numpy()
        ratio = (ours / (weight * draw))[2:INSIDE]
        assert np.ptp(ratio) < 1e-6 * ratio.mean()
        assert ours[INSIDE:].max() == 0
        assert ours.mean() == pytest.approx(1, rel=1e-5)


def test_edm_for_a_scheduler_asks_for_what_drawing_by_its_density_does() -> None:
    table = schedules.DDPM()
    density = densities.edm(table)
    weight = weights.normalised(weights.edm, table, "eps", density=density)
    t = weights.training_times(table)
    drawn = weight(t) * densities.on_table(density, table)(t)
    weighted = weights.for_scheduler(DDPMScheduler(), torch.arange(1000), "edm")
    assert float(weights.total_variation(drawn, weighted.double())) < 0.005


def test_sigmoid_for_schedulers() -> None:
    level = np.log(ABAR / (1 - ABAR))
    expected = np.abs(np.gradient(level)) / (1 + np.exp(level - 1))
    ours = weights.for_scheduler(DDPMScheduler(), torch.arange(1000), "sigmoid", bias=1.0).numpy()
    ratio = (ours / expected)[2:INSIDE]
    assert np.ptp(ratio) < 1e-6 * ratio.mean()
    flow = FlowMatchEulerDiscreteScheduler()
    sigma = flow.sigmas.double()[(flow.sigmas < 0.99) & (flow.sigmas > 0.01)]
    # on the linear path |d lambda / dt| = 2 / (t (1 - t)), and an error of eps is 1 - t times u's
    level = 2 * torch.log((1 - sigma) / sigma)
    raw = torch.sigmoid(2 - level) * (1 - sigma) ** 2 / (sigma * (1 - sigma))
    ratio = weights.for_scheduler(flow, 1000 * sigma, "sigmoid") / raw
    # the rate of a table is a finite difference
    torch.testing.assert_close(ratio, ratio.mean().expand_as(ratio), rtol=5e-3, atol=0)


def test_a_scheduler_without_final_signal_has_finite_weights() -> None:
    scheduler = DDPMScheduler(rescale_betas_zero_snr=True)
    for method in ("edm", "sigmoid"):
        found = weights.for_scheduler(scheduler, torch.arange(1000), method)
        assert bool(found.isfinite().all()) and float(found[-1]) == 0


def test_single_precision_follows_double() -> None:
    level = torch.linspace(-8, 8, 33, dtype=F64)
    alpha, sigma = signal_and_noise(level, "vp")
    for fn, target in itertools.product((weights.edm, weights.sigmoid), TARGETS):
        single = fn(alpha.float(), sigma.float(), target)
        assert single.dtype == torch.float32
        torch.testing.assert_close(single.double(), fn(alpha, sigma, target), rtol=1e-5, atol=0)


def nothing_at_noise(t: Tensor) -> Tensor:
    return (t < 0.5).to(t)


BAD = [
    (lambda: weights.edm(0.5, 0.5, "noise"), "unknown target 'noise'"),
    (lambda: weights.sigmoid(0.5, 0.5, "noise"), "unknown target 'noise'"),
    (lambda: weights.edm(0.5, 0.5, "v", 0.0), "data_std must be positive and finite, got 0.0"),
    (lambda: weights.sigmoid(0.5, 0.5, "v", math.nan), "bias must be finite, got nan"),
    (lambda: densities.edm(LINE, std=0.0), "std positive and finite, got -1.2 and 0.0"),
    (lambda: densities.logit_normal(math.inf), "mean must be finite"),
    (lambda: densities.edm(VP, mean=300.0), "VP.* reaches none of the noise levels of mean=300"),
    # 1 / t^2 near t = 0 has no mean under the uniform density
    (lambda: weights.normalised(weights.edm, LINE, "x0"), "edm for x0 on Linear.* has no finite"),
    (
        lambda: weights.normalised(weights.erd, LINE, "v", density=lambda t: -t),
        "a density of t must be finite, at least 0",
    ),
    (
        lambda: weights.normalised(weights.erd, GVP, "v", density=lambda t: 0 * t),
        "not 0 everywhere",
    ),
    *(
        (
            partial(weights.normalised, weights.erd, s, "v", "logsnr", density=nothing_at_noise),
            "density of t is 0 where the allocation asks for weight",
        )
        for s in (LINE, schedules.DDPM())
    ),
    *(
        (
            partial(weights.for_scheduler, DDPMScheduler(), torch.arange(3), method, "t"),
            f"method '{method}' is an allocation over log-SNR, not a weight over t",
        )
        for method in ("edm", "sigmoid")
    ),
    (
        lambda: weights.for_scheduler(DDPMScheduler(), torch.arange(3), "sigmoid", gamma=1),
        "method 'sigmoid' takes the options bias, not gamma",
    ),
]


@pytest.mark.parametrize(("call", "message"), BAD)
def test_a_bad_argument_gets_one_sentence(call, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
