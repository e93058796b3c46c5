"""What the solvers converge to and how fast, in closed form, and diffusers step by step."""

import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
)
from torch import Tensor, nn

from erdpaper import sampling, schedules
from erdpaper.metrics import modes
from erdpaper.posterior import Gaussian, GaussianMixture
from erdpaper.sampling import times
from erdpaper.schedules import Schedule

F64 = torch.float64
PATHS = [schedules.Linear(), schedules.VP(0.1, 8.0), schedules.GVP()]
Sampler = Callable[..., Tensor]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=generator(seed), dtype=F64)


CORRELATED = Gaussian(
    torch.tensor([1.0, -0.5], dtype=F64), torch.tensor([[2.0, 0.8], [0.8, 0.5]], dtype=F64)
)


def flow(law: Gaussian, schedule: Schedule, x: Tensor, here: float, there: float) -> Tensor:
    """The probability-flow ODE of a Gaussian: every eigendirection keeps its number of stds."""

    def moments(t: float) -> tuple[Tensor, Tensor]:
        alpha, sigma = schedule(t)
        return alpha * law.mean, (alpha**2 * law.variances + sigma**2).sqrt()

    (mean, std), (mean_there, std_there) = moments(here), moments(there)
    stds = ((x - mean) @ law.basis) / std
    return mean_there + (stds * std_there) @ law.basis.T


def order(errors: list[float]) -> float:
    """Measured order where the number of steps doubles from one error to the next."""
    return math.log2(errors[-2] / errors[-1])


@pytest.mark.parametrize("schedule", PATHS, ids=repr)
@pytest.mark.parametrize(
    ("sampler", "expected"), [(sampling.euler, 1), (sampling.ddim, 1), (sampling.heun, 2)]
)
def test_deterministic_solvers_converge_to_the_flow(
    schedule: Schedule, sampler: Sampler, expected: int
) -> None:
    x, denoise = normal(20, 2), sampling.exact(CORRELATED, schedule)
    exact = flow(CORRELATED, schedule, x, 0.95, 0.05)
    errors = []
    for steps in (150, 300):
        end = sampler(denoise, x, schedule, times.uniform(steps, 0.95, 0.05))
        errors.append(float((end - exact).abs().max()))
    assert errors[-1] < (0.05 if expected == 1 else 2e-3)
    assert order(errors) == pytest.approx(expected, abs=0.1)


@pytest.mark.parametrize("sampler", [sampling.euler, sampling.ddim, sampling.heun])
def test_solvers_reach_clean_data_from_pure_noise(sampler: Sampler) -> None:
    schedule = schedules.DDPM()
    x = normal(20, 2)
    exact = flow(CORRELATED, schedule, x, 1.0, 0.0)
    end = sampler(sampling.exact(CORRELATED, schedule), x, schedule, times.uniform(500))
    torch.testing.assert_close(end, exact, rtol=0, atol=0.05)


def test_euler_walks_the_straight_path_from_pure_noise() -> None:
    """On the linear path with one data point the field is constant: one step is exact."""
    point = Gaussian(torch.tensor([1.0, -2.0], dtype=F64), torch.zeros(2, 2, dtype=F64))
    denoise = sampling.exact(point, schedules.Linear())
    end = sampling.euler(denoise, normal(5, 2), schedules.Linear(), [1.0, 0.0])
    torch.testing.assert_close(end, point.mean.expand(5, 2))


def test_the_last_step_of_heun_into_clean_data_is_the_prediction() -> None:
    schedule, x = schedules.VP(), normal(5, 2)
    denoise = sampling.exact(CORRELATED, schedule)
    torch.testing.assert_close(
        sampling.heun(denoise, x, schedule, [0.4, 0.0]), denoise(x, 0.4).x0, rtol=1e-9, atol=1e-9
    )


def affine(sampler: Sampler, here: float, there: float) -> tuple[float, float, float]:
    """(a, b, w) of a step x' = a x + b + w z that is affine, in one dimension."""
    x = torch.tensor([[0.0], [1.0], [0.0]], dtype=F64)
    z = normal(3, 1)[:, 0].tolist()
    low, high, again = sampler(x, [here, there], generator())[:, 0].tolist()
    w = (low - again) / (z[0] - z[2])
    b = low - w * z[0]
    return high - b - w * z[1], b, w


def end_law(sampler: Sampler, mean: float, variance: float, grid: Tensor) -> tuple[float, float]:
    """Exact mean and variance at the end of a sampler whose steps are affine."""
    for here, there in zip(grid[:-1].tolist(), grid[1:].tolist(), strict=True):
        a, b, w = affine(sampler, here, there)
        mean, variance = a * mean + b, a**2 * variance + w**2
    return mean, variance


