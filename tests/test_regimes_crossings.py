"""Levels of decision and collapse of systems whose laws are Gaussian mixtures, in closed form."""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from statistics import NormalDist

import pytest
import torch
from scipy.optimize import brentq
from torch import Tensor

from erdpaper import sampling, schedules, speciation
from erdpaper.images.measure import Features
from erdpaper.posterior import GaussianMixture
from erdpaper.regimes import collapsed, crossings, decided
from erdpaper.regimes.decided import Problem
from erdpaper.regimes.law import of_law
from erdpaper.regimes.plans import FASHION, Plan
from erdpaper.regimes.system import System

COSINE = schedules.Cosine()
LEVELS = (-6.0, -4.0, -3.0, -2.0, -1.0, 1.0)


def toy(means: Tensor, std: float, train: int = 200) -> System:
    """Gaussians of one std at means (C, d)."""
    return of_law(GaussianMixture(means, torch.full((len(means),), std)), COSINE, train)


def two(half_distance: float = 4.0, std: float = 1.0, dim: int = 2, train: int = 200) -> System:
    m = torch.full((dim,), half_distance / math.sqrt(dim))
    return toy(torch.stack([m, -m]), std, train)


def decision(half_distance: float, std: float) -> float:
    """The level at which phi of the pair is the criterion."""
    return float(
        brentq(
            lambda level: (
                speciation.pair_agreement(speciation.separation(level, half_distance, std))
                - speciation.AT_SPECIATION
            ),
            -8,
            4,
        )
    )


@pytest.mark.parametrize("way", [decided.clones, decided.uturns])
def test_clones_and_uturns_find_the_level_of_theory(way: Callable[..., decided.Curve]) -> None:
    system = two()
    found = way(system, Problem("pair", "toy", None, LEVELS, 400)).crossing
    assert found is not None
    expected = decision(4.0, 1.0)
    assert abs(found.estimate - expected) < 1.5 * found.half_width + 0.1
    assert found.half_width < 0.7


def test_continuations_share_no_noise_with_the_states_they_start_from() -> None:
    """With one stream for both, clones of this pair would agree 0.03 too often."""
    problem = Problem("pair", "toy", None, (-6.0, -5.0), 8_000)
    expected = speciation.pair_agreement(speciation.separation(-6.0, 4.0))
    assert float(decided.clones(two(), problem).mean[0]) == pytest.approx(expected, abs=0.017)


def test_exact_posterior_of_the_data_finds_the_same_level() -> None:
    curves = decided.exact(two(train=1_000), Problem("pair", "toy", None, LEVELS, 600))
    low, high = (curve.crossing for curve in curves)
    assert low is not None
    assert high is not None
    # the interpolated curve, because levels are a unit apart
    phi = [speciation.pair_agreement(speciation.separation(v, 4.0)) for v in LEVELS]
    expected = speciation.crossing(
        torch.tensor(LEVELS), torch.tensor(phi)[:, None].expand(-1, 2), speciation.AT_SPECIATION
    )
    assert expected is not None
    assert low.low - 0.1 < expected.estimate < high.high + 0.1


def test_a_pair_among_three_is_decided_as_if_alone() -> None:
    means = torch.tensor([[4.0, 0.0], [-4.0, 0.0], [0.0, 5.0]])
    problem = Problem("pair", "toy", (0, 1), LEVELS[1:4], 150)
    for way in (decided.clones, decided.uturns):
        curve = way(toy(means, 1.0), problem)
        for level, mean, error in zip(
            curve.levels.tolist(), curve.mean.tolist(), curve.error.tolist(), strict=True
        ):
            phi = speciation.pair_agreement(speciation.separation(level, 4.0))
            assert mean == pytest.approx(phi, abs=4 * error + 0.01)


def test_states_of_a_pair_are_of_the_pair_and_so_are_test_images() -> None:
    problem = Problem("pair", "toy", (0, 1), (0.0, 3.0), 60)
    far = decided.clones(toy(torch.tensor([[6.0, 0.0], [-6.0, 0.0], [0.0, 9.0]]), 1.0), problem)
    # with little noise a state of the third class would never end in one of the two
    assert not bool(far.values[1].isnan().any())
    assert far.threshold == pytest.approx(0.7752, abs=5e-5)
    # many test images look like the third class, and would never end in one of the two
    near = toy(torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]]), 1.0)
    kept = decided.uturns(near, problem._replace(levels=(8.0, 9.0), steps=4))
    assert kept.mean.min() > 0.95
    assert not bool(kept.values.isnan().any())


