"""Injection against its formula written out, the adversary's own samples, and diffusers' loops."""

from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from erdpaper import guidance, sampling, schedules, targets
from erdpaper.interventions.injection import injection
from erdpaper.interventions.window import Window
from erdpaper.sampling import Hooks, Prediction, Recorder, times

F64 = torch.float64
COSINE = schedules.Cosine()
TABLE: dict[str, Any] = {
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "clip_sample": False,
}
NODES = list(range(900, -1, -100))
SAMPLERS = {"ddpm": sampling.ddpm, "ddim": sampling.ddim, "heun": sampling.heun}
NULL = 2


class Classes(nn.Module):
    """A network without any structure that could make two ways of mixing agree by chance."""

    def forward(self, x: Tensor, t: Tensor, label: Tensor) -> Tensor:
        k = label.reshape(-1, 1).to(x)
        return torch.sin((2 + k) * x) + torch.cos(3 * k) * t.reshape(-1, 1) * x.flip(1)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def denoiser(label: int, scale: float = 1.0, target: str = "v") -> sampling.Denoiser:
    return guidance.cfg(Classes(), COSINE, target, label, scale, NULL)


def drawn(name: str, label: int, hooks: Hooks, grid: Tensor) -> Tensor:
    noise = torch.Generator().manual_seed(5)
    return SAMPLERS[name](denoiser(label), normal(6, 2), COSINE, grid, noise, hooks=hooks)


def raw(x: Tensor, t: float, label: int) -> Tensor:
    with torch.no_grad():
        return Classes()(x, torch.full((len(x),), t, dtype=F64), torch.full((len(x),), label))


@settings(max_examples=40, deadline=None)
@given(
    strength=st.floats(0, 1),
    t=st.floats(0.02, 0.99),
    target=st.sampled_from([y.name for y in targets.ALL]),
    seed=st.integers(0, 1000),
)
def test_mixing_any_target_is_the_same_and_keeps_the_state(
    strength: float, t: float, target: str, seed: int
) -> None:
    x, (alpha, sigma) = normal(4, 2, seed=seed), COSINE(t)
    y = (1 - strength) * raw(x, t, 0) + strength * raw(x, t, 1)
    asked, adversary = denoiser(0, target=target), denoiser(1, target=target)
    found = injection(adversary, strength)(x, t, asked(x, t))
    wanted = targets.get(target)
    scale = 1 / float(alpha * sigma)
    for ours, by_hand in zip(
        found, (wanted.to_x0(y, x, alpha, sigma), wanted.to_eps(y, x, alpha, sigma)), strict=True
    ):
        torch.testing.assert_close(ours, by_hand, rtol=1e-9, atol=1e-10 * scale)
    torch.testing.assert_close(
        alpha * found.x0 + sigma * found.eps, x, rtol=1e-9, atol=1e-10 * scale
    )


@settings(max_examples=40, deadline=None)
@given(strength=st.floats(0, 1), scale=st.floats(0, 8), t=st.floats(0.1, 0.95))
def test_before_and_after_guidance_are_two_things_not_three(
    strength: float, scale: float, t: float
) -> None:
    """A guided adversary: only y_c is mixed first. One that is not: both y_c and y_u are."""
    x, (alpha, sigma) = normal(4, 2), COSINE(t)
    u, c, q = (raw(x, t, label) for label in (NULL, 0, 1))
    only_c = u + scale * (((1 - strength) * c + strength * q) - u)
    both_c, both_u = (1 - strength) * c + strength * q, (1 - strength) * u + strength * q
    both = both_u + scale * (both_c - both_u)
    plain = denoiser(0, scale)(x, t)
    for adversary, y in ((denoiser(1, scale), only_c), (denoiser(1, 1.0), both)):
        found = injection(adversary, strength)(x, t, plain)
        torch.testing.assert_close(found.x0, alpha * x - sigma * y, rtol=1e-9, atol=1e-9)
    if abs(scale - 1) > 0.1 and strength > 0.1:
        assert float((only_c - both).abs().max()) > 1e-3


