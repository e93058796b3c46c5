import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.integrate import quad
from torch import Tensor

from erdpaper import schedules, targets
from erdpaper.posterior import Empirical, Gaussian, GaussianMixture, Posterior
from erdpaper.posterior.expectation import Component, quasi_monte_carlo, trapezoid

F64 = torch.float64
SCHEDULES = [schedules.Linear(), schedules.VP(), schedules.GVP()]
NEAR_ENDS = [1e-6, 1e-4, 0.01, 0.1, 0.2, 0.25, 0.3, 0.4, 0.6, 0.8, 0.95, 0.9999, 1 - 1e-6]
COEFFICIENTS = {
    "x0": lambda a, s: (1.0, 0.0),
    "eps": lambda a, s: (0.0, 1.0),
    "v": lambda a, s: (-s, a),
    "u": lambda a, s: (-1.0, 1.0),
}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=generator(seed), dtype=F64)


def mixture(K: int, dim: int, seed: int = 0) -> GaussianMixture:
    """A mixture with unequal weights, standard deviations and distances."""
    g = generator(seed)
    means = 2 * torch.randn(K, dim, generator=g, dtype=F64)
    stds, weights = torch.rand(2, K, generator=g, dtype=F64)
    return GaussianMixture(means, 0.1 + stds, 0.2 + weights)


def correlated(dim: int, seed: int = 0) -> Gaussian:
    root = normal(dim, dim, seed=seed)
    return Gaussian(normal(dim, seed=seed + 1), root @ root.T)


def points(law: Posterior, alpha: float, sigma: float, n: int = 6) -> Tensor:
    x0 = law.sample(n, generator(5)).double()
    return alpha * x0 + sigma * normal(*x0.shape, seed=6)


def bell(x, mean, std):
    """The normal density, numbers or arrays."""
    return np.exp(-0.5 * ((x - mean) / std) ** 2) / (std * math.sqrt(2 * math.pi))


class Line:
    """The posterior of a one-dimensional mixture, written out and integrated by scipy."""

    def __init__(self, weights, means, stds, alpha: float, sigma: float) -> None:
        self.weights, self.means, self.stds = (np.asarray(p, float) for p in (weights, means, stds))
        self.alpha, self.sigma = alpha, sigma
        self.total = np.sqrt((alpha * self.stds) ** 2 + sigma**2)

    def density(self, x: float) -> float:
        return float(self.weights @ bell(x, self.alpha * self.means, self.total))

    def variance_of_x0(self, x: float) -> float:
        log = np.log(self.weights / self.total)
        log -= 0.5 * ((x - self.alpha * self.means) / self.total) ** 2
        share = np.exp(log - log.max()) / np.exp(log - log.max()).sum()
        gain = self.alpha * self.stds**2 / self.total**2
        mean = self.means + gain * (x - self.alpha * self.means)
        within = share @ (self.stds**2 * self.sigma**2 / self.total**2)
        return float(within + share @ (mean - share @ mean) ** 2)

    def expect(self, fn) -> float:
        centres = np.sort(self.alpha * self.means)
        marks = [centres[0] - 12 * self.total.max()]
        marks += [c + k * s for c in centres for s in self.total for k in (-6, -2, 0, 2, 6)]
        marks += [*list((centres[1:] + centres[:-1]) / 2), centres[-1] + 12 * self.total.max()]
        marks = sorted(set(marks))
        pieces = itertools.pairwise(marks)
        return sum(
            quad(lambda x: self.density(x) * fn(x), a, b, epsabs=1e-16, epsrel=1e-11)[0]
            for a, b in pieces
        )

    def floors(self) -> dict[str, float]:
        floor = self.expect(self.variance_of_x0)
        floors = {}
        for target, coefficients in COEFFICIENTS.items():
            c_x, c_eps = coefficients(self.alpha, self.sigma)
            floors[target] = (c_x - c_eps * self.alpha / self.sigma) ** 2 * floor
        return floors


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
def test_floor_of_the_toy_is_two_one_dimensional_quadratures(schedule: schedules.Schedule) -> None:
    toy = GaussianMixture.square()
    for t in NEAR_ENDS:
        alpha, sigma = schedule(t)
        line = Line([0.5, 0.5], [-2, 2], [0.3, 0.3], float(alpha), float(sigma))
        for target, half in line.floors().items():
            value, error = toy.bayes_floor_estimate(alpha, sigma, target)
            truth = 2 * half
            assert float(value) == pytest.approx(truth, rel=1e-7)
            assert abs(float(value) - truth) <= float(error) + 1e-9 * truth
            assert float(error) <= 1e-4 * truth


