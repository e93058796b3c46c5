"""Steering runs on a system whose every effect is known, and the curves that are made of them."""

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from erdpaper import metrics, sampling, schedules
from erdpaper.datasets import DatasetError
from erdpaper.images.measure import Features
from erdpaper.posterior import Gaussian
from erdpaper.regimes import push_curves, push_realism, push_runs, push_windows, pushes
from erdpaper.regimes.plans import FASHION
from erdpaper.regimes.push_runs import REVERSED, Bench, Pair, Setting, Vector
from erdpaper.regimes.system import System
from erdpaper.sampling import Hooks

F64 = torch.float64
SHAPE, CLASSES = (2, 3), 3
D = math.prod(SHAPE)
SCHEDULE = schedules.Cosine()


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def law(label: int) -> Gaussian:
    """A Gaussian for each class, in a basis of its own."""
    basis = torch.linalg.qr(normal(D, D, seed=label))[0]
    variances = torch.tensor([2.0, 1.0, 0.5, 0.3, 0.1, 0.05], dtype=F64)
    return Gaussian(3 * normal(D, seed=10 + label), basis @ torch.diag(variances) @ basis.T)


LAWS = [law(label) for label in range(CLASSES)]
MEANS = torch.stack([each.mean for each in LAWS])


def look(images: Tensor) -> Features:
    """Features are the states; the nearest mean is the class."""
    features = images.flatten(1)
    return Features(features.float(), -torch.cdist(features.double(), MEANS).square().float())


def denoiser(label: Any, scale: float = 1.0) -> sampling.Denoiser:
    exact = sampling.exact(LAWS[label], SCHEDULE)

    def denoise(x: Tensor, t: float) -> sampling.Prediction:
        found = exact(x.flatten(1).double(), t)
        return sampling.Prediction(*(part.view_as(x).to(x) for part in found))

    return denoise


def data(split: str, label: int | None) -> tuple[Tensor, Tensor]:
    """2,000 of every class, mixed."""
    seed = 7 if split == "train" else 8
    labels = torch.arange(6_000) % CLASSES
    x = torch.zeros(6_000, D, dtype=F64)
    for c, each in enumerate(LAWS):
        generator = torch.Generator().manual_seed(seed + c)
        x[labels == c] = each.sample(2_000, generator)
    x = x.float().view(-1, *SHAPE)
    return (x, labels) if label is None else (x[labels == label], labels[labels == label])


SYSTEM = System("gaussians", SCHEDULE, SHAPE, ("a", "b", "c"), denoiser, data, lambda x: x, look)
PAIR = Pair(0, 2)


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(push_runs, "DIRECTIONS", 3)
    monkeypatch.setattr(push_runs, "SHARED", 2)
    yield


def bench(**setting: Any) -> Bench:
    real = push_runs.reference(SYSTEM, 3_000, 2_000)
    return Bench(SYSTEM, PAIR, Setting(**{"steps": 12, "samples": 300, **setting}), real)


STEERED = [Vector("mean difference"), Vector("weighted sum"), Vector("SVD"), Vector("shared")]
STEERED += [Vector("residual", REVERSED), Vector("isotropic", 3), Vector("source", 2)]


def test_few_real_images_are_shared_and_a_class_never_given_is_as_usual_as_all() -> None:
    # 6,000 are there, of the 12,000 + 8,000 asked for: 3,600 and 2,400
    real = push_runs.reference(SYSTEM, 12_000, 8_000)
    x, labels = data("test", None)
    x = x.flatten(1).double()
    assert torch.equal(real.states, x[:3_600])
    near = torch.cdist(x[3_600:], x[:3_600]).min(1).values
    # exact classes are so far apart that the nearest mean is that of the label
    expected = torch.stack([near[labels[3_600:] == c].median() for c in range(CLASSES)])
    torch.testing.assert_close(real.usual, expected, rtol=1e-3, atol=1e-3)

    def never_the_last(images: Tensor) -> Features:
        features, logits = look(images)
        return Features(features, logits.index_fill(1, torch.tensor(2), -1e9))

    blind = replace(SYSTEM, look=never_the_last)
    usual = push_runs.reference(blind, 3_000, 2_000).usual
    near = torch.cdist(x[3_000:5_000], x[:3_000]).min(1).values
    assert float(usual[2]) == pytest.approx(float(near.median()), rel=1e-3)


# ---------------------------------------------------------------- vectors


