"""The dimension of endpoint estimates against closed forms, and the reading of its curves."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.decomposition import PCA
from torch import Tensor

from erdpaper import sampling
from erdpaper.images.measure import Features
from erdpaper.posterior import Gaussian
from erdpaper.regimes import contraction, contraction_runs, diversity
from erdpaper.regimes.plans import FASHION, Plan
from erdpaper.regimes.system import System
from erdpaper.schedules import Cosine, StableDiffusion
from erdpaper.speciation import pair_agreement, separation
from erdpaper.spectral import count, participation_ratio

SCHEDULE = Cosine()
VARIANCES = torch.tensor([40.0, 20.0, 10.0, 5.0, 2.0, 1.0, 0.5, 0.2])


def cloud(n: int, seed: int = 0) -> Tensor:
    """Gaussian points (n, 2, 4) with VARIANCES along turned axes."""
    generator = torch.Generator().manual_seed(seed)
    turn = torch.linalg.qr(torch.randn(8, 8, generator=torch.Generator().manual_seed(9))).Q
    points = torch.randn(n, 8, generator=generator) * VARIANCES.sqrt()
    turned: Tensor = (3 + points @ turn.T).reshape(n, 2, 4)
    return turned


def test_noised_states_are_those_of_the_level_and_the_same_for_all() -> None:
    x0 = cloud(20_000)
    for logsnr in (-6.0, 0.5, 5.0):
        x_t, t = contraction.noised(x0, SCHEDULE, logsnr)
        alpha, sigma = (float(c) for c in SCHEDULE(t))
        assert 2 * math.log(alpha / sigma) == pytest.approx(logsnr, abs=1e-6)
        eps = (x_t - alpha * x0) / sigma
        assert float(eps.mean()) == pytest.approx(0, abs=0.01)
        assert float(eps.std()) == pytest.approx(1, abs=0.01)
        assert torch.equal(x_t, contraction.noised(x0, SCHEDULE, logsnr)[0])
    other = contraction.noised(x0, SCHEDULE, 0.5, seed=1)[0]
    assert not torch.equal(contraction.noised(x0, SCHEDULE, 0.5)[0], other)


def test_ranks_are_those_of_scikit_learn() -> None:
    x = cloud(500).flatten(1)
    shares = PCA().fit(x.numpy()).explained_variance_ratio_
    found = contraction.ranks(x, float(x.double().var(0).sum()) / 0.7)
    for share in (0.9, 0.99):
        assert found[f"k{share:g}"] == int(np.searchsorted(shares.cumsum(), share)) + 1
    assert found["participation"] == pytest.approx(1 / (shares**2).sum(), rel=1e-4)
    assert found["entropy"] == pytest.approx(math.exp(-(shares * np.log(shares)).sum()), rel=1e-4)
    assert found["variance"] == pytest.approx(0.7, rel=1e-5)


def test_fewer_points_are_the_parts_in_their_order() -> None:
    x = torch.zeros(1000, 6)
    for part in range(5):  # part p spans p + 1 directions
        rows = slice(200 * part, 200 * part + 200)
        x[rows, : part + 1] = torch.randn(200, part + 1)
    found = contraction.of_fewer(x)
    assert found["parts"] == [1, 2, 3, 4, 5]
    assert len(found["halves"]) == 2 and found["halves"][0] <= 3 < found["halves"][1]


@pytest.mark.parametrize("logsnr", [-7.0, -3.0, 0.0, 4.0])
def test_wiener_estimates_have_the_variances_of_the_closed_form(logsnr: float) -> None:
    x0 = cloud(40_000).double()
    wiener = sampling.exact(Gaussian.fitted(x0.flatten(1)), SCHEDULE)
    x_t, t = contraction.noised(x0, SCHEDULE, logsnr)
    found = contraction.ranks(wiener(x_t.flatten(1), t).x0, float(VARIANCES.sum()))
    expected = contraction.wiener_variances(VARIANCES.double(), logsnr)
    assert found["variance"] == pytest.approx(float(expected.sum() / VARIANCES.sum()), rel=0.03)
    assert found["participation"] == pytest.approx(participation_ratio(expected), rel=0.03)
    assert found["k0.99"] == count(expected)


def test_a_linear_filter_spreads_from_first_directions_to_all() -> None:
    variances = VARIANCES.double()
    curve = [count(contraction.wiener_variances(variances, x), 0.99) for x in range(-12, 20)]
    squared, own = count(variances.square(), 0.99), count(variances, 0.99)
    assert curve[0] == squared and curve[-1] == own and squared < own
    assert contraction.largest_fall(curve) == 1


def test_largest_fall_is_found_by_trying_all_pairs() -> None:
    @given(st.lists(st.floats(0.01, 100), min_size=2, max_size=12))
    def check(values: list[float]) -> None:
        pairs = [a / b for k, a in enumerate(values) for b in values[k:]]
        assert contraction.largest_fall(values) == pytest.approx(max(pairs))

    check()


def test_steepest_finds_a_step_and_its_way() -> None:
    levels = [-3.0, -2.0, -1.0, -0.5, 0.0, 1.0, 3.0]
    values = [8.0, 8.0, 8.0, 4.0, 2.0, 2.0, 4.0]
    fall = contraction.steepest(levels, values, "fall")
    assert fall.factor == pytest.approx(4) and fall.at == pytest.approx(-0.5)
    # over two units of log-SNR it doubles
    rise = contraction.steepest(levels, values, "rise")
    assert rise.factor == pytest.approx(2**0.5) and rise.at == pytest.approx(2, abs=0.03)
    assert contraction.steepest(levels, values) == fall


@settings(max_examples=50)
@given(st.floats(-5, 5), st.floats(-1, 1))
def test_steepest_of_an_exponential_is_its_rate(rate: float, offset: float) -> None:
    levels = [-4.0, -1.0, 0.0, 3.0]
    values = [math.exp(rate * x + offset) for x in levels]
    assert math.log(contraction.steepest(levels, values, "rise").factor) == pytest.approx(rate)
    assert math.log(contraction.steepest(levels, values, "fall").factor) == pytest.approx(-rate)


def test_levels_between_are_read_off_a_straight_line_in_logarithms() -> None:
    levels, values = [-4.0, -2.0, 0.0, 2.0], [100.0, 1.0, 4.0, 0.25]
    assert contraction.falls_to(levels, values, 10.0) == pytest.approx(-3)
    # the last of two falls through 1
    assert contraction.falls_to(levels, values) == pytest.approx(1)
    assert contraction.falls_to(levels, [0.1, 0.2, 0.3, 0.4]) == -4
    assert contraction.at_level(levels, values, -1.0) == pytest.approx(2)


def test_an_unknown_way_is_refused() -> None:
    with pytest.raises(ValueError, match="the way must be fall, rise or either, not 'up'"):
        contraction.steepest([0.0, 2.0], [1.0, 2.0], "up")


def small_system() -> System:
    """A system whose denoiser is the Wiener filter of its data, and whose judge sees the sign."""
    x0 = cloud(1_000)
    wiener = sampling.exact(Gaussian.fitted(x0.flatten(1)), SCHEDULE)

    def denoiser(label: object, scale: float = 1.0) -> sampling.Denoiser:
        # the conditional estimate is twice the unconditional one
        factor = 1.0 if label is None else 2.0

        def denoise(x: Tensor, t: float) -> sampling.Prediction:
            x0hat, eps = wiener(x.flatten(1), t)
            return sampling.Prediction(factor * x0hat.view_as(x), eps.view_as(x))

        return denoise

    def look(images: Tensor) -> Features:
        flat = images.flatten(1)
        return Features(flat, torch.stack([-flat.sum(1), flat.sum(1)], 1))

    def data(split: str, label: int | None) -> tuple[Tensor, Tensor]:
        return x0, torch.ones(len(x0), dtype=torch.long)

    names = ("minus", "plus")
    return System("small", SCHEDULE, (2, 4), names, denoiser, data, lambda x: x, look)


def test_a_piece_measures_what_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Plan, "system", lambda plan, space: small_system())
    levels = (-4.0, 1.0, 8.0)
    monkeypatch.setattr(contraction_runs, "LEVELS", {"pixels": levels})
    plan = replace(FASHION, counted=(1,), most=1_000)
    pieces = [contraction_runs.Piece("pixels", 1, s) for s in ("images", "kept", "exact", "wiener")]
    found = {c["name"]: c for p in pieces for c in contraction_runs.measure(p, Path(), plan)}

    x0 = small_system().data("train", 1)[0][:1_000].flatten(1)
    own = contraction.ranks(x0, 1.0)
    assert found["images"]["k0.99"] == [own["k0.99"]]
    wiener, network = found["Wiener filter"], found["v-network"]
    assert wiener["levels"] == network["levels"] == list(levels)
    assert wiener["parts"][1] is None and len(wiener["parts"][0]) == 5
    # the network is twice the Wiener filter, on the same states
    assert network["k0.99"] == wiener["k0.99"]
    for ours, theirs in zip(network["variance"], wiener["variance"], strict=True):
        assert ours == pytest.approx(4 * theirs, rel=1e-4)
    # u + w (2u - u) = (1 + w) u
    guided = found["guidance 2"]
    assert guided["levels"] == [-4.0, 8.0]
    assert guided["variance"][0] == pytest.approx(9 * wiener["variance"][0], rel=1e-4)
    share = float((x0[:300].sum(1) > 0).float().mean())
    assert share < 1 and network["agreement"][-1] == pytest.approx(share, abs=0.004)
    # at the end the posterior with the own image in gives it back, the one without cannot
    assert found["exact, own image in"]["variance"][-1] == pytest.approx(1, abs=0.01)
    assert found["exact, own image out"]["variance"][-1] < 0.97


def test_the_error_of_an_exact_network_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    system = small_system()
    x0 = system.data("train", 1)[0][:500]
    judge = contraction_runs.Judge(system, x0, 1)
    x_t, t = contraction.noised(x0, SCHEDULE, -2.0)
    exact = judge.own.posterior_mean(x_t.flatten(1), *SCHEDULE(t)).view_as(x_t)
    assert judge(x_t, t, -2.0, exact)["error"] == pytest.approx(0, abs=1e-9)
    noise = torch.randn(x0.shape, generator=torch.Generator().manual_seed(3))
    far = judge(x_t, t, -2.0, exact + 100 * noise)["error"]
    assert far == pytest.approx(1, abs=0.05)
    assert judge(x_t, t, 1.0, exact)["error"] is None


def test_every_piece_has_a_file_of_its_own() -> None:
    pieces = list(contraction_runs.pieces())
    assert len({piece.file for piece in pieces}) == len(pieces)
    # five for each space and class; networks: three targets of three classes, two shorter ones
    assert len(pieces) == 2 * 3 * 5 + (3 * 3 + 2) + (3 + 2)


def test_levels_are_those_that_the_schedule_has() -> None:
    late = replace(small_system(), schedule=StableDiffusion())
    assert contraction_runs.reached(late, "latents")[0] == -5.0
    assert contraction_runs.reached(small_system(), "latents") == list(
        contraction_runs.LEVELS["latents"]
    )


def test_diversity_counts_samples_of_the_data_as_all_there_is() -> None:
    system = small_system()
    x0 = system.data("train", 1)[0]

    def perfect(label: object, scale: float) -> sampling.Denoiser:
        own = sampling.exact(Gaussian.fitted(x0.flatten(1)), SCHEDULE)
        narrow = 0.0 if scale > 1 else 1.0

        def denoise(x: Tensor, t: float) -> sampling.Prediction:
            x0hat = own(x.flatten(1), t).x0.view_as(x)
            x0hat = x0.mean(0) + narrow * (x0hat - x0.mean(0))
            alpha, sigma = SCHEDULE(t)
            return sampling.Prediction(x0hat, (x - float(alpha) * x0hat) / float(sigma))

        return denoise

    same = System("s", SCHEDULE, (2, 4), ("a", "b"), perfect, system.data, lambda x: x, system.look)
    whole = diversity.measure(same, 1, 1.0, 400)
    assert whole["variance"] == pytest.approx(1, abs=0.15) and whole["recall"] > 0.8
    assert whole["agreement"] > 0.9
    single = diversity.measure(same, 1, 2.0, 400)
    assert single["variance"] < 1e-3 and single["recall"] == 0


def test_a_class_is_decided_as_the_two_gaussians_say(monkeypatch: pytest.MonkeyPatch) -> None:
    # N(+-2, 1) on the first of two axes, where two draws agree as `pair_agreement` says
    generator = torch.Generator().manual_seed(4)
    labels = torch.arange(8_000) % 2
    x0 = torch.randn(8_000, 2, generator=generator)
    x0[:, 0] += 4.0 * labels - 2
    small = replace(small_system(), shape=(2,), data=lambda split, label: of(x0, labels, label))
    monkeypatch.setattr(Plan, "system", lambda plan, space: small)
    levels = (-4.0, -1.0, 1.0)
    monkeypatch.setattr(contraction_runs, "LEVELS", {"latents": levels})
    piece = contraction_runs.Piece("latents", 1, "classes")
    (found,) = contraction_runs.measure(piece, Path())
    for level, share in zip(levels, found["agreement"], strict=True):
        expected = pair_agreement(separation(level, 2.0))
        assert share == pytest.approx(expected, abs=0.02)


def of(x0: Tensor, labels: Tensor, label: int | None) -> tuple[Tensor, Tensor]:
    wanted = labels == labels if label is None else labels == label
    return x0[wanted], labels[wanted]