def test_error_of_a_curve_is_that_of_the_known_values() -> None:
    values = torch.tensor([[0.0, 1.0, 5.0, math.nan]], dtype=torch.float64)
    found = decided.Curve(torch.zeros(1), values, 0.5)
    assert float(found.mean) == pytest.approx(2)
    assert float(found.error) == pytest.approx(math.sqrt((4 + 1 + 9) / 2 / 3))


def test_two_levels_are_apart_by_their_joint_half_widths() -> None:
    first, second = speciation.Crossing(0.0, -0.3, 0.3), speciation.Crossing(1.0, 0.6, 1.4)
    assert decided.apart(first, second) == pytest.approx(1 / (1.5 * 0.5))


def test_labels_decide_before_any_level_and_a_deterministic_sampler_always() -> None:
    problem = Problem("pair", "toy", None, (-8.0, -3.0), 100)
    assert decided.conditional(two(), problem).mean.min() > 0.99
    assert bool((decided.deterministic(two(), problem).values == 1).all())
    assert decided.clones(two(), problem).mean[0] < 0.65


@pytest.mark.parametrize("std", [1.0, 2.0])
def test_injection_takes_over_until_the_spread_within_a_class_is_known(std: float) -> None:
    """After the switch the mean is on the way back by the share SNR s^2 / (1 + SNR s^2)."""
    m = 6.0
    curve = decided.injected(two(m, std), Problem("pair", "toy", None, LEVELS, 200))
    for level, mean in zip(curve.levels.tolist(), curve.mean.tolist(), strict=True):
        snr = math.exp(level) * std**2
        expected = NormalDist().cdf(m / std * (1 - 2 * snr / (1 + snr)))
        assert -mean == pytest.approx(expected, abs=4 * math.sqrt(0.25 / 400))
    # each state is continued twice, by noise of its own
    assert set(curve.values.flatten().tolist()) == {0, -0.5, -1}
    found = curve.crossing
    assert found is not None
    # half way, whatever the distance between the classes
    assert found.estimate == pytest.approx(-2 * math.log(std), abs=0.4)


def test_exchanged_labels_are_other_classes() -> None:
    own, other = decided.exchanged(
        toy(torch.eye(3), 1.0), Problem("all", "toy", None, LEVELS, 300), 0
    )
    assert bool((own != other).all())
    assert {(a, b) for a, b in zip(own.tolist(), other.tolist(), strict=True)} == {
        (a, b) for a in range(3) for b in range(3) if a != b
    }


def test_levels_that_a_schedule_does_not_reach_are_left_out() -> None:
    system = two()
    assert decided.reached(system, (-20.0, -9.0, -3.0, 2.0)).tolist() == [-3, 2]
    with pytest.raises(ValueError, match="above log-SNR -9"):
        decided.reached(system, (-20.0, -3.0))


def test_denoisers_of_a_law_are_those_of_its_components() -> None:
    law = GaussianMixture(torch.tensor([[1.0, 2.0], [-3.0, 0.5]]), torch.tensor([0.5, 2.0]))
    system, x = of_law(law, COSINE), torch.randn(4, 2, generator=torch.Generator().manual_seed(0))
    for k in (0, 1):
        one = GaussianMixture(law.means[k : k + 1], law.stds[k : k + 1])
        expected = one.moments(x, *COSINE(0.4))
        for label in (k, torch.full((4,), k)):
            found = system.denoiser(label, 1.0)(x, 0.4)
            torch.testing.assert_close(found.x0, expected.x0)
            torch.testing.assert_close(found.eps, expected.eps)
    with pytest.raises(ValueError, match="scale 1"):
        system.denoiser(0, 2.0)


def test_as_many_test_states_are_used_as_the_judge_takes_for_the_classes() -> None:
    system = two(train=50)
    problem = Problem("pair", "toy", None, LEVELS, 400)
    assert decided.uturns(system, problem).values.shape == (len(LEVELS), 100)
    third = torch.tensor([0.0, 0.0, 1.0])
    never = replace(system, look=lambda x: Features(x, third.expand(len(x), 3)))
    with pytest.raises(ValueError, match="pair: 0 test states are taken for one of the classes"):
        decided.uturns(never, problem)


def test_levels_without_values_are_left_out_of_the_crossing() -> None:
    values = torch.tensor([[0.0, 0.0], [1.0, 1.0], [torch.nan, torch.nan]])
    levels = torch.tensor([-1.0, 0.0, 1.0])
    known = decided.Curve(levels[:2], values[:2], 0.5)
    assert decided.Curve(levels, values, 0.5).crossing == known.crossing
    assert decided.Curve(levels[1:], values[1:], 0.5).crossing is None


