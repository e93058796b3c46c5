import math

import pytest
import torch
from diffusers import DDPMScheduler
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

from erdpaper import schedules, targets
from erdpaper.targets import ALL, EPS, X0, Target, U, V

levels = st.tuples(st.floats(0, 3), st.floats(0, 3)).filter(lambda pair: sum(pair) > 1e-3)


def samples(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@given(levels)
def test_targets_are_their_formulas(level: tuple[float, float]) -> None:
    alpha, sigma = level
    x0, eps = samples(2, 4, 3)
    written = {X0: x0, EPS: eps, V: alpha * eps - sigma * x0, U: eps - x0}
    for target, y in written.items():
        torch.testing.assert_close(target.make(x0, eps, alpha, sigma), y)


def test_v_is_the_velocity_of_diffusers() -> None:
    theirs = DDPMScheduler()
    k = torch.tensor([0, 300, 999])
    x0, eps = samples(2, 3, 1, 4, 4).float()
    made = V.make(x0, eps, *schedules.from_diffusers(theirs).at(k))
    torch.testing.assert_close(made, theirs.get_velocity(x0, eps, k), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("target", ALL, ids=lambda t: t.name)
@given(level=levels, x=st.floats(-5, 5), e=st.floats(-5, 5))
def test_a_target_is_an_observed_and_a_hidden_part(
    target: Target, level: tuple[float, float], x: float, e: float
) -> None:
    alpha, sigma = level
    r = math.hypot(alpha, sigma)
    x_t, u2 = alpha * x + sigma * e, (sigma * x - alpha * e) / r
    observed, hidden = (float(c) for c in target.split(alpha, sigma))
    c_x, c_eps = (float(c) for c in target.coefficients(alpha, sigma))
    assert observed * x_t / r + hidden * u2 == pytest.approx(c_x * x + c_eps * e, abs=1e-9)


def test_hidden_parts_on_a_vp_path() -> None:
    angle = torch.linspace(0, math.pi / 2, 9, dtype=torch.float64)
    alpha, sigma = angle.cos(), angle.sin()
    expected = {X0: sigma, EPS: -alpha, V: -torch.ones(9).double(), U: -(alpha + sigma)}
    for target, hidden in expected.items():
        torch.testing.assert_close(target.split(alpha, sigma)[1], hidden)


@pytest.mark.parametrize("target", ALL, ids=lambda t: t.name)
@given(level=levels)
def test_conversions_give_back_what_a_target_was_made_of(
    target: Target, level: tuple[float, float]
) -> None:
    alpha, sigma = level
    assume(min(level) > 1e-3)
    x0, eps = samples(2, 5, 3)
    x_t = alpha * x0 + sigma * eps
    y = target.make(x0, eps, alpha, sigma)
    close = {"rtol": 1e-6, "atol": 1e-6}
    torch.testing.assert_close(target.to_x0(y, x_t, alpha, sigma), x0, **close)
    torch.testing.assert_close(target.to_eps(y, x_t, alpha, sigma), eps, **close)
    torch.testing.assert_close(
        target.to_score(y, x_t, alpha, sigma), -eps / sigma, rtol=1e-6, atol=1e-6 / sigma
    )


def test_conversions_at_both_ends() -> None:
    x0, eps = samples(2, 5, 3)
    for target in (X0, V, U):  # alpha = 0: x_t is noise
        y = target.make(x0, eps, 0.0, 1.0)
        torch.testing.assert_close(target.to_x0(y, eps, 0.0, 1.0), x0)
        torch.testing.assert_close(target.to_eps(y, eps, 0.0, 1.0), eps)
        torch.testing.assert_close(target.to_score(y, eps, 0.0, 1.0), -eps)
    for target in (EPS, V, U):  # sigma = 0: x_t is data
        y = target.make(x0, eps, 1.0, 0.0)
        torch.testing.assert_close(target.to_x0(y, x0, 1.0, 0.0), x0)
        torch.testing.assert_close(target.to_eps(y, x0, 1.0, 0.0), eps)


def test_coefficients_go_with_their_sample() -> None:
    alpha, sigma = torch.tensor([0.9, 0.5, 0.1]), torch.tensor([0.1, 0.5, 0.9])
    x0, eps = samples(2, 3, 1, 2, 2).float()
    together = U.to_x0(V.make(x0, eps, alpha, sigma), x0 + eps, alpha, sigma)
    for i in range(3):
        y = alpha[i] * eps[i] - sigma[i] * x0[i]
        # u = eps - x0 and x_t = alpha x0 + sigma eps solved for x0
        alone = ((x0 + eps)[i] - sigma[i] * y) / (alpha[i] + sigma[i])
        torch.testing.assert_close(together[i], alone)
    assert together.dtype == torch.float32


def test_plain_numbers_follow_the_tensor_beside_them() -> None:
    alpha, _sigma = targets.as_pair(0.5, torch.tensor([0.1, 0.2]))
    assert alpha.dtype == torch.float32 and alpha.tolist() == [0.5, 0.5]
    mixed = targets.as_pair(torch.tensor(0.5), torch.tensor(0.1, dtype=torch.float64))
    assert [c.dtype for c in mixed] == [torch.float64] * 2
    assert targets.as_pair(1, 0)[0].dtype == torch.float64


def test_get_knows_names_and_targets() -> None:
    assert [targets.get(name) for name in ("x0", "eps", "v", "u")] == [X0, EPS, V, U]
    assert targets.get(V) is V


ONE = torch.ones(2, 3)
BAD = [
    (lambda: targets.get("noise"), ValueError, "unknown target 'noise'; use one of x0, eps, v, u"),
    (lambda: EPS.to_x0(ONE, ONE, 0.0, 1.0), ValueError, "eps does not determine x0 where alpha"),
    (lambda: X0.to_eps(ONE, ONE, 1.0, 0.0), ValueError, "x0 does not determine eps where sigma"),
    (
        lambda: EPS.to_x0(ONE, ONE, torch.tensor([0.5, 0.0]), torch.tensor([0.5, 1.0])),
        ValueError,
        "eps does not determine x0 where alpha",
    ),
    *(
        (lambda y=y: y.to_score(ONE, ONE, 1.0, 0.0), ValueError, "the score where sigma = 0")
        for y in ALL
    ),
    (lambda: V.make(ONE, ONE, -0.1, 1.0), ValueError, "at least 0 and not both 0"),
    (lambda: V.make(ONE, ONE, 0.0, 0.0), ValueError, "at least 0 and not both 0"),
    (lambda: V.make(ONE, ONE, math.nan, 1.0), ValueError, "finite, at least 0"),
    (lambda: V.make(ONE, ONE, torch.ones(3), 1.0), ValueError, r"got \(3,\) for samples \(2, 3\)"),
    (lambda: V.make(ONE.byte(), ONE, 0.5, 0.5), TypeError, "samples must be floating-point"),
    (lambda: V.split(torch.tensor(1), 1), TypeError, "alpha and sigma must be floating-point"),
]


@pytest.mark.parametrize(("call", "error", "message"), BAD)
def test_a_bad_argument_gets_one_sentence(call, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