@pytest.mark.parametrize(
    ("stds", "means"), [([1, 0.01], [0, 0.08]), ([0.5, 0], [1, 0]), ([1, 0.3, 0.02], [-1, 0, 1.5])]
)
def test_floor_sees_a_narrow_component_inside_a_wide_one(
    stds: list[float], means: list[float]
) -> None:
    law = GaussianMixture(torch.tensor(means, dtype=F64)[:, None], torch.tensor(stds, dtype=F64))
    for t in (0.02, 0.05, 0.2, 0.6):
        line = Line(np.ones(len(stds)) / len(stds), means, stds, 1 - t, t)
        value, error = law.bayes_floor_estimate(1 - t, t, "v")
        assert float(value) == pytest.approx(line.floors()["v"], rel=1e-7)
        assert float(error) < 1e-6


def measured_floors(
    law: Posterior, alpha: float, sigma: float, n: int
) -> dict[str, tuple[float, float]]:
    """E||y - E[y | x_t]||^2 as it is defined, by Monte Carlo, with its standard error."""
    x0 = law.sample(n, generator(1))
    eps = normal(*x0.shape, seed=2)
    floors = {}
    for target, coefficients in COEFFICIENTS.items():
        c_x, c_eps = coefficients(alpha, sigma)
        guess = law.posterior_mean(alpha * x0 + sigma * eps, alpha, sigma, target)
        errors = (c_x * x0 + c_eps * eps - guess).square().sum(-1)
        floors[target] = float(errors.mean()), float(errors.std()) / n**0.5
    return floors


LAWS = {
    "toy": GaussianMixture.square(),
    "line": mixture(3, 1),
    "plane": mixture(7, 2, seed=1),
    "space": mixture(4, 3, seed=2),
    "five": mixture(6, 5, seed=3),
    "wide beside narrow in the plane": GaussianMixture(
        normal(2, 2), torch.tensor([1.0, 0.01], dtype=F64)
    ),
    "gaussian": correlated(4),
}


@pytest.mark.parametrize("t", [0.03, 0.3, 0.6, 0.97])
@pytest.mark.parametrize("name", LAWS)
def test_floors_meet_the_untransformed_definition(name: str, t: float) -> None:
    law = LAWS[name]
    for target, (measured, spread) in measured_floors(law, 1 - t, t, 20_000).items():
        value, error = (float(c) for c in law.bayes_floor_estimate(1 - t, t, target))
        assert abs(measured - value) < 4.5 * math.hypot(spread, error)
        assert spread < 0.03 * value and error < 0.01 * value


@pytest.mark.parametrize("name", LAWS)
def test_what_a_denoiser_other_than_the_posterior_mean_loses(name: str) -> None:
    # the posterior mean minimises: any shift or scaling of it does worse by its own square
    law, alpha, sigma = LAWS[name], 0.7, 0.5
    x0 = law.sample(4000, generator(1))
    x_t = alpha * x0 + sigma * normal(*x0.shape, seed=2)
    best = law.posterior_mean(x_t, alpha, sigma)
    loss = (x0 - best).square().sum(-1)
    for other in (best + 0.3, 1.2 * best):
        excess = (x0 - other).square().sum(-1) - loss - (other - best).square().sum(-1)
        assert abs(float(excess.mean())) < 4 * float(excess.std()) / 4000**0.5


