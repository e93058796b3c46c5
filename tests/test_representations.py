import math
import sys
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.decomposition import PCA
from torch import Tensor, nn

from erdpaper.models.mlp import MLP
from erdpaper.representations import (
    cka,
    hidden_states,
    linear_probe,
    neighbour_accuracy,
    plane,
    spread,
)

F64 = torch.float64
seeds = st.integers(0, 1000)
few_examples = settings(max_examples=30)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def orthogonal(dim: int, seed: int = 0) -> Tensor:
    return torch.linalg.qr(normal(dim, dim, seed=seed))[0]


# ---------------------------------------------------------------- probes


def classes(n: int, dim: int = 3, means: float = 1.0, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Two unit Gaussians whose means are 2 `means` apart along the first axis."""
    labels = torch.arange(n) % 2
    x = normal(n, dim, seed=seed)
    x[:, 0] += means * (2 * labels - 1)
    return x, labels


def test_a_linear_probe_reaches_the_accuracy_of_bayes() -> None:
    train, test = classes(4000), classes(20_000, seed=1)
    found = linear_probe(*train, *test)
    best = stats.norm.cdf(1)
    assert found.converged
    assert found.accuracy == pytest.approx(best, abs=4 * math.sqrt(best * (1 - best) / 20_000))
    nothing = linear_probe(*train, normal(20_000, 3, seed=2), test[1])
    assert nothing.accuracy == pytest.approx(0.5, abs=4 / math.sqrt(4 * 20_000))


@pytest.mark.parametrize("dim", [4, 60])
def test_a_linear_probe_is_the_minimum_of_its_loss(dim: int) -> None:
    """With more features than points too; the minimum by another optimiser."""
    labels = torch.arange(40) % 3
    means = normal(3, dim, seed=5)
    x, fresh = (3 + 10 * (means[labels] + normal(40, dim, seed=s)) for s in (1, 2))
    scale = x.mean(0), x.std(0, correction=0)
    z, other = ((part - scale[0]) / scale[1] for part in (x, fresh))
    W, b = torch.zeros(dim, 3, dtype=F64, requires_grad=True), torch.zeros(3, dtype=F64)
    b.requires_grad_(True)
    optimiser = torch.optim.LBFGS([W, b], max_iter=500, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimiser.zero_grad()
        total = nn.functional.cross_entropy(z @ W + b, labels, reduction="sum")
        total = total + W.square().sum() / 2
        total.backward()
        return total

    optimiser.step(loss)  # type: ignore[arg-type]
    found = linear_probe(x, labels, fresh, labels)
    right = [float(((part @ W + b).argmax(1) == labels).double().mean()) for part in (other, z)]
    assert [found.accuracy, found.train_accuracy] == pytest.approx(right)
    assert 1 / 3 < found.accuracy <= found.train_accuracy


def test_a_probe_that_does_not_converge_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[linear_probe.__module__], "_ITERATIONS", 1)
    assert not linear_probe(*classes(100), *classes(100, seed=1)).converged


def test_neighbours_tell_what_a_line_does_not() -> None:
    """Four clusters, labels those of an exclusive or."""

    def crossed(seed: int) -> tuple[Tensor, Tensor]:
        signs = torch.tensor([[1, 1], [1, -1], [-1, 1], [-1, -1]], dtype=F64).repeat(250, 1)
        return 2 * signs + 0.3 * normal(1000, 2, seed=seed), (signs.prod(1) > 0).long()

    train, test = crossed(0), crossed(1)
    assert neighbour_accuracy(*train, *test) == 1
    assert linear_probe(*train, *test).accuracy < 0.8


@few_examples
@given(seed=seeds, k=st.integers(1, 9))
def test_neighbours_vote_by_cosine(seed: int, k: int) -> None:
    x, fresh = 5 + normal(12, 3, seed=seed), 5 + normal(8, 3, seed=seed + 1)
    labels, answers = torch.arange(12) % 3, torch.arange(8) % 3
    mean, std = x.mean(0), x.std(0, correction=0)
    z, other = ((part - mean) / std for part in (x, fresh))
    right = 0
    for point, answer in zip(other, answers.tolist(), strict=True):
        cosine = (z @ point) / (z.norm(dim=1) * point.norm())
        votes = Counter(labels[cosine.argsort(descending=True)[:k]].tolist())
        right += min(c for c in votes if votes[c] == max(votes.values())) == answer
    assert neighbour_accuracy(x, labels, fresh, answers, k) == pytest.approx(right / 8)


@few_examples
@given(seed=seeds, factor=st.floats(0.01, 100), shift=st.floats(-10, 10))
def test_probes_do_not_see_units_nor_constant_features(
    seed: int, factor: float, shift: float
) -> None:
    train, test = classes(60, seed=seed), classes(60, seed=seed + 1)

    def changed(x: Tensor) -> Tensor:
        return torch.cat([factor * x[:, :1] + shift, x[:, 1:], torch.full((60, 1), 0.1)], 1)

    other = (changed(train[0]), train[1], changed(test[0]), test[1])
    # a point on the border may fall to either side
    assert abs(linear_probe(*other).accuracy - linear_probe(*train, *test).accuracy) < 1.5 / 60
    found = [neighbour_accuracy(*four, k=5) for four in ((*train, *test), other)]
    assert abs(found[0] - found[1]) < 1.5 / 60


# ---------------------------------------------------------------- alignment


def brute_cka(x: Tensor, y: Tensor, debiased: bool) -> float:
    """HSIC by sums over distinct points (Song et al. 2012), or by centred Gram matrices."""
    n = len(x)

    def hsic(K: np.ndarray, L: np.ndarray) -> float:
        if not debiased:
            H = np.eye(n) - 1 / n
            return float(np.trace(K @ H @ L @ H))
        pairs = [(i, j) for i in range(n) for j in range(n) if i != j]
        triples = [(i, j, q) for i, j in pairs for q in range(n) if q not in (i, j)]
        quads = [(i, j, q, r) for i, j, q in triples for r in range(n) if r not in (i, j, q)]
        return float(
            np.mean([K[i, j] * L[i, j] for i, j in pairs])
            + np.mean([K[i, j] * L[q, r] for i, j, q, r in quads])
            - 2 * np.mean([K[i, j] * L[i, q] for i, j, q in triples])
        )

    K, L = ((z @ z.T).numpy() for z in (x, y))
    return hsic(K, L) / math.sqrt(hsic(K, K) * hsic(L, L))


shapes = st.tuples(st.integers(4, 8), st.integers(2, 20), st.integers(2, 20))


@few_examples
@given(seed=seeds, shape=shapes, debiased=st.booleans())
def test_cka_is_the_cosine_of_hsic(seed: int, shape: tuple[int, int, int], debiased: bool) -> None:
    n, f, g = shape
    x, y = 1 + normal(n, f, seed=seed), normal(n, g, seed=seed + 1) - 2
    y[:, 0] += x[:, 0]
    found = cka(x, y, debiased)
    assert found == pytest.approx(brute_cka(x, y, debiased), abs=1e-9)
    assert found == pytest.approx(cka(y, x, debiased), abs=1e-12)
    assert (-1 if debiased else 0) <= found <= 1 + 1e-12


@few_examples
@given(seed=seeds, shape=shapes, debiased=st.booleans(), factor=st.floats(0.01, 100))
def test_cka_does_not_see_rotations_shifts_and_units(
    seed: int, shape: tuple[int, int, int], debiased: bool, factor: float
) -> None:
    n, f, g = shape
    x, y = normal(n, f, seed=seed), normal(n, g, seed=seed + 1)
    moved = factor * x @ orthogonal(f, seed) + 3
    assert cka(x, moved, debiased) == pytest.approx(1, abs=1e-9)
    assert cka(moved, y, debiased) == pytest.approx(cka(x, y, debiased), abs=1e-8)
    # more features than the rotation needs: both ways to the overlap
    wide = torch.cat([x, torch.zeros(n, 200, dtype=F64)], 1)
    assert cka(wide, y, debiased) == pytest.approx(cka(x, y, debiased), abs=1e-9)


def test_cka_of_unrelated_features_is_zero_only_without_its_bias() -> None:
    draws = [(normal(20, 500, seed=s), normal(20, 300, seed=1000 + s)) for s in range(200)]
    debiased = torch.tensor([cka(x, y) for x, y in draws])
    assert abs(float(debiased.mean())) < 4 * float(debiased.std()) / math.sqrt(200)
    assert float(debiased.std()) < 0.2
    assert min(cka(x, y, debiased=False) for x, y in draws) > 0.9


def test_both_ckas_of_many_points_are_that_of_the_law() -> None:
    """y = x A: |S A|^2 / (|S| |A^T S A|) with S = Cov(x)."""
    scales, A = torch.tensor([3.0, 2, 1, 0.5], dtype=F64), normal(4, 3, seed=3)
    x = normal(50_000, 4) * scales
    S = scales.square().diag()
    expected = float((S @ A).norm() ** 2 / (S.norm() * (A.T @ S @ A).norm()))
    for debiased in (True, False):
        assert cka(x, x @ A, debiased) == pytest.approx(expected, abs=0.01)
    assert 0.2 < expected < 0.98


# ---------------------------------------------------------------- hidden activations


class Tower(nn.Module):
    """Images (N, 1, 4, 4) to tokens: a convolution, two uses of one activation, labels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 3, 3, padding=1)
        self.act = nn.ReLU()
        self.gate = nn.ReLU(inplace=True)
        self.classes = nn.Embedding(4, 3)
        self.head = nn.Linear(3, 3)
        self.pair = nn.LSTM(3, 3)
        self.idle = nn.Linear(3, 3)

    def forward(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        h = self.act(self.act(self.conv(x))) * (1 + t[:, None, None, None])  # (N, 3, 4, 4)
        tokens = self.head(h.flatten(2).mT)  # (N, 16, 3)
        self.pair(tokens)
        rows = self.conv(x).mean((2, 3)) if label is None else self.classes(label)  # (N, 3)
        return tokens + self.gate(rows)[:, None]  # the gate overwrites its input


def test_hidden_states_are_those_of_the_forward_pass() -> None:
    torch.manual_seed(0)
    model, x = MLP(2, 7, 3).double(), normal(600, 2)  # several passes
    t = torch.linspace(0, 1, 600, dtype=F64)
    found = hidden_states(model, x, t, layers=["hidden.2", "hidden.0", "readout"])
    assert list(found) == ["hidden.2", "hidden.0", "readout"]
    first = nn.functional.linear(model.inputs(x, t), model.hidden[0].weight, model.hidden[0].bias)
    assert torch.allclose(found["hidden.0"], first, atol=1e-12)
    features = nn.functional.silu(found["hidden.2"])
    assert torch.allclose(features, model.features(x, t), atol=1e-12)
    assert torch.allclose(found["readout"], model(x, t), atol=1e-12)
    assert not any(state.requires_grad for state in found.values())


def test_hidden_states_are_means_over_tokens_and_positions() -> None:
    torch.manual_seed(0)
    model, x = Tower(), torch.randn(5, 1, 4, 4)
    label, t = torch.tensor([0, 1, 2, 3, 0]), torch.rand(5)
    found = hidden_states(model, x, t, label, layers=["conv", "head", "classes"])
    conv = model.conv(x)
    assert torch.allclose(found["conv"], conv.flatten(2).mean(2), atol=1e-6)
    tokens = model.head((conv.relu() * (1 + t[:, None, None, None])).flatten(2).mT)
    assert torch.allclose(found["head"], tokens.mean(1), atol=1e-6)
    # what follows writes over the activation, after it was read
    assert torch.equal(found["classes"], model.classes.weight[label])
    assert bool((found["classes"] < 0).any())


def hooks(model: nn.Module) -> int:
    return sum(len(module._forward_hooks) for module in model.modules())


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        (["conv", "con"], "'con' is no layer; the network has conv, act, gate, classes, head"),
        ([], "no layer is asked for; the network has conv"),
        (["conv", "idle"], "'idle' is called 0 times in a pass, not once"),
        (["act"], "'act' is called 2 times in a pass, not once"),
        (["pair"], r"'pair' must put out \(N, F\), .* not tuple"),
    ],
)
def test_a_bad_layer_gets_one_sentence_and_leaves_no_hook(layers, message: str) -> None:
    model, x = Tower(), torch.randn(3, 1, 4, 4)
    with pytest.raises(ValueError, match=message) as caught:
        hidden_states(model, x, 0.5, torch.arange(3), layers=layers)
    assert "\n" not in str(caught.value) and hooks(model) == 0
    with pytest.raises(RuntimeError):  # of the network itself
        hidden_states(model, x[:, :, 0], 0.5, layers=["conv"])
    assert hooks(model) == 0
    hidden_states(model, x, 0.5, torch.arange(3), layers=["conv"])
    assert hooks(model) == 0


