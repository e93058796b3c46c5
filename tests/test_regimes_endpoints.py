"""Measures of endpoint estimates on Gaussians, where what they should be is known."""

import math
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import optimize
from torch import Tensor

from erdpaper import sampling, schedules, spectral
from erdpaper.images.measure import Features
from erdpaper.posterior import Gaussian
from erdpaper.regimes import bands, endpoint_arms, endpoint_kept, endpoint_known, endpoints
from erdpaper.regimes.endpoint_arms import Arm
from erdpaper.regimes.endpoints import Views
from erdpaper.regimes.outcomes import Judged
from erdpaper.regimes.system import System
from erdpaper.sampling import Denoiser, Endpoint

F64 = torch.float64
SCHEDULE = schedules.Cosine()
SIZE = 10
SHAPE = (1, SIZE, SIZE)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def white(variance: float) -> Gaussian:
    eye = torch.eye(SIZE * SIZE, dtype=F64)
    return Gaussian(torch.zeros(SIZE * SIZE, dtype=F64), variance * eye)


def system(law: Gaussian, n: int = 400) -> System:
    """A system of Gaussian images of two classes, dark and bright."""
    x = law.sample(n, torch.Generator().manual_seed(3)).view(n, *SHAPE)
    labels = (x.sum((1, 2, 3)) > 0).long()

    def denoiser(label: object, scale: float = 1.0) -> Denoiser:
        return endpoint_arms.of_law(law, SCHEDULE)

    def data(split: str, label: int | None) -> tuple[Tensor, Tensor]:
        return (x, labels) if label is None else (x[labels == label], labels[labels == label])

    def look(images: Tensor) -> Features:
        flat = images.flatten(1)
        bright = flat.sum(1)
        return Features(flat, torch.stack([-bright, bright], 1))

    return System("gauss", SCHEDULE, SHAPE, ("dark", "bright"), denoiser, data, lambda x: x, look)


def views(estimates: Tensor, goals: Tensor, groups: Tensor | None = None) -> Views:
    """Views of R levels of estimates (R, N, C, H, H) as made by the system above."""
    small = system(white(1.0), 4)
    levels = sampling.times.in_logsnr(SCHEDULE, len(estimates), -4, 4).tolist()
    found = [
        Endpoint(t, torch.zeros_like(x), x) for t, x in zip(levels[:-1], estimates, strict=True)
    ]
    return endpoints.view(small, found, goals, groups)


def test_bands_share_out_the_square_of_an_image() -> None:
    x = normal(5, 2, 12, 12)
    whole = bands.energy(x, None)
    parts = [bands.energy(x, band) for band in ((0, 0), (1, 3), (4, 6), (7, None))]
    torch.testing.assert_close(sum(parts), whole)
    torch.testing.assert_close(whole, x.square().sum((2, 3)).mean(1))


def test_a_level_is_found_between_levels_after_the_last_time_above() -> None:
    logsnr = np.array([-2.0, 0.0, 2.0, 4.0])
    assert bands.settles(logsnr, np.array([1.0, 0.75, 0.25, 0.1])) == pytest.approx(1.0)
    assert bands.settles(logsnr, np.array([0.4, 0.6, 0.35, 0.1])) == pytest.approx(0.8)
    assert bands.settles(logsnr, np.array([0.4, 0.3, 0.2, 0.1])) == -2
    assert bands.settles(logsnr, np.array([0.9, 0.8, 0.7, 0.6])) == 4


def test_largest_fall_is_from_the_highest_value_before() -> None:
    assert bands.largest_fall(np.array([0.0, 1.0, 3.0, 2.5, 2.0, 4.0])) == pytest.approx(0.25)
    assert bands.largest_fall(np.array([0.0, 1.0, 2.0])) == 0


