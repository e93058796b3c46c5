"""Soft Truncation: its laws against scipy's, its mean over tau against integrals by hand."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.integrate import dblquad, quad
from small_training import CLASSES, SHAPE, normal, truncated
from torch import Tensor, nn

from erdpaper.schedules import GVP, VP, Cosine, Linear
from erdpaper.training import (
    Labels,
    Objective,
    SoftTruncation,
    Stream,
    generator_for,
    loss_of,
    uniform_times,
)

F64 = torch.float64
EPS = 1e-5
KINDS = {"variance": False, "likelihood": True}
kinds = pytest.mark.parametrize("likelihood", KINDS.values(), ids=KINDS)
PRIOR = stats.loguniform(EPS, 1)


def rate(t: float) -> float:
    """g^2 / sigma^2 of the VP SDE: beta(t) over 1 - exp(-its integral)."""
    return (0.1 + 19.9 * t) / -math.expm1(-(0.1 * t + 9.95 * t**2))


def length(tau: float) -> float:
    """Z_tau, the integral of that rate from tau to 1."""
    return quad(lambda s: rate(math.exp(s)) * math.exp(s), math.log(tau), 0, limit=200)[0]


def middles(n: int) -> Tensor:
    return (torch.arange(n, dtype=F64) + 0.5) / n


def test_the_smallest_time_is_log_uniform() -> None:
    for smallest in (EPS, 1e-3, 0.5):
        u = torch.tensor([0.0, 1e-9, 0.1, 0.5, 0.9, 1 - 1e-12], dtype=F64)
        found = SoftTruncation(VP(), smallest=smallest).start(u)
        np.testing.assert_allclose(found, stats.loguniform(smallest, 1).ppf(u), rtol=1e-9)


@settings(max_examples=20, deadline=None)
@given(tau=st.floats(EPS, 0.99), likelihood=st.booleans())
def test_above_it_times_have_the_quantiles_of_their_density(tau: float, likelihood: bool) -> None:
    u = torch.tensor([0.0, 0.01, 0.4, 0.8, 0.999], dtype=F64)
    start = torch.tensor(tau, dtype=F64)
    t, weight = SoftTruncation(VP(), likelihood).draw(u, start)
    assert len(weight.unique()) == 1
    for share, found in zip(u.tolist(), t.tolist(), strict=True):
        if not likelihood:
            assert found == pytest.approx(tau + (1 - tau) * share, rel=1e-12)
            continue
        below = quad(
            lambda s: rate(math.exp(s)) * math.exp(s), math.log(tau), math.log(found), limit=200
        )[0]
        assert below / length(tau) == pytest.approx(share, abs=1e-7)


def test_a_batch_weighs_as_much_as_its_interval_is_long() -> None:
    truncation = SoftTruncation(VP(), likelihood=True)
    mean = quad(lambda u: length(EPS ** (1 - u)), 0, 1)[0]
    for tau in (EPS, 1e-3, 0.1, 0.7):
        weight = truncation.draw(middles(2), torch.tensor(tau, dtype=F64))[1]
        assert weight.tolist() == pytest.approx([length(tau) / mean] * 2, rel=1e-6)
    plain = SoftTruncation(VP()).draw(middles(2), torch.tensor(0.7, dtype=F64))[1]
    assert plain.tolist() == [1, 1]


def cdf(t: np.ndarray, likelihood: bool, tau: np.ndarray) -> np.ndarray:
    """How often a time is drawn at or below t, the mean over many tau."""
    # log(exp(B) - 1) is the integral of the rate
    place = (lambda s: np.log(np.expm1(0.1 * s + 9.95 * s**2))) if likelihood else (lambda s: s)
    low, high = place(tau), place(1.0)
    return np.array([np.clip((place(s) - low) / (high - low), 0, 1).mean() for s in t])


@kinds
def test_times_of_many_batches_have_the_law_of_both_draws(likelihood: bool) -> None:
    asked = Objective(VP(), "eps", truncation=SoftTruncation(VP(), likelihood))
    n, x0, generator = 3000, torch.zeros(1, 1, dtype=F64), generator_for(1)
    t = np.sort([float(asked.batch(x0, generator).t) for _ in range(n)])

    def apart(expected: np.ndarray) -> float:
        return max(float(np.abs(expected - np.arange(k, n + k) / n).max()) for k in (0, 1))

    # of Kolmogorov and Smirnov: one sample in a thousand lies farther off
    limit = stats.kstwo.isf(1e-3, n)
    assert apart(cdf(t, likelihood, PRIOR.ppf((np.arange(4000) + 0.5) / 4000))) < limit
    # and a smallest time that is always the same would be seen
    assert apart(cdf(t, likelihood, np.array([EPS]))) > limit


class Watched(SoftTruncation):
    """It tells which smallest times it was given."""

    def draw(self, u: Tensor, tau: Tensor) -> tuple[Tensor, Tensor]:
        SEEN.append(float(tau))
        return super().draw(u, tau)


SEEN: list[float] = []


@kinds
def test_tau_is_drawn_once_a_batch_by_its_law(likelihood: bool) -> None:
    SEEN.clear()
    asked = Objective(VP(), "eps", stratified=True, truncation=Watched(VP(), likelihood))
    draw = Stream(torch.zeros(64, 1, dtype=F64), asked, 64, 5)
    low = [float(draw(step).t.min()) for step in range(1, 501)]
    assert len(SEEN) == 500 and all(a >= b for a, b in zip(low, SEEN, strict=True))
    assert stats.kstest(SEEN, PRIOR.cdf).pvalue > 1e-3
    # one after the other, not in step
    assert abs(stats.spearmanr(SEEN[1:], SEEN[:-1]).statistic) < 4.5 / math.sqrt(500)


# ---------------------------------------------------------------- the mean over tau


class Linearly(nn.Module):
    """A wrong denoiser whose mean squared error on unit Gaussian data is known: eps = x / 2."""

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return x / 2


def error(t: Any) -> Any:
    """E||x_t / 2 - eps||^2 / d with x_t of unit variance: 1 / 4 - sigma + 1."""
    return 1.25 - np.sqrt(-np.expm1(-(0.1 * t + 9.95 * t**2)))


def by_hand(f: Callable[[Any], Any], likelihood: bool) -> float:
    """The theorem: the integral over t of f times the general weight, normalised."""
    if likelihood:
        # P(tau <= t) g^2 / sigma^2, over log t
        def general(s: float) -> float:
            return float(PRIOR.cdf(math.exp(s))) * rate(math.exp(s)) * math.exp(s)

        parts = [
            quad(lambda s: general(s) * f(math.exp(s)), math.log(EPS), 0, limit=200)[0],
            quad(general, math.log(EPS), 0, limit=200)[0],
        ]
        return parts[0] / parts[1]
    # tau = eps^(1 - u) and t = tau + (1 - tau) v, both uniform
    return dblquad(
        lambda v, u: f(EPS ** (1 - u) + (1 - EPS ** (1 - u)) * v), 0, 1, 0, 1, epsabs=0, epsrel=1e-6
    )[0]


@kinds
def test_the_mean_over_tau_is_the_objective_of_the_general_weight(likelihood: bool) -> None:
    truncation = SoftTruncation(VP(), likelihood)
    batches = [truncation.draw(middles(400), tau) for tau in truncation.start(middles(1000))]
    t, weight = (torch.stack(part).numpy() for part in zip(*batches, strict=True))
    for f in (error, lambda t: t**2, lambda t: np.exp(-20 * t)):
        assert (weight * f(t)).mean() == pytest.approx(by_hand(f, likelihood), rel=2e-4)


@kinds
def test_a_training_loss_is_an_estimate_of_that_objective(likelihood: bool) -> None:
    asked = Objective(VP(), "eps", stratified=True, truncation=SoftTruncation(VP(), likelihood))
    generator = generator_for(8)
    found = torch.stack(
        [
            loss_of(Linearly(), asked.batch(normal(64, 8, seed=k, dtype=F64), generator))
            for k in range(1000)
        ]
    )
    spread = float(found.std()) / len(found) ** 0.5
    assert spread < 0.01
    assert abs(float(found.mean()) - by_hand(error, likelihood)) < 4.5 * spread


@kinds
def test_effort_is_the_general_weight(likelihood: bool) -> None:
    truncation = SoftTruncation(VP(), likelihood)
    for t in (2e-5, 1e-3, 0.1, 0.6, 0.99):
        # closed forms: P(tau <= t) = 1 + log t / log(1 / eps), and a quadrature of 1 / (1 - tau)
        if likelihood:
            mean = quad(lambda u: length(EPS ** (1 - u)), 0, 1)[0]
            expected = float(PRIOR.cdf(t)) * rate(t) / mean
        else:
            share = float(PRIOR.cdf(t))
            expected = quad(lambda u: 1 / (1 - EPS ** (1 - u)), 0, share, epsrel=1e-10)[0]
        found = truncation.effort(torch.tensor([t, EPS / 2, 0.0], dtype=F64))
        assert found.tolist() == pytest.approx([expected, 0, 0], rel=1e-6)
    whole = quad(
        lambda s: float(truncation.effort(torch.tensor(math.exp(s), dtype=F64))) * math.exp(s),
        math.log(EPS),
        0,
        limit=400,
    )[0]
    assert whole == pytest.approx(1, abs=1e-5)


# ---------------------------------------------------------------- as data of a step


@kinds
def test_a_seed_sees_the_noise_that_other_objectives_see(likelihood: bool) -> None:
    data = normal(20, *SHAPE, dtype=F64)
    labels = Labels(torch.arange(20) % CLASSES, CLASSES)
    soft = SoftTruncation(VP(), likelihood)
    plain, other = (
        Stream(data, Objective(VP(), "eps", stratified=True, truncation=how), 8, 3, labels)
        for how in (None, soft)
    )
    for step in (1, 2, 9):
        a, b = plain(step), other(step)
        assert torch.equal(a.y, b.y) and torch.equal(a.label, b.label)  # type: ignore[arg-type]
        assert not torch.equal(a.t, b.t)
        alpha, sigma = (c.view(-1, 1, 1, 1) for c in VP()(b.t))
        x0 = data[other._order(step)]
        torch.testing.assert_close(b.x, alpha * x0 + sigma * b.y)


def test_a_batch_depends_on_its_step_alone() -> None:
    first, second = truncated(), truncated()
    expected = {step: first(step) for step in range(1, 8)}
    for step in (5, 1, 7):
        again = second(step)
        assert all(torch.equal(a, b) for a, b in zip(expected[step], again, strict=True))
    assert len({float(batch.weight[0]) for batch in expected.values()}) == 7


def test_on_a_table_times_are_nodes_that_are_not_below_tau() -> None:
    table = Cosine(T=50)
    soft = SoftTruncation(table, likelihood=True)
    asked = Objective(table, "eps", stratified=True, truncation=soft)
    batch = asked.batch(torch.zeros(64, 1, dtype=F64), generator_for(2))
    nodes = 50 * batch.t
    torch.testing.assert_close(nodes, nodes.round(), rtol=0, atol=1e-9)
    # the weight says what tau is: Z_tau falls with it
    low = torch.tensor(float(batch.t.min()), dtype=F64)
    assert float(batch.weight[0]) >= float(soft.draw(middles(1), low)[1]) - 1e-12


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: SoftTruncation(VP(), smallest=0.0), "must lie between 0 and 1, got 0.0"),
        (lambda: SoftTruncation(VP(), smallest=1.0), "must lie between 0 and 1, got 1.0"),
        (lambda: SoftTruncation(Linear(), likelihood=True), r"Linear\(\) ends without signal"),
        (lambda: SoftTruncation(GVP(), likelihood=True), "has no finite mean; use a schedule"),
        (
            lambda: Objective(
                VP(), "eps", times=uniform_times(0.1), truncation=SoftTruncation(VP())
            ),
            "give `times` or a truncation, not both",
        ),
    ],
)
def test_bad_truncations_are_one_sentence(make: Callable[[], object], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence) as caught:
        make()
    assert "\n" not in str(caught.value)
