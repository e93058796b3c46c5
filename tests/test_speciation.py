"""Speciation and collapse against Gaussians in closed form and sums by hand."""

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from erdpaper import sampling, schedules, speciation
from erdpaper.posterior import GaussianMixture
from erdpaper.schedules import signal_and_noise

F64 = torch.float64
COSINE = schedules.Cosine()


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pair(half_distance: float, dim: int, std: float = 1.0) -> GaussianMixture:
    """N(+-m, std^2 I) with m along the diagonal."""
    m = torch.full((dim,), half_distance / math.sqrt(dim), dtype=F64)
    return GaussianMixture(torch.stack([m, -m]), torch.full((2,), std, dtype=F64))


def side(x: Tensor) -> Tensor:
    return (x.sum(1) < 0).long()


def labelled(law: GaussianMixture, n: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """n draws of x_0, equally many of each component, and the components."""
    k = torch.arange(n) % len(law.stds)
    noise = torch.randn(n, law.dim, generator=generator(seed), dtype=F64)
    return law.means[k] + law.stds[k, None] * noise, k


# closed forms of the pair


def test_agreement_at_speciation_is_the_known_number() -> None:
    assert speciation.criterion(2) == pytest.approx(0.7752, abs=5e-5)
    assert speciation.criterion(10) == pytest.approx(0.595, abs=5e-4)
    # far apart, the separation at t_S is 1; at a finite distance it is less
    for m, expected in ((1e3, 1.0), (2.0, math.sqrt(0.8))):
        t_s = speciation.time_from_covariance(m**2 + 1)
        assert speciation.separation(t_s.logsnr, m) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("logsnr", [-4.0, -2.0, 0.0])
@pytest.mark.parametrize(("dim", "std"), [(1, 1.0), (16, 0.5)])
def test_quadrature_is_the_mean_of_the_exact_posterior(logsnr: float, dim: int, std: float) -> None:
    law = pair(3.0, dim, std)
    alpha, sigma = signal_and_noise(torch.tensor(logsnr, dtype=F64), "vp")
    x0 = law.sample(200_000, generator())
    noise = torch.randn(x0.shape, generator=generator(1), dtype=F64)
    p = law.class_probabilities(alpha * x0 + sigma * noise, alpha, sigma)
    values = p.square().sum(1)
    expected = speciation.pair_agreement(speciation.separation(logsnr, 3.0, std))
    assert float(values.mean()) == pytest.approx(expected, abs=4 * float(values.std()) / 447)


# time from the covariance


@settings(max_examples=50)
@given(eigenvalue=st.floats(1.01, 1e6))
def test_covariance_time_is_half_the_log_in_ou_time(eigenvalue: float) -> None:
    found = speciation.time_from_covariance(eigenvalue)
    assert speciation.in_ou(found.logsnr) == pytest.approx(math.log(eigenvalue) / 2, rel=1e-6)
    alpha, sigma = signal_and_noise(torch.tensor(found.logsnr, dtype=F64), "vp")
    assert float(alpha**2 * eigenvalue) == pytest.approx(1, rel=1e-9)
    # on another path the same SNR: the pulled and pushed parts alpha^2 (Lambda - 1) and sigma^2
    alpha, sigma = signal_and_noise(torch.tensor(found.logsnr, dtype=F64), "linear")
    assert float((alpha / sigma) ** 2 * (eigenvalue - 1)) == pytest.approx(1, rel=1e-9)


def test_covariance_of_a_pair_of_gaussians_is_found_either_way() -> None:
    x, k = labelled(pair(5.0, 12), 100_000)
    whole = speciation.time_from_covariance(x)
    between = speciation.time_from_covariance(x.unflatten(1, (3, 2, 2)), k)
    assert whole.eigenvalue == pytest.approx(26, rel=0.02)
    assert between.eigenvalue == pytest.approx(26, rel=0.02)
    # a direction of large variance that no class knows of is left out between classes
    x[:, 0] += 30 * torch.randn(len(x), generator=generator(5), dtype=F64)
    assert speciation.time_from_covariance(x).eigenvalue > 900
    centred = torch.stack([x[k == c].mean(0) for c in (0, 1)]).diff(dim=0)[0]
    unit = centred / centred.norm()
    expected = float((x @ unit).var(correction=0))
    assert speciation.time_from_covariance(x, k).eigenvalue == pytest.approx(expected)


def test_between_classes_weighs_them_by_their_share() -> None:
    means = torch.tensor([[9.0, 0], [0, 8.0], [-9.0, 0], [0, -8.0]], dtype=F64)
    noise = torch.randn(4_000, 2, generator=generator(), dtype=F64)
    for counts, axis in (([1000] * 4, 0), ([200, 1800, 200, 1800], 1)):
        k = torch.repeat_interleave(torch.arange(4), torch.tensor(counts))
        x = means[k] + noise
        found = speciation.time_from_covariance(x, k).eigenvalue
        assert found == pytest.approx(float(x[:, axis].var(correction=0)), rel=1e-2)


def test_levels_of_fewer_points_than_coordinates_are_those_of_their_covariance() -> None:
    generator = torch.Generator().manual_seed(1)
    x, k = 3 * torch.randn(12, 30, generator=generator), torch.arange(12) % 2
    top = float(torch.linalg.eigvalsh(torch.cov(x.double().T, correction=0))[-1])
    assert speciation.time_from_covariance(x).eigenvalue == pytest.approx(top)
    # the same points in a basis that they span
    inside = x.double() @ torch.linalg.svd(x.double(), full_matrices=False).Vh.T
    assert inside.shape == (12, 12)
    found = speciation.takeover_level(x, k)
    assert found == pytest.approx(speciation.takeover_level(inside, k), rel=1e-6)


def test_a_way_without_variance_is_never_remembered() -> None:
    # of six coordinates the first is the way between the means, and has no spread within a class
    generator = torch.Generator().manual_seed(0)
    x, k = torch.randn(40, 6, generator=generator), torch.arange(40) % 2
    x[:, 0], x[:, 1:] = 0.0, x[:, 1:] - x[:, 1:].mean(0)
    x[:, 0] += 8.0 * k
    assert speciation.takeover_level(x, k) == math.inf
    # nor has it one where axes are turned, and rounding makes one of 1e-17 or so
    turns = torch.linalg.qr(torch.randn(8, 6, 6, generator=generator).double()).Q
    assert all(speciation.takeover_level(x.double() @ turn, k) == math.inf for turn in turns)
    # a spread along the way, however small, is told from none
    x[:, 0] += 1e-3 * torch.randn(40, generator=generator)
    assert 10 < speciation.takeover_level(x, k) < 18


def test_takeover_is_where_the_spread_within_a_class_is_known() -> None:
    for std in (0.5, 2.0):
        x, k = labelled(pair(5.0, 6, std), 40_000)
        assert speciation.takeover_level(x, k) == pytest.approx(-2 * math.log(std), abs=0.03)
    # along u the variances 9 and 1 / 4 share evenly: SNR 9 / (1 + 9 SNR) + SNR / (4 + SNR) = 1
    u = torch.tensor([1.0, 1.0], dtype=F64) / math.sqrt(2)
    noise = torch.randn(200_000, 2, generator=generator(), dtype=F64)
    noise = noise * torch.tensor([3.0, 0.5], dtype=F64)
    k = torch.arange(len(noise)) % 2
    found = speciation.takeover_level(noise + 8 * k[:, None] * u, k)
    snr = math.exp(found)
    assert 9 * snr / (1 + 9 * snr) + snr / (4 + snr) == pytest.approx(1, abs=0.01)


def test_levels_are_converted() -> None:
    sd = schedules.StableDiffusion()
    level = float(sd.logsnr(sd.time_at(800)))
    assert speciation.in_index(sd, level) == pytest.approx(800)
    assert speciation.in_time(sd, level) == pytest.approx(0.801)
    alpha, _ = sd.at(800)
    assert speciation.in_ou(level) == pytest.approx(-math.log(float(alpha)))


# clones and U-turns


@pytest.mark.parametrize(("dim", "m", "std"), [(1, 3.0, 1.0), (16, 4.0, 0.7)])
def test_clones_and_uturns_with_the_exact_score_agree_as_theory_says(
    dim: int, m: float, std: float
) -> None:
    law, n = pair(m, dim, std), 1_500
    denoise = sampling.exact(law, COSINE)
    x0, _ = labelled(law, n)
    for level in (-5.0, -2.5, -1.0):
        t = speciation.in_time(COSINE, level)
        alpha, sigma = (float(part) for part in COSINE(t))
        noise = torch.randn(x0.shape, generator=generator(1), dtype=F64)
        clones = speciation.clone(
            denoise, alpha * x0 + sigma * noise, t, COSINE, side, generator(2), steps=60
        )
        turns = speciation.uturn(denoise, x0, t, COSINE, side, generator(3), steps=60)
        # the judge sees sides, which are the components but for |m| / std standard deviations
        expected = speciation.pair_agreement(speciation.separation(level, m, std))
        error = math.sqrt(expected * (1 - expected) / n)
        for found in (clones, turns):
            phi = float(speciation.agreement(found).mean())
            assert phi == pytest.approx(expected, abs=4 * error + 0.005)


def test_clones_of_a_deterministic_sampler_agree() -> None:
    law = pair(3.0, 2)
    x = torch.randn(200, 2, generator=generator(), dtype=F64)
    t = speciation.in_time(COSINE, -6.0)
    found = {
        sampler: speciation.agreement(
            speciation.clone(
                sampling.exact(law, COSINE), x, t, COSINE, side, generator(1), sampler=sampler
            )
        ).mean()
        for sampler in (sampling.ddim, sampling.ddpm)
    }
    assert found[sampling.ddim] == 1
    assert found[sampling.ddpm] < 0.7


def test_restriction_to_two_classes_is_their_own_posterior() -> None:
    """Three Gaussians on a line, restricted to two, against the law of the two alone."""
    means = torch.tensor([[-5.0], [0.0], [5.0]], dtype=F64)
    three = GaussianMixture(means, torch.ones(3, dtype=F64))
    two = GaussianMixture(means[:2], torch.ones(2, dtype=F64))

    def judge(x: Tensor) -> Tensor:
        return (x[:, :1] - means.T).abs().argmin(1)

    level, x0 = -2.5, two.sample(2_000, generator())
    t = speciation.in_time(COSINE, level)
    shares = []
    for law, among in ((three, (0, 1)), (two, None), (three, None)):
        found = speciation.uturn(
            sampling.exact(law, COSINE), x0, t, COSINE, judge, generator(1), among=among, steps=60
        )
        values = speciation.agreement(found)
        shares.append(float(values[~values.isnan()].mean()))
    restricted, alone, free = shares
    assert restricted == pytest.approx(alone, abs=0.04)
    assert free < alone - 0.06


def test_what_never_ends_among_the_classes_has_no_value() -> None:
    x = torch.randn(4, 1, generator=generator(), dtype=F64)

    def judge(x: Tensor) -> Tensor:
        return torch.full((len(x),), 7)

    found = speciation.clone(
        sampling.exact(pair(3.0, 1), COSINE), x, 0.5, COSINE, judge, among=(1, 2), tries=2, steps=2
    )
    assert bool((found == -1).all() and speciation.agreement(found).isnan().all())


def test_agreement_needs_both_classes() -> None:
    none = speciation.cloning.NONE
    found = speciation.agreement(torch.tensor([[3, 3, none, 3, none], [3, 4, 3, none, none]]))
    assert found[:2].tolist() == [1, 0]
    assert bool(found[2:].isnan().all())


@pytest.mark.parametrize(
    ("tries", "drawn"), [(1, [4]), (2, [4, 2]), (3, [4, 2, 2]), (5, [4, 2, 2])]
)
def test_only_what_ended_elsewhere_is_drawn_again(tries: int, drawn: list[int]) -> None:
    """Two of four end elsewhere at first and for the second time; the third time they do not."""
    answers = iter([[7, 1, 2, 7], [8, 8], [2, 1]])
    seen: list[int] = []

    def judge(x: Tensor) -> Tensor:
        if not seen:  # the clean states
            seen.append(-1)
            return torch.ones(len(x), dtype=torch.long)
        seen.append(len(x))
        return torch.tensor(next(answers))

    x = torch.randn(4, 2, generator=generator(), dtype=F64)
    found = speciation.uturn(
        NOBODY, x, 0.5, COSINE, judge, generator(), among=(1, 2), tries=tries, steps=1
    )
    assert seen[1:] == drawn
    assert found[1].tolist() == ([2, 1, 2, 1] if tries > 2 else [-1, 1, 2, -1])


# exact agreement from data


def test_exact_agreement_encloses_that_of_the_law() -> None:
    law = pair(3.0, 2)
    levels = torch.tensor([-4.0, -2.0, 0.0], dtype=F64)
    truth = [speciation.pair_agreement(speciation.separation(float(v), 3.0)) for v in levels]
    for n, width in ((40, 0.2), (1_000, 0.04)):
        found = [
            speciation.exact(*labelled(law, n, seed), levels, n, generator(seed))
            for seed in range(12)
        ]
        low = torch.stack([part.own_out.mean(1) for part in found]).mean(0)
        high = torch.stack([part.own_in.mean(1) for part in found]).mean(0)
        for a, b, c in zip(low.tolist(), truth, high.tolist(), strict=True):
            assert a - 0.01 < b < c + 0.01
            assert c - a < width


def test_exact_agreement_by_hand() -> None:
    x = torch.tensor([[0.0], [1.0], [3.0]], dtype=F64)
    labels, level = torch.tensor([0, 1, 1]), 0.3
    found = speciation.exact(x, labels, torch.tensor([level], dtype=F64), 3, generator(4))
    g = generator(4)
    order, eps = torch.randperm(3, generator=g), torch.randn(3, 1, generator=g, dtype=F64)
    alpha, sigma = signal_and_noise(torch.tensor(level, dtype=F64), "vp")
    for row, i in enumerate(order.tolist()):
        query = alpha * x[i] + sigma * eps[row]
        w = torch.exp(-((query - alpha * x[:, 0]) ** 2) / (2 * sigma**2))
        p = torch.stack([w[:1].sum(), w[1:].sum()]) / w.sum()
        assert float(found.own_in[0, row]) == pytest.approx(float(p.square().sum()), rel=1e-9)
        w[i] = 0
        p = torch.stack([w[:1].sum(), w[1:].sum()]) / w.sum()
        y = torch.eye(2, dtype=F64)[labels[i]]
        expected = 1 - float((p - y).square().sum())
        assert float(found.own_out[0, row]) == pytest.approx(expected, rel=1e-9)


def test_each_point_keeps_its_noise_at_all_levels() -> None:
    x, labels = labelled(pair(3.0, 2), 60)
    once = speciation.exact(x, labels, torch.tensor([0.3], dtype=F64), 20, generator(4))
    later = speciation.exact(x, labels, torch.tensor([-1.0, 0.3], dtype=F64), 20, generator(4))
    torch.testing.assert_close(later.own_in[1], once.own_in[0])
    torch.testing.assert_close(later.own_out[1], once.own_out[0])


# crossing


def test_crossing_is_interpolated_and_its_interval_covers() -> None:
    levels = torch.linspace(-4, 4, 9, dtype=F64)
    straight = (levels[:, None] + 0.37).expand(9, 5)
    found = speciation.crossing(levels, straight, 0.0)
    assert found is not None
    assert found == pytest.approx((-0.37, -0.37, -0.37))
    assert found.half_width == pytest.approx(0, abs=1e-12)
    # shares: coverage of the interval over repetitions
    truth, inside = 0.5, 0
    p = torch.sigmoid(1.5 * (levels - truth))
    for seed in range(60):
        draws = (torch.rand(9, 100, generator=generator(seed), dtype=F64) < p[:, None]).double()
        found = speciation.crossing(levels, draws, 0.5, 200)
        assert found is not None
        inside += found.low <= truth <= found.high
    assert inside >= 50


def test_crossing_leaves_out_missing_values() -> None:
    levels = torch.tensor([0.0, 1.0], dtype=F64)
    values = torch.tensor([[0.0, 0.0, math.nan], [1.0, 1.0, math.nan]], dtype=F64)
    found = speciation.crossing(levels, values, 0.25)
    assert found is not None
    assert found.estimate == pytest.approx(0.25)


def test_a_resample_that_never_crosses_counts_as_the_end_it_is_nearest_to() -> None:
    """Of two samples, twice the first is 0.3 everywhere once monotone, though it begins at 0.9."""
    levels = torch.arange(3.0, dtype=F64)
    values = torch.tensor([[0.9, 0.0], [0.0, 1.0], [0.0, 1.0]], dtype=F64)
    found = speciation.crossing(levels, values, 0.48)
    # the mean is 0.45, 0.5, 0.5; twice the second sample rises from 0 to 1
    assert found == pytest.approx((0.6, 0.48, 2.0))
    # and twice a sample that is above everywhere has crossed before the first level
    values = torch.tensor([[0.0, 0.8], [0.0, 0.9], [1.0, 1.0]], dtype=F64)
    found = speciation.crossing(levels, values, 0.5)
    # 0.4, 0.45, 1 on average, and 0, 0, 1 for twice the first
    assert found == pytest.approx((1 + 0.05 / 0.55, 0.0, 1.5))


def test_the_interval_is_that_of_all_pairs_of_two_samples() -> None:
    """Straight lines that cross at 0 and 1: one quarter each at the ends, half in the middle."""
    levels = torch.linspace(-2, 3, 6, dtype=F64)
    found = speciation.crossing(levels, torch.stack([levels, levels - 1], 1), 0.0)
    assert found == pytest.approx((0.5, 0.0, 1.0))


def test_a_curve_that_falls_on_its_way_is_made_monotone() -> None:
    """0, 0.8, 0.4, 1 become 0, 0.6, 0.6, 1."""
    curve = torch.tensor([0.0, 0.8, 0.4, 1.0], dtype=F64)[:, None].expand(4, 3)
    for threshold, expected in ((0.5, 0.5 / 0.6), (0.7, 2 + 0.1 / 0.4)):
        found = speciation.crossing(torch.arange(4.0), curve, threshold)
        assert found == pytest.approx((expected,) * 3)


def test_samples_without_a_value_do_not_widen_the_interval() -> None:
    values = torch.tensor([[0.0], [1.0]], dtype=F64).expand(2, 20).clone()
    values[:, 12:] = math.nan
    found = speciation.crossing(torch.arange(2.0), values, 0.4)
    assert found == pytest.approx((0.4, 0.4, 0.4))


def test_no_crossing_is_none() -> None:
    levels, values = torch.arange(3.0), torch.zeros(3, 4)
    assert speciation.crossing(levels, values, 0.5) is None
    assert speciation.crossing(levels, values + 1, 0.5) is None
    assert speciation.crossing(levels, values.index_fill(0, torch.tensor([2]), 1.0), 0.5)


# collapse


def test_excess_entropy_is_the_entropy_of_the_training_point() -> None:
    x = torch.randn(60, 3, generator=generator(), dtype=F64)
    levels = torch.tensor([-3.0, 1.0, 4.0], dtype=F64)
    entropy = speciation.excess_entropy(x, levels, 60, generator(3))
    # the same draws by hand: -log of the own weight in a softmax over all points
    g = generator(3)
    order, eps = torch.randperm(60, generator=g), torch.randn(60, 3, generator=g, dtype=F64)
    for row, level in enumerate(levels):
        alpha, sigma = signal_and_noise(level, "vp")
        query = alpha * x[order] + sigma * eps
        logits = -torch.cdist(query, alpha * x).square() / (2 * sigma**2)
        mine = logits[torch.arange(60), order]
        own = (mine - logits.logsumexp(1)).exp()
        others = logits.clone()
        others[torch.arange(60), order] = -math.inf
        torch.testing.assert_close(entropy.own_share[row], own, rtol=1e-8, atol=1e-12)
        assert float(entropy.own_in[row]) == pytest.approx(-float(own.log().mean()) / 3)
        expected = (others.logsumexp(1) - mine).mean() / 3
        assert float(entropy.own_out[row]) == pytest.approx(float(expected), rel=1e-9)


def test_excess_entropy_is_that_of_the_mixture() -> None:
    """E[log P_t] / d + 1/2 + 1/2 log(2 pi Delta) + log(n) / d with fresh draws of many points."""
    x = torch.randn(20, 2, generator=generator(), dtype=F64)
    levels = torch.tensor([-2.0, 1.0, 3.0], dtype=F64)
    draws = [speciation.excess_entropy(x, levels, 20, generator(k)).own_in for k in range(400)]
    for level, found in zip(levels, torch.stack(draws).mean(0), strict=True):
        alpha, sigma = signal_and_noise(level, "vp")
        log_density = -GaussianMixture(x, torch.zeros(20, dtype=F64)).entropy(alpha, sigma).value
        constants = 0.5 + 0.5 * math.log(2 * math.pi * sigma**2) + math.log(20) / 2
        assert float(found) == pytest.approx(float(log_density) / 2 + constants, abs=0.01)


def test_excess_entropy_at_both_ends() -> None:
    x = torch.randn(500, 4, generator=generator(), dtype=F64)
    entropy = speciation.excess_entropy(x, torch.tensor([-14.0, 14.0]), 500, generator(1))
    assert float(entropy.own_in[0]) == pytest.approx(math.log(500) / 4, rel=1e-3)
    assert float(entropy.own_in[1]) == pytest.approx(0, abs=1e-6)


@settings(max_examples=30)
@given(n=st.integers(10, 100_000), dim=st.integers(4, 200), std=st.floats(0.3, 3))
def test_gaussian_collapse_is_the_closed_form(n: int, dim: int, std: float) -> None:
    found = speciation.gaussian_collapse(torch.full((dim,), std**2, dtype=F64), n)
    expected = 0.5 * math.log1p(std**2 / (n ** (2 / dim) - 1))
    assert speciation.in_ou(found) == pytest.approx(expected, rel=1e-8)


def test_collapse_time_is_where_the_others_weigh_as_much_as_the_own_point() -> None:
    levels = torch.linspace(-3, 3, 7, dtype=F64)
    # on average the log odds are 1/4 - level
    log_odds = 0.25 - levels[:, None] + torch.tensor([-0.5, 0.5], dtype=F64)
    found = speciation.collapse_time(speciation.ExcessEntropy(levels, log_odds, 3))
    assert found == pytest.approx((0.25, -0.25, 0.75))


def test_collapse_time_approaches_the_closed_form() -> None:
    levels = torch.linspace(-3, 3, 25, dtype=F64)
    gaps = []
    for dim in (8, 12, 16):
        n = round(math.exp(dim / 2))
        x = torch.randn(n, dim, generator=generator(dim), dtype=F64)
        found = speciation.collapse_time(speciation.excess_entropy(x, levels, 400, generator(1)))
        assert found is not None
        expected = speciation.gaussian_collapse(torch.ones(dim, dtype=F64), n)
        gaps.append(abs(found.estimate - expected))
    assert gaps[-1] < 0.5
    assert gaps[-1] < gaps[0]


# bad arguments

X, LABELS = torch.randn(6, 2, generator=generator()), torch.arange(6) % 2
NOBODY = sampling.exact(pair(1.0, 2), COSINE)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: speciation.time_from_covariance(1.0), "above 1"),
        (lambda: speciation.time_from_covariance(math.inf), "finite"),
        (lambda: speciation.time_from_covariance(X[:1]), "N >= 2"),
        (lambda: speciation.time_from_covariance(X, LABELS[:3]), "one class for each of 6"),
        (lambda: speciation.time_from_covariance(X, LABELS * 0), "two classes"),
        (lambda: speciation.takeover_level(X, LABELS * 0), "two classes"),
        (
            lambda: speciation.takeover_level(torch.cat([X, X]), torch.arange(12) // 6),
            "means apart",
        ),
        (lambda: speciation.takeover_level(1.0 * LABELS[:, None], LABELS), "spread along"),
        (lambda: speciation.time_from_covariance(X / 0), "finite"),
        (lambda: speciation.exact(X, LABELS, torch.zeros(0)), "one or more finite log-SNRs"),
        (lambda: speciation.excess_entropy(X, torch.tensor([math.nan])), "finite log-SNRs"),
        (lambda: speciation.crossing(torch.arange(2.0), torch.zeros(2, 3), math.nan), "threshold"),
        (lambda: speciation.crossing(torch.arange(2.0), torch.zeros(2, 3), 0.0, 0), "resample"),
        (lambda: speciation.criterion(1), "two classes"),
        (lambda: speciation.pair_agreement(-1.0), "at least 0"),
        (lambda: speciation.clone(NOBODY, X, 0.0, COSINE, side), r"\(0, 1\]"),
        (lambda: speciation.clone(NOBODY, X, 1.0, schedules.GVP(), side), "no signal"),
        (lambda: speciation.clone(NOBODY, X, 0.5, COSINE, side, steps=0), "at least 1"),
        (lambda: speciation.uturn(NOBODY, X, 0.5, COSINE, side, tries=0), "tries"),
        (lambda: speciation.uturn(NOBODY, X, 0.5, COSINE, side, among=(1,)), "two classes"),
        (lambda: speciation.agreement(LABELS), "two rows"),
        (lambda: speciation.exact(X, LABELS, torch.zeros(1), 0), "at least 1"),
        (lambda: speciation.crossing(torch.zeros(2), torch.zeros(2, 3), 0.0), "rise strictly"),
        (lambda: speciation.crossing(torch.arange(2.0), torch.zeros(3, 3), 0.0), r"\(2, N\)"),
        (
            lambda: speciation.crossing(torch.arange(2.0), torch.full((2, 2), math.nan), 0.0),
            "every level",
        ),
        (lambda: speciation.gaussian_collapse(torch.zeros(3), 10), "variances"),
        (lambda: speciation.gaussian_collapse(torch.ones(3), 1), "n >= 2"),
    ],
)
def test_bad_arguments_are_named_in_one_sentence(call: Callable[[], object], words: str) -> None:
    with pytest.raises(ValueError, match=words) as error:
        call()
    assert "\n" not in str(error.value)