@pytest.mark.parametrize("t", [0.05, 0.4, 0.9])
def test_mixture_posterior_is_bayes_rule_integrated(t: float) -> None:
    law, alpha, sigma = LAWS["line"], 1 - t, t
    assert isinstance(law, GaussianMixture)
    w, m, s = (p.numpy() for p in (law.weights, law.means[:, 0], law.stds))
    x_t = points(law, alpha, sigma)
    moments, prob = law.moments(x_t, alpha, sigma), law.class_probabilities(x_t, alpha, sigma)
    for i, x in enumerate(x_t[:, 0].tolist()):
        # the integrand lives where the likelihood does
        low, high = (x - 9 * sigma) / alpha, (x + 9 * sigma) / alpha

        def integral(power: int, k: int, x=x, low=low, high=high) -> float:
            def g(z: float) -> float:
                return w[k] * z**power * bell(z, m[k], s[k]) * bell(x, alpha * z, sigma)

            marks = [p for p in (m[k], x / alpha) if low < p < high]
            return quad(g, low, high, points=marks, epsabs=1e-15, limit=200)[0]

        mass = [integral(0, k) for k in range(len(w))]
        mean = sum(integral(1, k) for k in range(len(w))) / sum(mass)
        square = sum(integral(2, k) for k in range(len(w))) / sum(mass)
        assert float(moments.x0[i]) == pytest.approx(mean, rel=1e-6)
        assert float(moments.eps[i]) == pytest.approx((x - alpha * mean) / sigma, abs=1e-6)
        assert prob[i].tolist() == pytest.approx([p / sum(mass) for p in mass], abs=1e-7)
        assert float(law.log_density(x_t, alpha, sigma)[i]) == pytest.approx(math.log(sum(mass)))
        trace = float(law.covariance_trace(x_t, alpha, sigma)[i])
        assert trace == pytest.approx(square - mean**2, rel=1e-4)


def test_gaussian_posterior_is_the_matrix_formula() -> None:
    law, alpha, sigma = correlated(4, seed=3), 0.6, 0.7
    root = normal(4, 4, seed=3)
    mean, cov = normal(4, seed=4).numpy(), (root @ root.T).numpy()
    x_t = points(law, alpha, sigma)
    total = alpha**2 * cov + sigma**2 * np.eye(4)
    gain = alpha * cov @ np.linalg.inv(total)
    x0 = mean + (x_t.numpy() - alpha * mean) @ gain.T
    left = cov - alpha * gain @ cov
    np.testing.assert_allclose(law.posterior_mean(x_t, alpha, sigma), x0, rtol=1e-9)
    np.testing.assert_allclose(law.covariance_trace(x_t, alpha, sigma), np.trace(left), rtol=1e-9)
    assert float(law.bayes_floor(alpha, sigma, "x0")) == pytest.approx(np.trace(left), rel=1e-9)
    density = stats.multivariate_normal(alpha * mean, total).logpdf(x_t.numpy())
    np.testing.assert_allclose(law.log_density(x_t, alpha, sigma), density, rtol=1e-9)
    assert law.class_probabilities(x_t, alpha, sigma).tolist() == [[1.0]] * 6


def test_recoverable_signal_of_the_standard_gaussian() -> None:
    law, t = Gaussian.standard(3), torch.linspace(0, 1, 11, dtype=F64)
    for schedule in SCHEDULES:
        alpha, sigma = schedule(t)
        for target, coefficients in COEFFICIENTS.items():
            c_x, c_eps = coefficients(alpha, sigma)
            signal = (c_x * alpha + c_eps * sigma).abs() / torch.hypot(alpha, sigma)
            rms = (law.recoverable_energy(alpha, sigma, target) / 3).sqrt()
            torch.testing.assert_close(rms, signal, atol=1e-7, rtol=1e-9)


SCORED: list[Posterior] = [
    LAWS["five"],
    LAWS["gaussian"],
    LAWS["toy"],
    Empirical(normal(20, 3)),
]


@pytest.mark.parametrize("law", SCORED, ids=lambda law: type(law).__name__)
def test_score_is_the_gradient_of_the_log_density(law: Posterior) -> None:
    level = torch.linspace(0.1, 0.9, 6, dtype=F64)
    x_t = points(law, 0.5, 0.5).requires_grad_()
    log_density = law.log_density(x_t, 1 - level, level)
    (slope,) = torch.autograd.grad(log_density.sum(), x_t)
    torch.testing.assert_close(law.score(x_t.detach(), 1 - level, level), slope)


