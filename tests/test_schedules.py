import math

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    ScoreSdeVeScheduler,
)
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad
from torch import Tensor

from erdpaper import schedules
from erdpaper.schedules import Discrete, Schedule

CONTINUOUS = [schedules.Linear(), schedules.VP(), schedules.GVP(), schedules.VP(0.5, 0.5)]
TABLES = [schedules.DDPM(), schedules.Cosine(), schedules.StableDiffusion(), schedules.DDPM(10)]
ALL = [*CONTINUOUS, *TABLES]


def linear_table(T: int, shift: float = 1.0) -> Discrete:
    return schedules.from_diffusers(
        FlowMatchEulerDiscreteScheduler(num_train_timesteps=T, shift=shift)
    )


ZERO_TERMINAL = [
    linear_table(50),
    schedules.from_diffusers(DDIMScheduler(rescale_betas_zero_snr=True)),
]


def f64(x: float) -> Tensor:
    return torch.tensor(x, dtype=torch.float64)


def vp_by_quadrature(t: float, beta_min: float, beta_max: float) -> tuple[float, float]:
    total = quad(lambda u: beta_min + (beta_max - beta_min) * u, 0, t)[0]
    return math.exp(-total / 2), math.sqrt(1 - math.exp(-total))


@pytest.mark.parametrize("t", [0.0, 1e-3, 0.2, 0.5, 0.9, 1.0])
def test_continuous_schedules_are_their_formulas(t: float) -> None:
    expected = {
        CONTINUOUS[0]: (1 - t, t),
        CONTINUOUS[1]: vp_by_quadrature(t, 0.1, 20.0),
        CONTINUOUS[2]: (math.cos(math.pi * t / 2), math.sin(math.pi * t / 2)),
        CONTINUOUS[3]: vp_by_quadrature(t, 0.5, 0.5),
    }
    for schedule, pair in expected.items():
        assert [float(c) for c in schedule(t)] == pytest.approx(pair, rel=1e-9, abs=1e-15)


def table_by_loop(betas: list[float]) -> list[float]:
    abar, product = [], 1.0
    for beta in betas:
        product *= 1 - beta
        abar.append(product)
    return abar


def test_tables_are_their_formulas() -> None:
    T = 1000
    f = [math.cos((k / T + 0.008) / 1.008 * math.pi / 2) ** 2 for k in range(T + 1)]
    roots = np.linspace(math.sqrt(0.00085), math.sqrt(0.012), T)
    betas = {
        schedules.DDPM(): [1e-4 + (0.02 - 1e-4) * k / (T - 1) for k in range(T)],
        schedules.Cosine(): [min(1 - f[k + 1] / f[k], 0.999) for k in range(T)],
        schedules.StableDiffusion(): (roots**2).tolist(),
    }
    for schedule, table in betas.items():
        abar = np.array(table_by_loop(table))
        np.testing.assert_allclose(schedule.alpha.square(), abar, rtol=1e-10)
        np.testing.assert_allclose(schedule.sigma.square(), 1 - abar, rtol=1e-10)
    # the terminal signal-to-noise ratio that the documents quote
    assert float(schedules.StableDiffusion().snr(1.0)) == pytest.approx(0.0047, abs=5e-5)


DIFFUSERS = [
    (schedules.DDPM(), DDPMScheduler()),
    (schedules.DDPM(), DDIMScheduler()),
    (schedules.DDPM(), DPMSolverMultistepScheduler()),
    (schedules.Cosine(), DDPMScheduler(beta_schedule="squaredcos_cap_v2")),
    (
        schedules.StableDiffusion(),
        DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear"),
    ),
    (schedules.DDPM(200), DDPMScheduler(num_train_timesteps=200)),
]


@pytest.mark.parametrize(("ours", "theirs"), DIFFUSERS)
def test_tables_equal_those_of_diffusers(ours: Discrete, theirs: DDPMScheduler) -> None:
    copied = schedules.from_diffusers(theirs)
    torch.testing.assert_close(copied.alpha.square(), theirs.alphas_cumprod.double())
    # theirs are float32 products: a thousand factors, each rounded
    torch.testing.assert_close(
        ours.alpha.square(), theirs.alphas_cumprod.double(), rtol=5e-5, atol=1e-9
    )


