import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import solve_ivp
from torch import Tensor
from torch.func import functional_call, jacrev

from erdpaper import weights
from erdpaper.dynamics import bounds, couplings, flow, representation, tangent, terms, transport
from erdpaper.dynamics.bounds import Path
from erdpaper.dynamics.law import Law, Samples
from erdpaper.models.mlp import MLP
from erdpaper.posterior import GaussianMixture
from erdpaper.schedules import VP, Linear, Schedule

LAW = GaussianMixture.square()
LEVELS = (-4.0, 0.0, 4.0)


def network(seed: int = 0, width: int = 8, **options: object) -> MLP:
    torch.manual_seed(seed)
    return MLP(width=width, depth=2, embedding=4, **options).double()  # type: ignore[arg-type]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def jacobian(model: MLP, x: Tensor, t: Tensor) -> Tensor:
    """J (N, d, P), by automatic differentiation of the whole batch."""
    found = jacrev(lambda p: functional_call(model, p, (x, t)))(tangent.state(model))
    return torch.cat([part.flatten(2) for part in found.values()], -1)


def gradient(model: MLP, samples: Samples) -> Tensor:
    """The gradient of mean M / 2 ||f - y||^2, by automatic differentiation."""
    y = samples.bayes - samples.xi
    half = (model(samples.x, samples.t) - y).square().sum(-1) * samples.weight / 2
    return torch.cat([g.flatten() for g in torch.autograd.grad(half.mean(), model.parameters())])


# ---------------------------------------------------------------- the law of noise levels


@pytest.mark.parametrize("schedule", [VP(), Linear()], ids=str)
@pytest.mark.parametrize("target", ["x0", "eps"])
@pytest.mark.parametrize("weight", [weights.uniform, weights.erd])
def test_both_readings_of_the_law_have_the_same_mean(
    schedule: Schedule, target: str, weight: Callable[..., Tensor]
) -> None:
    def at(t: Tensor) -> Tensor:
        return weight(*schedule(t), target)

    means = []
    for drawn in ("logsnr", "t"):
        law = Law(LAW, schedule, target, at, drawn, (-5.0, 5.0))  # type: ignore[arg-type]
        low, high = law.span if drawn == "logsnr" else law._times()
        nodes = torch.linspace(low, high, 20_001, dtype=torch.float64)
        t = schedule.time(nodes) if drawn == "logsnr" else nodes
        values = torch.stack([law.weight_at(t), law.weight_at(t) * schedule.logsnr(t)])
        means.append(torch.trapezoid(values, nodes) / (high - low))
    # the weights have mean 1 and weigh a function of the noise level alike
    torch.testing.assert_close(means[0], means[1], rtol=1e-5, atol=1e-5)
    assert float(means[0][0]) == pytest.approx(1, rel=1e-6)


def test_noise_levels_are_uniform_in_what_is_drawn() -> None:
    law = Law(LAW, VP(), "eps", span=(-4.0, 6.0))
    logsnr = VP().logsnr(law.draw(20_000, generator()).t)
    assert float(logsnr.min()) >= -4 - 1e-6 and float(logsnr.max()) <= 6 + 1e-6
    assert float(logsnr.mean()) == pytest.approx(1, abs=4 * 10 / math.sqrt(12 * 20_000))
    timed = Law(LAW, VP(), "eps", drawn="t", span=(-4.0, 6.0))
    early, late = (float(VP().time(torch.tensor(x).double())) for x in (6.0, -4.0))
    t = timed.draw(20_000, generator()).t
    spread = 4 * (late - early) / math.sqrt(12 * 20_000)
    assert float(t.mean()) == pytest.approx((early + late) / 2, abs=spread)


