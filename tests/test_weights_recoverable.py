import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from erdpaper import schedules, training, weights
from erdpaper.posterior import Gaussian, GaussianMixture, Posterior, RecoverableSignal
from erdpaper.schedules import Schedule, signal_and_noise
from erdpaper.weights import densities
from erdpaper.weights.recoverable import OnlineRecoverability, from_curve

F64 = torch.float64
LINE, GVP, COSINE = schedules.Linear(), schedules.GVP(), schedules.Cosine()
TOY = GaussianMixture.square()
SHIFTED = Gaussian(
    torch.tensor([1.0, 0.5], dtype=F64), torch.diag(torch.tensor([2.0, 0.3]).double())
)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def bin_times(schedule: Schedule, bins: int, each: int) -> Tensor:
    """`each` times spread evenly over every bin; on a table, all of its nodes."""
    if isinstance(schedule, schedules.Discrete):
        return weights.training_times(schedule)
    return (torch.arange(bins * each, dtype=F64) + 0.5) / (bins * each)


def fed(law: Posterior, schedule: Schedule, target: str, bins: int, **more) -> OnlineRecoverability:
    """An estimate that saw the exact optimal loss at evenly spread times."""
    moment = float(law.second_moment()) / law.dim
    online = OnlineRecoverability(schedule, target, moment, bins=bins, **more)
    t = bin_times(schedule, bins, 3)
    online.update(t, law.bayes_floor(*schedule(t), target) / law.dim)
    return online


def rms(law: Posterior, schedule: Schedule, t: Tensor, target: str) -> Tensor:
    """The exact recoverable amplitude."""
    return (law.recoverable_energy(*schedule(t), target) / law.dim).sqrt()


@given(st.integers(2, 9), st.integers(0, 500))
def test_a_curve_is_interpolated_like_numpy_does(n: int, seed: int) -> None:
    g = generator(seed)
    nodes = (4 * torch.randn(n, generator=g, dtype=F64)).sort().values
    values = torch.rand(n, generator=g, dtype=F64) + 0.01
    level = 20 * torch.rand(40, generator=g, dtype=F64) - 10
    alpha, sigma = signal_and_noise(level, "linear")
    found = from_curve(nodes, values)(alpha, sigma, "v")
    expected = np.interp(level.numpy(), nodes.numpy(), values.numpy())
    torch.testing.assert_close(found, torch.from_numpy(expected), rtol=1e-7, atol=1e-9)


def test_a_curve_is_constant_beyond_its_ends_and_keeps_precision() -> None:
    fn = from_curve(torch.tensor([-2.0, 3.0]), torch.tensor([0.25, 0.75]))
    assert float(fn(1.0, 0.0, "x0")) == 0.75 and float(fn(0.0, 1.0, "x0")) == 0.25
    assert fn(torch.tensor([0.3]), torch.tensor([0.8]), "eps").dtype == torch.float32


@pytest.mark.parametrize("target", ["x0", "eps", "v", "u"])
def test_a_curve_of_the_toy_weighs_as_its_exact_posterior(target: str) -> None:
    nodes = torch.arange(-10, 10.01, 0.5, dtype=F64)
    level = signal_and_noise(nodes, "vp")
    curve = RecoverableSignal.of(TOY, nodes).rms(*level, target)
    weight = weights.normalised(from_curve(nodes, curve), GVP, target)
    t = torch.linspace(0.05, 0.95, 13, dtype=F64)
    found, exact = weight(t), rms(TOY, GVP, t, target)
    torch.testing.assert_close(found / found.mean(), exact / exact.mean(), rtol=0, atol=0.02)


GAUSSIAN = [
    *((schedule, target) for schedule in (LINE, GVP, COSINE) for target in ("x0", "eps")),
    (LINE, "u"),
]


@pytest.mark.parametrize(("schedule", "target"), GAUSSIAN)
def test_optimal_losses_of_a_gaussian_give_the_closed_form(schedule: Schedule, target: str) -> None:
    bins = 1000 if schedule is COSINE else 400
    online = fed(Gaussian.standard(3), schedule, target, bins)
    t = bin_times(schedule, bins, 1)
    alpha, sigma = schedule(t)
    c_x, c_eps = {"x0": (1, 0), "eps": (0, 1), "u": (-1, 1)}[target]
    exact = (c_x * alpha + c_eps * sigma).abs() / torch.hypot(alpha, sigma)
    if schedule is COSINE:
        # one node a bin, where energy less loss is known to rounding, which the root widens
        torch.testing.assert_close(online(t), exact / exact.mean(), rtol=1e-6, atol=1e-7)
    else:
        torch.testing.assert_close(online(t), exact / exact.mean(), rtol=0, atol=4e-3)


