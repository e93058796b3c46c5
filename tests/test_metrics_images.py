"""Metrics of images in a classifier's feature space, by closed forms, brute force and scipy."""

import math
from itertools import pairwise, product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import linalg, spatial, stats
from torch import Tensor

from erdpaper.metrics import (
    Moments,
    class_agreement,
    class_balance,
    frechet_distance,
    frechet_of,
    kernel,
    kernel_distance,
    kernel_distance_spread,
    manifold,
    nearest_distances,
    precision_recall,
    share,
)

F64 = torch.float64
sizes, seeds = st.integers(2, 12), st.integers(0, 1000)
# a busy machine can take long over one example
few_examples = settings(max_examples=40, deadline=None)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def whole(*shape: int, seed: int = 0, reach: int = 2) -> Tensor:
    """Whole numbers in -reach..reach, so that sums are exact and distances tie."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-reach, reach + 1, shape, generator=generator)


def rotation(d: int, seed: int) -> Tensor:
    return torch.linalg.qr(normal(d, d, seed=seed))[0]


def covariance(d: int, rank: int, seed: int) -> Tensor:
    factor = normal(d, rank, seed=seed)
    return factor @ factor.T


def trace_term(cov1: Tensor, cov2: Tensor) -> float:
    """tr (C1^(1/2) C2 C1^(1/2))^(1/2) as the Fréchet distance of equal means has it."""
    zero = torch.zeros(len(cov1), dtype=F64)
    return float(cov1.trace() + cov2.trace() - frechet_of(zero, cov1, zero, cov2)) / 2


# --- moments


def exact_moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and unbiased covariance of whole numbers, in integers up to the last division."""
    n, total = len(x), x.sum(0)
    return total.double() / n, (n * (x.T @ x) - total.outer(total)).double() / (n * (n - 1))


@few_examples
@given(
    cuts=st.lists(st.integers(0, 30), max_size=6),
    order=st.randoms(use_true_random=False),
    seed=seeds,
    shift=st.sampled_from([0, 5, 3_000_000]),
)
def test_moments_do_not_see_batches_or_the_order_of_merging(cuts, order, seed, shift) -> None:
    x = whole(30, 3, seed=seed) + shift
    ends = [0, *sorted(cuts), 30]
    batches = [x[start:end] for start, end in pairwise(ends)]
    streamed = Moments(3)
    for batch in batches:
        streamed.update(batch)
    parts = [Moments(3).update(batch) for batch in batches]
    while len(parts) > 1:
        other = parts.pop(order.randrange(len(parts)))
        order.choice(parts).merge(other)
    mean, cov = exact_moments(x)
    for found in (streamed, parts[0]):
        assert found.count == 30
        torch.testing.assert_close(found.mean, mean, rtol=1e-15, atol=1e-15)
        # a mean of 3e6 is itself known to 5e-10
        torch.testing.assert_close(found.covariance, cov, rtol=1e-12, atol=1e-12 + 1e-15 * shift)


def test_moments_are_those_of_numpy_also_for_float32_features() -> None:
    x = (1000 + normal(500, 4)).float()
    found = Moments(4).update(x[:123]).update(x[123:])
    expected = np.cov(x.double().numpy(), rowvar=False)
    torch.testing.assert_close(found.covariance, torch.from_numpy(expected), rtol=1e-11, atol=1e-11)
    assert found.mean.dtype == found.covariance.dtype == F64


def test_merging_leaves_the_other_as_it_was() -> None:
    first, second = (Moments(2).update(normal(5, 2, seed=i)) for i in (0, 1))
    mean, cov = second.mean.clone(), second.covariance.clone()
    first.merge(second).update(normal(3, 2))
    assert second.count == 5 and first.count == 13
    assert torch.equal(second.mean, mean) and torch.equal(second.covariance, cov)
    doubled = Moments(2).merge(second).merge(second)
    torch.testing.assert_close(doubled.covariance, cov * 8 / 9)
    assert doubled.merge(doubled).count == 20 and torch.allclose(doubled.mean, mean)