# ---------------------------------------------------------------- geometry


def with_spectrum(n: int, dim: int, squares: list[float], seed: int = 0) -> Tensor:
    """Points whose centred singular values are exactly the roots of (n - 1) `squares`, shifted."""
    left = torch.cat([torch.ones(n, 1, dtype=F64), normal(n, len(squares), seed=seed)], 1)
    left = torch.linalg.qr(left)[0][:, 1:]  # orthonormal, and orthogonal to the mean
    right = orthogonal(dim, seed + 1)[:, : len(squares)]
    values = ((n - 1) * torch.tensor(squares, dtype=F64)).sqrt()
    return left @ values.diag() @ right.T + 5


@pytest.mark.parametrize(("n", "dim"), [(40, 6), (6, 40), (7, 6), (6, 6)])
def test_spread_of_a_known_spectrum(n: int, dim: int) -> None:
    found = spread(with_spectrum(n, dim, [9.0, 4.0, 2.0, 1.0]))
    assert found.variances.shape == (min(n - 1, dim),) and found.variances.dtype == F64
    expected = torch.tensor([9.0, 4, 2, 1, 0, 0], dtype=F64)[: len(found.variances)]
    torch.testing.assert_close(found.variances[:6], expected, rtol=1e-10, atol=1e-12)
    assert found.participation_ratio == pytest.approx(16**2 / (81 + 16 + 4 + 1))
    shares = np.array([9, 4, 2, 1]) / 16
    assert found.effective_rank == pytest.approx(math.exp(stats.entropy(shares)))
    assert found.top_two_share == pytest.approx(13 / 16)
    assert found.stretch == pytest.approx(1.5)