@pytest.mark.parametrize("pair", [(0, 2), (-1, 0), (1, 1)])
def test_pairs_that_are_none_are_refused(pair: tuple[int, int]) -> None:
    problem = Problem("pair", "toy", pair, LEVELS, 4)
    for way in (decided.clones, decided.uturns, decided.injected, decided.exact):
        with pytest.raises(ValueError, match=r"two different classes of 0\.\.1, got"):
            way(two(), problem)


# collapse


def test_exact_denoiser_ends_at_training_points_and_the_law_does_not() -> None:
    system = two(dim=6, train=100)
    exact = collapsed.exact_denoiser(system)
    assert collapsed.copies(system, exact, 40).double().mean() > 0.95
    assert collapsed.copies(system, system.denoiser(None, 1.0), 40).double().mean() < 0.1


def test_only_what_remembers_returns_to_training_points_more_often() -> None:
    system = two(dim=6, train=300)
    levels = torch.tensor([-6.0, 1.0, 9.0], dtype=torch.float64)
    law = collapsed.returns(system, levels, 100)
    assert law.train[0].double().mean() < 0.1
    assert law.train[2].double().mean() > 0.9
    gap = (law.train[1].double().mean() - law.test[1].double().mean()).abs()
    assert gap < 0.2
    exact = collapsed.exact_denoiser(system)
    memory = System(**{**vars(system), "denoiser": lambda label, scale: exact})
    copied = collapsed.returns(memory, levels, 100)
    entropy = speciation.excess_entropy(system.data("train", None)[0], levels, 600)
    # the end is a draw from the posterior over training points
    expected = entropy.own_share.mean(1)
    for level in (0, 1, 2):
        found = float(copied.train[level].double().mean())
        assert found == pytest.approx(float(expected[level]), abs=0.17)
    assert copied.test[2].double().mean() < 0.05


def test_copies_begin_in_noise_and_uturns_at_the_noisy_state_of_their_level() -> None:
    system, n = toy(torch.tensor([[10.0, -10.0]]), 0.5, 400), 400
    seen: list[tuple[Tensor, float]] = []

    def watched(label: object, scale: float) -> sampling.Denoiser:
        inner = system.denoiser(None, 1.0)

        def denoise(x: Tensor, t: float) -> sampling.Prediction:
            seen.append((x, t))
            return inner(x, t)

        return denoise

    collapsed.copies(system, watched(None, 1.0), 4)
    assert float((-COSINE.logsnr(seen[0][1]) / 2).exp()) == pytest.approx(80)
    seen.clear()
    turning = System(**{**vars(system), "denoiser": watched})
    collapsed.returns(turning, torch.tensor([-1.0]), n)
    x, t = seen[0]
    assert float(COSINE.logsnr(t)) == pytest.approx(-1, abs=1e-4)
    alpha, sigma = (float(part) for part in COSINE(t))
    spread = math.sqrt(alpha**2 * 0.25 + sigma**2)
    assert x.mean(0).tolist() == pytest.approx([alpha * 10, -alpha * 10], abs=4 * spread / n**0.5)
    assert x.std(0).tolist() == pytest.approx([spread] * 2, rel=4 / (2 * n) ** 0.5)


# what is kept


def _in_turn(tasks: Mapping[Path, Callable[[], str]], *_: object) -> None:
    for path, task in tasks.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(task())


def test_what_is_collected_is_read_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    system = two(6.0, 1.0, 12, 100)
    problem = Problem("ten classes", "latents", None, LEVELS, 60)
    monkeypatch.setattr(Plan, "system", lambda plan, space: system)
    monkeypatch.setattr(crossings, "PROBLEMS", {problem.name: problem})
    monkeypatch.setattr(crossings, "_COPIES", {"network": 10, "exact": 10})
    monkeypatch.setattr(crossings, "_RETURNS", 20)
    monkeypatch.setattr(crossings, "CONTROL", (-3.0, 0.0))
    monkeypatch.setattr(crossings, "_INJECTED", 20)
    monkeypatch.setattr(decided, "INJECTED", (-3.0, 0.0))
    monkeypatch.setattr(crossings, "fill", _in_turn)
    crossings.collect(tmp_path / "work", tmp_path / "out", 1)
    kept = crossings.load(tmp_path / "out")
    curve = decided.uturns(system, problem)
    assert curve.crossing is not None
    found = kept.crossing("ten classes", "U-turns")
    assert found is not None
    assert found == pytest.approx(curve.crossing, abs=1e-4)
    x, labels = system.data("train", None)
    expected = speciation.time_from_covariance(x, labels).logsnr
    between = kept.crossing("ten classes", "between classes")
    assert between is not None
    assert between.estimate == pytest.approx(expected)
    assert between.half_width == 0
    assert kept.crossing("ten classes", "conditional") is None
    assert kept.rows["exact", "copies"]["share"] > kept.rows["network", "copies"]["share"]
    assert len(kept.rows["", "returns"]["train"]) == len(kept.rows["", "returns"]["after"])
    assert kept.card["command"] == "erdpaper regimes"