def test_level_of_a_filter_solves_its_equation() -> None:
    flat = bands.filtered_level(torch.full((4,), 3.0, dtype=F64), torch.ones(4, dtype=F64))
    assert flat == pytest.approx(-math.log(3), abs=1e-4)
    power, modes = torch.tensor([50.0, 4.0, 0.2], dtype=F64), torch.tensor([1.0, 8.0, 12.0])

    def excess(level: float) -> float:
        left = (modes * power / (1 + math.exp(level) * power)).sum() / (modes * power).sum()
        return float(left) - 0.5

    expected = optimize.brentq(excess, -10, 10)
    assert bands.filtered_level(power, modes) == pytest.approx(expected, abs=1e-4)


def test_spread_within_groups_is_unbiased() -> None:
    x, groups = normal(9, 2), torch.tensor([0] * 5 + [1] * 4)
    rest = endpoints.within(x, groups)
    for group in (0, 1):
        ours = rest[groups == group].square().mean(0)
        torch.testing.assert_close(ours, x[groups == group].var(0))
    with pytest.raises(ValueError, match="two samples or more"):
        endpoints.within(x, torch.arange(9))


@pytest.mark.parametrize("variance", [0.3, 20.0])
def test_controlled_white_images_settle_where_signal_is_as_strong_as_noise(variance) -> None:
    law, n = white(variance), 300
    small = system(law, n)
    levels = sampling.times.in_logsnr(SCHEDULE, 25, -6, 6, to_zero=False)
    x0 = small.data("test", None)[0]
    found = sampling.controlled(
        small.denoiser(None, 1.0), x0, SCHEDULE, levels, torch.Generator().manual_seed(0)
    )
    seen = endpoints.view(small, found, x0)
    snr = seen.logsnr.exp().numpy()
    shares = endpoints.unsettled(endpoints.errors(seen).mean(1))
    # what the best estimate of a variance leaves
    np.testing.assert_allclose(shares, 1 / (1 + snr * variance), atol=0.03)
    settling = endpoints.settling(seen)
    assert abs(settling["low"].value + math.log(variance)) < 0.15
    # a band of four modes
    assert abs(settling["high"].value + math.log(variance)) < 0.3
    at = int((seen.logsnr + math.log(variance)).abs().argmin())
    assert endpoints.explained(seen, at).value == pytest.approx(1 - shares[at])


def test_shaped_noise_has_the_power_asked_for() -> None:
    along = torch.fft.fftfreq(8, 1 / 8, dtype=F64)
    power = 5 / (1 + along[:, None].square() + along.square())
    x = endpoint_arms.shaped_noise(power).sample(20_000, torch.Generator().manual_seed(0))
    transform = torch.fft.fft2(x.view(-1, 8, 8), norm="ortho")
    measured = transform.abs().square().mean(0)
    torch.testing.assert_close(measured / power, torch.ones_like(power), rtol=0, atol=0.05)
    torch.testing.assert_close(measured.sum(), x.square().sum(1).mean())


def test_a_steep_spectrum_is_resolved_in_its_order_and_a_reversed_one_in_the_other() -> None:
    size = 16
    along = torch.fft.fftfreq(size, 1 / size, dtype=F64)
    radius = torch.hypot(along[:, None], along)
    gaps = []
    for power in (100 / (1 + radius) ** 3, 100 / (1 + radius.max() - radius) ** 3):
        law = endpoint_arms.shaped_noise(power)
        x = law.sample(50, torch.Generator().manual_seed(0)).view(-1, 1, size, size)
        run = endpoint_arms.trajectory(
            endpoint_arms.of_law(law, SCHEDULE), SCHEDULE, torch.randn_like(x), Arm(sampler="heun")
        )
        seen = endpoints.view(system(white(1.0), 4), run.looked, run.end)
        gaps.append(endpoints.settling(seen)["gap"])
    assert gaps[0].low > 1 and gaps[1].high < -1