def test_vectors_point_to_the_target_and_a_reversed_one_away() -> None:
    own = bench()
    towards = own.target.mean - own.source.mean
    torch.testing.assert_close(own.difference, towards)
    for vector in STEERED:
        along = float(own.delta(vector).flatten().double() @ towards)
        assert (along < 0) == (vector.variant == REVERSED)
    for kind in ("weighted sum", "shared", "SVD"):
        plain, turned = own.delta(Vector(kind)), own.delta(Vector(kind, REVERSED))
        torch.testing.assert_close(plain, -turned)
    total = LAWS[0].variances.sum().sqrt()
    assert own.radius == pytest.approx(float(total), rel=0.05)


def test_draws_differ_in_their_signs_alone() -> None:
    own = bench()
    every = torch.stack([own.delta(Vector("shared", i)).flatten() for i in range(1, 30)])
    # of two directions: four patterns, all of length 1
    assert len({tuple(row) for row in every.round(decimals=4).tolist()}) == 4
    torch.testing.assert_close(every.norm(dim=1), torch.ones(29))
    sums = [own.delta(Vector("weighted sum", i)).norm() for i in range(5)]
    torch.testing.assert_close(torch.stack(sums), sums[0].expand(5))


def test_random_vectors_have_the_law_they_are_named_after() -> None:
    own = bench()
    for kind, law in (("isotropic", Gaussian.standard(D)), ("source", LAWS[0])):
        drawn = torch.stack([own.delta(Vector(kind, i)).flatten() for i in range(1, 401)])
        squares = (drawn.double() @ law.basis).square()  # the sign drops out
        expected = law.variances * (2_000 - 1 if kind == "source" else 1)
        error = (squares.mean(0) / expected - 1).abs().max()
        assert float(error) < 5 * math.sqrt(2 / 400)


# ---------------------------------------------------------------- runs


@pytest.mark.parametrize("sampler", ["ddpm", "ddim"])
@pytest.mark.parametrize("vector", STEERED[:4], ids=str)
def test_samples_move_as_the_closed_form_says(sampler: str, vector: Vector) -> None:
    own = bench(sampler=sampler)
    plain = own.run()
    every = {"whole": None, **push_windows.windows(SCHEDULE)}
    for window in every.values():
        moved = own.steered(vector, 0.7, window)
        found = push_windows.displacement(own, vector, moved, plain)
        span = window or push_windows.Window()
        expected = push_windows.linear_displacement(own, vector, 0.7, span)
        # the fitted Gaussian is that of 2,000 samples
        assert found == pytest.approx(expected, rel=0.05)


def test_equal_strengths_are_pushes_in_proportion_to_the_signal() -> None:
    own, vector = bench(), Vector("mean difference")
    plain, windows = own.run(), push_windows.windows(SCHEDULE)
    alpha = SCHEDULE(own.grid[:-1])[0]
    called = own.grid[:-1].tolist()
    for window in windows.values():
        moved = own.run(push_windows.equal_strength(own, vector, 0.7, window))
        found = push_windows.displacement(own, vector, moved, plain)
        push = 0.7 * alpha[[t in window for t in called]].mean() / alpha.mean()
        expected = push_windows.linear_displacement(own, vector, float(push), window)
        assert found == pytest.approx(expected, rel=0.05)


def test_windows_are_those_of_the_thesis_at_equal_noise() -> None:
    assert push_windows.thesis_logsnr(800) == pytest.approx(-3.2537, abs=1e-4)
    known = schedules.StableDiffusion()
    for low, high in ((800, 1000), (400, 800), (0, 400)):
        same = push_windows.thesis_window(known, low, high)
        assert (same.low, same.high) == pytest.approx((low / 1000, high / 1000))
        other = push_windows.thesis_window(SCHEDULE, low, high)
        for a, b in zip(same.__dict__.values(), other.__dict__.values(), strict=True):
            inner = 0 < a < 1
            assert not inner or float(SCHEDULE.logsnr(b)) == pytest.approx(float(known.logsnr(a)))


def test_whole_injection_is_sampling_of_the_target() -> None:
    own = bench()
    injected = own.steered(Vector("injection"), 1.0)
    torch.testing.assert_close(injected, Bench(SYSTEM, Pair(2, 0), own.setting).run())
    torch.testing.assert_close(own.steered(Vector("injection"), 0.0), own.run())