def test_tables_add_noise_as_diffusers_does() -> None:
    theirs = DDPMScheduler(beta_schedule="squaredcos_cap_v2")
    x0, eps = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(1))
    k = torch.tensor([0, 10, 500, 990, 999])
    alpha, sigma = (c.float()[:, None] for c in schedules.Cosine().at(k))
    torch.testing.assert_close(
        alpha * x0 + sigma * eps, theirs.add_noise(x0, eps, k), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_flow_matching_tables_equal_those_of_diffusers(shift: float) -> None:
    theirs = FlowMatchEulerDiscreteScheduler(shift=shift)
    ours = schedules.from_diffusers(theirs)
    torch.testing.assert_close(ours.sigma.flip(0).float(), theirs.sigmas)
    torch.testing.assert_close(ours.alpha, 1 - ours.sigma)
    # their table keeps its meaning after inference steps are set
    theirs.set_timesteps(7)
    assert torch.equal(schedules.from_diffusers(theirs).sigma, ours.sigma)


def test_dynamic_shifting_has_no_static_shift() -> None:
    theirs = FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True)
    torch.testing.assert_close(
        schedules.from_diffusers(theirs).sigma, torch.arange(1, 1001).double() / 1000
    )


def test_zero_terminal_tables_end_without_signal() -> None:
    rescaled = ZERO_TERMINAL[1]
    assert [float(c) for c in rescaled.at(999)] == [0.0, 1.0]
    assert [float(c) for c in rescaled(1.0)] == [0.0, 1.0]


def test_ddpm_is_vp_sampled_at_a_thousand_times() -> None:
    table, vp = schedules.DDPM(), schedules.VP()
    t = table.time_at(torch.arange(1000))
    alpha, sigma = vp(t)
    torch.testing.assert_close(table.alpha, alpha, rtol=0, atol=2e-3)
    torch.testing.assert_close(table.sigma[20:], sigma[20:], rtol=2e-2, atol=0)
    torch.testing.assert_close(table.logsnr_rate(t), vp.logsnr_rate(t), rtol=0.1, atol=0)
    inner = slice(30, 990)
    torch.testing.assert_close(
        table.logsnr_rate(t)[inner], vp.logsnr_rate(t)[inner], rtol=0.015, atol=0
    )


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_flow_table_rate_is_that_of_the_shifted_line(shift: float) -> None:
    table, T = linear_table(1000, shift), 1000
    k = torch.arange(T - 1)
    s = (k.double() + 1) / T

    def exact(s: Tensor) -> Tensor:
        sigma = shift * s / (1 + (shift - 1) * s)
        slope = shift / (1 + (shift - 1) * s) ** 2
        return -2 * slope / (sigma * (1 - sigma))

    rate = table.logsnr_rate(table.time_at(k))
    torch.testing.assert_close(rate[8:-8], exact(s[8:-8]), rtol=0.01, atol=0)
    # between the last nodes, where the rate itself changes fast
    between = s[-4:] - 0.5 / T
    torch.testing.assert_close(table.logsnr_rate(between), exact(between), rtol=0.2, atol=0)
    assert rate[-1].item() == pytest.approx(exact(s[-1]).item(), rel=0.01)
    assert rate[0].item() == pytest.approx(exact(s[0]).item(), rel=0.01)