def test_distances_and_classes_of_estimates_made_by_hand() -> None:
    goals = normal(40, *SHAPE)
    off = normal(40, *SHAPE, seed=1)
    off = off / off.square().sum((1, 2, 3), keepdim=True).sqrt()
    seen = views(torch.stack([goals + 2 * off, goals + off, goals]), goals)
    squares = endpoints.distances(seen)
    np.testing.assert_allclose(squares["pixels"].mean(1), [4, 1, 0], atol=1e-9)
    np.testing.assert_allclose(squares["features"].mean(1), [4, 1, 0], atol=1e-9)
    expected = (goals + off).square().mean((1, 2, 3))
    np.testing.assert_allclose(squares["residual"][1], expected)
    assert endpoints.closed(squares["pixels"], 1).value == pytest.approx(0.5)
    same = endpoints.same_class(seen)
    bright = goals.sum((1, 2, 3)) > 0
    np.testing.assert_array_equal(same[1], ((goals + off).sum((1, 2, 3)) > 0) == bright)
    assert same[2].all() and endpoints.share(same[2]).value == 1
    half = endpoints.share(np.array([True, False] * 50))
    # Wilson's interval of 50 in 100
    assert (half.value, round(half.low, 4), round(half.high, 4)) == (0.5, 0.4038, 0.5962)


def test_states_and_estimates_are_looked_at_apart() -> None:
    along = torch.arange(SIZE, dtype=F64) * 2 * math.pi / SIZE
    slow, fast = (torch.cos(k * along).expand(2, *SHAPE[:2], SIZE) for k in (2, 3))
    bright = normal(2, 1, 1, 1).abs().expand(2, *SHAPE)
    found = [Endpoint(0.9, -bright, bright), Endpoint(0.5, 2 * fast, slow)]
    small = system(white(1.0), 4)
    seen = endpoints.view(small, found, bright)
    assert seen.logsnr.tolist() == pytest.approx([float(SCHEDULE.logsnr(t)) for t in (0.9, 0.5)])
    # a wave of size a has a square of a^2 / 2 on average, all on one ring
    modes = spectral.radial_power(bright).modes
    for power, ring, square in ((seen.state[1], 3, 2.0), (endpoints.rings(seen)[1], 2, 0.5)):
        expected = torch.zeros_like(modes)
        expected[ring] = square * SIZE**2
        torch.testing.assert_close(power * modes, expected, atol=1e-9, rtol=0)
    expected = torch.stack([4 * bright[:, 0, 0, 0].square(), torch.full((2,), 2.5, dtype=F64)])
    torch.testing.assert_close(seen.residual, expected)
    # the first states are as dark as their goal is bright
    flags = endpoints.recognised(small, [*found[:1], Endpoint(0.5, bright, -bright)], seen.goal)
    assert flags.tolist() == [[False] * 2, [True] * 2]


def test_own_goal_is_nearest_where_estimates_know_it_and_by_chance_where_not() -> None:
    goals, groups = normal(30, *SHAPE), torch.arange(30) % 3
    guesses = 0.3 * goals + normal(30, *SHAPE, seed=1)
    seen = views(torch.stack([goals, guesses, torch.zeros_like(goals)]), goals, groups)
    assert endpoints.own_nearest(seen, 0).value == 1
    nearer = [
        float((guesses[i] - goals[i]).norm() < (guesses[i] - goals[j]).norm())
        for i in range(30)
        for j in range(30)
        if i != j and groups[i] == groups[j]
    ]
    assert endpoints.own_nearest(seen, 1).value == pytest.approx(sum(nearer) / len(nearer))
    assert endpoints.own_nearest(seen, 2).value == pytest.approx(0.5)
    assert endpoints.spread(seen, 0).value == 1
    assert endpoints.spread(seen, 2).value == 0


def test_states_become_visible_later_than_estimates() -> None:
    goals = normal(50, *SHAPE)
    # estimates right from the second level on, states from the third
    seen = views(torch.stack([-goals, goals, goals]), goals)
    flags = torch.zeros(3, 50, dtype=torch.bool)
    flags[2] = True
    found = endpoints.visible(seen, flags)
    step = float(seen.logsnr[1] - seen.logsnr[0])
    assert found["gap"].value == pytest.approx(step)
    middle = float(seen.logsnr[:2].mean())
    assert found["estimates"] == pytest.approx((middle, middle, middle))


