"""Noisy states of known data: their laws in closed form, and what is said of them."""

from collections.abc import Callable, Iterator

import pytest
import torch
from diffusers import DDPMScheduler
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from erdpaper import sampling, schedules
from erdpaper.posterior import Gaussian
from erdpaper.sampling import Hooks, Recorder, State

F64 = torch.float64
GRID = [0.95, 0.6, 0.3, 0.05]
PATHS = [schedules.Linear(), schedules.VP(), schedules.Cosine(), schedules.StableDiffusion()]
Draw = Callable[..., Iterator[State]]
DRAWS: dict[str, Draw] = {"direct": sampling.direct, "sequential": sampling.sequential}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def drawn(states: Iterator[State]) -> Tensor:
    return torch.stack([x for _, x in states])


@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
@pytest.mark.parametrize("schedule", PATHS, ids=repr)
def test_states_have_the_moments_of_the_forward_marginal(draw: Draw, schedule) -> None:
    n = 20_000
    x0 = torch.tensor([-1.5, 0.25], dtype=F64).expand(n, 2)
    alpha, sigma = schedule(torch.tensor(GRID, dtype=F64))
    x = drawn(draw(x0, schedule, GRID, generator()))
    # five standard errors of a mean and of a variance
    error = 5 * sigma / n**0.5
    assert bool(((x.mean(1) - alpha[:, None] * x0[0]).abs() <= error[:, None]).all())
    spread = x.var(1) / sigma.square()[:, None]
    assert bool(((spread - 1).abs() < 5 * (2 / n) ** 0.5).all())


@pytest.mark.parametrize("schedule", PATHS, ids=repr)
def test_sequential_states_have_the_covariance_of_the_forward_process(schedule) -> None:
    n = 40_000
    x = drawn(sampling.sequential(torch.full((n,), 0.7, dtype=F64), schedule, GRID, generator()))
    alpha, sigma = schedule(torch.tensor(GRID, dtype=F64))
    # x_t = (a / a') x_t' + new noise for t > t': Cov = (a / a') s'^2
    ratio, lower = alpha[:, None] / alpha, sigma.square().expand(4, 4)
    expected = (ratio * lower).triu() + (ratio * lower).triu(1).T
    size = sigma[:, None] * sigma
    torch.testing.assert_close(torch.cov(x) / size, expected / size, rtol=0, atol=0.025)


def test_direct_states_are_independent_and_shared_ones_are_not() -> None:
    n, schedule = 40_000, schedules.Cosine()
    x0 = torch.zeros(n, dtype=F64)
    apart = torch.corrcoef(drawn(sampling.direct(x0, schedule, GRID, generator())))
    torch.testing.assert_close(apart, torch.eye(4, dtype=F64), rtol=0, atol=0.025)
    noise = torch.randn(n, generator=generator(), dtype=F64)
    joint = torch.corrcoef(drawn(sampling.direct(x0, schedule, GRID, noise=noise)))
    torch.testing.assert_close(joint, torch.ones(4, 4, dtype=F64))


@pytest.mark.parametrize("schedule", PATHS, ids=repr)
def test_sequential_states_are_those_of_ancestral_sampling_that_knows_the_answer(schedule) -> None:
    x0 = torch.randn(5, 3, generator=generator(1), dtype=F64)
    states = drawn(sampling.sequential(x0, schedule, [*GRID, 0.0], generator()))
    source, recorder = generator(), Recorder()
    alpha, sigma = schedule(GRID[0])
    first = alpha * x0 + sigma * torch.randn(5, 3, generator=source, dtype=F64)
    known = sampling.from_function(lambda x, t: x0, schedule, "x0")
    hooks = Hooks(on_prediction=recorder)
    last = sampling.ddpm(known, first, schedule, [*GRID, 0.0], source, hooks=hooks)
    torch.testing.assert_close(states[:-1], recorder.states)
    torch.testing.assert_close(states[-1], last)
    torch.testing.assert_close(last, x0)


