import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from erdpaper.metrics import energy_distance, modes, samples, sliced_wasserstein
from erdpaper.posterior import GaussianMixture

F64 = torch.float64
sizes, seeds = st.integers(2, 12), st.integers(0, 1000)
# a busy machine can take long over one example
few_examples = settings(max_examples=40)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=generator(seed), dtype=F64)


def sliced(x: Tensor, y: Tensor, directions: int = 8) -> Tensor:
    return sliced_wasserstein(x, y, directions, generator(7))


def w2_on_a_line(x: Tensor, y: Tensor) -> float:
    """W_2 of two samples by repeating every point, sorted against sorted."""
    count = math.lcm(len(x), len(y))
    repeated = (np.sort(np.repeat(s.flatten().numpy(), count // len(s))) for s in (x, y))
    return float(np.sqrt(np.mean(np.subtract(*repeated) ** 2)))


@few_examples
@given(n=sizes, m=sizes, seed=seeds)
def test_sliced_wasserstein_on_a_line_is_wasserstein(n: int, m: int, seed: int) -> None:
    x, y = normal(n, 1, seed=seed), 3 + 2 * normal(m, 1, seed=seed + 1)
    assert float(sliced(x, y)) == pytest.approx(w2_on_a_line(x, y), rel=1e-9)


def test_sliced_wasserstein_averages_over_directions() -> None:
    x, y = normal(9, 3), 1 + normal(6, 3, seed=1)
    unit = normal(5, 3, seed=7)
    unit = unit / unit.square().sum(1, keepdim=True).sqrt()
    squares = [w2_on_a_line(x @ u, y @ u) ** 2 for u in unit]
    assert float(sliced(x, y, 5)) == pytest.approx(math.sqrt(sum(squares) / 5), rel=1e-9)


@pytest.mark.parametrize(("dim", "shift", "stds"), [(2, 3.0, (1.0, 0.3)), (8, 1.0, (0.5, 1.5))])
def test_sliced_wasserstein_between_gaussians(
    dim: int, shift: float, stds: tuple[float, float]
) -> None:
    x = stds[0] * normal(4000, dim)
    y = stds[1] * normal(3000, dim, seed=1)
    y[:, 0] += shift
    found = sliced_wasserstein(x, y, 1000, generator())
    expected = math.sqrt(shift**2 / dim + (stds[0] - stds[1]) ** 2)
    assert float(found) == pytest.approx(expected, rel=0.03)


@few_examples
@given(n=sizes, m=sizes, seed=seeds, shift=st.floats(-50, 50))
def test_distances_are_symmetric_and_do_not_see_a_common_shift(
    n: int, m: int, seed: int, shift: float
) -> None:
    x, y = normal(n, 3, seed=seed), 1 + normal(m, 3, seed=seed + 1)
    for distance in (sliced, energy_distance):
        value = float(distance(x, y))
        assert float(distance(y, x)) == pytest.approx(value, abs=1e-12)
        assert float(distance(x + shift, y + shift)) == pytest.approx(value, rel=1e-6, abs=1e-9)
        assert float(distance(2 * x, 2 * y)) == pytest.approx(2 * value, abs=1e-9)


@few_examples
@given(n=sizes, m=sizes, copies=st.integers(1, 4), seed=seeds)
def test_sliced_wasserstein_does_not_see_repeated_samples(
    n: int, m: int, copies: int, seed: int
) -> None:
    x, y = normal(n, 2, seed=seed), normal(m, 2, seed=seed + 1)
    again = y.repeat(copies, 1)[torch.randperm(copies * m, generator=generator(seed))]
    assert float(sliced(x, again)) == pytest.approx(float(sliced(x, y)), rel=1e-9)
    assert float(sliced(y, again)) == pytest.approx(0, abs=1e-12)


@few_examples
@given(n=sizes, m=sizes, seed=seeds)
def test_energy_distance_is_that_of_scipy_without_the_pairs_of_a_point_with_itself(
    n: int, m: int, seed: int
) -> None:
    x, y = normal(n, 1, seed=seed), 1 + normal(m, 1, seed=seed + 1)
    with_itself = stats.energy_distance(x[:, 0].numpy(), y[:, 0].numpy()) ** 2

    def within(z: Tensor) -> float:
        """Mean distance of all ordered pairs, a point with itself among them."""
        return float((z - z.T).abs().mean())

    # a mean over n^2 pairs, n of them 0, grows by n / (n - 1) without these
    expected = with_itself - within(x) / (n - 1) - within(y) / (m - 1)
    assert float(energy_distance(x, y)) == pytest.approx(expected, abs=1e-9)


def test_energy_distance_is_unbiased() -> None:
    """Its mean over many small samples of one law is 0 and of two laws their distance."""
    draws = normal(1000, 9, 1)
    same = torch.stack([energy_distance(d[:4], d[4:]) for d in draws])
    assert abs(float(same.mean())) < 4 * float(same.std()) / math.sqrt(len(same))
    apart = torch.stack([energy_distance(d[:4], 2 + d[4:]) for d in draws])
    # E|N(m, 2)| of a difference of two unit Gaussians whose means are m apart
    mean = [stats.foldnorm(m / math.sqrt(2), scale=math.sqrt(2)).mean() for m in (2, 0)]
    error = float(apart.std()) / math.sqrt(len(apart))
    assert float(apart.mean()) == pytest.approx(2 * (mean[0] - mean[1]), abs=4 * error)


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = normal(40, 3), normal(30, 3, seed=1)
    whole = float(sliced(x, y)), float(energy_distance(x, y))
    monkeypatch.setattr(samples, "BLOCK", 100)
    assert (float(sliced(x, y)), float(energy_distance(x, y))) == pytest.approx(whole, rel=1e-12)


def test_sums_are_float64_also_for_float32_samples() -> None:
    x, y = (1000 + normal(2000, 2, seed=i).float() for i in (0, 1))
    for distance in (sliced, energy_distance):
        found = distance(x, y)
        assert found.dtype == F64
        assert float(found) == pytest.approx(float(distance(x.double(), y.double())), rel=1e-12)


def test_modes_of_exact_samples() -> None:
    law = GaussianMixture.square()
    report = modes(law.sample(40_000, generator()), law.means, 0.3)
    assert report.shares.tolist() == pytest.approx([0.25] * 4, abs=0.01)
    assert report.covered == 4
    assert report.stray == pytest.approx(math.exp(-8), abs=3e-4)
    # a radius whose half square is exponential, cut at 8
    expected = math.sqrt(1 - 8 * math.exp(-8) / (1 - math.exp(-8)))
    assert expected == pytest.approx(0.9987, abs=5e-5)
    assert report.spread == pytest.approx(expected, abs=0.01)


def test_modes_count_by_hand() -> None:
    means = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]], dtype=F64)
    x = torch.tensor(
        [[1, 0], [0, -1], [0, 3.9], [0, 4.1], [10, 0], [12, 0], [10, 3], [11, 11]], dtype=F64
    )
    report = modes(x, means, torch.tensor([1.0, 0.5, 1.0], dtype=F64))
    # (11, 11) lies nearer to the second and to the third mean equally
    assert report.shares.sum() == 1 and float(report.shares[0]) == 0.5
    assert report.stray == pytest.approx(3 / 8)
    inside = [1, 1, 3.9**2, 0, (2 / 0.5) ** 2]
    assert report.spread == pytest.approx(math.sqrt(sum(inside) / 5 / 2))
    # 3, 2 and 0 of 8 within 4 std against a half of 8/3 due
    assert report.covered == 2
    weights = torch.tensor([0.45, 0.54, 0.01])
    assert modes(x, means, torch.tensor([1.0, 0.5, 1.0]), weights).covered == 1