def test_content_is_the_ratio_of_powers() -> None:
    x = normal(30, 1, 14, 14)
    for ratio in bands.content(0.5 * x, bands.content_of(x)).values():
        assert ratio.value == pytest.approx(0.25)
    power = spectral.radial_power(x)
    curve = bands.curve(power.power.tolist(), power.modes.numpy(), (4, 6))
    np.testing.assert_allclose(curve, power.total(4, 6).numpy())


def variance_of_end(S: float, sampler: str) -> float:
    """Variance that a sampler makes of one coordinate of variance S on the grid "sd"."""
    times = endpoint_arms.grid(SCHEDULE, "sd", 50 if sampler == "ddpm" else 25)
    levels = [tuple(float(v) for v in SCHEDULE(t)) for t in times.tolist()]
    if sampler == "heun":
        # near the exact flow, and the last step ends at the mean of what is still open there
        alpha, sigma = levels[-2]
        return S - S / (1 + S * (alpha / sigma) ** 2)
    made = 1.0
    for (a, s), (b, r) in pairwise(levels):
        # x0hat = g x; then x' = b x0hat + (r^2 a / (b s)) epshat + noise of the rest of r^2
        g = a * S / (a**2 * S + s**2)
        kept = r**2 * a / (b * s)
        made = (b * g + kept * (1 - a * g) / s) ** 2 * made + r**2 - kept**2
    return made


@pytest.mark.parametrize("sampler", ["ddpm", "heun"])
def test_a_trajectory_is_looked_at_on_its_grid_down_to_its_end(sampler: str) -> None:
    law = white(0.5)
    run = endpoint_arms.sampled(system(law), Arm(sampler=sampler, grid="sd"), 200)
    table = schedules.StableDiffusion()
    found = SCHEDULE.logsnr(torch.tensor([each.t for each in run.looked], dtype=F64))
    expected = table.logsnr(1 - torch.arange(25, dtype=F64) / 25)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    assert float(found[endpoint_arms.FIFTH]) == pytest.approx(float(table.logsnr(0.8)))
    assert run.labels is not None and run.labels.bincount().tolist() == [100, 100]
    expected_end = variance_of_end(0.5, sampler)
    assert float(run.end.var()) == pytest.approx(expected_end, rel=0.04)
    last = run.looked[-1].x0hat
    assert float((last - run.end).square().mean()) < 0.02


def test_exact_denoisers_are_those_of_the_training_states() -> None:
    small = system(white(2.0))
    x, t = normal(3, *SHAPE), 0.4
    alpha, sigma = (float(v) for v in SCHEDULE(t))
    data = small.data("train", None)[0].flatten(1)
    logits = -torch.cdist(x.flatten(1), alpha * data).square() / (2 * sigma**2)
    expected = (logits.softmax(1) @ data).view_as(x)
    torch.testing.assert_close(endpoint_arms.exact(small, "training")(x, t).x0, expected)
    mean, cov = data.mean(0), torch.cov(data.T, correction=0)
    gain = alpha * cov @ torch.linalg.inv(alpha**2 * cov + sigma**2 * torch.eye(SIZE * SIZE))
    linear = mean + (x.flatten(1) - alpha * mean) @ gain.T
    torch.testing.assert_close(
        endpoint_arms.exact(small, "linear")(x, t).x0.flatten(1), linear, rtol=1e-5, atol=1e-5
    )
    with pytest.raises(ValueError, match="network, linear or training, not 'best'"):
        endpoint_arms.exact(small, "best")
    with pytest.raises(ValueError, match="edm, cosine or sd, not 'even'"):
        endpoint_arms.grid(SCHEDULE, "even", 3)
    with pytest.raises(ValueError, match="the sampler must be ddpm or heun, not 'ddim'"):
        Arm(sampler="ddim")