@settings(deadline=None, max_examples=20)
@given(k=st.integers(1, 999))
def test_a_sequential_step_is_the_posterior_step_of_diffusers(k: int) -> None:
    theirs = DDPMScheduler(prediction_type="sample", clip_sample=False)
    schedule = schedules.from_diffusers(theirs)
    times = schedule.time_at(torch.tensor([k, k - 1]))
    x0 = torch.randn(2_000, 1, generator=generator(k), dtype=F64)
    (_, x), (_, after) = sampling.sequential(x0, schedule, times, generator())
    variance = theirs._get_variance(k)
    theirs._get_variance = lambda *_, **__: torch.zeros(())  # leaves the mean of the step
    mean = theirs.step(x0, k, x).prev_sample
    fresh = (after - mean) / variance.double().sqrt()
    assert abs(float(fresh.mean())) < 5 / 2_000**0.5
    assert abs(float(fresh.var()) - 1) < 5 * (2 / 2_000) ** 0.5


@pytest.mark.parametrize("schedule", PATHS, ids=repr)
def test_residual_is_what_the_estimate_and_the_predicted_noise_make_of_it(schedule) -> None:
    covariance = torch.tensor([[2.0, 0.5], [0.5, 0.3]], dtype=F64)
    law = Gaussian(torch.tensor([1.0, -1.0], dtype=F64), covariance)
    denoise, x0 = sampling.exact(law, schedule), law.sample(50, generator())
    found = list(sampling.controlled(denoise, x0, schedule, GRID, generator()))
    assert [each.t for each in found] == GRID
    for t, x_t, x0hat in found:
        alpha, sigma = schedule(t)
        eps = denoise(x_t, t).eps
        residual = sampling.Endpoint(t, x_t, x0hat).residual
        torch.testing.assert_close(residual, (1 - alpha) * x0hat - sigma * eps)
        torch.testing.assert_close(x0hat, law.posterior_mean(x_t, alpha, sigma))


def test_one_time_and_batches_give_what_all_at_once_gives() -> None:
    schedule, law = schedules.Cosine(), Gaussian.standard(3)
    denoise, x0 = sampling.exact(law, schedule), law.sample(7, generator())
    noise = torch.randn(7, 3, generator=generator(1), dtype=F64)
    whole = list(sampling.controlled(denoise, x0, schedule, GRID, noise=noise))
    (one,) = sampling.controlled(denoise, x0, schedule, GRID[1], noise=noise, batch=2)
    for ours, theirs in zip(one, whole[1], strict=True):
        torch.testing.assert_close(ours, theirs)


def test_at_the_ends_of_the_path_states_are_data_and_noise_alone() -> None:
    x0, noise = torch.ones(4, 2, dtype=F64), torch.randn(4, 2, generator=generator(), dtype=F64)
    whole, none = sampling.direct(x0, schedules.Linear(), [1.0, 0.0], noise=noise)
    torch.testing.assert_close(whole.x_t, noise)
    torch.testing.assert_close(none.x_t, x0)


def test_what_cannot_be_drawn_is_refused_before_any_work() -> None:
    x0, schedule = torch.zeros(2, 3), schedules.VP()

    def never(x: Tensor, t: float) -> sampling.Prediction:
        raise AssertionError

    for times in ([], [0.5, 1.5], torch.zeros(2, 2)):
        with pytest.raises(ValueError, match="one or more numbers in"):
            sampling.controlled(never, x0, schedule, times)
    with pytest.raises(ValueError, match=r"shape of the clean data, got \(3,\) and \(2, 3\)"):
        sampling.controlled(never, x0, schedule, 0.5, noise=torch.zeros(3))
    with pytest.raises(ValueError, match="at least 1 sample, got 0"):
        sampling.controlled(never, x0, schedule, 0.5, batch=0)
    with pytest.raises(ValueError, match="fall strictly"):
        sampling.sequential(x0, schedule, [0.2, 0.5])
    with pytest.raises(ValueError, match="floating-point batch"):
        sampling.sequential(torch.zeros(2, dtype=torch.long), schedule, [0.5, 0.2])