def line(mean: float, variance: float) -> Gaussian:
    return Gaussian(torch.tensor([mean], dtype=F64), torch.tensor([[variance]], dtype=F64))


def noisy(schedule: Schedule, t: float, mean: float, variance: float) -> tuple[float, float]:
    alpha, sigma = (float(c) for c in schedule(t))
    return alpha * mean, alpha**2 * variance + sigma**2


STOCHASTIC = {
    "sde": sampling.sde,
    "ddpm": sampling.ddpm,
    "ddim 0.5": partial(sampling.ddim, eta=0.5),
}


@pytest.mark.parametrize("schedule", PATHS, ids=repr)
@pytest.mark.parametrize("name", STOCHASTIC)
def test_stochastic_solvers_converge_weakly_with_order_one(name: str, schedule: Schedule) -> None:
    denoise = sampling.exact(line(1.5, 0.3), schedule)

    def sampler(x: Tensor, grid: list[float], noise: torch.Generator) -> Tensor:
        return STOCHASTIC[name](denoise, x, schedule, grid, noise)

    mean, variance = noisy(schedule, 0.05, 1.5, 0.3)
    errors = []
    for steps in (80, 160):
        grid = times.uniform(steps, 0.95, 0.05)
        found = end_law(sampler, *noisy(schedule, 0.95, 1.5, 0.3), grid)
        errors.append((abs(found[0] - mean), abs(found[1] - variance)))
    assert max(errors[-1]) < 0.04
    assert order([v for _, v in errors]) == pytest.approx(1, abs=0.15)
    # the mean of ddim is exact wherever the denoiser is affine in the same way at all times
    if errors[-1][0] > 1e-12:
        assert order([m for m, _ in errors]) == pytest.approx(1, abs=0.15)


@pytest.mark.parametrize("schedule", [*PATHS, schedules.DDPM()], ids=repr)
@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
def test_ddim_keeps_the_marginals_of_known_data(schedule: Schedule, eta: float) -> None:
    """With the true x0 every step has the right law, however long, on any path."""
    denoise = sampling.exact(line(1.5, 0.0), schedule)

    def sampler(x: Tensor, grid: list[float], noise: torch.Generator) -> Tensor:
        return sampling.ddim(denoise, x, schedule, grid, noise, eta=eta)

    grid = torch.tensor([0.99, 0.6, 0.2, 0.01], dtype=F64)
    found = end_law(sampler, *noisy(schedule, 0.99, 1.5, 0.0), grid)
    assert found == pytest.approx(noisy(schedule, 0.01, 1.5, 0.0), rel=1e-9)


@pytest.mark.parametrize("schedule", PATHS, ids=repr)
def test_ddpm_draws_from_the_posterior_between_two_times(schedule: Schedule) -> None:
    """Bayes' rule for x_s, s < t, from x_s | x_0 and x_t | x_s, written out."""
    m, here, there = 0.7, 0.8, 0.5
    (a_t, s_t), (a_s, s_s) = ([float(c) for c in schedule(t)] for t in (here, there))
    forward = a_t / a_s
    added = s_t**2 - forward**2 * s_s**2
    variance = 1 / (1 / s_s**2 + forward**2 / added)
    slope, offset = variance * forward / added, variance * a_s * m / s_s**2

    denoise = sampling.exact(line(m, 0.0), schedule)
    found = affine(
        lambda x, grid, noise: sampling.ddpm(denoise, x, schedule, grid, noise), 0.8, 0.5
    )
    assert found == pytest.approx((slope, offset, math.sqrt(variance)), rel=1e-9)