@pytest.mark.parametrize("law", SCORED, ids=lambda law: type(law).__name__)
def test_endpoints_are_the_means_of_the_moments(law: Posterior) -> None:
    level = torch.linspace(0.05, 0.95, 6, dtype=F64)
    x_t = points(law, 0.5, 0.5)
    for noise in ((0.5, 0.5), (0.999, 0.03), (1 - level, level)):
        x0, eps, _ = law.moments(x_t, *noise)
        torch.testing.assert_close(law.endpoints(x_t, *noise), (x0, eps))


@pytest.mark.parametrize("law", SCORED, ids=lambda law: type(law).__name__)
def test_density_has_mass_1(law: Posterior) -> None:
    # by importance sampling from a wide Gaussian around the data
    alpha, sigma, n = 0.6, 0.5, 40_000
    scale = 1.3 * (alpha**2 * law.second_moment() / law.dim + sigma**2).sqrt()
    x = scale * normal(n, law.dim)
    proposal = stats.norm.logpdf(x.numpy(), scale=float(scale)).sum(-1)
    ratio = (law.log_density(x, alpha, sigma) - torch.from_numpy(proposal)).exp()
    assert abs(float(ratio.mean()) - 1) < 4 * float(ratio.std()) / n**0.5
    assert float(ratio.std()) / n**0.5 < 0.05


@settings(max_examples=20)
@given(
    K=st.integers(1, 5),
    dim=st.integers(1, 3),
    seed=st.integers(0, 1000),
    alpha=st.floats(0.05, 2),
    sigma=st.floats(0.05, 2),
    scale=st.floats(0.1, 10),
)
def test_only_the_ratio_of_alpha_and_sigma_matters(
    K: int, dim: int, seed: int, alpha: float, sigma: float, scale: float
) -> None:
    law = mixture(K, dim, seed)
    x_t = points(law, alpha, sigma)
    here = law.moments(x_t, alpha, sigma)
    there = law.moments(scale * x_t, scale * alpha, scale * sigma)
    torch.testing.assert_close(here, there, rtol=1e-7, atol=1e-9)


@settings(max_examples=20)
@given(
    K=st.integers(1, 5),
    dim=st.integers(1, 3),
    seed=st.integers(0, 1000),
    alpha=st.floats(0.05, 2),
    sigma=st.floats(0.05, 2),
)
def test_moments_are_those_of_one_law_of_x0_and_eps(
    K: int, dim: int, seed: int, alpha: float, sigma: float
) -> None:
    law = mixture(K, dim, seed)
    x_t = points(law, alpha, sigma)
    x0, eps, _ = law.moments(x_t, alpha, sigma)
    torch.testing.assert_close(alpha * x0 + sigma * eps, x_t)
    variance = law.covariance_trace(x_t, alpha, sigma, "x0")
    for name in COEFFICIENTS:
        c_x, c_eps = COEFFICIENTS[name](alpha, sigma)
        mean = law.posterior_mean(x_t, alpha, sigma, name)
        torch.testing.assert_close(mean, c_x * x0 + c_eps * eps)
        # eps = (x_t - alpha x_0) / sigma leaves one variance for all
        torch.testing.assert_close(
            law.covariance_trace(x_t, alpha, sigma, targets.get(name)),
            (c_x - c_eps * alpha / sigma) ** 2 * variance,
        )


@pytest.mark.parametrize("name", ["line", "plane", "five", "gaussian"])
def test_law_of_total_variance(name: str) -> None:
    law, t, n = LAWS[name], 0.4, 20_000
    x_t = points(law, 1 - t, t, n)
    for target in COEFFICIENTS:
        seen = law.posterior_mean(x_t, 1 - t, t, target).square().sum(-1)
        expected = float(law.recoverable_energy(1 - t, t, target))
        assert abs(float(seen.mean()) - expected) < 4.5 * float(seen.std()) / n**0.5
        c_x, c_eps = COEFFICIENTS[target](1 - t, t)
        energy = c_x**2 * float(law.second_moment()) + c_eps**2 * law.dim
        assert expected + float(law.bayes_floor(1 - t, t, target)) == pytest.approx(energy)


