"""Gaussian algebra, bounds and steps, against torch.distributions, sampling and closed forms."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.distributions import MultivariateNormal, Normal, kl_divergence

from erdpaper import schedules
from erdpaper.background import bounds, gaussians, steps
from erdpaper.background.bounds import Hierarchy
from erdpaper.background.gaussians import NOWHERE, Conditional, Law

F64 = torch.float64
SEEDS = st.integers(0, 10_000)


def spd(n: int, g: torch.Generator) -> Tensor:
    root = torch.randn(n, n, generator=g, dtype=F64)
    return root @ root.T + 0.3 * torch.eye(n, dtype=F64)


def conditional(m: int, n: int, g: torch.Generator) -> Conditional:
    slope = torch.randn(m, n, generator=g, dtype=F64)
    return Conditional(slope, torch.randn(m, generator=g, dtype=F64), spd(m, g))


def random_hierarchy(seed: int, sizes: tuple[int, ...] = (4, 3, 2, 2)) -> tuple[Hierarchy, Tensor]:
    g = torch.Generator().manual_seed(seed)
    T = len(sizes) - 1
    up = tuple(conditional(sizes[t], sizes[t - 1], g) for t in range(1, T + 1))
    down = tuple(conditional(sizes[t - 1], sizes[t], g) for t in range(1, T + 1))
    prior = Law(torch.randn(sizes[-1], generator=g, dtype=F64), spd(sizes[-1], g))
    return Hierarchy(up, down, prior), torch.randn(sizes[0], generator=g, dtype=F64)


@given(SEEDS)
@settings(max_examples=20, deadline=None)
def test_conditioning_splits_a_joint_density(seed: int) -> None:
    """log N(z) = log N(x) + log N(y | x), densities by torch.distributions."""
    g = torch.Generator().manual_seed(seed)
    law = Law(torch.randn(5, generator=g, dtype=F64), spd(5, g))
    y, x = torch.tensor([3, 0]), torch.tensor([1, 4, 2])
    z = torch.randn(5, generator=g, dtype=F64)
    theirs = MultivariateNormal(law.mean, law.covariance).log_prob(z)
    ours = gaussians.log_normal(law.conditional(y, x), y, x).at_point(z)
    assert float(ours + law.marginal(x).log_density(z[x])) == pytest.approx(float(theirs))
    assert float(law.log_density(z)) == pytest.approx(float(theirs))


@given(SEEDS)
@settings(max_examples=20, deadline=None)
def test_a_chain_multiplies_its_conditionals(seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    parts = [conditional(2, 0, g), conditional(3, 2, g), conditional(1, 3, g)]
    law = gaussians.chain_law(parts)
    z = torch.randn(6, generator=g, dtype=F64)
    blocks = [NOWHERE, *torch.arange(6).split([2, 3, 1])]
    logs = [
        gaussians.log_normal(part, blocks[k + 1], blocks[k]).at_point(z)
        for k, part in enumerate(parts)
    ]
    assert float(law.log_density(z)) == pytest.approx(float(sum(logs)))


def test_quadratics_have_the_moments_of_their_samples() -> None:
    g = torch.Generator().manual_seed(3)
    law = Law(torch.randn(3, generator=g, dtype=F64), spd(3, g))
    at = torch.tensor([2, 0])
    h = gaussians.Quadratic(
        at, spd(2, g), torch.randn(2, generator=g, dtype=F64), torch.tensor(1.0)
    )
    values = h.at_point(law.sample(200_000, g))
    assert float(h.mean(law)) == pytest.approx(float(values.mean()), rel=0.01)
    assert float(h.variance(law)) == pytest.approx(float(values.var()), rel=0.05)


@given(SEEDS)
@settings(max_examples=20, deadline=None)
def test_averaging_out_a_block_is_the_tower_rule(seed: int) -> None:
    """E[h] = E[E[h | x]], and the inner function is what sampling y at one x finds."""
    g = torch.Generator().manual_seed(seed)
    law = Law(torch.randn(4, generator=g, dtype=F64), spd(4, g))
    at = torch.tensor([1, 3, 0])
    h = gaussians.Quadratic(
        at, spd(3, g), torch.randn(3, generator=g, dtype=F64), torch.tensor(0.5)
    )
    y, x = torch.tensor([3, 1]), torch.tensor([0, 2])
    inner = h.averaged(y, x, law.conditional(y, x))
    assert inner.at.tolist() == [0, 2]
    assert float(inner.mean(law)) == pytest.approx(float(h.mean(law)), rel=1e-9)
    # E[u' A u] at one point, written out
    z = torch.randn(4, generator=g, dtype=F64)
    given_x = law.conditional(y, x).given(z[x])
    point = z.clone()
    point[y] = given_x.offset
    rows = torch.tensor([1, 0])  # positions 3, 1 in `at`
    trace = (h.matrix[rows][:, rows] * given_x.covariance).sum()
    assert float(inner.at_point(z)) == pytest.approx(float(h.at_point(point) + trace), rel=1e-9)


@given(SEEDS)
@settings(max_examples=15, deadline=None)
def test_forms_of_the_bound_on_any_hierarchy(seed: int) -> None:
    model, x0 = random_hierarchy(seed)
    bound = model.at(x0)
    ratio = float(bound.value(bound.log_ratio()))
    assert float(bound.value(bound.one_variable())) == pytest.approx(ratio, rel=1e-8)
    assert float(bound.value(bound.three_variable())) == pytest.approx(ratio, rel=1e-8)
    assert float(bound.value(bound.two_variable("neighbours"))) == pytest.approx(ratio, rel=1e-8)
    gap = float(model.evidence(x0)) - ratio
    assert gap >= 0
    assert float(bound.divergence()) == pytest.approx(gap, rel=1e-7)


@given(SEEDS)
@settings(max_examples=15, deadline=None)
def test_how_far_the_printed_form_is_off(seed: int) -> None:
    """The bound less it is sum_t tr(S_t^-1 A_t F_{t+1} Q_t), with the sign that this has.

    S_t and A_t of p(x_t | x_{t+1}), F_{t+1} of q(x_{t+1} | x_t), Q_t the covariance of
    q(x_t | x_{t-1}).
    """
    model, x0 = random_hierarchy(seed)
    bound = model.at(x0)
    expected = 0.0
    for t in (1, 2):
        down, forward, own = model.down[t], model.up[t], model.up[t - 1]
        product = down.slope @ forward.slope @ own.covariance
        expected += float(torch.linalg.solve(down.covariance, product).trace())
    off = bound.value(bound.log_ratio()) - bound.value(bound.two_variable())
    assert float(off) == pytest.approx(expected, rel=1e-7, abs=1e-7)


def test_the_evidence_is_that_of_the_generated_data() -> None:
    model, _ = random_hierarchy(5)
    g = torch.Generator().manual_seed(0)
    x = model.prior.sample(400_000, g)
    for step in reversed(model.down):
        noise = torch.randn(len(x), len(step.offset), generator=g, dtype=F64)
        x = x @ step.slope.T + step.offset + noise @ torch.linalg.cholesky(step.covariance).T
    point = x.mean(0)
    theirs = MultivariateNormal(point, torch.cov(x.T)).log_prob(point)
    assert float(model.evidence(point)) == pytest.approx(float(theirs), abs=0.02)


@given(SEEDS)
@settings(max_examples=20, deadline=None)
def test_divergence_of_gaussians(seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    p, q = (Law(torch.randn(3, generator=g, dtype=F64), spd(3, g)) for _ in range(2))
    theirs = kl_divergence(*(MultivariateNormal(x.mean, x.covariance) for x in (p, q)))
    assert float(bounds.kl(p, q)) == pytest.approx(float(theirs), rel=1e-9)


def vp_steps(T: int) -> steps.Steps:
    return steps.Steps.of(schedules.VP(), torch.linspace(1 / T, 1, T, dtype=F64))


def test_steps_are_those_of_the_chain() -> None:
    """abar is the product of alpha, and 2.20 is Bayes' rule with torch's densities."""
    table = steps.Steps.of(schedules.DDPM(), torch.arange(1, 1001, dtype=F64) / 1000)
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=F64)
    torch.testing.assert_close(table.alpha, 1 - betas, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(table.alpha.cumprod(0), table.abar, rtol=1e-9, atol=0)
    t, x_t, x0 = 400, 0.7, -1.3
    mean = float(table.of_xt[t] * x_t + table.of_x0[t] * x0)
    std = math.sqrt(table.variance[t])

    def log_posterior(x: float) -> float:
        forward = Normal(table.alpha[t].sqrt() * x, (1 - table.alpha[t]).sqrt())
        before = Normal(table.before[t].sqrt() * x0, (1 - table.before[t]).sqrt())
        point = [torch.tensor(v, dtype=F64) for v in (x_t, x)]
        return float(forward.log_prob(point[0]) + before.log_prob(point[1]))

    ours = Normal(torch.tensor(mean, dtype=F64), torch.tensor(std, dtype=F64))
    points = [mean + k * std for k in (-2.0, -0.5, 1.5)]
    differences = [
        log_posterior(x) - float(ours.log_prob(torch.tensor(x, dtype=F64))) for x in points
    ]
    assert differences == pytest.approx([differences[0]] * 3, abs=1e-8)


def test_exact_reverse_steps_close_the_gap() -> None:
    """p = q(x_{t-1} | x_t) leaves only what the prior misses; the thesis's variance leaves more."""
    mean, covariance = torch.tensor([0.5, -1.0], dtype=F64), torch.tensor([[2, 0.8], [0.8, 0.5]])
    x0 = torch.tensor([1.0, 0.3], dtype=F64)
    gaps = {}
    for exact in (True, False):
        model = steps.hierarchy(vp_steps(8), mean, covariance.double(), exact)
        bound = model.at(x0)
        gaps[exact] = float(model.evidence(x0) - bound.value(bound.log_ratio()))
    assert 0 <= gaps[True] < 1e-4
    assert gaps[False] > 0.1


