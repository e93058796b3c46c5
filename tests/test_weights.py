import itertools
import math
from functools import partial

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
)
from diffusers.training_utils import compute_snr
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad
from torch import Tensor

from erdpaper import schedules, weights
from erdpaper.schedules import Schedule

TARGETS = ["x0", "eps", "v", "u"]
CONTINUOUS = [schedules.Linear(), schedules.VP(), schedules.GVP()]
FLOW = schedules.from_diffusers(FlowMatchEulerDiscreteScheduler(num_train_timesteps=100, shift=3))
TABLES = [schedules.DDPM(), schedules.Cosine(), schedules.StableDiffusion(), FLOW]
interior = st.tuples(st.floats(1e-3, 2), st.floats(1e-3, 2))


def f64(x: float) -> Tensor:
    return torch.tensor(x, dtype=torch.float64)


@given(interior)
def test_erd_is_its_four_formulas(level: tuple[float, float]) -> None:
    alpha, sigma = level
    length = math.hypot(alpha, sigma)
    expected = {"x0": alpha, "eps": sigma, "v": math.sqrt(2) * alpha * sigma, "u": length}
    for target, score in expected.items():
        assert float(weights.erd(alpha, sigma, target)) == pytest.approx(score)


@given(interior, st.floats(0.5, 20))
def test_min_snr_formulas_on_a_vp_path(level: tuple[float, float], gamma: float) -> None:
    angle = math.atan2(*level)
    alpha, sigma = math.cos(angle), math.sin(angle)
    snr = (alpha / sigma) ** 2
    expected = {
        "x0": min(snr, gamma),
        "eps": min(snr, gamma) / snr,
        "v": min(snr, gamma) / (snr + 1),
        "u": min(snr, gamma) * sigma**2 / (alpha + sigma) ** 2,
    }
    for target, weight in expected.items():
        assert float(weights.min_snr(alpha, sigma, target, gamma)) == pytest.approx(weight)


@given(interior, st.floats(0, 2), st.floats(0.2, 3))
def test_p2_formulas_on_a_vp_path(level: tuple[float, float], gamma: float, k: float) -> None:
    angle = math.atan2(*level)
    alpha, sigma = math.cos(angle), math.sin(angle)
    snr = (alpha / sigma) ** 2
    base = 1 / (k + snr) ** gamma
    expected = {
        "x0": snr * base,
        "eps": base,
        "v": snr / (snr + 1) * base,
        "u": snr * base * sigma**2 / (alpha + sigma) ** 2,
    }
    for target, weight in expected.items():
        assert float(weights.p2(alpha, sigma, target, gamma, k)) == pytest.approx(weight)


@pytest.mark.parametrize("fn", [weights.min_snr, weights.p2, partial(weights.p2, gamma=0.5, k=2.0)])
@given(level=interior)
def test_baselines_weigh_the_x0_error_alike_for_every_target(
    fn: weights.Weight, level: tuple[float, float]
) -> None:
    alpha, sigma = level
    means = []
    for target, (c_x, c_eps) in {
        "x0": (1.0, 0.0),
        "eps": (0.0, 1.0),
        "v": (-sigma, alpha),
        "u": (-1.0, 1.0),
    }.items():
        # at fixed x_t, eps moves by -alpha / sigma when x_0 moves by 1
        slope = c_x - c_eps * alpha / sigma
        means.append(float(fn(alpha, sigma, target)) * slope**2)
    assert means == pytest.approx([means[0]] * 4, rel=1e-9)


def test_erd_for_eps_is_p2_of_one_half_on_vp_paths_and_constant_for_u() -> None:
    t = torch.linspace(0.001, 0.999, 50, dtype=torch.float64)
    for schedule in (schedules.VP(), schedules.GVP(), schedules.Cosine(), schedules.DDPM()):
        level = schedule(t)
        torch.testing.assert_close(
            weights.erd(*level, "eps"), weights.p2(*level, "eps", gamma=0.5), rtol=1e-9, atol=0
        )
        torch.testing.assert_close(weights.erd(*level, "u"), torch.ones_like(t))


