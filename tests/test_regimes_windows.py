"""Windows of injection: shared beginnings to the last bit, and a switch known in advance."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from torch import Tensor

from erdpaper import guidance, sampling, schedules
from erdpaper.datasets import DatasetError
from erdpaper.images.measure import Features
from erdpaper.interventions.injection import injection
from erdpaper.interventions.window import Window
from erdpaper.posterior import Gaussian
from erdpaper.regimes import (
    injection_effects,
    injection_runs,
    injection_values,
    outcomes,
    windows,
)
from erdpaper.regimes.course import Course, even_grid
from erdpaper.regimes.injected import WHOLE, Injected, decoded, encoded
from erdpaper.regimes.injection_arm import Arm, Runs, class_of, course
from erdpaper.regimes.outcomes import Judged
from erdpaper.regimes.plans import FASHION
from erdpaper.regimes.system import System, fashion
from erdpaper.sampling import Hooks

F64 = torch.float64
COSINE = schedules.Cosine()
SIDE, STD = 8, 0.5
PAIR = Arm("left", "right")


def two_classes() -> System:
    """Two Gaussian classes of 8 x 8 images with means -m and m, known exactly, and their judge."""
    rows = torch.linspace(-1, 1, SIDE, dtype=F64)
    mean = (rows[:, None] * torch.ones(SIDE, dtype=F64)).flatten()
    laws = [Gaussian(sign * mean, STD**2 * torch.eye(SIDE**2, dtype=F64)) for sign in (-1.0, 1.0)]

    def denoiser(label: Any, scale: float = 1.0) -> sampling.Denoiser:
        exact = sampling.exact(laws[label], COSINE)

        def denoise(x: Tensor, t: float) -> sampling.Prediction:
            flat = exact(x.flatten(1).double(), t)
            return sampling.Prediction(*(part.reshape(x.shape).to(x) for part in flat))

        return denoise

    def data(split: str, label: int | None) -> tuple[Tensor, Tensor]:
        assert label is not None
        noise = torch.Generator().manual_seed(label)
        x = laws[label].mean + STD * torch.randn(400, SIDE**2, generator=noise, dtype=F64)
        return x.reshape(-1, 1, SIDE, SIDE).float(), torch.full((400,), label)

    def look(images: Tensor) -> Features:
        place = images.flatten(1) @ mean.float()
        return Features(images.flatten(1), 10 * torch.stack([-place, place], 1))

    def same(x: Tensor) -> Tensor:
        return x

    classes = ("left/half", "right")
    return System("toy", COSINE, (1, SIDE, SIDE), classes, denoiser, data, same, look)


def tangled(sampler: str, strength: float) -> Course:
    """Two denoisers without any structure."""

    def wave(k: int) -> sampling.Denoiser:
        return sampling.from_function(lambda x, t: torch.sin((2 + k) * x) + k * t, COSINE, "v")

    return Course(COSINE, even_grid(COSINE), wave(0), wave(1), strength, sampler)


@pytest.mark.parametrize("sampler", ["ddpm", "ddim"])
@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_shared_beginnings_are_the_runs_made_alone(sampler: str, strength: float) -> None:
    made = tangled(sampler, strength)
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(0), dtype=F64)
    start, draw = made.begin(x, 7), {"ddpm": sampling.ddpm, "ddim": sampling.ddim}[sampler]

    def alone(first: int, last: int) -> Tensor:
        """One run of the sampler from the start, with the hook for the steps first .. last - 1."""
        low = float(made.times[last - 1 : last + 1].mean())
        window = Window(low, float(made.times[first]))
        hooks = Hooks(on_prediction=injection(made.adversary, strength, window))
        noise = torch.Generator().manual_seed(7)
        return draw(made.denoise, x, COSINE, made.times, noise, hooks=hooks)

    spans = [(0, 10), (0, 11), (0, made.end)]
    nested = made.nested(start, [last for _, last in spans])
    spans += [(5, 13), (20, 21), (60, made.end)]
    slid = made.sliding(start, spans[3:])
    for span, found in zip(spans, [*nested, *slid], strict=True):
        assert torch.equal(found, alone(*span)), span
    (later,) = made.nested(start, [20], first=6)
    assert torch.equal(later, alone(6, 20))
    plain = draw(made.denoise, x, COSINE, made.times, torch.Generator().manual_seed(7))
    assert torch.equal(made.run(start, made.end).x, plain)
    assert len({float(found.sum()) for found in (*nested, *slid, plain)}) == 7


def test_states_on_the_way_are_those_that_the_sampler_saw() -> None:
    made, places = tangled("ddpm", 0.3), [4, 17, 40]
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(0), dtype=F64)
    seen = sampling.Recorder()
    inject = injection(made.adversary, 0.3)
    hooks = Hooks(on_prediction=lambda x, t, p: seen(x, t, inject(x, t, p)))
    sampling.ddpm(
        made.denoise, x, COSINE, made.times, torch.Generator().manual_seed(7), hooks=hooks
    )
    found = made.states(made.begin(x, 7), places, inject=True)
    assert torch.equal(torch.stack(found), seen.states[places])
    told = [injection_effects.endpoint(made, x, k) for x, k in zip(found, places, strict=True)]
    torch.testing.assert_close(torch.stack(told), seen.endpoints[places])


@pytest.mark.parametrize("to", [0, 17, 20, 64])
def test_a_trajectory_is_what_the_sampler_was_told(to: int) -> None:
    made, places = tangled("ddpm", 0.3), [4, 17, 40]
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(0), dtype=F64)
    seen, noise = sampling.Recorder(), torch.Generator().manual_seed(7)
    inject = injection(made.adversary, 0.3)
    told = made.times[:to].tolist()
    hooks = Hooks(on_prediction=lambda x, t, p: seen(x, t, inject(x, t, p) if t in told else p))
    end = sampling.ddpm(made.denoise, x, COSINE, made.times, noise, hooks=hooks)
    found = injection_effects.trajectory(made, made.begin(x, 7), to, places)
    torch.testing.assert_close(found[:-1], seen.endpoints[places])
    assert torch.equal(found[-1], end)


def test_a_level_outside_the_run_is_refused_and_not_moved_into_it() -> None:
    made = tangled("ddpm", 1.0)
    assert [made.index(level) for level in (-9.2, -9, -8, 6.75, WHOLE, math.inf)] == [
        *(0, 0, 4, 63, 63, 64)
    ]
    for wrong in (-9.3, 7.1, -math.inf, math.nan):
        with pytest.raises(ValueError, match=r"lies outside the run, which goes from -9 to 6\.75"):
            made.index(wrong)
    table = windows.THESIS
    later = replace(made, schedule=table, times=even_grid(table))
    # its first level, -5.36, is a part of a step before the grid
    assert later.index(float(table.logsnr(1.0))) == 0
    with pytest.raises(ValueError, match=r"log-SNR -7 lies outside the run, .* from -5\.25 to"):
        later.index(-7.0)


@pytest.mark.parametrize("sampler", ["ddpm", "ddim"])
def test_the_switch_of_two_gaussians_is_where_it_is_known_to_be(sampler: str) -> None:
    """After injection up to (alpha, sigma) the mean is m_c + f^k (m_q - m_c).

    f = alpha s / sqrt(alpha^2 s^2 + sigma^2), with k = 1 for the flow, which keeps the number of
    standard deviations, and k = 2 for the ancestral chain, whose mean is the posterior mean by the
    tower rule, at any step size. The class flips where the factor is 1/2.
    """
    arm = replace(PAIR, sampler=sampler)
    found = Runs.begin(two_classes(), arm, 30)
    ends = tuple(k / 4 for k in range(-2, 9))
    result = found.common() | injection_runs.nested(found, ends)[0]
    snr = 1 / (3 * STD**2) if sampler == "ddim" else 1 / STD**2
    read = Injected(result)
    level = injection_values.gaussian_level(found.system, 0, 1, sampler)
    # from 400 samples of each class
    assert level == pytest.approx(math.log(snr), abs=0.2)
    assert read.own == (1.0, 1.0)
    assert read.halfway().value == pytest.approx(math.log(snr), abs=0.13)
    assert read.taken(WHOLE) == 1 and read.recovered(-0.5) == 1
    assert read.at(WHOLE, 0).sum() == 0


def test_a_gaussian_of_few_states_has_a_level_along_what_they_span_alone() -> None:
    x = torch.tensor([[1.0, 0, 0, 0, 0], [-1, 1, 0, 0, 0], [0, -1, 0, 0, 0]])
    ways = {1: torch.tensor([0.0, 0, 3, 0, 0]), 2: torch.tensor([3.0, 0, 0, 0, 0])}

    def data(split: str, label: int | None) -> tuple[Tensor, Tensor]:
        return (x if label == 0 else x + ways[label or 0]), torch.zeros(len(x))

    found = replace(two_classes(), data=data)
    assert injection_values.gaussian_level(found, 0, 1, "ddpm") == math.inf
    # the share e^level v / (1 + e^level v) of each direction of the plane, weighted, is one half
    level = injection_values.gaussian_level(found, 0, 2, "ddpm")
    covariance = torch.cov(x.T.double(), correction=0)[:2, :2] * math.exp(level)
    kept = covariance @ torch.linalg.inv(covariance + torch.eye(2))
    assert float(kept[0, 0]) == pytest.approx(0.5)


def test_what_is_measured_of_a_pair_is_right_where_it_can_be_said() -> None:
    found = injection_runs.full(two_classes(), PAIR, 20)
    assert json.loads(json.dumps(found))["labels"] == [0, 1]
    half = found["half"]
    # both classes pull alike: the samples lie between them, on their line
    assert half["hybrids"][1].count("1") > 17 and half["own_hybrids"][1] == 0
    whole = Injected(found)
    assert np.array_equal(whole.at(WHOLE, 1), decoded(found["whole"]) == 1)
    early = found["shift_800"]
    assert early["towards"][0] == pytest.approx(ancestral_share(-3.25), abs=0.03)
    low = found["responses"]["low"]
    assert max(low) < 1 and low[0] < 0.05


def ancestral_share(logsnr: float) -> float:
    snr = math.exp(logsnr)
    return STD**2 * snr / (STD**2 * snr + 1)


def test_timesteps_of_the_thesis_have_the_noise_of_its_table() -> None:
    table = DDPMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
    for timestep in (1, 200, 600, 1000):
        abar = float(table.alphas_cumprod[timestep - 1])
        t = windows.time_of_thesis(timestep, COSINE)
        alpha, sigma = COSINE(t)
        assert float(alpha**2 / sigma**2) == pytest.approx(abar / (1 - abar), rel=1e-3)
        assert windows.timestep_of(float(COSINE.logsnr(t))) == pytest.approx(timestep, abs=1e-6)
    assert windows.time_of_thesis(0, COSINE) == 0
    assert windows.timestep_of(-9.0) == 1000
    abar = table.alphas_cumprod[[799, 599, 399, 199]].double()
    assert windows.lower_ends() == pytest.approx((abar / (1 - abar)).log().tolist(), abs=1e-3)
    assert windows.lower_ends(COSINE)[1] == pytest.approx(float(COSINE.logsnr(0.6)))
    for wrong in (-1, 1001):
        with pytest.raises(ValueError, match=r"lies in 0\.\.1000, got"):
            windows.time_of_thesis(wrong, COSINE)
    with pytest.raises(ValueError, match="log-SNR must be at least"):
        windows.time_of_thesis(1000, schedules.VP(0.1, 1.0))


def test_every_timestep_of_figure_3_7_ends_a_window() -> None:
    """By either reading, within half a step of the grid."""
    for end in (*windows.lower_ends(), *windows.lower_ends(COSINE)):
        assert min(abs(end - e) for e in injection_runs.ENDS) <= 0.13
    grid = even_grid(COSINE)
    steps = COSINE.logsnr(grid[:-1]).diff()
    torch.testing.assert_close(steps, torch.full_like(steps, 0.25))
    # a schedule that begins at less noise gives a grid that begins there
    assert float(COSINE.logsnr(grid[0])) == pytest.approx(-9)
    first = even_grid(windows.THESIS)[0]
    assert 0 <= float(windows.THESIS.logsnr(first) - windows.THESIS.logsnr(1.0)) <= 0.25


def test_low_frequencies_are_those_of_few_cycles() -> None:
    place = torch.arange(28) * 2 * math.pi / 28
    for cycles, kept in ((0, 1.0), (4, 1.0), (5, 0.0), (9, 0.0)):
        wave = torch.cos(cycles * place).expand(28, 28)
        torch.testing.assert_close(
            outcomes.low_pass(wave[None, None])[0, 0], kept * wave, atol=1e-5, rtol=0
        )
    low, high = torch.cos(3 * place).expand(28, 28), torch.sin(7 * place).expand(28, 28)
    apart = outcomes.distances((2 * low + 3 * high)[None, None], torch.zeros(1, 1, 28, 28))
    torch.testing.assert_close(apart[:, 0], torch.tensor([2.0, 3.0]) / math.sqrt(2))


def judged(images: Tensor, features: Tensor, top: float = 1.0) -> Judged:
    n = len(images)
    return Judged(images, torch.zeros(n, dtype=torch.int64), torch.full((n,), top), features)


def test_hybrids_lie_between_or_are_unsure() -> None:
    first, second = (judged(torch.zeros(4, 1, 8, 8), f * torch.ones(4, 2)) for f in (0.0, 6.0))
    line = torch.tensor([0.0, 1.9, 2.1, 3.9, 4.1])[:, None] * torch.ones(5, 2)
    found = judged(torch.zeros(5, 1, 8, 8), line)
    assert outcomes.hybrids(found, first, second).tolist() == [[0] * 5, [0, 0, 1, 1, 0]]
    unsure = found._replace(top=torch.tensor([0.79, 0.81, 0.5, 1.0, 1.0]))
    assert outcomes.hybrids(unsure, first, second)[0].tolist() == [1, 0, 1, 0, 0]


def test_a_shift_is_the_share_of_the_way_to_a_class_mean() -> None:
    noise = torch.Generator().manual_seed(0)
    means = outcomes.low_pass(torch.randn(5, 1, 28, 28, generator=noise))
    plain = torch.randn(30, 1, 28, 28, generator=noise)
    moved = judged(plain + 0.3 * (means[1] - means[0]), torch.zeros(30, 2))
    kept = torch.arange(30) < 20
    found = outcomes.shift(moved, judged(plain, torch.zeros(30, 2)), means, kept)
    assert found is not None and found.n == 20
    assert found.towards == pytest.approx((0.3, 0.3, 0.3), abs=1e-4)
    flat = (means - means[0])[1:].flatten(1)
    cosines = flat[1:] @ flat[0] / (flat[1:].norm(dim=1) * flat[0].norm())
    assert found.contrast.value == pytest.approx(0.3 * (1 - float(cosines.mean())), abs=1e-4)
    # 49 low frequencies: a random direction has a cosine near 1/7 at most twice that
    assert 0.3 * 0.1 < found.random < 0.3 * 0.45
    assert outcomes.shift(moved, moved, means, torch.arange(30) < 9) is None
    assert outcomes.shift(moved, moved, means, torch.arange(30) < 10) is not None


def test_class_means_are_those_of_the_two_and_of_the_first_eight_others() -> None:
    def data(split: str, label: int | None) -> tuple[Tensor, Tensor]:
        assert label is not None
        return torch.full((3, 1, 8, 8), float(label)), torch.full((3,), label)

    toy = replace(two_classes(), classes=tuple("abcdefghijklm"), data=data)
    found = outcomes.class_means(toy, 5, 2)
    torch.testing.assert_close(
        found, torch.tensor([5.0, 2, 0, 1, 3, 4, 6, 7, 8, 9])[:, None, None, None].expand_as(found)
    )


def arm_result(nested: list[str], slid: list[str], starts: list[float]) -> Injected:
    """A result with labels 0 and 1."""
    n = len(nested[0])
    return Injected(
        {
            "labels": [0, 1],
            "first": -9.0,
            "ends": [-4.0, -2.0, 0.0, 2.0],
            "untouched": "0" * n,
            "whole": "1" * (n - 1) + "2",
            "nested": nested,
            "sliding": {"2": {"starts": starts, "classes": slid}},
        }
    )


def test_levels_and_shares_are_read_off_the_classes() -> None:
    nested = ["00000000", "00000012", "00111222", "11111112", "11111112"]
    slid = ["00000000", "00000012", "00001111", "00000001", "00000000"]
    found = arm_result(nested, slid, [-6.0, -4.0, -2.0, 0.0, 2.0])
    assert decoded(encoded([0, 9, 40])).tolist() == [0, 9, 40]
    assert found.own == (1.0, 7 / 8)
    # 6 of 8 at -2 and 2 of 8 at 0: half between them
    assert found.halfway().value == pytest.approx(-1.0)
    assert found.halfway().low < -1 < found.halfway().high
    assert found.recovered(-1.9) == 6 / 8 and found.taken(0.1) == (3 / 8) / (7 / 8)
    assert found.taken(WHOLE) == 1
    # lost: 0, 2, 4, 1, 0 of 8; windows that begin at -5 to -3, and at -1 to 1, nine of each
    assert found.lost_at(np.array([-5.0, -4.0, -1.5])).mean(1).tolist() == [1 / 8, 2 / 8, 3.25 / 8]
    later = [2.5, 2.125, 1.75, 1.375, 1, 0.875, 0.75, 0.625, 0.5]
    assert found.after_less_before().value == pytest.approx((sum(later) / 9 - 2) / 8)
    assert found.worst_less(0).value == found.worst_less(-1).value == 4 / 8
    assert found.least_recovered(-2.0, after=False) == pytest.approx(6 / 8)
    assert found.least_recovered(-1.0, after=True) == pytest.approx(5.5 / 8)
    up = found.steps_up([-4.0, -2.0, 0.0, 2.0, WHOLE])
    assert [step.value for step in up] == [1 / 8, 2 / 8, 4 / 8, 0]
    # a window at the edge that is the worst in every resample
    worst_last = [*slid[:2], "11111111"]
    for edge, order in ((-1, worst_last), (0, worst_last[::-1])):
        assert arm_result(nested, order, [-6.0, -4.0, -2.0]).worst_less(edge) == (0, 0, 0)
    # of 4 that have their class untouched 3 do at -2 and 1 at 0
    few = ["00001111", "00011111", "01111111", "11111111", "11111111"]
    own = arm_result(few, slid, [-6.0]).result
    assert Injected({**own, "untouched": "00001111"}).halfway().value == pytest.approx(-1.0)
    # none has: there is nothing to lose from the first level on
    none = Injected({**own, "untouched": "11111111", "nested": ["11111111"] * 5})
    assert none.halfway() == (-9, -9, -9)
    never = arm_result(["0000"] * 5, slid, [-6.0])
    assert never.halfway().value == WHOLE
    # windows that the run has not say nothing
    assert math.isnan(found.least_recovered(-6.0, after=False))
    assert math.isnan(found.least_recovered(2.5, after=True))
    assert math.isnan(never.after_less_before().value)
    with pytest.raises(ValueError, match="sliding windows begin from -6 to 2 in log-SNR"):
        found.lost_at(np.array([-6.5]))


def test_an_interval_covers_the_share_as_often_as_it_says() -> None:
    """On 200 draws of 150 samples with known share, 95 % up to sampling error."""
    random, weights, inside = np.random.default_rng(1), outcomes.bootstrap(150), 0
    for _ in range(200):
        flags = (random.random(150) < 0.3).astype(float)
        _, low, high = outcomes.interval(float(flags.mean()), flags @ weights.T)
        inside += low <= 0.3 <= high
    assert 0.9 <= inside / 200 <= 0.99


def test_the_decision_is_where_the_class_stops_changing() -> None:
    found = Runs.begin(two_classes(), PAIR, 20)
    made = replace(found.course, strength=1.0)
    final = outcomes.judge(found.system, made.run(found.start, made.end, inject=True).x)
    # only one class is ever asked for: the estimate is of it from the first look on
    assert injection_effects.decided(found, made, final) == [injection_effects.LOOKS[0]] * 20
    wrong = final._replace(classes=1 - final.classes)
    assert injection_effects.decided(found, made, wrong) == [injection_effects.LOOKS[-1]] * 20


def test_the_turned_control_keeps_its_distance_and_nothing_else() -> None:
    from erdpaper.interventions.injection import turned

    made = tangled("ddpm", 1.0)
    x = torch.randn(5, 30, generator=torch.Generator().manual_seed(0), dtype=F64)
    plain, true, other = made.denoise(x, 0.6), made.adversary(x, 0.6), None
    alpha, sigma = COSINE(0.6)
    for seed in range(3):
        found = turned(made.denoise, made.adversary, seed)(x, 0.6)
        torch.testing.assert_close(alpha * found.x0 + sigma * found.eps, x)
        there, here = true.x0 - plain.x0, found.x0 - plain.x0
        torch.testing.assert_close(here.norm(dim=1), there.norm(dim=1))
        torch.testing.assert_close(here.abs().sort(1).values, there.abs().sort(1).values)
        assert float(((here * there).sum(1) / there.square().sum(1)).abs().max()) < 0.7
        assert other is None or not torch.equal(other, here)
        again = turned(made.denoise, made.adversary, seed)(x[:2], 0.6)
        torch.testing.assert_close(again.x0, found.x0[:2])
        other = here


def test_names_that_are_not_known_are_refused_in_one_sentence() -> None:
    clothes, toy = fashion("latents"), two_classes()
    assert class_of(clothes, "T-shirt") == class_of(clothes, "T-shirt/top") == 0
    with pytest.raises(ValueError, match="unknown class 'Hat'; fashion-latents has T-shirt, Tr"):
        class_of(clothes, "Hat")
    with pytest.raises(ValueError, match="must be another class than 'left'"):
        course(toy, Arm("left", "left"))
    with pytest.raises(ValueError, match="grid must be even or edm, not 'odd'"):
        course(toy, replace(PAIR, grid="odd"))
    with pytest.raises(ValueError, match="sampler must be one of ddpm, ddim, not 'heun'"):
        course(toy, replace(PAIR, sampler="heun"))
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\], got nan"):
        course(toy, replace(PAIR, strength=math.nan))


def test_guidance_of_an_arm_is_that_of_its_denoisers() -> None:
    clothes = fashion("latents")
    made = course(clothes, Arm(guidance=3.0, adversary_guidance=2.0, grid="edm"))
    x = clothes.start(2)
    torch.testing.assert_close(made.denoise(x, 0.7).x0, clothes.denoiser(1, 3.0)(x, 0.7).x0)
    torch.testing.assert_close(made.adversary(x, 0.7).x0, clothes.denoiser(8, 2.0)(x, 0.7).x0)
    assert len(made.times) == 61
    null, known = (clothes.denoiser(k, 1.0)(x, 0.7) for k in (None, 8))
    guided = guidance.combine(null, known, 2.0)
    torch.testing.assert_close(made.adversary(x, 0.7).x0, guided.x0, rtol=1e-4, atol=1e-5)


def test_kept_arms_are_named_once_and_missing_ones_say_what_makes_them(tmp_path: Path) -> None:
    jobs = windows.jobs()
    assert len({job.name for job in jobs}) == len(jobs) == 25
    with pytest.raises(DatasetError, match="erdpaper regimes"):
        windows.load(tmp_path)


def test_pairs_are_near_and_far_as_stated() -> None:
    z, labels = fashion("latents").data("train", None)
    means = [z[labels == k].mean(0) for k in range(10)]

    def apart(pair: tuple[str, str]) -> float:
        first, second = (class_of(fashion("latents"), name) for name in pair)
        return float((means[first] - means[second]).norm())

    assert max(apart(p) for p in FASHION.near) < 8.5 < 13 < min(apart(p) for p in FASHION.far)