@few_examples
@given(seed=seeds, n=st.integers(3, 12), dim=st.integers(2, 12))
def test_spread_is_that_of_the_covariance_whatever_is_larger(seed: int, n: int, dim: int) -> None:
    x = normal(n, dim, seed=seed) * torch.arange(1, dim + 1)
    found = spread(x)
    whole = torch.linalg.eigvalsh(torch.cov(x.T)).flip(0)[: len(found.variances)]
    assert torch.allclose(found.variances, whole, rtol=1e-9, atol=1e-11 * float(whole[0]))
    # the same points in a space with room for more dimensions than there are points
    wide = torch.cat([x, torch.zeros(n, 20, dtype=F64)], 1) @ orthogonal(dim + 20, seed)
    assert spread(wide).participation_ratio == pytest.approx(found.participation_ratio)
    assert spread(wide).effective_rank == pytest.approx(found.effective_rank)
    assert spread(3 * wide + 1).stretch == pytest.approx(found.stretch, rel=1e-6)


def test_spread_of_a_large_gaussian_sample_is_that_of_its_law() -> None:
    scales = torch.tensor([4.0, 2, 1], dtype=F64)
    found = spread(normal(100_000, 3) * scales)
    torch.testing.assert_close(found.variances, scales.square(), rtol=0.03, atol=0)
    assert found.stretch == pytest.approx(2, rel=0.03)