LIMITS = [
    ("erd", "x0", 1, 0),
    ("erd", "eps", 0, 1),
    ("erd", "v", 0, 0),
    ("erd", "u", 1, 1),
    ("min_snr", "x0", 5, 0),
    ("min_snr", "eps", 0, 1),
    ("min_snr", "v", 0, 0),
    ("min_snr", "u", 0, 0),
    ("p2", "x0", 1, 0),
    ("p2", "eps", 0, 1),
    ("p2", "v", 0, 0),
    ("p2", "u", 0, 0),
    ("uniform", "v", 1, 1),
]


@pytest.mark.parametrize(("method", "target", "at_data", "at_noise"), LIMITS)
def test_limits_at_both_ends(method: str, target: str, at_data: float, at_noise: float) -> None:
    fn = weights.METHODS[method]
    assert float(fn(1.0, 0.0, target)) == at_data
    assert float(fn(0.0, 1.0, target)) == at_noise
    # and the ends are limits: no jump on the way
    near = 1e-7
    assert float(fn(1.0, near, target)) == pytest.approx(at_data, abs=1e-5)
    assert float(fn(near, 1.0, target)) == pytest.approx(at_noise, abs=1e-5)


@pytest.mark.parametrize(("gamma", "limit"), [(0.5, math.inf), (1.5, 0.0), (0.0, math.inf)])
def test_p2_for_x0_at_clean_data(gamma: float, limit: float) -> None:
    assert float(weights.p2(1.0, 0.0, "x0", gamma)) == limit
    assert float(weights.p2(1.0, 0.0, "eps", 0.0)) == 1


@pytest.mark.parametrize("allocation", ["t", "logsnr"])
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("schedule", TABLES, ids=repr)
@pytest.mark.parametrize("method", weights.METHODS)
def test_normalised_has_mean_1_over_a_table(
    method: str, schedule: schedules.Discrete, target: str, allocation: weights.Allocation
) -> None:
    weight = weights.normalised(weights.METHODS[method], schedule, target, allocation)
    values = weight(torch.arange(1, schedule.T + 1, dtype=torch.float64) / schedule.T)
    assert float(values.mean()) == pytest.approx(1, rel=1e-9)


@pytest.mark.parametrize("allocation", ["t", "logsnr"])
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("schedule", CONTINUOUS, ids=repr)
@pytest.mark.parametrize("method", weights.METHODS)
def test_normalised_has_mean_1_over_continuous_time(
    method: str, schedule: Schedule, target: str, allocation: weights.Allocation
) -> None:
    weight = weights.normalised(weights.METHODS[method], schedule, target, allocation)
    low = max(-10.0, float(schedule.logsnr(1.0)))
    first, last = (float(schedule.time(f64(x))) for x in (10.0, low))
    # the logsnr reading jumps to 0 at the ends of its range; between them all is smooth
    ends = (0.0, 1.0) if allocation == "t" else (first + 1e-12, last - 1e-12)
    knee = float(schedule.time(f64(math.log(5))))  # of Min-SNR
    marks = sorted({ends[0], first + 1e-12, 3 * first, 30 * first, knee, last - 1e-12, ends[1]})
    total = sum(
        quad(lambda t: float(weight(t)), a, b, epsrel=1e-7, limit=200)[0]
        for a, b in itertools.pairwise(marks)
        if b > a
    )
    assert total == pytest.approx(1, abs=2e-5)


@pytest.mark.parametrize("schedule", [*CONTINUOUS, *TABLES], ids=repr)
def test_the_log_snr_reading_is_the_score_over_the_density_of_log_snr(schedule: Schedule) -> None:
    weight = weights.normalised(weights.erd, schedule, "v", "logsnr")
    t = torch.linspace(0.15, 0.85, 15, dtype=torch.float64)
    alpha, sigma = schedule(t)
    inside = (alpha / sigma).log().abs() < 5
    expected = alpha * sigma * schedule.logsnr_rate(t).abs() * inside
    ratio = weight(t)[inside] / expected[inside]
    torch.testing.assert_close(ratio, ratio[0].expand_as(ratio))
    assert bool((weight(t)[~inside] == 0).all())