def test_joined_states_have_the_errors_and_correlations_of_a_linear_estimate() -> None:
    variance, n = 0.5, 200
    found = endpoint_known.joined(system(white(variance), n), n, 12)
    x0 = system(white(variance), n).data("test", None)[0].flatten(1)
    errors, covariances = [], []
    for pair in endpoint_known.PAIRS:
        # x0hat - x0 = -c x0 + d eps with c = 1 / (1 + r S), d = sqrt(r) S / (1 + r S) at SNR r
        snr = [math.exp(level) for level in pair]
        c = [1 / (1 + r * variance) for r in snr]
        d = [math.sqrt(r) * variance * k for r, k in zip(snr, c, strict=True)]
        square = float(x0.square().mean())
        errors += [k * k * square + e * e for k, e in zip(c, d, strict=True)]

        def covariance(i: int, j: int, r: float, c=c, d=d, square=square) -> float:
            """Of two squares of Gaussians with means c x0 and correlation r, mean over x0."""
            return 4 * c[i] * c[j] * square * d[i] * d[j] * r + 2 * (d[i] * d[j] * r) ** 2

        covariances.append([[covariance(i, j, 1.0) for j in (0, 1)] for i in (0, 1)])
        kept = math.exp((pair[0] - pair[1]) / 2)
        covariances[-1].append([covariance(0, 1, kept), covariance(0, 1, 1.0)])
    for way in endpoint_known.JOINED:
        np.testing.assert_allclose(found["error"][way], errors, rtol=0.03)
    for k, ((a, _), (_, b), (walked, shared)) in enumerate(covariances):
        size = math.sqrt(a * b)
        assert found["correlation"]["direct"][k] == pytest.approx(0, abs=0.1)
        assert found["correlation"]["sequential"][k] == pytest.approx(walked / size, abs=0.05)
        assert found["correlation"]["shared"][k] == pytest.approx(shared / size, abs=0.02)
        for way, joint in (("direct", 0.0), ("sequential", walked), ("shared", shared)):
            expected = (a + b - 2 * joint) / SIZE**2
            # a small difference of large numbers where one noise serves for both
            slack = 0.1 * expected + 0.005 * (a + b) / SIZE**2
            assert found["variance"][way][k] == pytest.approx(expected, abs=slack)
    for measure in found["differ"].values():
        assert all(0 <= value < 0.1 for value in measure)


def test_known_images_are_seen_at_all_levels() -> None:
    found = endpoint_known.known(system(white(20.0)), "test", False, 200)
    share = 1 / (1 + 20 * np.exp(np.array(endpoint_known.LEVELS)))
    np.testing.assert_allclose(found["explained"], 1 - share, atol=0.03)
    level = endpoint_arms.TIMESTEPS[800]
    expected = 1 - 1 / (1 + 20 * math.exp(level))
    assert found["explained_at"]["800"].value == pytest.approx(expected, abs=0.03)
    # nothing is known of the class at high noise, and at none what the means tell
    assert found["nearest"][0] < 0.65 and found["nearest"][-1] > 0.75


def late(n: int = 200) -> System:
    """The system on a schedule that begins at Stable Diffusion's first level."""
    table = schedules.StableDiffusion()
    law = white(20.0)

    def denoiser(label: object, scale: float = 1.0) -> Denoiser:
        return endpoint_arms.of_law(law, table)

    return replace(system(law, n), schedule=table, denoiser=denoiser)


def test_levels_that_a_schedule_does_not_reach_are_its_noisiest() -> None:
    last = float(schedules.StableDiffusion().logsnr(1.0))
    assert endpoint_known.reached(late(), (-8.0, 1.0, -7.0, -2.0)) == (last, -2.0, 1.0)
    assert endpoint_known.reached(system(white(1.0)), endpoint_known.LEVELS) == (
        endpoint_known.LEVELS
    )
    found = endpoint_known.known(late(), "test", False, 200)
    assert len(found["logsnr"]) == sum(level > last for level in endpoint_known.LEVELS) + 1
    share = 1 / (1 + 20 * np.exp(np.array(found["logsnr"])))
    np.testing.assert_allclose(found["explained"], 1 - share, atol=0.03)
    first = endpoint_known.known(late(), "test", False, 200)["explained_at"]["1000"]
    assert first.value == pytest.approx(found["explained"][0], abs=1e-4)
    # sequential states walk from there too
    endpoint_known.joined(late(20), 20, 2)