@pytest.mark.parametrize(("n", "dim"), [(200, 300), (500, 100)])
def test_white_noise_looks_as_anisotropic_as_documented(n: int, dim: int) -> None:
    found = spread(normal(n, dim))
    assert found.participation_ratio == pytest.approx((n - 1) * dim / (n + dim), rel=0.01)
    # the edges of the Marchenko-Pastur law
    assert float(found.variances[0]) == pytest.approx((1 + math.sqrt(dim / n)) ** 2, rel=0.05)


def test_points_on_a_line_have_rank_one() -> None:
    for shape in ((30, 5), (5, 30)):
        line = normal(shape[0], 1) @ normal(1, shape[1], seed=1) + 2
        found = spread(line)
        assert found.participation_ratio == pytest.approx(1)
        assert found.effective_rank == pytest.approx(1)
        assert found.top_two_share == 1 and found.stretch == math.inf
        with pytest.raises(ValueError, match="spans no plane"):
            plane(line)
    assert spread(normal(9, 1)).stretch == math.inf


@pytest.mark.parametrize(("n", "dim"), [(50, 8), (8, 50)])
def test_the_plane_is_that_of_pca(n: int, dim: int) -> None:
    x, other = normal(n, dim) * torch.arange(1, dim + 1), normal(5, dim, seed=1)
    found, theirs = plane(x), PCA(2).fit(x.numpy())
    close = {"rtol": 0, "atol": 1e-9}
    torch.testing.assert_close(found.axes @ found.axes.T, torch.eye(2, dtype=F64), **close)
    for axis, reference in zip(found.axes, torch.from_numpy(theirs.components_), strict=True):
        assert abs(float(axis @ reference)) == pytest.approx(1, abs=1e-9)
        assert float(axis.max()) == float(axis.abs().max())
    projected = found.project(other)
    signs = torch.tensor(
        [a @ b for a, b in zip(found.axes.numpy(), theirs.components_, strict=True)]
    )
    reference = torch.from_numpy(theirs.transform(other.numpy())) * signs.sign()
    torch.testing.assert_close(projected, reference, **close)
    # of the reference itself, the plane holds the first two variances
    inside = spread(found.project(x)).variances
    torch.testing.assert_close(inside, spread(x).variances[:2], rtol=1e-9, atol=0)