@pytest.mark.parametrize("name", LAWS)
def test_samples_have_the_moments_of_the_law(name: str) -> None:
    law, n = LAWS[name], 50_000
    draws = law.sample(n, generator(3))
    energies = draws.square().sum(-1)
    spread = float(energies.std()) / n**0.5
    assert abs(float(energies.mean()) - float(law.second_moment())) < 4 * spread
    if isinstance(law, GaussianMixture):
        mean = law.weights @ law.means
    else:
        assert isinstance(law, Gaussian)
        mean = law.mean
    bound = 4 * draws.std(0) / n**0.5
    assert bool(((draws.mean(0) - mean).abs() < bound).all())


def test_samples_of_a_gaussian_have_its_covariance() -> None:
    root = normal(3, 3, seed=8)
    draws = Gaussian(normal(3), root @ root.T).sample(100_000, generator())
    torch.testing.assert_close(torch.cov(draws.T), root @ root.T, rtol=0.05, atol=0.05)


def test_gaussian_fitted_to_data_is_their_mean_and_covariance() -> None:
    data = normal(50, 3) @ normal(3, 3, seed=1) + 2
    law = Gaussian.fitted(data)
    assert float(law.second_moment()) == pytest.approx(float(data.square().sum(-1).mean()))
    direct = Gaussian(data.mean(0), torch.from_numpy(np.cov(data.numpy().T, bias=True)))
    x_t = normal(4, 3, seed=2)
    torch.testing.assert_close(law.score(x_t, 0.5, 0.4), direct.score(x_t, 0.5, 0.4))
    flat = Gaussian.fitted(torch.cat([data, data[:, :1]], 1).float())  # singular in float32
    assert float(flat.variances[0]) == pytest.approx(0, abs=1e-5)


@given(st.integers(2, 6), st.integers(1, 4), st.floats(0.05, 3.0), st.integers(0, 1000))
def test_a_gaussian_of_few_points_is_that_of_their_covariance(
    n: int, more: int, sigma: float, seed: int
) -> None:
    d = n + more
    data = normal(n, d, seed=seed)
    few = Gaussian.fitted(data)
    whole = Gaussian(data.mean(0), torch.from_numpy(np.cov(data.numpy().T, bias=True)))
    assert few.basis.shape == (d, n) and few.dim == d
    x_t, levels = normal(5, d, seed=seed + 1), (0.6, sigma)
    for ours, theirs in zip(few.moments(x_t, *levels), whole.moments(x_t, *levels), strict=True):
        torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(few.score(x_t, *levels), whole.score(x_t, *levels))
    torch.testing.assert_close(few.log_density(x_t, *levels), whole.log_density(x_t, *levels))
    torch.testing.assert_close(few.second_moment(), whole.second_moment())
    losses = (law.hidden_loss(x_t, *(torch.tensor(v) for v in levels)) for law in (few, whole))
    torch.testing.assert_close(next(losses), next(losses))
    found = (law.hidden_variance(*(torch.tensor(v) for v in levels)).value for law in (few, whole))
    torch.testing.assert_close(next(found), next(found))
    # draws lie where the points do
    draws = few.sample(4, generator()) - data.mean(0)
    torch.testing.assert_close(draws @ few.basis @ few.basis.T, draws)
    with pytest.raises(ValueError, match="x_t has no density"):
        few.moments(x_t, 1.0, 0.0)


def test_a_mixture_of_one_component_is_a_gaussian() -> None:
    mean = normal(3)
    one = GaussianMixture(mean[None], torch.tensor([0.7], dtype=F64))
    law = Gaussian(mean, 0.49 * torch.eye(3, dtype=F64))
    x_t = normal(5, 3, seed=1)
    for alpha, sigma in ((1.0, 0.0), (0.6, 0.5), (0.0, 1.0)):
        torch.testing.assert_close(one.moments(x_t, alpha, sigma), law.moments(x_t, alpha, sigma))
        torch.testing.assert_close(one.score(x_t, alpha, sigma), law.score(x_t, alpha, sigma))
        torch.testing.assert_close(
            one.log_density(x_t, alpha, sigma), law.log_density(x_t, alpha, sigma)
        )
        torch.testing.assert_close(
            one.bayes_floor(alpha, sigma, "u"), law.bayes_floor(alpha, sigma, "u")
        )