# --- Fréchet distance


@few_examples
@given(d=st.integers(1, 8), seed=seeds)
def test_frechet_of_commuting_covariances(d: int, seed: int) -> None:
    basis, step = rotation(d, seed), normal(d, seed=seed + 1)
    a, b = (normal(d, seed=seed + i).square() for i in (2, 3))
    a[0] = 0
    first, second = (basis @ v.diag() @ basis.T for v in (a, b))
    mean = normal(d, seed=seed + 4)
    expected = step.square().sum() + (a.sqrt() - b.sqrt()).square().sum()
    found = frechet_of(mean, first, mean + step, second)
    assert found == pytest.approx(float(expected), rel=1e-7)


@few_examples
@given(seed=seeds)
def test_frechet_of_two_by_two(seed: int) -> None:
    first, second = covariance(2, 2, seed), covariance(2, 2, seed + 1)
    product_ = first @ second
    # the root of a 2x2 matrix M has trace sqrt(tr M + 2 sqrt(det M))
    expected = math.sqrt(product_.trace() + 2 * math.sqrt(torch.linalg.det(product_)))
    assert trace_term(first, second) == pytest.approx(expected, rel=1e-7)


@few_examples
@given(d=st.integers(2, 40), seed=seeds)
def test_frechet_of_covariances_of_low_rank(d: int, seed: int) -> None:
    u, v = normal(d, seed=seed), normal(d, seed=seed + 1)
    full = covariance(d, d, seed + 2)
    scale = float(u @ u + v @ v)
    assert trace_term(u.outer(u), v.outer(v)) == pytest.approx(abs(float(u @ v)), abs=1e-7 * scale)
    # with one direction only, the root is that of u^T C u
    expected = math.sqrt(u @ full @ u)
    assert trace_term(u.outer(u), full) == pytest.approx(expected, abs=1e-7 * (d + scale))
    basis, half = rotation(d, seed), d // 2
    first, second = (b @ b.T for b in (basis[:, :half], 3 * basis[:, half:]))
    assert trace_term(first, second) == pytest.approx(0, abs=1e-9 * d)


@few_examples
@given(d=st.integers(1, 30), seed=seeds, rank=st.integers(1, 30))
def test_frechet_of_equal_laws_is_0(d: int, seed: int, rank: int) -> None:
    cov, mean = covariance(d, min(d, rank), seed), 100 * normal(d, seed=seed + 1)
    assert 0 <= frechet_of(mean, cov, mean, cov) < 1e-12 * float(cov.trace())


@pytest.mark.parametrize("d", [3, 20, 60])
def test_frechet_is_that_of_matrix_square_roots(d: int) -> None:
    first, second = (covariance(d, 3 * d, i) / d for i in (0, 1))
    root = linalg.sqrtm((first @ second).numpy()).real
    assert trace_term(first, second) == pytest.approx(np.trace(root), rel=1e-10)


@few_examples
@given(d=st.integers(1, 10), seed=seeds, rank=st.integers(1, 10))
def test_frechet_sees_neither_rotations_nor_the_order(d: int, seed: int, rank: int) -> None:
    covs = [covariance(d, min(d, rank), seed), covariance(d, d, seed + 1)]
    means = [normal(d, seed=seed + 2), normal(d, seed=seed + 3)]
    (m1, m2), (c1, c2), turn = means, covs, rotation(d, seed)
    value, scale = frechet_of(m1, c1, m2, c2), float(c1.trace() + c2.trace())
    assert frechet_of(m2, c2, m1, c1) == pytest.approx(value, abs=1e-12 * scale)
    turned = frechet_of(turn @ m1, turn @ c1 @ turn.T, turn @ m2, turn @ c2 @ turn.T)
    assert turned == pytest.approx(value, abs=1e-7 * scale)
    assert frechet_of(2 * m1, 4 * c1, 2 * m2, 4 * c2) == pytest.approx(4 * value, rel=1e-9)