def test_modes_that_all_samples_miss() -> None:
    report = modes(torch.full((5, 2), 9.0), torch.zeros(1, 2), 1.0)
    assert report.stray == 1 and report.covered == 0 and math.isnan(report.spread)
    assert report.shares.tolist() == [1]


@few_examples
@given(seed=seeds, scale=st.floats(0.1, 10))
def test_modes_do_not_see_the_unit(seed: int, scale: float) -> None:
    x, means = 2 * normal(50, 2, seed=seed), normal(3, 2, seed=seed + 1)
    ours, theirs = modes(x, means, 0.3), modes(scale * x, scale * means, 0.3 * scale)
    assert torch.equal(ours.shares, theirs.shares) and ours.covered == theirs.covered
    assert theirs.stray == pytest.approx(ours.stray)
    assert theirs.spread == pytest.approx(ours.spread)


ONE = torch.ones(3, 2)
BAD = [
    (lambda: sliced_wasserstein(ONE, torch.ones(3, 3)), r"got \(3, 2\) and \(3, 3\)"),
    (lambda: sliced_wasserstein(ONE[0], ONE), r"samples must be \(N, d\)"),
    (lambda: sliced_wasserstein(ONE[:0], ONE), "at least 1 each"),
    (lambda: sliced_wasserstein(ONE, ONE, 0), "directions must be at least 1, got 0"),
    (lambda: sliced_wasserstein(ONE * math.nan, ONE), "samples must be finite"),
    (lambda: energy_distance(ONE, ONE[:1]), "at least 2 each"),
    (lambda: energy_distance(ONE, ONE / 0), "samples must be finite"),
    (lambda: modes(ONE, ONE, 0.0), "std of a mode must be positive"),
    (lambda: modes(ONE, ONE, 1.0, torch.ones(2)), "weights must be 3 positive numbers"),
    (lambda: modes(ONE, ONE, 1.0, torch.zeros(3)), "weights must be 3 positive numbers"),
]


@pytest.mark.parametrize(("call", "message"), BAD)
def test_a_bad_argument_gets_one_sentence(call, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