def test_the_weight_of_x0_is_half_a_step_of_snr() -> None:
    table = vp_steps(50)
    snr = table.abar / (1 - table.abar)
    weights = table.weights()
    torch.testing.assert_close(weights.x0, (snr[:-1] - snr[1:]) / 2, rtol=1e-9, atol=0)
    # an error of x_0 is one of eps, times sigma^2 / alpha^2, and one of the score, times sigma^2
    torch.testing.assert_close(weights.eps, weights.x0 / snr[1:], rtol=1e-9, atol=0)
    noise = 1 - table.abar[1:]
    torch.testing.assert_close(weights.score, weights.eps * noise, rtol=1e-9, atol=0)


@pytest.mark.parametrize("printed", [True, False])
def test_the_best_reverse_steps_minimise_their_terms(printed: bool) -> None:
    """Any change of one step raises the mean over the data of the terms that it minimises."""
    table, variance = vp_steps(4), 3.0
    best = steps.best_reverse(table, variance, printed)
    up = steps.hierarchy(table, torch.zeros(1, dtype=F64), torch.eye(1, dtype=F64)).up
    prior = Law(torch.zeros(1, dtype=F64), torch.eye(1, dtype=F64))

    def loss(down: tuple[Conditional, ...]) -> float:
        """The terms' mean over x_0: a quadratic in x_0, so that three points suffice."""
        values = []
        for x0 in (-math.sqrt(3 * variance), 0.0, math.sqrt(3 * variance)):
            bound = Hierarchy(up, down, prior).at(torch.tensor([x0], dtype=F64))
            terms = bound.two_variable() if printed else bound.one_variable()
            values.append(float(bound.value(terms)))
        # Gauss-Hermite weights of three nodes
        return -(values[0] + 4 * values[1] + values[2]) / 6

    least = loss(best)
    for t in (0, 2):
        for change in (0.97, 1.03):
            step = best[t]
            moved = [
                Conditional(change * step.slope, step.offset, step.covariance),
                Conditional(step.slope, step.offset, change * step.covariance),
            ]
            for other in moved:
                assert loss((*best[:t], other, *best[t + 1 :])) > least + 1e-6