def test_an_image_alone_in_its_class_is_left_out() -> None:
    small = system(white(20.0))
    x, labels = small.data("test", None)
    bright, dark = (labels == 1).nonzero().flatten()[:6], (labels == 0).nonzero().flatten()[:3]
    picked = torch.cat([bright, dark])
    split = replace(
        small,
        data=lambda name, label: (
            (x[picked], labels[picked]) if label is None else small.data(name, label)
        ),
    )
    # the first seven hold one dark image
    alone = endpoint_known.known(split, "test", True, 7)
    assert alone == endpoint_known.known(split, "test", True, 6) and alone["n"] == 6
    assert endpoint_known.known(split, "test", True, 8)["n"] == 8


def test_first_estimates_are_of_the_classes_that_samples_suffice_for() -> None:
    small = system(white(1.0))
    means, due = endpoint_known.first_estimates(small, 1.0, small.start(1))
    assert means.shape == due.shape == (1, *SHAPE) and bool(means.isfinite().all())


def test_rings_of_a_size_are_those_of_its_transform() -> None:
    for size in (10, 15, 28, 32):
        rings = spectral.radial_power(torch.zeros(1, size, size)).frequency
        assert endpoint_known.rings_of(size) == len(rings)


def test_spaces_of_another_model_are_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []

    def line(name: str) -> str:
        made.append(name)
        return endpoint_kept._line(name, {"same": [len(made)]})

    keys = [Arm("latents").key, Arm("pixels").key, "joined pixels", "joined latents", "other"]
    monkeypatch.setattr(
        endpoint_kept, "pieces", lambda *_: {key: partial(line, key) for key in keys}
    )
    kept = endpoint_kept.made("cifar10", endpoint_kept.Sizes())
    assert made == [keys[1], keys[2], keys[4]] and list(kept.lines) == keys
    assert kept.arm("latents") == kept.arm("pixels") | {"name": keys[0]}
    assert kept.lines["joined latents"]["same"] == [2]


def test_arms_have_names_of_their_own_and_are_read_back(tmp_path: Path, monkeypatch) -> None:
    arms = endpoint_kept.arms()
    assert len({arm.key for arm in arms}) == len(arms)
    pieces = endpoint_kept.pieces()
    assert len(pieces) == len(arms) + 9
    key = Arm("pixels", "heun").key
    monkeypatch.setattr(
        endpoint_kept,
        "pieces",
        lambda *_: {key: partial(endpoint_kept._line, key, {"same": [0.5]})},
    )
    endpoint_kept.collect(tmp_path / "work", tmp_path / "out", 1)
    kept = endpoint_kept.load(tmp_path / "out")
    assert kept.arm("pixels", "heun")["same"] == [0.5]
    assert kept.card["samples"] == endpoint_kept.Sizes().samples


def test_kept_intervals_are_shown_by_value_and_ends() -> None:
    kept = [0.5, 0.4, 0.7]
    assert endpoint_kept.centre(kept) == pytest.approx((0.5, 0.15))
    assert endpoint_kept.lower(kept) == pytest.approx((0.4, 0.1))
    assert endpoint_kept.upper(kept) == pytest.approx((0.7, 0.2))
    assert endpoint_kept.difference(kept, [0.2, 0.0, 0.4]) == pytest.approx((0.3, 0.25))
    ratios = {"a": [1.5, 1.4, 1.6], "b": [0.5, 0.4, 0.6], "c": [1.0, 0.9, 1.1]}
    assert endpoint_kept.farthest(ratios) == pytest.approx((0.5, 0.1))


def test_judged_images_keep_their_order() -> None:
    goals = normal(6, *SHAPE)
    seen = views(torch.stack([goals]), goals)
    assert isinstance(seen.goal, Judged) and torch.equal(seen.goal.images, goals)
    means = torch.stack([torch.zeros(SHAPE, dtype=F64), torch.full(SHAPE, 5.0, dtype=F64)])
    near = endpoints.nearest_mean(seen.goal, means)
    assert near.tolist() == [0] * 6
