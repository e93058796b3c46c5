"""Schedulers of diffusers followed from exact denoisers reach the data, with hooks and without."""

from typing import Any

import pytest
import torch
from diffusers import DDPMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler
from torch import Tensor

from erdpaper import posterior, sampling, schedules
from erdpaper.fullscale.pretrained import loading, solvers
from erdpaper.sampling import Hooks, Prediction
from erdpaper.schedules import Cosine, Discrete, StableDiffusion

MEAN = torch.tensor([2.0, -1.0], dtype=torch.float64)
COVARIANCE = torch.tensor([[0.5, 0.3], [0.3, 0.4]], dtype=torch.float64)


def gaussian(schedule: Discrete) -> sampling.Denoiser:
    return sampling.exact(posterior.Gaussian(MEAN, COVARIANCE), schedule)


def noise(n: int) -> Tensor:
    return torch.randn(n, 2, generator=torch.Generator().manual_seed(0))


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(1)


@pytest.mark.parametrize("schedule", [Cosine(), StableDiffusion()], ids=str)
def test_thesis_solver_draws_from_the_data(schedule: Discrete) -> None:
    n = 20_000
    scheduler = solvers.dpm_solver(schedule)
    assert scheduler.config.algorithm_type == "sde-dpmsolver++"
    found = solvers.follow(gaussian(schedule), noise(n), scheduler, 50, seeded()).double()
    # four standard errors, and what a start from pure noise leaves of alpha(1)
    left = float(schedule(1.0)[0])
    spread = COVARIANCE.diagonal().sqrt()
    assert bool(((found.mean(0) - MEAN).abs() < 4 * spread / n**0.5 + left**2 * MEAN.abs()).all())
    assert (found.T.cov() - COVARIANCE).abs().max() < 0.02


def test_ancestral_scheduler_is_our_ancestral_sampler() -> None:
    schedule, steps = schedules.DDPM(), 20
    options = {"clip_sample": False, "timestep_spacing": "trailing"}
    scheduler = DDPMScheduler(beta_start=1e-4, beta_end=0.02, **options)
    found = solvers.follow(gaussian(schedule), noise(50), scheduler, steps, seeded())
    times = torch.arange(steps, -1, -1, dtype=torch.float64) / steps
    expected = sampling.ddpm(gaussian(schedule), noise(50), schedule, times, seeded())
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_every_target_is_told_alike(kind: str) -> None:
    schedule = StableDiffusion()
    told = DPMSolverMultistepScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type=kind,
        algorithm_type="sde-dpmsolver++",
    )
    recorder = sampling.Recorder()

    def halve(x: Tensor, t: float, made: Prediction) -> Prediction:
        """Half the endpoint, with the noise that then is in x."""
        alpha, sigma = schedule(t)
        x0 = made.x0 / 2
        return recorder(x, t, Prediction(x0, ((x - float(alpha) * x0) / float(sigma))))

    hooks = Hooks(lambda x, t: x + 0.01 * t, halve)
    found = solvers.follow(gaussian(schedule), noise(20), told, 10, seeded(), hooks=hooks)
    wanted = solvers.dpm_solver(schedule)
    expected = solvers.follow(gaussian(schedule), noise(20), wanted, 10, seeded(), hooks=hooks)
    torch.testing.assert_close(found, expected, atol=2e-4, rtol=1e-4)
    assert recorder.endpoints.shape == (20, 20, 2)
    torch.testing.assert_close(recorder.times[:10], recorder.times[10:])


def test_scheduler_given_is_left_as_it_is() -> None:
    scheduler = solvers.dpm_solver(Cosine())
    runs = [
        solvers.follow(gaussian(Cosine()), noise(3), scheduler, steps, seeded())
        for steps in (5, 8, 5)
    ]
    assert scheduler.num_inference_steps is None
    assert torch.equal(runs[0], runs[2]) and not torch.equal(runs[0], runs[1])


@pytest.mark.parametrize(
    ("scheduler", "steps", "message"),
    [
        (
            EulerDiscreteScheduler(),
            5,
            "must be a DDPMScheduler or DPMSolverMultistepScheduler",
        ),
        (None, 5, "not a NoneType"),
        (DPMSolverMultistepScheduler(use_karras_sigmas=True), 5, "use_karras_sigmas leaves the"),
        (DDPMScheduler(variance_type="learned_range"), 5, "a learned variance is not supported"),
        (DDPMScheduler(), 0, r"an integer in 1\.\.1000, got 0"),
        (DDPMScheduler(), 1001, r"an integer in 1\.\.1000, got 1001"),
    ],
)
def test_what_cannot_be_followed_is_refused(scheduler: Any, steps: int, message: str) -> None:
    def never(x: Tensor, t: float) -> Prediction:
        raise AssertionError("asked before the check")

    with pytest.raises(ValueError, match=message):
        solvers.follow(never, noise(2), scheduler, steps)


def test_targets_and_paths_that_diffusers_does_not_know_are_refused() -> None:
    table = torch.arange(1, 11) / 11
    with pytest.raises(ValueError, match="needs a variance-preserving table"):
        solvers.dpm_solver(Discrete(1 - table, table, "linear"))
    other = DPMSolverMultistepScheduler(prediction_type="flow_prediction")
    with pytest.raises(ValueError, match="prediction_type must be one of epsilon, v_prediction, s"):
        loading.target(other)