@pytest.mark.parametrize("name", SAMPLERS)
def test_strength_0_is_no_injection_and_1_is_sampling_the_adversary(name: str) -> None:
    grid = times.karras(COSINE, 12)
    plain = drawn(name, 0, Hooks(), grid)
    none = drawn(name, 0, Hooks(on_prediction=injection(denoiser(1), 0.0)), grid)
    whole = drawn(name, 0, Hooks(on_prediction=injection(denoiser(1), 1.0)), grid)
    assert torch.equal(none, plain)
    assert torch.equal(whole, drawn(name, 1, Hooks(), grid))
    assert float((whole - plain).abs().max()) > 0.1


@pytest.mark.parametrize("name", SAMPLERS)
def test_until_the_window_opens_nothing_changes_and_after_it_closes_nothing_is_injected(
    name: str,
) -> None:
    grid = times.karras(COSINE, 12)
    window = Window(float(grid[8]), float(grid[5]))
    calls = {"plain": Recorder(), "injected": Recorder()}
    hook, asked = injection(denoiser(1), 0.7, window), []

    def watched(x: Tensor, t: float, prediction: Prediction) -> Prediction:
        mixed = hook(x, t, prediction)
        if not torch.equal(mixed.x0, prediction.x0):
            asked.append(t)
        return calls["injected"](x, t, mixed)

    drawn(name, 0, Hooks(on_prediction=calls["plain"]), grid)
    drawn(name, 0, Hooks(on_prediction=watched), grid)
    assert sorted(set(asked), reverse=True) == grid[5:9].tolist()
    plain, injected = calls["plain"].states, calls["injected"].states
    before = calls["plain"].times > grid[5] + 1e-12
    assert torch.equal(plain[before], injected[before])
    # heun's last trial point is the first state that an injection at its time has not touched
    changed = (plain - injected).flatten(1).abs().amax(1)
    assert bool((changed[calls["plain"].times < grid[5] - 1e-12] > 0).all())


@pytest.mark.parametrize("kind", ["ddim", "ddpm"])
def test_sampling_is_that_of_diffusers_with_the_noise_mixed_by_hand(kind: str) -> None:
    theirs = DDIMScheduler(**TABLE) if kind == "ddim" else DDPMScheduler(**TABLE)
    theirs.set_timesteps(10)
    assert theirs.timesteps.tolist() == NODES
    x, noise = normal(6, 2), torch.Generator().manual_seed(3)
    for k in theirs.timesteps:
        eps, adversarial = (raw(x, (int(k) + 1) / 1000, label) for label in (0, 1))
        if 300 <= k <= 700:
            eps = 0.4 * eps + 0.6 * adversarial
        x = theirs.step(eps, int(k), x, generator=noise).prev_sample

    schedule = schedules.from_diffusers(theirs)
    asked, adversary = (
        guidance.cfg(Classes(), schedule, "eps", label, 1.0, NULL) for label in (0, 1)
    )
    hook = injection(adversary, 0.6, Window(*(float(schedule.time_at(k)) for k in (300, 700))))
    grid = [*[(k + 1) / 1000 for k in NODES], 0.0]
    found = SAMPLERS[kind](
        asked,
        normal(6, 2),
        schedule,
        grid,
        torch.Generator().manual_seed(3),
        hooks=Hooks(on_prediction=hook),
    )
    torch.testing.assert_close(found, x, rtol=1e-5, atol=1e-5)


def test_a_window_counts_the_steps_that_begin_inside() -> None:
    grid = [0.9, 0.7, 0.5, 0.3, 0.0]
    assert Window().steps(grid) == 4
    assert Window(0.5, 0.7).steps(grid) == 2
    assert Window(0.1 + 0.2, 0.9 - 0.2).steps(grid) == 3, "edges count, however rounded"
    with pytest.raises(ValueError, match=r"no step of the grid begins in .* 0.51 to 0.69"):
        Window(0.51, 0.69).steps(grid)
    with pytest.raises(ValueError, match="no step"):
        Window(0.0, 0.2).steps(grid)


@pytest.mark.parametrize("edges", [(0.5, 0.5), (0.6, 0.4), (-0.1, 0.4), (0.4, 1.1), (0.0, 800.0)])
def test_a_window_that_is_empty_or_outside_is_refused(edges: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="0 <= low < high <= 1, got"):
        Window(*edges)


@pytest.mark.parametrize("strength", [-0.1, 1.5, float("nan")])
def test_a_strength_that_is_no_share_is_refused(strength: float) -> None:
    with pytest.raises(ValueError, match=r"strength of an injection must lie in \[0, 1\], got"):
        injection(denoiser(1), strength)