def test_more_bins_come_closer_with_the_square_of_their_number() -> None:
    t = torch.linspace(0.1, 0.9, 321, dtype=F64)
    exact = rms(SHIFTED, GVP, t, "v")
    worst = []
    for bins in (20, 40, 80):
        # unscaled, for the scale has an error of its own
        online = fed(SHIFTED, GVP, "v", bins)
        found = online(t) * online._scale
        worst.append(float((found - exact).abs().max()))
    assert worst[0] < 0.02
    assert worst[1] < 0.35 * worst[0] and worst[2] < 0.35 * worst[1]


@pytest.mark.parametrize("target", ["x0", "eps", "v", "u"])
def test_optimal_losses_of_the_toy_give_its_exact_recoverability(target: str) -> None:
    table = schedules.Cosine(40)
    online = fed(TOY, table, target, 40)
    t = weights.training_times(table)
    exact = rms(TOY, table, t, target)
    torch.testing.assert_close(online(t), exact / exact.mean(), rtol=1e-6, atol=1e-7)


def test_sampled_errors_of_the_best_network_of_the_toy() -> None:
    online = OnlineRecoverability(GVP, "eps", 4.09, bins=10, rate=1e-5)
    g = generator(1)
    for _ in range(10):
        x0, eps = TOY.sample(4_000, g), torch.randn(4_000, 2, generator=g, dtype=F64)
        t = torch.rand(4_000, generator=g, dtype=F64)
        alpha, sigma = GVP(t)
        x = alpha[:, None] * x0 + sigma[:, None] * eps
        best = TOY.posterior_mean(x, alpha, sigma, "eps")
        online.update(t, (best - eps).square().mean(1))
    times, loss = online.loss()
    inner = (torch.arange(10, dtype=F64)[:, None] + torch.linspace(0.1, 0.9, 5).double()) / 10
    floors = TOY.bayes_floor(*GVP(inner.flatten()), "eps").reshape(10, 5).mean(1) / 2
    torch.testing.assert_close(times, (torch.arange(10, dtype=F64) + 0.5) / 10)
    # 4000 samples a bin, whose errors spread by about 1 / sqrt(d)
    torch.testing.assert_close(loss, floors, rtol=0, atol=4 / (2 * 4_000) ** 0.5)


@pytest.mark.parametrize("density", [None, densities.logit_normal(0.5, 0.8)])
@pytest.mark.parametrize("schedule", [LINE, COSINE], ids=repr)
def test_mean_1_over_the_times_of_training(
    schedule: Schedule, density: densities.Density | None
) -> None:
    online = fed(SHIFTED, schedule, "x0", 25, density=density)
    t = weights.training_times(schedule)
    times = training.uniform_times() if density is None else training.density_times(density)
    drawn = training.Objective(schedule, "x0", online, times).batch(
        torch.zeros(100_000, 1), generator(2)
    )
    tolerance = 4 * float(drawn.weight.std()) / 100_000**0.5
    assert float(drawn.weight.double().mean()) == pytest.approx(1, abs=tolerance)
    if density is None:
        assert float(online(t).mean()) == pytest.approx(1, abs=1e-4)


def test_bins_without_a_sample_have_weight_1() -> None:
    online = OnlineRecoverability(LINE, "x0", 1.0, bins=4)
    t = torch.tensor([0.1, 0.3, 0.6, 0.9], dtype=F64)
    assert online(t).tolist() == [1, 1, 1, 1]
    online.update(torch.tensor([0.1, 0.6]), torch.tensor([0.19, 0.64]))
    weight = online(t)
    assert weight[[1, 3]].tolist() == [1, 1]
    # 0.9 and 0.6, linear in the loss between the middles of the two bins that are known
    assert float(online(0.125) / online(0.625)) == pytest.approx(0.9 / 0.6)
    seen = torch.cat([torch.linspace(0, 0.25, 5001)[:-1], torch.linspace(0.5, 0.75, 5001)[:-1]])
    assert float(online(seen.double()).mean()) == pytest.approx(1, abs=1e-3)
    assert bool(online.loss()[1].isnan().tolist() == [False, True, False, True])


def test_nothing_recovered_is_weight_0_and_nowhere_anything_is_weight_1() -> None:
    online = OnlineRecoverability(LINE, "eps", 1.0, bins=2)
    t = torch.tensor([0.2, 0.8], dtype=F64)
    online.update(t, torch.tensor([1.5, 2.0]))
    assert online(t).tolist() == [1, 1]
    online.update(t[1:].repeat(100_000), torch.zeros(100_000))
    weight = online(torch.tensor([0.2, 0.9], dtype=F64))
    assert float(weight[0]) == 0 and float(weight[1]) > 1