def test_the_log_snr_reading_is_zero_outside_its_range() -> None:
    schedule = schedules.Linear()
    weight = weights.normalised(weights.erd, schedule, "eps", "logsnr", (-4.0, 3.0))
    edges = schedule.time(torch.tensor([3.0001, 2.9999, -3.9999, -4.0001], dtype=torch.float64))
    values = weight(edges)
    assert values[0] == 0 and values[3] == 0 and values[1] > 0 and values[2] > 0
    assert [float(weight(t)) for t in (0.0, 1.0)] == [0, 0]
    # sigma on log-SNR has the integral of sigma(lambda) as its scale, known in closed form
    scale = 2 * (math.log1p(math.exp(4 / 2)) - math.log1p(math.exp(-3 / 2)))
    assert float(weight(0.5)) == pytest.approx(0.5 * 8 / scale, rel=1e-6)


def steps(T: int) -> Tensor:
    return torch.arange(T)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("gamma", [1.0, 5.0])
def test_min_snr_is_that_of_the_training_scripts_of_diffusers(kind: str, gamma: float) -> None:
    scheduler = DDPMScheduler(beta_schedule="scaled_linear", prediction_type=kind)
    snr = compute_snr(scheduler, steps(1000))
    theirs = torch.stack([snr, gamma * torch.ones(1000)], 1).min(1).values
    theirs = theirs / (snr if kind == "epsilon" else snr + 1)
    ours = weights.for_scheduler(scheduler, steps(1000), "min_snr", gamma=gamma)
    torch.testing.assert_close(ours, theirs / theirs.mean(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "scheduler",
    [
        DDPMScheduler(prediction_type="sample"),
        DDIMScheduler(beta_schedule="squaredcos_cap_v2", prediction_type="epsilon"),
        DPMSolverMultistepScheduler(prediction_type="v_prediction"),
        DDIMScheduler(rescale_betas_zero_snr=True, prediction_type="v_prediction"),
    ],
    ids=lambda s: type(s).__name__,
)
def test_erd_for_a_scheduler_follows_its_own_table(scheduler: DDPMScheduler) -> None:
    abar = scheduler.alphas_cumprod.double()
    raw = {
        "sample": abar.sqrt(),
        "epsilon": (1 - abar).sqrt(),
        "v_prediction": (abar * (1 - abar)).sqrt(),
    }[scheduler.config.prediction_type]
    drawn = torch.tensor([[999, 3], [500, 0]])
    ours = weights.for_scheduler(scheduler, drawn)
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, (raw / raw.mean())[drawn].float(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_erd_for_a_flow_match_scheduler(shift: float) -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    sigma = scheduler.sigmas.double()
    raw = torch.hypot(1 - sigma, sigma)
    ours = weights.for_scheduler(scheduler, scheduler.timesteps)
    torch.testing.assert_close(ours, (raw / raw.mean()).float(), rtol=1e-4, atol=0)


@pytest.mark.parametrize(
    "scheduler",
    [
        FlowMatchEulerDiscreteScheduler(shift=3.0),
        FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        FlowMatchHeunDiscreteScheduler(),
    ],
    ids=["shifted", "dynamic", "Heun"],
)
def test_a_flow_match_scheduler_takes_its_timesteps_and_no_indices(scheduler) -> None:
    drawn = torch.tensor([0, 400, 999])
    whole = weights.for_scheduler(scheduler, scheduler.timesteps, "min_snr")
    # what diffusers' training scripts do: an index picks the timestep that the model is shown
    part = weights.for_scheduler(scheduler, scheduler.timesteps[drawn], "min_snr")
    torch.testing.assert_close(part, whole[drawn])
    for integers in (drawn, drawn.int(), [1, 2, 3], drawn == 400):
        with pytest.raises(ValueError, match="not indices, got torch"):
            weights.for_scheduler(scheduler, integers)
    if isinstance(scheduler, FlowMatchEulerDiscreteScheduler):
        # as does the scheduler itself
        with pytest.raises(ValueError, match="integer indices"):
            scheduler.step(torch.zeros(1), 3, torch.zeros(1))


def test_weights_do_not_depend_on_the_batch_or_on_inference_steps() -> None:
    scheduler = DDPMScheduler()
    whole = weights.for_scheduler(scheduler, steps(1000), "p2", "logsnr", gamma=0.5)
    scheduler.set_timesteps(10)
    part = weights.for_scheduler(scheduler, torch.tensor([7, 650]), "p2", "logsnr", gamma=0.5)
    assert torch.equal(part, whole[[7, 650]])
    assert float(whole.double().mean()) == pytest.approx(1, rel=1e-5)


def strange() -> DDPMScheduler:
    scheduler = DDPMScheduler()
    scheduler.register_to_config(prediction_type="flow_prediction")
    return scheduler


LINE = schedules.Linear()
BAD = [
    (lambda: weights.erd(0.5, 0.5, "noise"), "unknown target 'noise'"),
    (lambda: weights.uniform(0.5, 0.5, "noise"), "unknown target 'noise'"),
    (lambda: weights.min_snr(0.5, 0.5, "v", gamma=0), "gamma must be positive, got 0"),
    (lambda: weights.p2(0.5, 0.5, "v", gamma=-1), "P2 needs gamma >= 0 and k > 0"),
    (lambda: weights.p2(0.5, 0.5, "v", k=0), "P2 needs gamma >= 0 and k > 0"),
    (lambda: weights.normalised(weights.erd, LINE, "v", "lambda"), "allocation must be 't' or"),
    (
        lambda: weights.normalised(weights.erd, LINE, "v", "logsnr", (3.0, -3.0)),
        "low < high",
    ),
    # SNR^(1/2) near t = 0 is 1 / t, whose integral diverges, and SNR is 1 / t^2
    (
        lambda: weights.normalised(partial(weights.p2, gamma=0.5), LINE, "x0"),
        "p2 for x0 on Linear.* has no finite positive mean",
    ),
    (
        lambda: weights.normalised(partial(weights.p2, gamma=0.0), LINE, "x0"),
        "has no finite positive mean",
    ),
    (
        lambda: weights.normalised(weights.erd, LINE, "eps", "logsnr", (-math.inf, 10.0)),
        "logsnr_range must be finite",
    ),
    (
        lambda: weights.normalised(weights.erd, schedules.VP(), "eps", "logsnr", (-30.0, -20.0)),
        "has no finite positive mean",
    ),
    (lambda: weights.for_scheduler(DDPMScheduler(), steps(3), "best"), "unknown method 'best'"),
    (
        lambda: weights.for_scheduler(DDPMScheduler(), steps(3), gamma=3),
        "method 'erd' takes no options, not gamma",
    ),
    (
        lambda: weights.for_scheduler(DDPMScheduler(), steps(3), "p2", gamma=1, q=3),
        "method 'p2' takes the options gamma, k, not q",
    ),
    (lambda: weights.for_scheduler(strange(), steps(3)), "prediction_type 'flow_prediction'"),
    (lambda: weights.for_scheduler(DDPMScheduler(), steps(1001)), r"must lie in 0\.\.999"),
    (lambda: weights.for_scheduler(DDPMScheduler(), torch.tensor([-1])), r"must lie in 0\.\.999"),
    (lambda: weights.for_scheduler(DDPMScheduler(), torch.tensor([0.5])), "must be whole numbers"),
    (
        lambda: weights.for_scheduler(FlowMatchEulerDiscreteScheduler(), torch.tensor([1000.5])),
        "flow-match timesteps must lie in the training table",
    ),
    (
        lambda: weights.for_scheduler(FlowMatchEulerDiscreteScheduler(), torch.tensor([0.0])),
        "flow-match timesteps must lie in the training table",
    ),
    # some lie in its range, but an index counts from the noisiest
    (
        lambda: weights.for_scheduler(FlowMatchEulerDiscreteScheduler(), 1 + steps(1000)),
        r"must be floating-point values of scheduler.timesteps, not indices, got torch\.int64",
    ),
]


@pytest.mark.parametrize(("call", "message"), BAD)
def test_a_bad_argument_gets_one_sentence(call, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