def test_frechet_distance_of_samples_scaled_and_shifted() -> None:
    x, step = 1 + normal(50, 80), normal(80, seed=1)
    law = Moments(80).update(x)
    # 50 samples span 49 of 80 dimensions
    shifted = frechet_distance(law, Moments(80).update(x + step))
    assert shifted == pytest.approx(float(step @ step), rel=1e-10)
    second_moment = float(law.mean @ law.mean + law.covariance.trace())
    scaled = frechet_distance(law, Moments(80).update(3 * x))
    assert scaled == pytest.approx(4 * second_moment, rel=1e-10)


# --- kernel distance


@few_examples
@given(n=sizes, m=sizes, d=st.integers(1, 4), seed=seeds)
def test_kernel_distance_by_a_double_loop(n: int, m: int, d: int, seed: int) -> None:
    x, y = normal(n, d, seed=seed), 1 + normal(m, d, seed=seed + 1)

    def mean(a: Tensor, b: Tensor, same: bool) -> float:
        pairs = [(i, j) for i, j in product(range(len(a)), range(len(b))) if not (same and i == j)]
        values = [(sum(p * q for p, q in zip(a[i], b[j], strict=True)) / d + 1) for i, j in pairs]
        return float(sum(value**3 for value in values)) / len(pairs)

    expected = mean(x, x, True) + mean(y, y, True) - 2 * mean(x, y, False)
    assert kernel_distance(x, y) == pytest.approx(expected, rel=1e-9, abs=1e-10)
    assert kernel_distance(y, x) == pytest.approx(expected, rel=1e-9, abs=1e-10)
    turn = rotation(d, seed)
    assert kernel_distance(x @ turn, y @ turn) == pytest.approx(expected, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("law", [(0.0, 1.0), (0.4, 1.0), (0.0, 1.5), (-0.3, 0.5)])
def test_kernel_distance_of_gaussians_on_a_line(law: tuple[float, float]) -> None:
    """(x y + 1)^3 is the inner product of (1, sqrt 3 x, sqrt 3 x^2, x^3): the law's moments."""
    (m, s), repeats = law, 300

    def moments(m: float, s: float) -> tuple[float, float, float]:
        return m, m**2 + s**2, m**3 + 3 * m * s**2

    steps = [a - b for a, b in zip(moments(m, s), moments(0.0, 1.0), strict=True)]
    expected = 3 * steps[0] ** 2 + 3 * steps[1] ** 2 + steps[2] ** 2
    draws = normal(repeats, 400, 1)
    found = torch.tensor([kernel_distance(m + s * a[:200], a[200:]) for a in draws], dtype=F64)
    error = float(found.std()) / math.sqrt(repeats)
    assert float(found.mean()) == pytest.approx(expected, abs=4 * error)
    # pairs of a sample with itself would add 0.2 to the 0 of one law
    assert 4 * error < max(0.1, 0.2 * expected)


def test_kernel_distance_spread_is_an_honest_error() -> None:
    x, y = normal(203, 3), 1 + normal(105, 3, seed=1)
    parts = [kernel_distance(x[50 * i :][:50], y[26 * i :][:26]) for i in range(4)]
    found = kernel_distance_spread(x, y, 4)
    assert found.mean == pytest.approx(np.mean(parts), rel=1e-12)
    assert found.error == pytest.approx(np.std(parts, ddof=1) / 2, rel=1e-12)
    # over many repetitions with one law, the squared errors are the squares of the means
    draws = normal(300, 80, 2)
    spreads = [kernel_distance_spread(a[:40], a[40:], 5) for a in draws]
    squares = np.mean(np.square(spreads), axis=0)
    assert squares[0] == pytest.approx(squares[1], rel=0.35)


# --- precision, recall, nearest neighbours


def squared_distance(a: Tensor, b: Tensor) -> float:
    return float(sum((p - q) ** 2 for p, q in zip(a, b, strict=True)))


def by_brute_force(x: Tensor, centres: Tensor, k: int) -> float:
    radii = []
    for i, centre in enumerate(centres):
        others = [squared_distance(centre, c) for j, c in enumerate(centres) if j != i]
        radii.append(sorted(others)[k - 1])
    balls = list(zip(centres, radii, strict=True))
    inside = [any(squared_distance(a, c) <= r for c, r in balls) for a in x]
    return sum(inside) / len(x)


@few_examples
@given(
    n=st.integers(4, 10),
    m=st.integers(4, 10),
    d=st.integers(1, 3),
    k=st.integers(1, 3),
    shift=st.sampled_from([0, 2, 1_000_000]),
    seed=seeds,
    ties=st.booleans(),
)
def test_precision_and_recall_by_brute_force(n, m, d, k, shift, seed, ties) -> None:
    draw = whole if ties else normal
    x, y = shift + 1 + draw(n, d, seed=seed), shift + draw(m, d, seed=seed + 1)
    expected = by_brute_force(x, y, k), by_brute_force(y, x, k)
    assert precision_recall(x, y, k) == pytest.approx(expected, abs=1e-12)
    nearest = [min(squared_distance(a, b) for b in y) for a in x]
    found = nearest_distances(x, y)
    assert found.dtype == F64
    assert found.square().tolist() == pytest.approx(nearest, rel=1e-12, abs=0)


def test_precision_and_recall_by_hand() -> None:
    reference = torch.tensor([0.0, 1.0, 3.0, 7.0])[:, None]
    # with k = 1: [-1, 1], [0, 2], [1, 5], [3, 11]
    samples = torch.tensor([-1.5, -1.0, 5.0, 11.5, 12.0])[:, None]
    # with k = 1: [-2, -1], [-1.5, -0.5], [-1, 11], [11, 12], [11.5, 12.5]
    assert precision_recall(samples, reference, 1) == (0.4, 1.0)
    assert precision_recall(samples[:2], reference, 1) == (0.5, 0.0)
    # with k = 2: the ball round 1 is [-1, 3], round 0 [-3, 3], round 7 [1, 13]
    assert precision_recall(samples, reference, 2) == (1.0, 1.0)
    assert nearest_distances(samples, reference).tolist() == [1.5, 1.0, 2.0, 4.5, 5.0]


def test_equal_sets_have_precision_1_and_sets_far_apart_0() -> None:
    x = 1000 + normal(200, 20)
    assert precision_recall(x, x.flip(0)) == (1, 1)
    assert precision_recall(x, x + 100) == (0, 0)
    # a narrow law inside a wide one: all samples plausible, few of the reference covered
    narrow, wide = 0.1 * normal(500, 2), normal(500, 2, seed=1)
    found = precision_recall(narrow, wide)
    assert found.precision == 1 and found.recall < 0.1
    assert precision_recall(wide, narrow) == found[::-1]


@few_examples
@given(k=st.integers(1, 3), seed=seeds)
def test_neighbours_closer_than_products_of_matrices_can_tell(k: int, seed: int) -> None:
    # three crowds of at least k + 1, far apart and so narrow that all sums within one are exact
    centres = whole(3, 20, seed=seed, reach=9).repeat(4, 1)
    x, y = (centres + whole(12, 20, seed=seed + i).double() / 2**30 for i in (1, 2))
    y[:2] = x[:2]
    assert precision_recall(x, y, k) == (by_brute_force(x, y, k), by_brute_force(y, x, k))
    expected = [math.sqrt(min(squared_distance(a, b) for b in y)) for a in x]
    assert nearest_distances(x, y).tolist() == pytest.approx(expected, rel=1e-15, abs=0)


@pytest.mark.parametrize("shift", [0.0, 1000.0])
def test_balls_are_closed_to_the_last_digit(shift: float) -> None:
    v = whole(128, reach=1000).double() / 1024
    reference = shift + torch.stack([0 * v, v])
    for stretch, precision in ((1, 1), (1 + 1e-9, 0)):
        samples = shift - stretch * torch.stack([v, v])
        assert precision_recall(samples, reference, 1).precision == precision


def test_repeated_points_have_balls_without_extent() -> None:
    point = normal(1, 50)
    copies = point.repeat(9, 1)
    assert precision_recall(copies, copies) == (1, 1)
    assert precision_recall(copies + 1e-9, copies) == (0, 0)


def test_nearest_distance_of_copies_is_exactly_0() -> None:
    reference = 1000 + normal(300, 30).float()
    x = torch.cat([reference[[7, 200]], reference[[5]] + 1e-3])
    found = nearest_distances(x, reference)
    assert found[:2].tolist() == [0, 0]
    near = float((x[2].double() - reference[5].double()).norm())
    assert float(found[2]) == pytest.approx(near, rel=1e-13)


def test_neighbours_are_those_of_scipy() -> None:
    x, y = normal(300, 6), 1.2 * normal(400, 6, seed=1)
    trees = [spatial.cKDTree(a) for a in (x, y)]
    nearest, _ = trees[1].query(x)
    assert nearest_distances(x, y).tolist() == pytest.approx(nearest.tolist(), rel=1e-12)
    shares = []
    for a, b, tree in ((x, y, trees[1]), (y, x, trees[0])):
        radii = tree.query(b, k=6)[0][:, -1]
        shares.append(float((spatial.distance.cdist(a, b) <= radii).any(1).mean()))
    assert precision_recall(x, y, 5) == pytest.approx(tuple(shares), abs=1e-12)
    assert 0.2 < shares[1] < shares[0] < 1


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = normal(40, 3), normal(30, 3, seed=1)
    values = kernel_distance(x, y), *precision_recall(x, y), *nearest_distances(x, y).tolist()
    for module in (kernel, manifold):
        monkeypatch.setattr(module, "BLOCK", 100)
    again = kernel_distance(x, y), *precision_recall(x, y), *nearest_distances(x, y).tolist()
    assert again == pytest.approx(values, rel=1e-12)


def test_sums_are_float64_also_for_float32_features() -> None:
    x, y = ((100 + normal(300, 8, seed=i)).float() for i in (0, 1))
    for metric in (kernel_distance, precision_recall):
        assert metric(x, y) == metric(x.double(), y.double())


# --- classes


def logits_of(classes: Tensor, K: int) -> Tensor:
    """Logits whose largest are those of the given classes."""
    logits = normal(len(classes), K).clamp(-3, 3)
    return logits.scatter(1, classes[:, None], 4.0).float()


@few_examples
@given(n=st.integers(1, 400), data=st.data())
def test_agreement_and_its_interval_are_those_of_scipy(n: int, data: st.DataObject) -> None:
    right = data.draw(st.integers(0, n))
    labels = torch.arange(n) % 10
    classes = torch.where(torch.arange(n) < right, labels, (labels + 3) % 10)
    found = class_agreement(logits_of(classes, 10), labels)
    interval = stats.binomtest(right, n).proportion_ci(method="wilson")
    assert found.share == pytest.approx(right / n, abs=1e-15)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high), abs=1e-12)
    assert 0 <= found.low <= found.share <= found.high <= 1