@settings(max_examples=30)
@given(st.integers(1, 40), st.integers(1, 6), st.floats(0.001, 0.5), st.integers(0, 100))
def test_the_running_mean_is_that_of_one_sample_at_a_time(
    n: int, bins: int, rate: float, seed: int
) -> None:
    t = torch.rand(n, generator=generator(seed), dtype=F64)
    error = torch.rand(n, generator=generator(seed + 1), dtype=F64)
    online = OnlineRecoverability(LINE, "u", 2.0, bins=bins, rate=rate)
    seen: list[list[float]] = [[] for _ in range(bins)]
    for time, value in zip(t, error, strict=True):
        online.update(time, value)
        seen[int(time * bins)].append(float(value))
    for values, found in zip(seen, online.loss()[1].tolist(), strict=True):
        if values:
            shares = (1 - rate) ** np.arange(len(values))[::-1]
            assert found == pytest.approx(np.average(values, weights=shares), rel=1e-9)
        else:
            assert math.isnan(found)


def test_samples_of_one_call_count_alike() -> None:
    first, second = (OnlineRecoverability(LINE, "u", 2.0, bins=1, rate=0.3) for _ in range(2))
    errors = torch.tensor([1.0, 5.0, 3.0])
    for online, order in ((first, [0, 1, 2]), (second, [2, 0, 1])):
        online.update(torch.full((3,), 0.5), torch.ones(3))
        online.update(torch.full((3,), 0.5), errors[order])
    # old samples count 0.7^3, new ones the rest
    old, new = 0.7**3 * (1 - 0.7**3), 1 - 0.7**3
    expected = (old * 1 + new * 3) / (old + new)
    assert float(first.loss()[1]) == pytest.approx(expected)
    assert float(second.loss()[1]) == pytest.approx(expected)


def test_it_goes_on_from_its_state_bit_for_bit() -> None:
    def updates(online: OnlineRecoverability, steps: range) -> None:
        for step in steps:
            t = torch.rand(64, generator=generator(step))
            online.update(t, t.square() + 0.1 * torch.rand(64, generator=generator(step + 99)))

    whole, first, second = (OnlineRecoverability(GVP, "eps", 0.7, bins=16) for _ in range(3))
    updates(whole, range(20))
    updates(first, range(10))
    state = first.state_dict()
    updates(first, range(10, 20))
    second.load_state_dict(state)
    updates(second, range(10, 20))
    t = torch.linspace(0, 1, 101)
    for other in (first, second):
        assert torch.equal(whole(t), other(t))
        for name, value in whole.state_dict().items():
            assert torch.equal(value, other.state_dict()[name])


def test_no_gradient_flows_and_dtype_and_shape_are_those_of_t() -> None:
    online = OnlineRecoverability(COSINE, "v", 1.0, bins=10)
    t = torch.full((3, 4), 0.25, requires_grad=True)
    online.update(t, (t - 1).square())
    weight = online(t)
    assert weight.dtype == torch.float32 and weight.shape == (3, 4) and not weight.requires_grad
    # a node of the table is in one bin, whatever the precision of its time
    nodes = weights.training_times(COSINE)
    assert torch.equal(online(nodes).float(), online(nodes.float()))
    torch.testing.assert_close(online(nodes.float()).double(), online(nodes), rtol=1e-6, atol=1e-6)


CURVE = torch.tensor([0.0, 1.0]), torch.tensor([1.0, 2.0])
BAD = [
    (lambda: from_curve(CURVE[0], CURVE[1][:1]), r"one shape \(L,\) with L >= 2"),
    (lambda: from_curve(-CURVE[0], CURVE[1]), "must be finite and rise"),
    (lambda: from_curve(CURVE[0], -CURVE[1]), "at least 0 and not all 0"),
    (lambda: from_curve(CURVE[0], 0 * CURVE[1]), "at least 0 and not all 0"),
    (lambda: from_curve(*CURVE)(0.5, 0.5, "noise"), "unknown target 'noise'"),
    (lambda: OnlineRecoverability(LINE, "v", 0.0), "second_moment must be positive and finite"),
    (lambda: OnlineRecoverability(LINE, "v", 1.0, bins=0), r"bins must lie in 1\.\.4096"),
    (lambda: OnlineRecoverability(COSINE, "v", 1.0, bins=1001), r"1\.\.1000 on Cosine.* got 1001"),
    (lambda: OnlineRecoverability(LINE, "v", 1.0, rate=1.0), "rate must lie between 0 and 1"),
    (
        lambda: OnlineRecoverability(LINE, "v", 1.0).update(torch.rand(3), torch.rand(2)),
        "one error per time is needed, got 2 for 3",
    ),
    (
        lambda: OnlineRecoverability(LINE, "v", 1.0).update(0.5, torch.tensor(math.nan)),
        "squared errors must be finite and at least 0",
    ),
    (
        lambda: OnlineRecoverability(LINE, "v", 1.0).load_state_dict({"error": torch.zeros(64)}),
        r"a state holds error and count, float64 of shape \(64,\)",
    ),
]


@pytest.mark.parametrize(("call", "message"), BAD)
def test_a_bad_argument_gets_one_sentence(call, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