def test_both_ends() -> None:
    toy = LAWS["toy"]
    for law in (toy, LAWS["gaussian"]):
        x_t = points(law, 0.5, 0.5)
        prior = law.moments(x_t, 0.0, 1.0)
        mean = law.sample(200_000, generator()).mean(0)
        torch.testing.assert_close(prior.x0, mean.expand_as(x_t), rtol=0, atol=0.05)
        torch.testing.assert_close(prior.eps, x_t)
        data = law.moments(x_t, 1.0, 0.0)
        torch.testing.assert_close(data.x0, x_t)
        torch.testing.assert_close(data.eps, torch.zeros_like(x_t), atol=1e-12, rtol=0)
        # nothing of x_0 is left at alpha = 0, nothing of eps at sigma = 0
        spread = float(law.second_moment() - mean.square().sum())
        assert float(law.bayes_floor(0.0, 1.0, "x0")) == pytest.approx(spread, rel=0.02)
        assert float(law.bayes_floor(0.0, 1.0, "eps")) == pytest.approx(0, abs=1e-9)
        assert float(law.bayes_floor(1.0, 0.0, "x0")) == pytest.approx(0, abs=1e-9)
        assert float(law.bayes_floor(1.0, 0.0, "eps")) == pytest.approx(law.dim)
    assert float(toy.second_moment()) == pytest.approx(8.18)


def test_standardised_toy_has_mean_0_and_covariance_1() -> None:
    shifted = GaussianMixture(
        GaussianMixture.square().means + torch.tensor([1.0, -3.0]), torch.full((4,), 0.3).double()
    )
    for law in (GaussianMixture.square().standardised(), shifted.standardised()):
        centred = law.means
        cov = centred.T @ (law.weights[:, None] * centred)
        cov += (law.weights @ law.stds.square()) * torch.eye(2)
        torch.testing.assert_close(cov, torch.eye(2, dtype=F64))
        torch.testing.assert_close(law.weights @ law.means, torch.zeros(2, dtype=F64))
    # the ratio of distance to width is that of the toy
    assert float(law.means.abs().max() / law.stds[0]) == pytest.approx(2 / 0.3)


def test_labels_join_components_into_classes() -> None:
    law = LAWS["plane"]
    assert isinstance(law, GaussianMixture)
    labels = torch.tensor([0, 1, 0, 2, 2, 1, 0])
    joined = GaussianMixture(law.means, law.stds, law.weights, labels)
    x_t = points(law, 0.7, 0.4)
    single, merged = (p.class_probabilities(x_t, 0.7, 0.4) for p in (law, joined))
    for c in range(3):
        torch.testing.assert_close(merged[:, c], single[:, labels == c].sum(-1))
    torch.testing.assert_close(merged.sum(-1), torch.ones(6, dtype=F64))


def test_levels_may_differ_per_point_and_per_entry() -> None:
    for law in (LAWS["toy"], LAWS["gaussian"]):
        alpha, sigma = torch.tensor([[0.9, 0.2, 0.5], [0.1, 0.7, 0.5]], dtype=F64)
        x_t = points(law, 0.5, 0.5, 3)
        together = law.moments(x_t, alpha, sigma)
        together_floor = law.bayes_floor(alpha, sigma, "v")
        for i in range(3):
            a, s = float(alpha[i]), float(sigma[i])
            alone = law.moments(x_t[i : i + 1], a, s)
            for one, many in zip(alone, together, strict=True):
                torch.testing.assert_close(one[0], many[i])
            assert float(together_floor[i]) == pytest.approx(float(law.bayes_floor(a, s, "v")))


@pytest.mark.parametrize("law", [LAWS["toy"], LAWS["gaussian"]], ids=["mixture", "gaussian"])
def test_queries_keep_their_dtype(law: Posterior) -> None:
    x_t = points(law, 0.5, 0.5)
    single, double = law.moments(x_t.float(), 0.5, 0.5), law.moments(x_t, 0.5, 0.5)
    assert all(part.dtype == torch.float32 for part in single)
    torch.testing.assert_close([p.double() for p in single], list(double), rtol=1e-4, atol=1e-4)
    assert law.bayes_floor(torch.tensor(0.5), torch.tensor(0.5), "v").dtype == F64