def test_generated_variance_is_that_of_simulated_chains() -> None:
    down = steps.best_reverse(vp_steps(6), 4.0, printed=True)
    g = torch.Generator().manual_seed(1)
    x = torch.randn(200_000, generator=g, dtype=F64)
    for step in reversed(down):
        noise = torch.randn(len(x), generator=g, dtype=F64)
        x = step.slope[0, 0] * x + step.offset[0] + step.covariance[0, 0].sqrt() * noise
    assert steps.generated_variance(down) == pytest.approx(float(x.var()), rel=0.02)


@pytest.mark.parametrize("schedule", [schedules.VP(), schedules.StableDiffusion()], ids=repr)
def test_prior_term(schedule: schedules.Schedule) -> None:
    alpha, sigma = schedule(1.0)
    theirs = kl_divergence(Normal(alpha, sigma), Normal(torch.zeros((), dtype=F64), 1.0))
    assert steps.prior_term(schedule) == pytest.approx(float(theirs), rel=1e-9)


def test_bad_input_gets_one_sentence() -> None:
    with pytest.raises(ValueError, match="variance-preserving"):
        steps.Steps.of(schedules.Linear(), torch.tensor([0.5, 1.0]))
    with pytest.raises(ValueError, match="at least one"):
        Hierarchy((), (), Law(torch.zeros(1), torch.eye(1)))
    with pytest.raises(ValueError, match="printed, neighbours or divergence"):
        model, x0 = random_hierarchy(0)
        model.at(x0).two_variable("other")
    with pytest.raises(ValueError, match="slope"):
        Conditional(torch.zeros(2, 1), torch.zeros(3), torch.eye(3))
