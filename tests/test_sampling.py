"""Denoisers, hooks, recorder, grids and refusals; the solvers have a file of their own."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from erdpaper import sampling, schedules, targets
from erdpaper.posterior import GaussianMixture
from erdpaper.sampling import Hooks, Prediction, Recorder, base, times
from erdpaper.schedules import Schedule

F64 = torch.float64
SQUARE = GaussianMixture.square()
LINEAR, VP = schedules.Linear(), schedules.VP()
PATHS = [LINEAR, VP, schedules.GVP(), schedules.DDPM()]
SAMPLERS: dict[str, Callable[..., Tensor]] = {
    "ddim": sampling.ddim,
    "ddpm": sampling.ddpm,
    "heun": sampling.heun,
    "euler": sampling.euler,
    "sde": sampling.sde,
    "annealed": lambda *args, **more: sampling.annealed_langevin(
        *args, steps=2, step_size=0.1, **more
    ),
    "langevin": lambda denoise, x, schedule, grid, *args, **more: sampling.langevin(
        denoise, x, schedule, grid[0], 3, 0.1, *args, **more
    ),
}
GRID = [0.9, 0.5, 0.3]
CALLS = {
    **{name: [0.9, 0.5] for name in ("ddim", "ddpm", "euler", "sde")},
    "heun": [0.9, 0.5, 0.5, 0.3],
    "annealed": [0.9, 0.9, 0.5, 0.5, 0.3, 0.3],
    "langevin": [0.9, 0.9, 0.9],
}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=generator(seed), dtype=F64)


class Oracle(nn.Module):
    """The best possible network for a target, and what it was last called with."""

    def __init__(self, schedule: Schedule, target: str) -> None:
        super().__init__()
        self.schedule, self.target = schedule, target
        self.factor = nn.Parameter(torch.ones(()))
        self.seen: tuple[Any, ...] = ()

    def forward(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        self.seen = (x, t, label)
        return self.factor.to(x) * SQUARE.posterior_mean(x, *self.schedule(t), self.target)


@pytest.mark.parametrize("target", targets.ALL, ids=lambda t: t.name)
@pytest.mark.parametrize("schedule", PATHS, ids=repr)
def test_a_perfect_network_is_the_exact_denoiser(schedule: Schedule, target) -> None:
    x = 2 * normal(7, 2)
    denoise = sampling.from_model(Oracle(schedule, target.name), schedule, target)
    for t in (0.05, 0.5, 0.97):
        expected = sampling.exact(SQUARE, schedule)(x, t)
        torch.testing.assert_close(denoise(x, t), expected, rtol=1e-7, atol=1e-7)
        alpha, sigma = schedule(t)
        torch.testing.assert_close(alpha * expected.x0 + sigma * expected.eps, x)


def test_a_network_is_called_with_its_label_in_the_dtype_of_the_state() -> None:
    model, label = Oracle(VP, "v"), torch.arange(4)
    for dtype in (torch.float32, F64):
        x = normal(4, 2).to(dtype)
        answer = sampling.from_model(model, VP, "v", label)(x, 0.25)
        shown, t, given_label = model.seen
        assert shown is x and given_label is label
        assert t.dtype == dtype and t.tolist() == [0.25] * 4
        assert [part.dtype for part in answer] == [dtype] * 2
        assert not any(part.requires_grad for part in answer)
    assert sampling.from_model(model, VP, "v")(x, 0.25) and model.seen[2] is None


def test_networks_work_at_the_ends_where_their_target_allows() -> None:
    x = normal(3, 2)
    for target in ("x0", "v", "u"):
        noise = sampling.from_model(Oracle(LINEAR, target), LINEAR, target)(x, 1.0)
        torch.testing.assert_close(noise.eps, x)
        torch.testing.assert_close(noise.x0, torch.zeros_like(x), rtol=0, atol=1e-12)
    for target in ("eps", "v", "u"):
        data = sampling.from_model(Oracle(LINEAR, target), LINEAR, target)(x, 0.0)
        torch.testing.assert_close(data.x0, x)
    # v = -x_0 where alpha = 0
    hidden = sampling.from_model(Constant(), LINEAR, "v")(x, 1.0)
    torch.testing.assert_close(hidden, Prediction(-torch.ones_like(x), x))


def logged(log: list[Any]) -> tuple[sampling.Denoiser, Hooks]:
    """A denoiser and hooks that write down what they see."""

    def denoise(x: Tensor, t: float) -> Prediction:
        log.append(("call", t, x))
        return Prediction(torch.full_like(x, 0.5), torch.full_like(x, 0.25))

    def on_state(x: Tensor, t: float) -> Tensor:
        log.append(("before", t, x))
        return x + 1

    def on_prediction(x: Tensor, t: float, prediction: Prediction) -> Prediction:
        log.append(("after", t, x, prediction))
        return Prediction(prediction.x0 + 2, prediction.eps + 4)

    return denoise, Hooks(on_state, on_prediction)


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_call_passes_both_hooks_in_order(name: str) -> None:
    log: list[Any] = []
    denoise, hooks = logged(log)
    SAMPLERS[name](denoise, normal(3, 2), LINEAR, GRID, generator(), hooks=hooks)
    assert [entry[0] for entry in log] == ["before", "call", "after"] * len(CALLS[name])
    for i, t in enumerate(CALLS[name]):
        before, call, after = log[3 * i : 3 * i + 3]
        assert before[1] == call[1] == after[1] == t
        assert torch.equal(call[2], before[2] + 1) and after[2] is call[2]
        assert float(after[3].x0[0, 0]) == 0.5


@pytest.mark.parametrize("name", SAMPLERS)
def test_hooks_change_the_state_and_what_the_sampler_is_told(name: str) -> None:
    denoise, hooks = logged([])

    def moved(x: Tensor, t: float) -> Prediction:
        return Prediction(torch.full_like(x, 2.5), torch.full_like(x, 4.25))

    def run(denoise: sampling.Denoiser, x: Tensor, hooks: Hooks) -> Tensor:
        return SAMPLERS[name](denoise, x, LINEAR, GRID, generator(), hooks=hooks)

    x = normal(3, 2)
    told = run(denoise, x, Hooks(on_prediction=hooks.on_prediction))
    torch.testing.assert_close(told, run(moved, x, Hooks()))
    assert not torch.allclose(told, run(denoise, x, Hooks()))
    # a shift at the first time only is a shift of the start
    first = Hooks(on_state=lambda x, t: x + (t == 0.9))
    if name != "langevin":
        start = x + (2 if name == "annealed" else 1)
        torch.testing.assert_close(run(denoise, x, first), run(denoise, start, Hooks()))


def test_the_second_call_of_heun_passes_the_hooks_too() -> None:
    def at_trial(x: Tensor, t: float, prediction: Prediction) -> Prediction:
        return Prediction(prediction.x0, prediction.eps + 1) if t == 0.5 else prediction

    x = normal(3, 2)
    exact = sampling.exact(SQUARE, LINEAR)
    plain = sampling.heun(exact, x, LINEAR, [0.9, 0.5])
    told = sampling.heun(exact, x, LINEAR, [0.9, 0.5], hooks=Hooks(on_prediction=at_trial))
    # half of alpha' (k' - k), the step that the trapezoid rule gives to the second call
    torch.testing.assert_close(told - plain, torch.full_like(x, 0.5 * (0.5 / 0.5 - 0.9 / 0.1) / 2))


def test_a_recorder_keeps_what_the_sampler_saw() -> None:
    recorder, some = Recorder(), Recorder(calls=range(0, 4, 2))
    x = normal(5, 2)
    denoise = sampling.exact(SQUARE, VP)
    end = sampling.ddim(denoise, x, VP, GRID, hooks=Hooks(on_prediction=recorder))
    assert torch.equal(end, sampling.ddim(denoise, x, VP, GRID))
    assert recorder.times.tolist() == GRID[:2]
    assert recorder.states.shape == recorder.endpoints.shape == (2, 5, 2)
    middle = sampling.ddim(denoise, x, VP, GRID[:2])
    assert torch.equal(recorder.states, torch.stack([x, middle]))
    x0 = torch.stack([denoise(x, 0.9).x0, denoise(middle, 0.5).x0])
    assert torch.equal(recorder.endpoints, x0)
    assert torch.equal(recorder.residuals, x0 - recorder.states)
    sampling.heun(denoise, x, VP, GRID, hooks=Hooks(on_prediction=some))
    corrected = sampling.heun(denoise, x, VP, GRID[:2])
    assert some.times.tolist() == GRID[:2]
    assert torch.equal(some.states, torch.stack([x, corrected]))


def test_a_record_outlives_changes_in_place() -> None:
    recorder = Recorder()
    prediction = Prediction(torch.ones(2, 1), torch.zeros(2, 1))
    x = torch.ones(2, 1, requires_grad=True)
    recorder(x, 0.5, prediction)
    prediction.x0.zero_()
    assert recorder.endpoints.tolist() == [[[1], [1]]] and not recorder.states.requires_grad


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_the_state_keeps_its_dtype_and_the_generator_decides(name: str, dtype) -> None:
    x = normal(50, 2).to(dtype)
    denoise = sampling.exact(SQUARE, VP)
    ends = [SAMPLERS[name](denoise, x, VP, GRID, generator(seed)) for seed in (1, 1, 2)]
    assert ends[0].dtype == dtype and ends[0].shape == x.shape
    assert torch.equal(ends[0], ends[1])
    drawn = name not in ("ddim", "heun", "euler")
    assert torch.equal(ends[0], ends[2]) != drawn


def test_progress_counts_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[int] = []

    def fake(items: list[Any], unit: str) -> Iterable[Any]:
        shown.append(len(items))
        return items

    monkeypatch.setattr(base, "tqdm", fake)
    for name, sampler in SAMPLERS.items():
        sampler(sampling.exact(SQUARE, VP), normal(3, 2), VP, GRID, generator(), progress=True)
        assert shown.pop() == {"annealed": 6, "langevin": 3}.get(name, 2)
        sampler(sampling.exact(SQUARE, VP), normal(3, 2), VP, GRID, generator())
        assert not shown


@settings(max_examples=40)
@given(steps=st.integers(1, 40), first=st.floats(0.6, 1), last=st.floats(0, 0.5))
def test_uniform_times_have_equal_steps(steps: int, first: float, last: float) -> None:
    grid = times.uniform(steps, first, last)
    assert len(grid) == steps + 1
    assert [float(grid[0]), float(grid[-1])] == [first, last]
    assert grid.diff().tolist() == pytest.approx([(last - first) / steps] * steps)


FLOW = schedules.from_diffusers(FlowMatchEulerDiscreteScheduler(num_train_timesteps=200))


@pytest.mark.parametrize("schedule", [*PATHS, FLOW], ids=repr)
def test_grids_in_log_snr_and_of_edm(schedule: Schedule) -> None:
    in_logsnr = times.in_logsnr(schedule, 10, -8, 6)
    assert len(in_logsnr) == 11 and float(in_logsnr[-1]) == 0
    expected = [-8 + 14 * i / 9 for i in range(10)]
    assert schedule.logsnr(in_logsnr[:-1]).tolist() == pytest.approx(expected)
    whole = schedule.logsnr(times.in_logsnr(schedule, 7, -8, 6, to_zero=False))
    assert whole.tolist() == pytest.approx([-8 + 2 * i for i in range(8)])

    edm = times.karras(schedule, 10, rho=5, sigma_min=0.01, sigma_max=50)
    low, high = 0.01 ** (1 / 5), 50 ** (1 / 5)
    k = [(high + i / 9 * (low - high)) ** 5 for i in range(10)]
    alpha, sigma = schedule(edm[:-1])
    assert len(edm) == 11 and float(edm[-1]) == 0
    assert (sigma / alpha).tolist() == pytest.approx(k, rel=1e-4)
    open_end = times.karras(schedule, 9, rho=5, sigma_min=0.01, sigma_max=50, to_zero=False)
    torch.testing.assert_close(open_end, edm[:-1])


def test_the_edm_grid_stays_within_the_schedule() -> None:
    def ends(schedule: Schedule) -> list[float]:
        alpha, sigma = schedule(times.karras(schedule, 8, to_zero=False))
        return (sigma / alpha)[[0, -1]].tolist()

    assert ends(LINEAR) == pytest.approx([80, 0.002])
    assert ends(schedules.Cosine()) == pytest.approx([80, math.exp(-9.97 / 2)], rel=0.2)
    cosine, ddpm = schedules.Cosine(), schedules.DDPM()
    assert ends(cosine)[1] == pytest.approx(float(cosine.sigma[0] / cosine.alpha[0]))
    # DDPM's table starts at 0.01 and, as VP, ends before 200
    assert ends(ddpm) == pytest.approx([80, 0.01], rel=1e-3)
    # rho = 7: the middle of three levels
    middle = ((80 ** (1 / 7) + 0.002 ** (1 / 7)) / 2) ** 7
    assert float(LINEAR.snr(times.karras(LINEAR, 3)[1])) == pytest.approx(middle**-2)
    strong = times.karras(VP, 4, sigma_max=1e6)
    assert float(strong[0]) == pytest.approx(1, abs=1e-9)


ONE = torch.ones(3, 2)
DENOISE = sampling.exact(SQUARE, LINEAR)
BAD = [
    (lambda: sampling.ddim(DENOISE, ONE, LINEAR, [0.5]), "at least two that fall strictly"),
    (lambda: sampling.ddim(DENOISE, ONE, LINEAR, [0.5, 0.5]), "at least two that fall strictly"),
    (lambda: sampling.ddpm(DENOISE, ONE, LINEAR, [0.1, 0.5]), "at least two that fall strictly"),
    (lambda: sampling.euler(DENOISE, ONE, LINEAR, ONE), "at least two that fall strictly"),
    (lambda: sampling.ddim(DENOISE, ONE, LINEAR, [math.nan, 0.5]), "fall strictly"),
    (lambda: sampling.ddim(DENOISE, ONE, LINEAR, [1.5, 0.5]), r"times must lie in \[0, 1\]"),
    (lambda: sampling.sde(DENOISE, ONE, LINEAR, [0.5, -0.5]), r"times must lie in \[0, 1\]"),
    (lambda: sampling.ddim(DENOISE, ONE.long(), LINEAR, GRID), "a floating-point batch"),
    (lambda: sampling.ddim(DENOISE, ONE[0, 0], LINEAR, GRID), "a floating-point batch"),
    (lambda: sampling.ddim(DENOISE, ONE, LINEAR, GRID, eta=1.1), r"eta must lie in \[0, 1\]"),
    (lambda: sampling.heun(DENOISE, ONE, LINEAR, [1, 0.5]), "heun needs alpha > 0 at the first"),
    (lambda: sampling.sde(DENOISE, ONE, LINEAR, [1, 0.5]), "sde needs alpha > 0 at the first"),
    (lambda: sampling.langevin(DENOISE, ONE, LINEAR, 0.0, 5, 0.1), "needs sigma > 0"),
    (lambda: sampling.langevin(DENOISE, ONE, LINEAR, 0.5, 0, 0.1), "steps must be at least 1"),
    (lambda: sampling.langevin(DENOISE, ONE, LINEAR, 0.5, 5, 0.0), "step size must be positive"),
    (lambda: sampling.langevin(DENOISE, ONE.long(), LINEAR, 0.5, 5, 0.1), "a floating-point batch"),
    (
        lambda: sampling.annealed_langevin(DENOISE, ONE, LINEAR, [1, 0], steps=2, step_size=0.1),
        "needs sigma > 0",
    ),
    (lambda: sampling.from_model(nn.Identity(), LINEAR, "noise"), "unknown target 'noise'"),
    (lambda: sampling.from_model(Oracle(LINEAR, "eps"), LINEAR, "eps")(ONE, 1.0), "alpha = 0"),
    (lambda: sampling.from_model(Oracle(LINEAR, "x0"), LINEAR, "x0")(ONE, 0.0), "sigma = 0"),
    (
        lambda: sampling.from_model(Doubled(), LINEAR, "v")(ONE, 0.5),
        r"in the shape it is shown, got \(3, 4\) for \(3, 2\)",
    ),
    (lambda: Recorder().states, "nothing was recorded"),
    (lambda: times.uniform(0), "the number of steps must be an integer"),
    (lambda: times.uniform(True), "the number of steps must be an integer"),
    (lambda: times.uniform(3, 0.2, 0.5), "1 >= first > last >= 0, got 0.2 and 0.5"),
    (lambda: times.in_logsnr(VP, 3, 5, -5), "low < high and be finite, got 5 and -5"),
    (lambda: times.in_logsnr(VP, 3, -20, 5), "log-SNR must be at least -10"),
    (lambda: times.karras(VP, 3, sigma_min=2, sigma_max=1), "0 < sigma_min < sigma_max"),
    (lambda: times.karras(VP, 3, rho=0), "rho > 0, got 0.002, 80.0 and 0"),
    (lambda: times.karras(VP, 3, sigma_min=1e4, sigma_max=1e5), "no noise level of VP"),
]


class Constant(nn.Module):
    def forward(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        return torch.ones_like(x)


class Doubled(nn.Module):
    def forward(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        return torch.cat([x, x], 1)


@pytest.mark.parametrize(("call", "message"), BAD)
def test_a_bad_argument_gets_one_sentence(call, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_bad_grid_is_refused_before_any_call(name: str) -> None:
    def never(x: Tensor, t: float) -> Prediction:
        raise AssertionError("called before the grid was checked")

    with pytest.raises(ValueError, match="must lie in"):
        SAMPLERS[name](never, ONE, LINEAR, [1.2, 0.5], generator())