@few_examples
@given(n=st.integers(1, 60), K=st.integers(1, 6), seed=seeds)
def test_balance_is_that_of_counts(n: int, K: int, seed: int) -> None:
    classes = whole(n, seed=seed, reach=50) % K
    counts = np.array([int((classes == k).sum()) for k in range(K)])
    reference = normal(K, seed=seed).abs() + 0.1
    found = class_balance(logits_of(classes, K), reference)
    due = (reference / reference.sum()).numpy()
    assert found.shares.tolist() == pytest.approx((counts / n).tolist(), abs=1e-15)
    assert found.kl == pytest.approx(stats.entropy(counts, due), abs=1e-12)
    # the largest difference of probability over all events
    events = [np.array(event) for event in product([0, 1], repeat=K)]
    assert found.total_variation == pytest.approx(max((counts / n - due) @ e for e in events))


def test_balance_by_hand() -> None:
    logits = logits_of(torch.tensor([0, 0, 0, 2]), 4)
    found = class_balance(logits)
    assert found.shares.tolist() == [0.75, 0, 0.25, 0] and found.shares.dtype == F64
    assert found.total_variation == 0.5
    assert found.kl == pytest.approx(0.75 * math.log(3), rel=1e-12)
    assert class_balance(logits, torch.tensor([6, 0, 2, 0]))[1:] == (0, 0)
    assert class_balance(logits, torch.tensor([1, 1, 0, 0])).kl == math.inf