def test_rules_agree_with_each_other_and_with_closed_forms() -> None:
    parts = [
        Component(0.3, torch.tensor([1.0, 0.0], dtype=F64), 0.5),
        Component(0.7, torch.tensor([-1.0, 2.0], dtype=F64), 1.5),
    ]
    # E||x||^2 and E cos(x_1 + x_2) of a mixture, known exactly
    energy = 0.3 * (1 + 2 * 0.25) + 0.7 * (5 + 2 * 2.25)
    wave = 0.3 * math.cos(1) * math.exp(-0.25) + 0.7 * math.cos(1) * math.exp(-2.25)
    for integrand, truth in (
        (lambda x: x.square().sum(-1), energy),
        (lambda x: x.sum(-1).cos(), wave),
    ):
        value, error = trapezoid(parts, integrand)
        assert abs(value - truth) < 1e-9 * abs(truth)
        assert abs(value - truth) <= error + 1e-12
        value, error = quasi_monte_carlo(parts, integrand)
        assert abs(value - truth) < 5 * error < 0.02 * abs(truth)


def test_entropy_of_a_gaussian_and_of_a_mixture() -> None:
    one = GaussianMixture(torch.zeros(1, 3, dtype=F64), torch.tensor([0.6], dtype=F64))
    tau2 = (0.8 * 0.6) ** 2 + 0.5**2
    value, error = one.entropy(0.8, 0.5)
    assert abs(float(value) - 1.5 * math.log(2 * math.pi * math.e * tau2)) < 4 * float(error) + 1e-9
    law = LAWS["line"]
    assert isinstance(law, GaussianMixture)
    line = Line(law.weights, law.means[:, 0], law.stds, 0.7, 0.3)
    assert float(law.entropy(0.7, 0.3).value) == pytest.approx(
        line.expect(lambda x: -math.log(max(line.density(x), 1e-300))), rel=1e-7
    )


EYE = torch.eye(2, dtype=F64)
BAD = [
    (lambda: Gaussian(EYE[0], torch.eye(3)), r"mean \(d,\) and a covariance \(d, d\)"),
    (lambda: Gaussian(EYE[0], EYE + torch.tensor([[0, 1], [0, 0]])), "must be symmetric"),
    (lambda: Gaussian(EYE[0], -EYE), "must not have negative eigenvalues"),
    (lambda: Gaussian(EYE[0], 0 * EYE).moments(EYE, 1.0, 0.0), "x_t has no density"),
    (lambda: GaussianMixture(EYE, torch.ones(3)), r"means \(K, d\)"),
    (lambda: GaussianMixture(EYE, -torch.ones(2)), "must be at least 0 and weights positive"),
    (lambda: GaussianMixture(EYE, torch.ones(2), torch.zeros(2)), "weights positive"),
    (lambda: GaussianMixture(EYE, torch.zeros(2)).moments(EYE, 1.0, 0.0), "x_t has no density"),
    (lambda: GaussianMixture(EYE, torch.zeros(2)).bayes_floor(1.0, 0.0, "v"), "has no density"),
    (lambda: LAWS["toy"].moments(torch.zeros(2), 0.5, 0.5), r"shape \(N, 2\)"),
    (lambda: LAWS["toy"].score(torch.zeros(4, 3), 0.5, 0.5), r"shape \(N, 2\)"),
    (lambda: LAWS["gaussian"].moments(torch.zeros(2, 4).int(), 0.5, 0.5), "a floating tensor"),
    (lambda: LAWS["toy"].moments(EYE, torch.ones(3), 0.5), "one per sample"),
    (lambda: LAWS["toy"].bayes_floor(0.5, 0.5, "noise"), "unknown target 'noise'"),
    (lambda: LAWS["toy"].posterior_mean(EYE, -0.5, 0.5), "at least 0"),
]


@pytest.mark.parametrize(("call", "message"), BAD)
def test_a_bad_argument_gets_one_sentence(call, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