@pytest.mark.parametrize("schedule", CONTINUOUS, ids=repr)
def test_rate_is_the_derivative_of_the_log_snr(schedule: Schedule) -> None:
    t = torch.tensor([1e-4, 0.01, 0.3, 0.5, 0.8, 0.99], dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(schedule.logsnr(t).sum(), t)
    torch.testing.assert_close(schedule.logsnr_rate(t.detach()), slope, rtol=1e-8, atol=0)


def central(schedule: Schedule, t: Tensor, h: float) -> list[Tensor]:
    """Differences of alpha and sigma over 2 h, one-sided where t lies at an end."""
    low, high = (t - h).clamp(min=0), (t + h).clamp(max=1)
    ends = zip(schedule(high), schedule(low), strict=True)
    return [(after - before) / (high - low) for after, before in ends]


@pytest.mark.parametrize("schedule", CONTINUOUS, ids=repr)
def test_rates_are_the_derivatives_of_alpha_and_sigma(schedule: Schedule) -> None:
    t = torch.tensor([1e-3, 0.01, 0.3, 0.5, 0.8, 0.99], dtype=torch.float64)
    for rate, slope in zip(schedule.rates(t), central(schedule, t, 1e-6), strict=True):
        torch.testing.assert_close(rate, slope, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("schedule", [*TABLES[:3], linear_table(1000), ZERO_TERMINAL[1]], ids=repr)
def test_rates_of_a_table_are_its_slopes(schedule: Discrete) -> None:
    # away from the ends, where the slope of a cell is not that between cells
    nodes = schedule.time_at(torch.arange(60, 940))
    for t, h in ((nodes, 1e-3), (nodes - 0.3e-3, 1e-5)):
        for rate, slope in zip(schedule.rates(t), central(schedule, t, h), strict=True):
            torch.testing.assert_close(rate, slope, rtol=0.02, atol=1e-3)


@pytest.mark.parametrize("schedule", [*TABLES, *ZERO_TERMINAL], ids=repr)
def test_rates_of_a_table_are_exact_where_its_log_snr_is_not_interpolated(
    schedule: Discrete,
) -> None:
    first = torch.tensor([0.02, 0.5, 0.98], dtype=torch.float64) / schedule.T
    t = torch.cat([first, 1 - first]) if schedule in ZERO_TERMINAL else first
    for rate, slope in zip(schedule.rates(t), central(schedule, t, 1e-9), strict=True):
        torch.testing.assert_close(rate, slope, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("schedule", [*ALL, *ZERO_TERMINAL], ids=repr)
def test_rates_and_the_rate_of_the_log_snr_are_one(schedule: Schedule) -> None:
    t = torch.linspace(0.001, 0.999, 500, dtype=torch.float64)
    (alpha, sigma), (alpha_rate, sigma_rate) = schedule(t), schedule.rates(t)
    both = 2 * (alpha_rate / alpha - sigma_rate / sigma)
    torch.testing.assert_close(both, schedule.logsnr_rate(t), rtol=1e-9, atol=0)


def test_rates_at_the_ends_are_limits() -> None:
    ends = torch.tensor([0.0, 1.0], dtype=torch.float64)
    half = math.pi / 2
    alpha_end = 20 / 2 * math.exp(-10.05 / 2)
    expected = {
        CONTINUOUS[0]: ([-1, -1], [1, 1]),
        CONTINUOUS[2]: ([0, -half], [half, 0]),
        CONTINUOUS[1]: (
            [-0.05, -alpha_end],
            [math.inf, 10 * math.exp(-10.05) / math.sqrt(1 - math.exp(-10.05))],
        ),
        linear_table(50): ([-1, -1], [1, 1]),
        TABLES[0]: ([-0.05, float(TABLES[0].rates(1.0)[0])], [math.inf, 0.000408]),
    }
    for schedule, rates in expected.items():
        for found, wanted in zip(schedule.rates(ends), rates, strict=True):
            assert found.tolist() == pytest.approx(wanted, rel=1e-3, abs=1e-12)
    # alpha falls linearly to 0 in the last cell, so sigma has no slope there
    rescaled = ZERO_TERMINAL[1]
    assert float(rescaled.rates(1.0)[0]) == pytest.approx(-1000 * float(rescaled.alpha[-2]))
    assert float(rescaled.rates(1.0)[1]) == 0


@pytest.mark.parametrize("schedule", [*TABLES, *ZERO_TERMINAL], ids=repr)
def test_rate_of_a_table_is_exact_where_its_log_snr_is_not_interpolated(
    schedule: Discrete,
) -> None:
    T = schedule.T
    places = [0.02 / T, 0.5 / T, 0.98 / T]
    if schedule in ZERO_TERMINAL:
        places += [(T - 0.9) / T, (T - 0.5) / T, (T - 0.1) / T]
    for place in places:
        h = 1e-4 / T
        slope = (schedule.logsnr(place + h) - schedule.logsnr(place - h)) / (2 * h)
        assert float(schedule.logsnr_rate(place)) == pytest.approx(float(slope), rel=1e-3)


@pytest.mark.parametrize("schedule", TABLES[:3], ids=repr)
def test_rate_of_a_table_adds_up_to_its_log_snr(schedule: Discrete) -> None:
    t = schedule.time_at(torch.arange(schedule.T))
    change = schedule.logsnr(t).diff()
    mean_rate = (schedule.logsnr_rate(t)[1:] + schedule.logsnr_rate(t)[:-1]) / 2
    inner = slice(50, -50)
    torch.testing.assert_close(mean_rate[inner] / 1000, change[inner], rtol=0.01, atol=0)


@pytest.mark.parametrize("schedule", [*ALL, *ZERO_TERMINAL], ids=repr)
def test_rate_is_negative_and_never_nan(schedule: Schedule) -> None:
    t = torch.linspace(0, 1, 2 * 1000 + 1, dtype=torch.float64)
    rate = schedule.logsnr_rate(t)
    assert bool((rate < 0).all())
    assert math.isinf(float(rate[0]))
    alpha, _ = schedule(1.0)
    assert math.isinf(float(rate[-1])) == (float(alpha) == 0)


@pytest.mark.parametrize("schedule", [*ALL, *ZERO_TERMINAL], ids=repr)
@given(t=st.floats(1e-4, 1.0))
def test_time_inverts_the_log_snr(schedule: Schedule, t: float) -> None:
    assert float(schedule.time(schedule.logsnr(t))) == pytest.approx(t, rel=1e-7)


@pytest.mark.parametrize("schedule", [*ALL, *ZERO_TERMINAL], ids=repr)
def test_float32_times_come_back_also_at_the_ends(schedule: Schedule) -> None:
    t = torch.tensor([1e-3, 0.1, 0.5, 0.9, 1.0])
    back = schedule.time(schedule.logsnr(t))
    assert back.dtype == torch.float32
    torch.testing.assert_close(back, t, rtol=1e-3, atol=1e-5)
    schedule(back)


@pytest.mark.parametrize("schedule", [*ALL, *ZERO_TERMINAL], ids=repr)
@given(t=st.floats(0, 1))
def test_alpha_and_sigma_stay_on_their_path(schedule: Schedule, t: float) -> None:
    alpha, sigma = (float(c) for c in schedule(t))
    length = math.hypot(alpha, sigma) if schedule.path == "vp" else alpha + sigma
    assert length == pytest.approx(1, rel=1e-9)
    assert [float(c) for c in schedule(0.0)] == [1, 0]


@pytest.mark.parametrize("schedule", [*ALL, *ZERO_TERMINAL], ids=repr)
def test_noise_grows_with_time(schedule: Schedule) -> None:
    alpha, sigma = schedule(torch.linspace(0, 1, 3001, dtype=torch.float64))
    assert bool((alpha.diff() < 0).all() and (sigma.diff() > -1e-16).all())
    torch.testing.assert_close(
        schedule.snr(torch.tensor([0.25, 0.75])),
        schedule.logsnr(torch.tensor([0.25, 0.75])).exp(),
    )


@pytest.mark.parametrize("schedule", [*TABLES, *ZERO_TERMINAL], ids=repr)
def test_a_table_is_met_at_its_nodes_and_halved_between_them(schedule: Discrete) -> None:
    k = torch.arange(schedule.T)
    torch.testing.assert_close(schedule(schedule.time_at(k)), schedule.at(k), rtol=1e-9, atol=1e-9)
    assert torch.equal(schedule.index(schedule.time_at(k)), k)
    last = schedule.T - 2 if schedule in ZERO_TERMINAL else schedule.T - 1
    between = (schedule.time_at(k)[:last] + schedule.time_at(k)[1 : last + 1]) / 2
    nodes = 2 * (schedule.alpha / schedule.sigma).log()
    torch.testing.assert_close(
        schedule.logsnr(between), (nodes[:last] + nodes[1 : last + 1]) / 2, rtol=1e-7, atol=1e-7
    )


def test_before_the_first_node_the_noise_grows_linearly() -> None:
    vp, line = schedules.DDPM(), linear_table(50)
    share = f64(0.3)
    assert float(vp(share / 1000)[1] ** 2) == pytest.approx(0.3 * 1e-4, rel=1e-9)
    assert float(line(share / 50)[1]) == pytest.approx(0.3 / 50, rel=1e-9)
    # a flow-match table without shift is the straight line everywhere
    t = torch.linspace(0.001, 0.019, 7, dtype=torch.float64)
    torch.testing.assert_close(line(t), schedules.Linear()(t))


def test_before_a_last_node_without_signal_alpha_falls_linearly() -> None:
    t = f64((50 - 0.25) / 50)
    torch.testing.assert_close(linear_table(50)(t), schedules.Linear()(t))
    alpha, sigma = ZERO_TERMINAL[1](f64((1000 - 0.25) / 1000))
    assert float(alpha) == pytest.approx(0.25 * float(ZERO_TERMINAL[1].alpha[-2]), rel=1e-6)
    assert math.hypot(float(alpha), float(sigma)) == pytest.approx(1, rel=1e-12)


@given(st.floats(-60, 60), st.sampled_from(["vp", "linear"]))
def test_signal_and_noise_have_the_log_snr_asked_for(logsnr: float, path: schedules.Path) -> None:
    alpha, sigma = (float(c) for c in schedules.signal_and_noise(f64(logsnr), path))
    assert 2 * math.log(alpha / sigma) == pytest.approx(logsnr, abs=1e-6)
    assert (math.hypot(alpha, sigma) if path == "vp" else alpha + sigma) == pytest.approx(1)


@given(st.floats(-500, 30))
def test_ou_time_is_half_the_log_of_abar(logsnr: float) -> None:
    time = float(schedules.ou_time(f64(logsnr)))
    # -log(abar) / 2 with abar = 1 / (1 + exp(-logsnr)), in the form that does not round to 0
    assert time == pytest.approx(float(np.logaddexp(0, -logsnr)) / 2, rel=1e-12)
    assert float(schedules.logsnr_from_ou_time(f64(time))) == pytest.approx(logsnr, abs=1e-6)


def test_ou_time_in_float32_is_finite_far_out() -> None:
    assert float(schedules.ou_time(torch.tensor(-200.0))) == pytest.approx(100)
    assert float(schedules.logsnr_from_ou_time(torch.tensor(100.0))) == pytest.approx(-200)


@pytest.mark.parametrize("schedule", ALL, ids=repr)
def test_dtype_and_shape_are_those_of_the_time(schedule: Schedule) -> None:
    t = torch.rand(2, 3, generator=torch.Generator().manual_seed(0)) * 0.8 + 0.1

    def everything(t: Tensor) -> list[Tensor]:
        return [*schedule(t), *schedule.rates(t), schedule.logsnr(t), schedule.logsnr_rate(t)]

    single, double = everything(t), everything(t.double())
    for low, high in zip(single, double, strict=True):
        assert low.dtype == torch.float32 and high.dtype == torch.float64
        torch.testing.assert_close(low.double(), high, rtol=2e-4, atol=1e-4)
    assert schedule(0.5)[0].dtype == torch.float64


BAD = [
    (lambda: schedules.VP()(1.5), ValueError, "time must lie in"),
    (lambda: schedules.VP()(-0.1), ValueError, "time must lie in"),
    (lambda: schedules.Linear()(math.nan), ValueError, "time must lie in"),
    (lambda: schedules.DDPM()(torch.tensor(3)), TypeError, "a time must be a floating-point"),
    (lambda: schedules.DDPM().at(1000), ValueError, r"an index must lie in 0\.\.999"),
    (lambda: schedules.DDPM().at(-1), ValueError, r"an index must lie in 0\.\.999"),
    (lambda: schedules.DDPM().time_at(1000), ValueError, r"an index must lie in 0\.\.999"),
    (lambda: schedules.DDPM().at(torch.tensor(0.5)), TypeError, "an index must be an integer"),
    (lambda: schedules.DDPM().index(1e-5), ValueError, "clean data and has no index"),
    (lambda: schedules.DDPM().time(f64(-11)), ValueError, "log-SNR must be at least -10.1"),
    (lambda: schedules.VP().time(f64(-11)), ValueError, "log-SNR must be at least -10.0"),
    (lambda: schedules.VP(2, 1), ValueError, "betas must satisfy"),
    (lambda: schedules.Cosine(1), ValueError, "T must be an integer of at least 2"),
    (lambda: schedules.DDPM(True), ValueError, "T must be an integer of at least 2"),
    (lambda: Discrete(torch.ones(3), torch.ones(2)), ValueError, "of one shape"),
    (lambda: Discrete(f64(0.6).repeat(3), f64(0.8).repeat(3)), ValueError, "log-SNR that falls"),
    (
        lambda: Discrete(torch.tensor([1.0, 1.0]), torch.tensor([0.5, 2.0])),
        ValueError,
        r"needs alpha\^2 \+ sigma\^2 = 1",
    ),
    (lambda: schedules.from_diffusers(ScoreSdeVeScheduler()), TypeError, "neither alphas_cumprod"),
    (
        lambda: schedules.from_diffusers(FlowMatchEulerDiscreteScheduler(invert_sigmas=True)),
        TypeError,
        "counts noise backwards",
    ),
    (
        lambda: schedules.from_diffusers(DPMSolverMultistepScheduler(use_flow_sigmas=True)),
        TypeError,
        "use_flow_sigmas has no table",
    ),
]


@pytest.mark.parametrize(("call", "error", "message"), BAD)
def test_a_bad_argument_gets_one_sentence(call, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
