"""Losses of a step and of score models, and the example models, against other computations."""

import math

import pytest
import torch
from scipy.integrate import quad
from scipy.optimize import minimize_scalar
from torch.distributions import Normal

from erdpaper import schedules
from erdpaper.background import examples, losses, steps
from erdpaper.posterior import GaussianMixture

F64 = torch.float64
TOY = GaussianMixture.square()
TABLE = steps.Steps.of(schedules.DDPM(), torch.arange(1, 1001, dtype=F64) / 1000)


def test_the_linear_predictor_is_the_best_line() -> None:
    """Least squares on many draws finds it."""
    law = GaussianMixture(
        torch.tensor([[1.0, 0.0], [-1.0, 0.5]], dtype=F64),
        torch.tensor([0.5, 0.2], dtype=F64),
        torch.tensor([0.3, 0.7], dtype=F64),
    )
    g = torch.Generator().manual_seed(0)
    alpha, sigma = torch.tensor(0.8, dtype=F64), torch.tensor(0.6, dtype=F64)
    x0 = law.sample(200_000, g)
    x = alpha * x0 + sigma * torch.randn(200_000, 2, generator=g, dtype=F64)
    ones = torch.cat([x, torch.ones(len(x), 1, dtype=F64)], 1)
    fit = torch.linalg.lstsq(ones, x0).solution
    predicted = losses.predictors(law)["linear"](x[:5], alpha, sigma)
    torch.testing.assert_close(predicted, ones[:5] @ fit, rtol=0, atol=0.02)


@pytest.mark.parametrize("name", ["linear", "zero", "nearest centre", "exact"])
def test_three_errors_are_one_divergence(name: str) -> None:
    g = torch.Generator().manual_seed(1)
    x0, eps = TOY.sample(50, g), torch.randn(50, 2, generator=g, dtype=F64)
    for t in (2, 300, 1000):
        found = losses.of_step(TABLE, t, x0, eps, losses.predictors(TOY)[name])
        for loss in found[1:]:
            torch.testing.assert_close(loss, found.divergence, rtol=1e-6, atol=1e-12)


def test_slopes_minimise_their_losses() -> None:
    """E||-c x - score||^2 from draws and the exact score, minimised numerically."""
    g = torch.Generator().manual_seed(2)
    x0, eps = TOY.sample(20_000, g), torch.randn(20_000, 2, generator=g, dtype=F64)
    chosen, weights = [10, 300, 800], torch.tensor([0.2, 1.0, 3.0], dtype=F64)

    def loss(c: float, places: list[int]) -> float:
        value = 0.0
        for k in places:
            t = chosen[k]
            a, s = TABLE.abar[t - 1].sqrt(), (1 - TABLE.abar[t - 1]).sqrt()
            x = a * x0 + s * eps
            error = (-c * x - TOY.score(x, a, s)).square().sum(-1).mean()
            value += float(weights[k] * error)
        return value

    alone = minimize_scalar(lambda c: loss(c, [1]), (0.1, 2.0)).x
    assert float(losses.best_slopes(TABLE, 4.09)[298]) == pytest.approx(alone, rel=0.02)
    picked = torch.tensor([t - 1 for t in chosen])
    # the first step of a table has no loss
    padded = torch.cat([torch.tensor([0]), picked])
    small = steps.Steps(TABLE.alpha[padded], TABLE.abar[padded])
    together = minimize_scalar(lambda c: loss(c, [0, 1, 2]), (0.1, 2.0)).x
    assert losses.shared_slope(small, 4.09, weights) == pytest.approx(together, rel=0.02)


def test_score_matching_against_adaptive_quadrature() -> None:
    law = GaussianMixture(
        torch.tensor([[-1.2], [1.0]], dtype=F64),
        torch.tensor([0.4, 0.5], dtype=F64),
        torch.tensor([0.6, 0.4], dtype=F64),
    )
    alpha, sigma = 0.8, 0.6
    found = losses.matching(law, alpha, sigma, lambda x: torch.tanh(1 - 2 * x))

    def point(x: float) -> torch.Tensor:
        return torch.tensor([[x]], dtype=F64)

    def fisher(x: float) -> float:
        gap = math.tanh(1 - 2 * x) - float(law.score(point(x), alpha, sigma))
        return gap**2 * math.exp(float(law.log_density(point(x), alpha, sigma)))

    assert found.fisher == pytest.approx(quad(fisher, -6, 6, limit=200)[0], rel=1e-6)
    # Monte Carlo for the one that knows neither density nor score
    g = torch.Generator().manual_seed(0)
    x0 = law.sample(400_000, g)[:, 0]
    eps = torch.randn(400_000, generator=g, dtype=F64)
    values = (torch.tanh(1 - 2 * (alpha * x0 + sigma * eps)) + eps / sigma).square()
    assert found.denoising == pytest.approx(float(values.mean()), rel=0.01)
    # the three differ by constants: E score^2, and 1 / sigma^2 less that
    other = losses.matching(law, alpha, sigma, lambda x: 0 * x)
    assert found.fisher - found.implicit == pytest.approx(other.fisher, rel=1e-6)
    assert found.denoising - found.implicit == pytest.approx(1 / sigma**2, rel=1e-6)


def test_the_posterior_of_the_example_is_bayes_rule() -> None:
    model = examples.hierarchy((3, 1), torch.Generator().manual_seed(3))
    x = torch.tensor([0.4, -1.0, 0.2], dtype=F64)
    own = examples.posterior(model).given(x)
    step = model.down[0]
    z = torch.linspace(-12, 12, 20_001, dtype=F64)
    prior = Normal(model.prior.mean, model.prior.covariance[0].sqrt())
    residual = x - z[:, None] * step.slope[:, 0] - step.offset
    inside = (residual @ torch.linalg.inv(step.covariance) * residual).sum(-1)
    log_p = prior.log_prob(z) - inside / 2
    p = (log_p - log_p.max()).exp()
    p = p / torch.trapezoid(p, z)
    mean = torch.trapezoid(p * z, z)
    variance = torch.trapezoid(p * (z - mean).square(), z)
    assert float(own.offset) == pytest.approx(float(mean), rel=1e-6)
    assert float(own.covariance) == pytest.approx(float(variance), rel=1e-6)


def test_encoders_that_are_off_lose_their_divergence() -> None:
    model = examples.hierarchy((4, 2), torch.Generator().manual_seed(4))
    x = torch.randn(4, generator=torch.Generator().manual_seed(5), dtype=F64)
    true = examples.posterior(model)
    for name, one in examples.encoders(model).items():
        bound = one.at(x)
        gap = float(one.evidence(x) - bound.value(bound.log_ratio()))
        expected = examples.library_kl(one.up[0], true, x)
        assert gap == pytest.approx(expected, abs=1e-9)
        assert (gap < 1e-9) == (name == "true posterior")