def test_samples_are_judged_by_distance_class_and_way() -> None:
    own = bench()
    real, _ = data("test", 0)
    found = own.measured(real[-300:])  # not among the reference
    seen = look(real[-300:])
    assert found["share"] == metrics.class_agreement(seen.logits, torch.full((300,), 2)).share
    assert found["shares"][0] > 0.9
    assert found["realism"] == pytest.approx(1, abs=0.15)
    assert found["way"] == pytest.approx(0, abs=0.1)
    # features are the states here
    assert found["states"] == pytest.approx(
        float(torch.cdist(real[-300:].flatten(1), own.real.states.float()).min(1).values.median()),
        rel=1e-3,
    )
    target, _ = data("test", 2)
    assert own.measured(target[-300:])["way"] == pytest.approx(1, abs=0.1)
    away = own.measured(real[-300:] + 3 * own.radius)
    assert away["realism"] > 3 and away["states"] > 3 * found["states"]
    copies = own.measured(own.real.states[:9].float().view(-1, *SHAPE))
    assert copies["realism"] == 0 == copies["states"]


def test_endpoints_are_seen_after_the_push_and_after_the_injection() -> None:
    own = bench()
    seen: list[Tensor] = []
    hooks = own.hooks(Vector("injection"), 0.5)

    def keep(x: Tensor, t: float, prediction: sampling.Prediction) -> sampling.Prediction:
        assert hooks.on_prediction is not None
        changed = hooks.on_prediction(x, t, prediction)
        seen.append(look(changed.x0).logits.softmax(1).mean(0))
        return changed

    own.run(Hooks(on_prediction=keep))
    found = own.endpoint_probabilities(hooks)
    torch.testing.assert_close(torch.tensor(found["source"]), torch.stack(seen)[:, 0])
    torch.testing.assert_close(torch.tensor(found["target"]), torch.stack(seen)[:, 2])
    pushed = own.endpoint_probabilities(own.hooks(Vector("mean difference"), 2.0))
    assert pushed["target"][-1] > own.endpoint_probabilities(Hooks())["target"][-1]


# ---------------------------------------------------------------- what is kept


def point(amount: float, share: float, realism: float, way: float) -> dict[str, Any]:
    return {
        "amount": amount, "shares": [1 - share, 0.0, share], "share": share,
        "low": share / 2, "high": (1 + share) / 2, "realism": realism, "states": 2.0, "way": way,
    }  # fmt: skip


UNTOUCHED = point(0, 0.1, 0.8, 0.05)


def curve(*points: dict[str, Any]) -> push_curves.Curve:
    return push_curves.Curve(UNTOUCHED, points)


def test_best_share_is_read_where_the_limit_is_met() -> None:
    # realism over untouched: 1, 1.25, 2.5; the limit falls at amount 1, or on the way to 2
    found = curve(point(1, 0.3, 1.0, 0.25), point(2, 0.9, 2.0, 0.65))
    assert found.best_share() == pytest.approx((1, 0.3, 0.15, 0.65))
    assert found.best_share(1.875) == pytest.approx((1.5, 0.6, 0.3, 0.8), abs=2e-3)
    assert found.best_share(9).amount == 2
    assert found.of_class(0, 1.5) == pytest.approx(0.4)
    # it may come back, as samples that have become the target do
    back = curve(point(1, 0.3, 1.6, 0), point(2, 0.8, 0.8, 0))
    assert back.best_share() == pytest.approx((2, 0.8, 0.4, 0.9))
    worse = curve(point(1, 0.0, 0.8, 0), point(2, 0.0, 0.8, 0))
    assert worse.best_share().amount == 0


@given(
    st.lists(
        st.tuples(st.floats(0, 1), st.floats(0.1, 4), st.floats(-1, 2)), min_size=1, max_size=6
    )
)
def test_best_share_is_that_of_a_fine_search(values: list[tuple[float, float, float]]) -> None:
    found = curve(*(point(i + 1, *v) for i, v in enumerate(values)))
    best = 0.0
    for amount in np.linspace(0, len(values), 601):
        i = min(int(amount), len(values) - 1)
        share, realism = (
            (1 - amount + i) * a + (amount - i) * b
            for a, b in zip([(0.1, 0.8), *(v[:2] for v in values)][i], values[i][:2], strict=True)
        )
        if realism / 0.8 <= push_curves.LIMIT:
            best = max(best, share)
    assert found.best_share().share == pytest.approx(best)
    way = found.furthest
    reached = found.reaching(way / 2)
    if way > 0 and reached is not None:
        assert float(found.at("way", reached)) >= way / 2 - 1e-6
    assert found.reaching(way + 0.1) is None


def test_gap_is_newcombes() -> None:
    # his Table II, case (a): 56/70 against 48/80 is .0524 to .3339
    def share(k: int, n: int) -> push_curves.Share:
        interval = stats.binomtest(k, n).proportion_ci(method="wilson")
        return push_curves.Share(0, k / n, interval.low, interval.high)

    low, half = push_curves.gap(share(56, 70), share(48, 80))
    assert low == pytest.approx(0.0524, abs=1e-4) and half == pytest.approx(0.2 - 0.0524, abs=1e-4)