def test_a_spread_of_single_precision_is_summed_in_double() -> None:
    x = (1000 + normal(300, 4)).float()
    assert spread(x).variances.tolist() == spread(x.double()).variances.tolist()
    assert cka(x, x[:, :2]) == cka(x.double(), x[:, :2].double())


# ---------------------------------------------------------------- bad input

X, LABELS = normal(6, 3), torch.tensor([0, 1, 2, 0, 1, 2])
SIMPLEX = torch.eye(6, dtype=F64)
BAD = [
    (lambda: linear_probe(X, LABELS, X[:, :2], LABELS), "must be as many, got 3 and 2"),
    (lambda: linear_probe(X, LABELS[:5], X, LABELS), r"integers \(6,\), one per point, got"),
    (lambda: linear_probe(X, LABELS.double(), X, LABELS), "labels must be integers"),
    (lambda: linear_probe(X, 0 * LABELS, X, 0 * LABELS), "at least 2 classes"),
    (lambda: linear_probe(X, LABELS, X, LABELS + 1), "all of the test labels"),
    (lambda: linear_probe(X / 0, LABELS, X, LABELS), "features must be finite"),
    (lambda: linear_probe(X[:, 0], LABELS, X, LABELS), "with N at least 2, got torch.float64"),
    (lambda: neighbour_accuracy(X, LABELS, X, LABELS, 7), "from 1 to the 6 training points, got 7"),
    (lambda: cka(X, X[:5]), "of the same points, got 6 and 5"),
    (lambda: cka(X[:3], X[:3]), "with N at least 4"),
    (lambda: cka(X, 0 * X + 0.1), "all points are equal"),
    (lambda: cka(X, SIMPLEX), "equally far from each other"),
    (lambda: hidden_states(MLP(), X[:, :2], LABELS[:4], layers=["readout"]), r"got \(6, 2\) and"),
    (
        lambda: hidden_states(MLP(), X, 0.5, LABELS[:4], layers=["readout"]),
        r"one per point, \(6,\)",
    ),
    (lambda: spread(X[:1]), "with N at least 2"),
    (lambda: spread(0 * X + 0.1), "all points are equal"),
    (lambda: plane(X).project(X[:, :2]), "in 3 dimensions, not 2"),
    (lambda: plane(X[:, :1]), "spans no plane"),
]


@pytest.mark.parametrize(("call", "message"), BAD)
def test_a_bad_argument_gets_one_sentence(call, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