class Wave(nn.Module):
    """A network that is neither linear nor consistent: any difference between solvers shows."""

    def forward(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        return torch.sin(2 * x) + t.reshape(-1, 1)


TABLE = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
NODES = list(range(900, -1, -100))
OURS = [*[(k + 1) / 1000 for k in NODES], 0.0]


def prediction(x: Tensor, k: Tensor | int) -> Tensor:
    t = torch.full((len(x),), (float(k) + 1) / 1000, dtype=x.dtype)
    return Wave()(x, t)


def ours(scheduler: object, sampler: Sampler, target: str = "eps", **more: float) -> Tensor:
    schedule = schedules.from_diffusers(scheduler)
    denoise = sampling.from_model(Wave(), schedule, target)
    return sampler(denoise, normal(6, 2), schedule, OURS, generator(3), **more)


KINDS = [("eps", "epsilon"), ("x0", "sample"), ("v", "v_prediction")]


@pytest.mark.parametrize(("target", "kind"), KINDS)
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_ddim_takes_the_steps_of_diffusers(eta: float, target: str, kind: str) -> None:
    theirs = DDIMScheduler(**TABLE, clip_sample=False, prediction_type=kind)
    theirs.set_timesteps(10)
    assert theirs.timesteps.tolist() == NODES
    x, noise = normal(6, 2), generator(3)
    for k in theirs.timesteps:
        x = theirs.step(prediction(x, k), int(k), x, eta=eta, generator=noise).prev_sample
    found = ours(theirs, sampling.ddim, target, eta=eta)
    torch.testing.assert_close(found, x, rtol=1e-5, atol=1e-5)


def test_ddpm_takes_the_steps_of_diffusers() -> None:
    theirs = DDPMScheduler(**TABLE, clip_sample=False, variance_type="fixed_small")
    theirs.set_timesteps(10)
    assert theirs.timesteps.tolist() == NODES
    x, noise = normal(6, 2), generator(3)
    for k in theirs.timesteps:
        x = theirs.step(prediction(x, k), int(k), x, generator=noise).prev_sample
    torch.testing.assert_close(ours(theirs, sampling.ddpm), x, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("scheduler", "sampler"),
    [(EulerDiscreteScheduler, sampling.ddim), (HeunDiscreteScheduler, sampling.heun)],
)
def test_steps_in_sigma_over_alpha_are_those_of_diffusers(
    scheduler: type, sampler: Sampler
) -> None:
    """They keep X = x / alpha, which needs no scaling where sigma = 0."""
    theirs = scheduler(**TABLE, timestep_spacing="leading")
    theirs.set_timesteps(10)
    assert sorted(set(theirs.timesteps.tolist()), reverse=True) == NODES
    x = normal(6, 2) * math.sqrt(1 + float(theirs.sigmas[0]) ** 2)
    for k in theirs.timesteps:
        x = theirs.step(prediction(theirs.scale_model_input(x, k), k), k, x).prev_sample
    # their sigmas are float32
    torch.testing.assert_close(ours(theirs, sampler), x.double(), rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("schedule", PATHS, ids=repr)
@pytest.mark.parametrize("step", [0.01, 0.3, 2.0])
def test_langevin_has_the_stationary_law_of_its_step(schedule: Schedule, step: float) -> None:
    """On N(m, tau^2): mean m and variance tau^2 / (1 - c / (4 tau^2)), for any c < 4 tau^2."""
    denoise = sampling.exact(line(1.5, 0.8), schedule)
    mean, tau2 = noisy(schedule, 0.6, 1.5, 0.8)
    a, b, w = affine(
        lambda x, grid, noise: sampling.langevin(denoise, x, schedule, grid[0], 1, step, noise),
        0.6,
        0.0,
    )
    assert w**2 / (1 - a**2) == pytest.approx(tau2 / (1 - step / (4 * tau2)), rel=1e-9)
    assert b / (1 - a) == pytest.approx(mean, rel=1e-9)


def test_annealing_is_langevin_at_one_level_after_another() -> None:
    schedule, x = schedules.Linear(), normal(4, 2)
    denoise = sampling.exact(CORRELATED, schedule)
    whole = sampling.annealed_langevin(
        denoise, x, schedule, [0.8, 0.4], generator(2), steps=3, step_size=0.1
    )
    noise = generator(2)
    for t in (0.8, 0.4):
        for _ in range(3):
            # sigma = t on this path
            x = sampling.langevin(denoise, x, schedule, t, 1, 0.1 * t**2, noise)
    torch.testing.assert_close(whole, x)


def test_annealing_restores_the_weights_that_langevin_cannot_see() -> None:
    means = torch.tensor([[-2.0, 0.0], [2.0, 0.0]], dtype=F64)
    law = GaussianMixture(means, torch.full((2,), 0.4, dtype=F64), torch.tensor([0.8, 0.2]))
    schedule = schedules.Linear()
    denoise = sampling.exact(law, schedule)
    start = means[1].expand(2000, 2)
    stuck = sampling.langevin(denoise, start, schedule, 0.15, 400, 0.02, generator(0))
    freed = sampling.annealed_langevin(
        denoise,
        start,
        schedule,
        times.uniform(39, 0.98, 0.15),
        generator(0),
        steps=10,
        step_size=0.2,
    )
    alpha, sigma = (float(c) for c in schedule(0.15))
    std = math.hypot(0.4 * alpha, sigma)
    assert modes(stuck, alpha * means, std).shares[1] > 0.99
    report = modes(freed, alpha * means, std)
    assert float(report.shares[1]) == pytest.approx(0.2, abs=0.04)
    assert report.spread == pytest.approx(1, abs=0.1)