def test_distances_between_ways_are_those_of_their_levels() -> None:
    def kept(**ways: tuple[float, float, float] | None) -> crossings.Kept:
        rows = {("x", way): {"crossing": found} for way, found in ways.items()}
        return crossings.Kept(rows | {("x", "covariance"): {"logsnr": -3.5}}, {})

    exact = {"own image in": (-2.5, -2.6, -2.4), "own image out": (-2.0, -2.3, -1.5)}
    for at, expected in ((-2.2, 0.0), (-2.9, 0.4), (-1.7, 0.3)):
        found = kept(clones=(at, at - 0.2, at + 0.4), **exact)
        assert found.outside_exact("x") == pytest.approx((expected, 0.3))
    # without the own image the posterior may never get sure
    found = kept(clones=(-1.7, -1.9, -1.3), **{**exact, "own image out": None})
    assert found.outside_exact("x") == pytest.approx((0.0, 0.3))
    assert found.distance("x", "covariance") == pytest.approx((1.8, 0.3))
    assert found.distance("x", "own image in") == pytest.approx((0.8, math.hypot(0.3, 0.1)))
    assert all(math.isnan(part) for part in found.distance("x", "own image out"))


def test_every_task_has_a_file_of_its_own() -> None:
    made = crossings.tasks(Path("work"))
    assert len({path.name for path in made}) == len(made)
    assert sum("clones" in path.name for path in made) == len(crossings.PROBLEMS)


def test_agreement_within_labels_counts_pairs() -> None:
    system = toy(torch.tensor([[1.0], [-1.0]]), 1.0, 150)
    x, labels = system.data("test", None)
    seen = system.seen(x).logits.argmax(1)
    pairs = [
        float(seen[i] == seen[j]) for i in range(len(x)) for j in range(i) if labels[i] == labels[j]
    ]
    found = decided.agreement_within_labels(system)
    assert found == pytest.approx(sum(pairs) / len(pairs))
    # a judge that is right with probability Phi(1)
    right = NormalDist().cdf(1.0)
    assert found == pytest.approx(right**2 + (1 - right) ** 2, abs=0.06)


def test_times_that_data_have_not_are_null(monkeypatch: pytest.MonkeyPatch) -> None:
    # two points a class, which vary less than the noise, and not at all along the way between
    x, labels = torch.zeros(4, 3), torch.tensor([0, 0, 1, 1])
    x[:, 1], x[2:, 0] = torch.tensor([-0.1, 0.1, -0.1, 0.1]), 0.5
    x[0, 0] = x[3, 0] = 1e-3

    def data(split: str, label: int | None) -> tuple[Tensor, Tensor]:
        chosen = slice(None) if label is None else labels == label
        return x[chosen], labels[chosen]

    small = replace(two(), data=data)
    monkeypatch.setattr(Plan, "system", lambda plan, space: small)
    problem = Problem("pair", "latents", (0, 1), LEVELS, 4)
    rows = [json.loads(line) for line in crossings._covariance(FASHION, problem).splitlines()]
    assert [row["logsnr"] for row in rows] == [None, None]
    kept = crossings.Kept({("pair", row["way"]): row for row in rows}, {})
    assert kept.crossing("pair", "covariance") is None is kept.crossing("pair", "clones")


def beginning(logsnr: float) -> schedules.Schedule:
    """The cosine schedule from a level on."""

    found = schedules.Cosine()
    whole = found.logsnr
    object.__setattr__(found, "logsnr", lambda t: whole(t).clamp(min=logsnr))
    return found


def test_returns_are_measured_where_the_schedule_has_begun(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    system = two(6.0, 1.0, 12, 100)
    monkeypatch.setattr(Plan, "system", lambda plan, space: system)
    monkeypatch.setattr(crossings, "_RETURNS", 4)
    whole = json.loads(crossings._returns(FASHION))
    assert whole["after"] == list(crossings._AROUND) and whole["n"] == 4
    # a schedule that begins half a unit after the collapse, and one that begins after all levels
    for begins, expected in ((0.5, [1.0, 2.0, 3.0]), (3.5, None)):
        late = replace(system, schedule=beginning(whole["collapse"][0] + begins))
        monkeypatch.setattr(Plan, "system", lambda plan, space, late=late: late)
        found = crossings._returns(FASHION)
        assert (json.loads(found)["after"] if found else None) == expected