def test_samples_carry_the_noise_that_the_bayes_predictor_leaves() -> None:
    law = Law(LAW, VP(), "eps")
    samples = law.at(0.0, 40_000, generator())
    energy = samples.xi.square().sum(-1)
    expected = float(2 * law.floor(0.0) / samples.weight[0])
    error = float(energy.std()) / 200
    assert float(energy.mean()) == pytest.approx(expected, abs=4 * error)
    # xi is uncorrelated with every function of x, here x itself and bayes
    for other in (samples.x, samples.bayes):
        product = (samples.xi * other).sum(-1)
        assert abs(float(product.mean())) < 4 * float(product.std()) / 200


def test_labels_are_those_of_the_data() -> None:
    samples = Law(LAW, VP(), "eps").at(0.0, 500, generator())
    alpha, sigma = VP()(samples.t[:1])
    x0 = (samples.x - sigma * (samples.bayes - samples.xi)) / alpha
    # within five standard deviations of a corner of the square
    assert float((x0.abs() - 2).abs().max()) < 5 * 0.3


@pytest.mark.parametrize(
    ("options", "sentence"),
    [({"drawn": "x"}, "by 'logsnr' or by 't'"), ({"span": (1.0, 1.0)}, "from low to high")],
)
def test_a_wrong_law_is_refused(options: dict[str, object], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        Law(LAW, VP(), "eps", **options)  # type: ignore[arg-type]


# ---------------------------------------------------------------- products and terms


def test_products_are_those_of_the_jacobian() -> None:
    model, samples = network(), Law(LAW, VP(), "x0").draw(6, generator())
    J = jacobian(model, samples.x, samples.t)
    v, w = torch.randn(2, 6, 2, generator=generator(1), dtype=torch.float64)
    direction = torch.randn(J.shape[-1], generator=generator(2), dtype=torch.float64)
    pulled = tangent.pull(model, samples.x, samples.t, v, w)
    torch.testing.assert_close(
        torch.stack(pulled), torch.einsum("ndp,knd->kp", J, torch.stack([v, w]))
    )
    torch.testing.assert_close(tangent.push(model, samples.x, samples.t, direction), J @ direction)


def test_the_two_directions_add_up_to_the_gradient() -> None:
    model, samples = network(), Law(LAW, VP(), "v").draw(32, generator())
    signal, noise = terms.directions(model, samples)
    torch.testing.assert_close(signal + noise, gradient(model, samples))
    J, r = jacobian(model, samples.x, samples.t), terms.residual(model, samples)
    explicit = torch.einsum("n,ndp,nd->p", samples.weight / 32, J, r)
    torch.testing.assert_close(signal, explicit)


@pytest.mark.parametrize("batch", [1, 16])
def test_terms_are_kernel_sums(batch: int) -> None:
    law, g = Law(LAW, VP(), "eps"), generator()
    model = network()
    levels = [law.at(level, 5, g) for level in LEVELS]
    samples = law.draw(batch, g)
    found = terms.terms(model, terms.joined(levels), 3, terms.directions(model, samples))
    there, r_there = jacobian(model, samples.x, samples.t), terms.residual(model, samples)
    for k, level in enumerate(levels):
        J, r, M = jacobian(model, level.x, level.t), terms.residual(model, level), level.weight[0]
        theta = torch.einsum("ndp,mep->nmde", J, there) * samples.weight[:, None, None] / batch
        by_r = torch.einsum("nmde,me->nd", theta, r_there)
        F = torch.einsum("nmde,me->nd", theta, samples.xi)
        expected = (
            M / 2 * r.square().sum() / 5,
            M * (r * by_r).sum() / 5,
            M * (r * F).sum() / 5,
            F.square().sum() / 5,
            (by_r + F).square().sum() / 5,
        )
        torch.testing.assert_close(torch.stack([part[k] for part in found]), torch.stack(expected))


def test_the_excess_moves_as_its_terms_say_to_second_order_in_the_step() -> None:
    law, g = Law(LAW, Linear(), "u"), generator()
    levels = terms.joined([law.at(level, 16, g) for level in LEVELS])
    samples = law.draw(8, g)
    errors = []
    for step in (1e-2, 1e-3):
        ahead, behind, middle = network(), network(), network()
        direction = terms.directions(middle, samples)
        slope = terms.terms(middle, levels, 3, direction).slope
        tangent.move(ahead, sum(direction), -step)  # type: ignore[arg-type]
        tangent.move(behind, sum(direction), step)  # type: ignore[arg-type]
        change = terms.excess(ahead, levels, 3) - terms.excess(behind, levels, 3)
        errors.append(float((change / (2 * step) - slope).abs().max()))
    assert errors[1] == pytest.approx(errors[0] / 100, rel=0.2)


def test_another_networks_residuals_go_with_this_networks_kernel() -> None:
    law, g = Law(LAW, VP(), "eps"), generator()
    here, other = network(0), network(1)
    level, samples = law.at(0.0, 6, g), law.draw(4, g)
    r, r_batch = terms.residual(other, level), terms.residual(other, samples)
    directions = terms.directions(here, samples, r_batch)
    found = terms.terms(here, level, 1, directions, r)
    J = jacobian(here, level.x, level.t)
    there = torch.einsum(
        "m,mep,me->p", samples.weight / 4, jacobian(here, samples.x, samples.t), r_batch
    )
    torch.testing.assert_close(found.coupling[0], level.weight[0] * (r * (J @ there)).sum() / 6)
    torch.testing.assert_close(found.excess[0], level.weight[0] / 2 * r.square().sum() / 6)


def test_levels_must_have_equally_many_points() -> None:
    law = Law(LAW, VP(), "eps")
    with pytest.raises(ValueError, match="equally many points"):
        terms.joined([law.at(0.0, 2, generator()), law.at(1.0, 3, generator())])


# ---------------------------------------------------------------- runs


def test_sgd_descends_the_sampled_loss_and_measures_before_it_moves() -> None:
    law = Law(LAW, VP(), "x0")
    levels = law.at(0.0, 16, generator(3))
    like = torch.zeros((), dtype=torch.float64)
    by_hand, same = network(), network()
    batches = [law.draw(4, generator(k)) for k in range(3)]
    path = list(flow.sgd(network_ := network(), flow.held(batches, 1), 0.05, 3, levels, 1))
    torch.testing.assert_close(path[0].excess, terms.excess(by_hand, levels, 1))
    for batch in batches:
        tangent.move(by_hand, gradient(by_hand, batch), -0.05)
    flow.descend(same, flow.held(batches, 1), 0.05, 3)
    for model in (network_, same):
        for p, q in zip(model.parameters(), by_hand.parameters(), strict=True):
            torch.testing.assert_close(p, q)
    fresh = flow.fresh(law, 4, generator(7), like)
    assert not torch.equal(fresh().x, fresh().x)


def test_held_batches_come_one_after_another() -> None:
    law = Law(LAW, VP(), "x0")
    batches = [law.draw(1, generator(k)) for k in range(2)]
    signal = flow.held(batches, 2)
    assert [signal() is batches[k] for k in (0, 0, 1, 1)] == [True] * 4


def test_clean_samples_have_no_noise_gradient() -> None:
    samples = flow.clean(Law(LAW, VP(), "eps").draw(4, generator()))
    assert float(terms.directions(network(), samples)[1].norm()) == 0


@pytest.mark.parametrize("options", [{"steps": 0, "lr": 0.1}, {"steps": 1, "lr": 0.0}])
def test_a_run_needs_steps_and_a_rate(options: dict[str, float]) -> None:
    law = Law(LAW, VP(), "eps")
    levels = law.at(0.0, 2, generator())
    with pytest.raises(ValueError, match="steps >= 1 and a positive lr"):
        next(flow.sgd(network(), lambda: levels, levels=levels, count=1, **options))  # type: ignore[arg-type]


# ---------------------------------------------------------------- bounds


def some_path(seed: int, steps: int = 12, step: float = 0.05) -> Path:
    """A made-up run: an excess and terms of any sign, final as the terms say to first order."""
    g = np.random.default_rng(seed)
    excess, forcing = g.uniform(0.5, 2, (steps, 2)), g.normal(size=(steps, 2))
    weight = np.array([0.5, 2.0])
    # F is at least as long as the forcing needs
    norm = forcing**2 / (2 * weight * excess) * g.uniform(1, 4, (steps, 2))
    coupling = g.normal(size=(steps, 2))
    return Path(step, weight, excess, coupling, forcing, norm, norm * 2, excess[-1])


def test_integration_is_exact_for_what_is_held() -> None:
    g = np.random.default_rng(0)
    rate, source = g.normal(size=(5, 2)) * 3, g.normal(size=(5, 2))
    rate[2, 0] = 0.0
    path = bounds.integrate(rate, source, np.array([1.0, 2.0]), 0.3)

    def slope(tau: float, b: np.ndarray) -> np.ndarray:
        k = min(int(tau / 0.3), 4)
        return np.asarray(-rate[k] * b + source[k])

    for k in range(5):
        solved = solve_ivp(
            lambda tau, b, k=k: -rate[k] * b + source[k], (0, 0.3), path[k], rtol=1e-10, atol=1e-12
        )
        np.testing.assert_allclose(path[k + 1], solved.y[:, -1], rtol=1e-8)


@given(st.integers(0, 10_000), st.floats(-2, 1))
def test_each_step_of_the_ladder_forgets_more(seed: int, exponent: float) -> None:
    path = some_path(seed, step=1e-3)
    ladder = [path.signed(second_order=True), path.absolute(), path.norm()]
    for below, above in pairwise(ladder):
        assert bool((below <= above * (1 + 1e-4)).all())
    assert bool((np.abs(path.forcing) <= path.norms * (1 + 1e-12)).all())
    assert not path.young_violated(10**exponent).any()


def test_signed_terms_are_a_recursion_over_steps() -> None:
    path = some_path(3, steps=2)
    b = path.excess[0]
    for k in range(2):
        second = path.step / 2 * path.weight * path.update_norm[k]
        change = path.coupling[k] / path.excess[k] * b + path.forcing[k]
        b = b - path.step * change + path.step * second
        np.testing.assert_allclose(path.signed(second_order=True)[k + 1], b)


@pytest.mark.parametrize("second_order", [False, True])
def test_the_bound_solves_its_equation(second_order: bool) -> None:
    path, beta = some_path(4), 0.7
    source = path.weight * path.forcing_norm / (2 * beta)
    if second_order:
        source = source + path.step / 2 * path.weight * path.update_norm
    rate = path.coupling / path.excess - beta
    expected = bounds.integrate(rate, source, path.excess[0], path.step)
    np.testing.assert_allclose(path.young(beta, second_order), expected)


def test_a_forcing_that_youngs_inequality_forbids_is_found() -> None:
    path = some_path(1)
    # against the excess, and four times as long as its norm allows
    beta = np.sqrt(path.weight * path.forcing_norm / (2 * path.excess))[3, 0]
    path.forcing[3, 0] = -4 * path.norms[3, 0]
    assert path.young_violated(float(beta))[3, 0]
    path.forcing[3, 0] *= -1
    assert not path.young_violated(float(beta))[3, 0]


def real_path(batch: int, step: float, steps: int) -> Path:
    law, g = Law(LAW, VP(), "x0"), generator(5)
    model = network(width=16)
    levels = terms.joined([law.at(level, 64, g) for level in LEVELS])
    like = torch.zeros((), dtype=torch.float64)
    found = list(flow.sgd(model, flow.fresh(law, batch, g, like), step, steps, levels, 3))
    weight = levels.weight.view(3, -1)[:, 0]
    return Path.of(step, weight, found, terms.excess(model, levels, 3))


def test_a_real_run_is_reproduced_by_its_signed_terms_and_lies_below_its_bounds() -> None:
    path = real_path(8, 2e-2, 40)
    first, second = (
        np.abs(path.signed(order)[-1] / path.final - 1).max() for order in (False, True)
    )
    # what the first order leaves out is what the second adds
    assert first > 0.02 and second < first / 4
    for beta in (0.03, 0.3, 3.0):
        assert bool((path.whole <= path.young(beta) * 1.001).all())
    assert path.whole.shape == (41, 3) and path.rate.shape == (40, 3)


def test_constants_give_the_bound_of_constant_series() -> None:
    rate, forcing, weight, beta, K, step = 2.0, 0.7, 1.5, 0.5, 40, 0.05
    ones = np.ones((K, 1))
    path = Path(
        step, np.array([weight]), ones, rate * ones, 0 * ones, forcing * ones, ones, ones[0]
    )
    times = step * np.arange(K + 1)
    closed = bounds.with_constants(rate, forcing, weight, 1.0, beta, times)
    np.testing.assert_allclose(path.young(beta)[:, 0], closed, rtol=1e-10)
    for wrong in (0.0, 2.0):
        with pytest.raises(ValueError, match="between 0 and the rate"):
            bounds.with_constants(rate, forcing, weight, 1.0, wrong, times)
    with pytest.raises(ValueError, match="beta must be positive"):
        path.young(0.0)


# ---------------------------------------------------------------- single samples


def test_contributions_average_to_the_terms_of_their_batch() -> None:
    law, g = Law(LAW, VP(), "v"), generator()
    model, level, samples = network(), law.at(1.0, 12, g), law.draw(20, g)
    each = couplings.contributions(model, level, samples)
    whole = terms.terms(model, level, 1, terms.directions(model, samples))
    torch.testing.assert_close(each.coupling.mean(), whole.coupling[0])
    torch.testing.assert_close(each.forcing.mean(), whole.forcing[0])
    torch.testing.assert_close(each.excess, whole.excess[0])
    rate, error = each.rate
    assert rate == pytest.approx(float(whole.coupling[0] / whole.excess[0]))
    expected = float(each.coupling.std() / math.sqrt(20) / whole.excess[0])
    assert error == pytest.approx(expected)


def test_the_share_of_negative_batches_is_that_of_a_normal_law() -> None:
    coupling = torch.randn(100_000, generator=generator(), dtype=torch.float64) + 0.25
    for batch in (1, 16):
        share = couplings.negative_share(coupling, batch, generator(1), 20_000)
        expected = 0.5 * math.erfc(0.25 * math.sqrt(batch) / math.sqrt(2))
        assert share == pytest.approx(expected, abs=0.015)
    with pytest.raises(ValueError, match="1 to 100000"):
        couplings.negative_share(coupling, 0, generator())


def test_far_samples_are_those_beyond_the_limit() -> None:
    values = torch.tensor([1.0, 2.0, 3.0, 4.0])
    distance = torch.tensor([-3.0, 0.5, -0.5, 1.5])
    assert couplings.far_share(values, distance) == pytest.approx(0.5)


# ---------------------------------------------------------------- the representation


@pytest.mark.parametrize("parameterisation", ["standard", "ntk"])
def test_representation_gradients_are_those_of_automatic_differentiation(
    parameterisation: str,
) -> None:
    model, law = network(parameterisation=parameterisation), Law(LAW, VP(), "eps")
    samples = law.draw(7, generator())
    found, limit = representation.norms(model, samples), representation.bound(model, samples)
    below = list(model.hidden.parameters())
    r = terms.residual(model, samples)
    for i in range(7):
        f = model(samples.x[i : i + 1], samples.t[i : i + 1])[0]
        for name, v in (
            ("signal", r[i]),
            ("noise", samples.xi[i]),
            ("total", r[i] + samples.xi[i]),
        ):
            g = torch.autograd.grad(samples.weight[i] * (f * v).sum(), below, retain_graph=True)
            size = math.sqrt(sum(float(part.square().sum()) for part in g))
            assert float(getattr(found, name)[i]) == pytest.approx(size, rel=1e-9)
    assert bool((found.total <= limit).all())


def test_the_bound_has_the_norms_it_names() -> None:
    model, samples = network(), Law(LAW, VP(), "eps").draw(3, generator())
    below = dict(model.hidden.named_parameters())

    def features(p: dict[str, Tensor]) -> Tensor:
        state = {f"hidden.{name}": value for name, value in p.items()}
        h = model.inputs(samples.x, samples.t)
        for k in range(2):
            z = h @ state[f"hidden.{k}.weight"].T + state[f"hidden.{k}.bias"]
            h = torch.nn.functional.silu(z)
        return h

    found = jacrev(features)({name: p.detach() for name, p in below.items()})
    frobenius = sum(part.flatten(1).square().sum(-1) for part in found.values()).sqrt()
    operator = torch.linalg.svdvals(model.readout.weight.detach())[0]
    r = terms.residual(model, samples)
    lengths = r.norm(dim=-1) + samples.xi.norm(dim=-1)
    expected = samples.weight * frobenius * operator * lengths
    torch.testing.assert_close(representation.bound(model, samples), expected)


def test_norms_of_a_batch_are_those_of_its_mean_gradient() -> None:
    model, samples = network(), Law(LAW, VP(), "eps").draw(9, generator())
    clean = flow.clean(samples)
    f = model(clean.x, clean.t)
    half = ((f - clean.bayes).square().sum(-1) * clean.weight).mean() / 2
    g = torch.autograd.grad(half, list(model.hidden.parameters()))
    size = math.sqrt(sum(float(part.square().sum()) for part in g))
    signal, noise = representation.batch_norms(model, samples)
    assert signal == pytest.approx(size)
    assert representation.batch_norms(model, clean)[1] == 0 and noise > 0


# ---------------------------------------------------------------- distances


@pytest.mark.parametrize("limit", [1.0, 0.5])
@pytest.mark.parametrize("alpha", [1e-4, 0.3, 1.0])
def test_the_distance_of_gaussians_is_the_closed_form(alpha: float, limit: float) -> None:
    sigma, std = math.sqrt(1 - alpha**2) if alpha < 1 else 0.2, 2.0
    found = transport.product_w2(np.array([0.7]), std, alpha, sigma, limit, dim=3)
    spread = math.hypot(alpha * std, sigma)
    expected = 3 * ((0.7 * alpha) ** 2 + (spread - limit) ** 2)
    assert found == pytest.approx(expected, rel=1e-6)


def test_the_distance_of_a_mixture_is_that_of_its_samples() -> None:
    alpha, sigma = 0.8, 0.6
    found = transport.product_w2(np.array([-2.0, 2.0]), 0.3, alpha, sigma, 1.0)
    g = np.random.default_rng(0)
    x = alpha * (g.choice([-2, 2], 400_000) + 0.3 * g.normal(size=400_000))
    x = np.sort(x + sigma * g.normal(size=400_000))
    # in one dimension the best match is by order
    expected = 2 * np.mean((x - np.sort(g.normal(size=400_000))) ** 2)
    assert found == pytest.approx(expected, rel=0.01)


def test_the_quantile_keeps_its_digits_in_both_tails() -> None:
    z = np.array([-8.0, -1.0, 0.0, 1.0, 8.0])
    found = transport._quantile(z, np.array([-1.0, 1.0]), 0.5)
    np.testing.assert_allclose(found, -found[::-1], rtol=1e-9, atol=1e-9)


def test_an_assignment_finds_the_least_cost() -> None:
    first = torch.tensor([[0.0, 0.0], [4.0, 0.0]], dtype=torch.float64)
    second = torch.tensor([[4.0, 1.0], [0.0, 1.0]], dtype=torch.float64)
    assert transport.assignment_cost(first, second) == pytest.approx(1.0)
    assert transport.coupling_bound(8.18, 0.5, 0.8, 1.0) == pytest.approx(0.25 * 8.18 + 0.04 * 2)