def test_half_rise_is_that_of_a_logistic_curve() -> None:
    x = np.linspace(-8, 8, 161)
    for centre in (-3.3, 0.0, 2.15):
        found = push_curves.half_rise(list(x), list(0.7 / (1 + np.exp(-(x - centre) * 3))))
        assert found == pytest.approx(centre, abs=0.01)
    assert push_curves.half_rise([-1, 0], [2, 3]) == -1
    # what falls again is measured on its way up
    assert push_curves.half_rise([0, 1, 2, 3], [0, 2, 4, 0]) == 1


def kept(tmp_path: Path, shares: dict[str, float]) -> push_curves.Kept:
    tmp_path.mkdir(exist_ok=True)
    base = {"setting": "ddpm", "pair": "p"}
    lines = [{**base, "kind": "untouched", "radius": 2.0, "points": [UNTOUCHED]}]
    for vector in pushes.random_vectors():
        way = shares.get(f"{vector.kind} {vector.variant}", 0.2)
        points = [point(1, way, 0.9, way)]
        lines.append({**base, **vector._asdict(), "points": points})
    strong = [point(1, 0.5, 0.8, 0.3), point(2, 0.9, 1.6, 0.85)]
    lines.append({**base, **Vector("shared")._asdict(), "points": strong})
    weak = [point(1, 0.2, 1.2, 0.25)]
    lines.append({**base, **Vector("SVD")._asdict(), "points": weak})
    (tmp_path / "runs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / "card.json").write_text('{"settings": {"ddpm": {"samples": 200}}}')
    return push_curves.load(tmp_path)


def test_kept_runs_are_compared_with_random_vectors_and_each_other(tmp_path: Path) -> None:
    found = kept(tmp_path, {"isotropic 3": 0.7, "source 1": 0.65})
    # the share that stays within the limit: of 0.5 at 1, rising to 0.9 as realism doubles
    own = found.curve("p", Vector("shared")).best_share().share
    assert own == pytest.approx(0.5 + 0.4 * 0.25, abs=2e-3)
    assert found.p_value("p", Vector("shared")) == pytest.approx(3 / 21)
    assert found.p_value("p", Vector("SVD")) == 1
    # 120 of 200 samples, by a fraction of a sample more than a random vector
    level = kept(tmp_path / "level", {"isotropic 3": 0.599})
    assert level.p_value("p", Vector("shared")) == pytest.approx(2 / 21)
    assert found.corruption("p", Vector("shared")) == pytest.approx((1 + 2) / 2)
    assert found.radius("p") == 2


# ---------------------------------------------------------------- realism at equal effect


def course(*points: tuple[float, float, float]) -> push_realism.Course:
    return push_realism.Course(*np.array([(0.0, 1.0, 0.0), *points]).T)


def test_realism_is_compared_where_both_are_equally_far() -> None:
    # the first gets 0.2 far, at 1.5 times the distance; the second is there at 0.8 of a step
    weak, strong = course((1, 1.5, 0.2)), course((1, 1.0, 0.25), (2, 2.0, 0.8))
    assert push_realism.less_real(weak, strong) == pytest.approx(0.5, abs=1e-6)
    # half the way, where both get further: at 1 of 2, and at 5/11 of the second step
    far = course((2, 3.0, 1.0))
    expected = 2 - (1 + 5 / 11)
    assert push_realism.less_real(far, strong) == pytest.approx(expected, abs=5e-3)


def test_intervals_of_realism_cover_a_known_difference_as_often_as_they_say() -> None:
    # realism 1 + a shift, with noise that both share and noise of their own: the median is known
    generator, shift, covered = np.random.default_rng(3), 0.3, 0
    amounts, way = np.array([0.0, 1.0]), np.array([[0.0], [0.5]])
    for _ in range(60):
        shared, own = generator.normal(size=(2, 1, 100))
        both = {
            "first": 1 + 0.2 * shared + np.array([[0.0], [shift]]) + 0.02 * own,
            "second": np.repeat(1 + 0.2 * shared, 2, axis=0),
        }
        samples = {
            k: push_realism.Samples(amounts, v, np.broadcast_to(way, (2, 100)))
            for k, v in both.items()
        }
        (found,) = push_realism.intervals(samples, [("first", "second")])
        assert found.low <= found.value <= found.high
        covered += found.low <= shift <= found.high
    assert covered >= 50


def test_kept_intervals_are_about_what_the_kept_curves_say() -> None:
    found = push_curves.load()
    for pair in pushes.pairs():
        for first, second in pushes.COMPARED:
            vectors = Vector(first), Vector(second)  # type: ignore[arg-type]
            own, other = (
                push_realism.Course(c.amounts, c.values["realism"], c.values["way"])
                for c in (found.curve(pair, v) for v in vectors)
            )
            gap = found.less_real(pair, *vectors)
            # the medians of the curves were made apart from those of the intervals
            assert gap.value == pytest.approx(push_realism.less_real(own, other), abs=5e-3)
            assert gap.low < gap.high


class Told:
    """In the place of a bench: what is asked of it, with samples as far off as they are pushed."""

    system, grid, radius = SYSTEM, torch.tensor([0.9, 0.5, 0.0], dtype=F64), 3.0

    def steered(self, vector: Vector, amount: float) -> float:
        return 1.5 * amount

    def run(self) -> float:
        return 1.0

    def measured(self, found: float) -> dict[str, float]:
        return {"realism": found}

    def hooks(self, vector: Vector, amount: float) -> list[object]:
        return [vector.kind, vector.variant, amount]

    def endpoint_probabilities(self, hook: object) -> object:
        return hook if isinstance(hook, list) else "none"


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(pushes, "bench", lambda plan, setting, pair: Told())
    pushes._plain.cache_clear()
    yield
    pushes._plain.cache_clear()


@pytest.mark.usefixtures("told")
def test_pushes_end_where_samples_are_twice_as_far_unless_all_are_wanted() -> None:
    def amounts(vector: Vector, setting: str = "ddpm") -> list[float]:
        found = json.loads(pushes.curve(FASHION, setting, "p", vector))
        assert (found["setting"], found["pair"]) == (setting, "p")
        assert (found["kind"], found["variant"]) == (vector.kind, vector.variant)
        assert all(p["realism"] == 1.5 * p["amount"] for p in found["points"])
        return [p["amount"] for p in found["points"]]

    # 1.5 x 1.5 is the first beyond twice the distance of untouched samples
    for vector in (Vector("isotropic", 3), Vector("shared", REVERSED), Vector("shared", 2)):
        assert amounts(vector) == [0.25, 0.5, 1, 1.5]
    assert amounts(Vector("shared")) == [0.25, 0.5, 1, 1.5, 2, 3]
    assert amounts(Vector("injection")) == [0.1, 0.2, 0.35, 0.5, 0.75, 1]
    assert amounts(Vector("shared"), "ddim") == [1]


@pytest.mark.usefixtures("told")
def test_untouched_samples_and_what_emerges_are_kept_by_name() -> None:
    found = json.loads(pushes.untouched(FASHION, "ddim", "p"))
    assert found["points"] == [{"amount": 0, "realism": 1}] and found["radius"] == 3
    found = json.loads(pushes.emergence(FASHION, "p"))
    assert found["runs"] == {
        **{k: [k, 0, 1.0] for k in ("mean difference", "weighted sum", "SVD", "shared")},
        "injection": ["injection", 0, 0.5],
        "untouched": "none",
    }
    assert found["logsnr"] == pytest.approx([float(SCHEDULE.logsnr(t)) for t in (0.9, 0.5)])


def test_names_and_labels_that_are_not_known_are_refused() -> None:
    with pytest.raises(ValueError, match="kept for ddpm, ddim, guidance 3, not for 'heun'"):
        pushes.bench(FASHION, "heun", "Trouser to Bag")
    with pytest.raises(ValueError, match=r"kept for Pullover to Coat, .* not for 'Bag to Hat'"):
        pushes.bench(FASHION, "ddpm", "Bag to Hat")
    with pytest.raises(ValueError, match="the sampler must be ddpm or ddim, not 'heun'"):
        bench(sampler="heun")
    with pytest.raises(ValueError, match=r"a class must lie in 0\.\.2, got 3"):
        Bench(SYSTEM, Pair(0, 3), Setting())


def test_missing_runs_name_the_command(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="erdpaper regimes"):
        push_curves.load(tmp_path)


def test_pieces_have_names_of_their_own_and_cover_what_claims_need() -> None:
    names = [name for name, _ in pushes.pieces()]
    assert len(set(names)) == len(names)
    for pair in pushes.pairs():
        assert {f"ddpm-{pair}-{v.kind}-{v.variant}" for v in pushes.vectors()} <= set(names)
    assert len(pushes.random_vectors()) == 20 and len(pushes.other_vectors()) == 11
    assert [len(pushes.sign_patterns(kind)) for kind in push_runs.CONSTRUCTIONS] == [8, 2, 8]