ONE, LAW = torch.ones(3, 2), Moments(2).update(normal(5, 2))
M, C = LAW.mean, LAW.covariance
LABELS = torch.tensor([0, 1, 0])
BAD = [
    (lambda: Moments(0), "at least 1 coordinate, got 0"),
    (lambda: Moments(3).update(ONE), r"features must be \(n, 3\), got \(3, 2\)"),
    (lambda: Moments(2).update(ONE[0]), r"features must be \(n, 2\), got \(2,\)"),
    (lambda: Moments(2).update(ONE / 0), "features must be finite"),
    (lambda: Moments(3).merge(LAW), r"features must be \(n, 3\), got those of 2"),
    (lambda: Moments(2).mean, "a mean needs at least 1 sample"),
    (lambda: Moments(2).update(ONE[:1]).covariance, "a covariance needs at least 2 samples, got 1"),
    (lambda: frechet_of(M, C, M[:1], C[:1, :1]), r"of one d >= 1, got \(2,\), \(2, 2\), \(1,\)"),
    (lambda: frechet_of(C, C, C, C), r"means must be \(d,\)"),
    (lambda: frechet_of(M * math.nan, C, M, C), "must be finite"),
    (lambda: frechet_of(M, C + C.triu(1), M, C), "covariances must be symmetric"),
    (lambda: frechet_of(M, C, M, C - 2 * C.trace() * torch.eye(2)), "no negative eigenvalues"),
    (lambda: kernel_distance(ONE, torch.ones(3, 3)), r"got \(3, 2\) and \(3, 3\)"),
    (lambda: kernel_distance(ONE, ONE[:1]), "at least 2 each"),
    (lambda: kernel_distance(ONE * math.nan, ONE), "samples must be finite"),
    (lambda: kernel_distance_spread(ONE, ONE, 1), "parts must be at least 2, got 1"),
    (lambda: kernel_distance_spread(ONE, ONE, 2), "at least 4 each"),
    (lambda: precision_recall(ONE, torch.ones(9, 2)), "got k=3 with 3 and 9"),
    (lambda: precision_recall(ONE, ONE, 0), "k must be at least 1"),
    (lambda: precision_recall(ONE, ONE[:, :1], 1), r"got \(3, 2\) and \(3, 1\)"),
    (lambda: nearest_distances(ONE, ONE[:0]), "at least 1 each"),
    (lambda: nearest_distances(ONE, ONE / 0), "samples must be finite"),
    (lambda: class_agreement(ONE[0], LABELS), r"logits must be \(N, K\)"),
    (lambda: class_agreement(ONE / 0, LABELS), "logits must be finite"),
    (lambda: class_agreement(ONE, LABELS[:2]), r"3 whole numbers, one for each sample, got \(2,\)"),
    (lambda: class_agreement(ONE, LABELS / 2), "whole numbers.* torch.float32"),
    (lambda: class_agreement(ONE, LABELS + 1), r"labels must lie in 0\.\.1"),
    (lambda: share(LABELS), r"flags must be \(N,\) booleans, got torch.int64 \(3,\)"),
    (lambda: class_balance(ONE[:0]), r"N and K at least 1, got \(0, 2\)"),
    (lambda: class_balance(ONE, torch.ones(3)), "reference must be 2 shares or counts"),
    (lambda: class_balance(ONE, torch.zeros(2)), "not all 0"),
    (lambda: class_balance(ONE, torch.tensor([2.0, -1.0])), "none negative"),
]


@pytest.mark.parametrize(("call", "message"), BAD)
def test_a_bad_argument_gets_one_sentence(call, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
