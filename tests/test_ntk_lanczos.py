import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from erdpaper import ntk
from erdpaper.models.mlp import MLP

F64 = torch.float64


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def toy(seed: int = 0, width: int = 12) -> MLP:
    torch.manual_seed(seed)
    return MLP(2, width, 3, embedding=8).double()


def points(n: int = 10, dim: int = 2, t: float = 0.3, seed: int = 0) -> ntk.Points:
    return 2 * torch.randn(n, dim, generator=generator(seed), dtype=F64), t


class LabelledConv(nn.Module):
    """Images (N, 1, 4, 4) with one of three labels; a buffer, a parameter used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 3, 3, padding=1)
        self.second = nn.Conv2d(3, 1, 3, padding=1)
        self.classes = nn.Embedding(3, 3)
        self.gain = nn.Parameter(torch.tensor(0.7))
        self.register_buffer("shift", torch.tensor(0.2))

    def forward(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        h = self.first(self.gain * x) + t[:, None, None, None] + self.shift  # (N, 3, 4, 4)
        if label is not None:
            h = h + self.classes(label)[:, :, None, None]
        prediction: Tensor = self.second(torch.tanh(h)) + self.gain * x  # (N, 1, 4, 4)
        return prediction


class Attention(nn.Module):
    """Tokens (N, 4, 6) with two heads."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(6, 18)

    def forward(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        parts = self.qkv(x).view(len(x), 4, 3, 2, 3).permute(2, 0, 3, 1, 4)  # (3, N, 2, 4, 3)
        mixed = nn.functional.scaled_dot_product_attention(*parts)  # (N, 2, 4, 3)
        return mixed.transpose(1, 2).flatten(2) * (1 + t[:, None, None])  # (N, 4, 6)


class Affine(nn.Module):
    """f = W x + c: Theta = (x . x' + 1) I, so every eigenvalue comes d times."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.map = nn.Linear(dim, dim)

    def forward(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        prediction: Tensor = self.map(x)
        return prediction


def by_jacobian(model: nn.Module, x: Tensor, t: float, label: Tensor) -> Tensor:
    """Eigenvalues of J J^T / N, one backward pass for each output."""
    prediction = model(x, torch.full((len(x),), t, dtype=x.dtype), label).flatten()
    parameters = list(model.parameters())
    rows = [torch.autograd.grad(f, parameters, retain_graph=True) for f in prediction]
    J = torch.stack([torch.cat([g.flatten() for g in row]) for row in rows])
    return torch.linalg.eigvalsh(J @ J.T / len(x)).flip(0)


# ---------------------------------------------------------------- eigenvalues


@settings(max_examples=6)
@given(seed=st.integers(0, 1000), k=st.integers(1, 19))
def test_the_top_is_that_of_the_whole_kernel(seed: int, k: int) -> None:
    model, p = toy(seed), points(seed=seed)
    whole = ntk.spectrum(ntk.empirical(model, p)).values
    found = ntk.top_spectrum(model, p, k, generator(seed))
    assert found.values.dtype == F64 and found.values.shape == (k,)
    assert float((found.values - whole[:k]).abs().max()) < 1e-8 * float(whole[0])
    # the exact standard error is at most this; the one a few skewed probes state is sometimes small
    error = math.sqrt(2 / 16 * float(whole[k:].square().sum()))
    assert found.trace == pytest.approx(float(whole.sum()), abs=6 * error + 1e-12)


@pytest.mark.parametrize("chunk", [None, 1, 4, 100])
def test_the_top_of_a_labelled_image_network_is_that_of_its_jacobian(chunk: int | None) -> None:
    torch.manual_seed(1)
    model = LabelledConv().double()
    model.second.requires_grad_(False)  # a frozen parameter is a parameter
    x, label = torch.randn(6, 1, 4, 4, dtype=F64), torch.tensor([0, 1, 2, 2, 1, 0])
    found = ntk.top_spectrum(model, (x, 0.4), 8, generator(), label, chunk=chunk)
    assert not model.second.weight.requires_grad and model.gain.grad is None
    model.second.requires_grad_(True)
    whole = by_jacobian(model, x, 0.4, label)
    torch.testing.assert_close(found.values, whole[:8], rtol=1e-9, atol=0)
    assert abs(found.trace - float(whole.sum())) < 4 * found.trace_error
    assert found.size == sum(p.numel() for p in model.parameters()) < 6 * 16
    # with the wrong labels it would not be
    other = by_jacobian(model, x, 0.4, label.roll(1))
    assert float((other[:8] / whole[:8] - 1).abs().max()) > 1e-3


def test_times_may_differ_between_points_of_a_chunk() -> None:
    model, (x, _) = toy(), points()
    p = x, torch.linspace(0.1, 0.9, 10, dtype=F64)
    whole = ntk.spectrum(ntk.empirical(model, p)).values
    found = ntk.top_spectrum(model, p, 3, generator(), chunk=3)
    torch.testing.assert_close(found.values, whole[:3], rtol=1e-9, atol=0)


def test_attention_has_a_top_too() -> None:
    torch.manual_seed(0)
    model, x = Attention().double(), torch.randn(5, 4, 6, dtype=F64)
    whole = ntk.spectrum(ntk.empirical(model, (x, 0.4))).values
    found = ntk.top_spectrum(model, (x, 0.4), 4, generator())
    torch.testing.assert_close(found.values, whole[:4], rtol=1e-9, atol=0)


@pytest.mark.parametrize(("dtype", "tolerance"), [(F64, 1e-12), (torch.float32, 1e-6)])
def test_equal_eigenvalues_are_all_found(dtype: torch.dtype, tolerance: float) -> None:
    """More equal ones at the top than are asked for, and all that differ from 0."""
    torch.manual_seed(0)
    x = torch.randn(40, 8, dtype=F64)
    lifted = torch.cat([x, torch.ones(40, 1, dtype=F64)], 1)
    moments = torch.linalg.eigvalsh(lifted.T @ lifted / 40).flip(0).repeat_interleave(8)
    model = Affine(8).to(dtype)
    for k in (5, 72):
        found = ntk.top_spectrum(model, (x, 0.5), k, generator())
        assert float((found.values - moments[:k]).abs().max()) < tolerance * float(moments[0])
    assert found.size == 72 and found.share == pytest.approx(1, abs=tolerance)
    assert found.trace == pytest.approx(float(moments.sum()), rel=10 * tolerance)


def test_a_generator_decides_everything() -> None:
    one, again, other = (ntk.top_spectrum(toy(), points(), 3, generator(s)) for s in (0, 0, 1))
    assert torch.equal(one.values, again.values) and one[1:] == again[1:]
    assert one.trace != other.trace
    torch.testing.assert_close(one.values, other.values, rtol=1e-12, atol=0)


# ---------------------------------------------------------------- the trace


def test_the_trace_is_estimated_without_bias_and_with_its_error() -> None:
    model, p = toy(), points(12)
    exact = float(ntk.spectrum(ntk.empirical(model, p)).values.sum())
    runs = [ntk.top_spectrum(model, p, 1, generator(s), probes=8) for s in range(40)]
    traces = torch.tensor([run.trace for run in runs], dtype=F64)
    spread = float(traces.std())
    assert abs(float(traces.mean()) - exact) < 4 * spread / math.sqrt(40)
    # the error that each run states is the spread between runs, within 4 of its own errors
    stated = math.sqrt(sum(run.trace_error**2 for run in runs) / 40)
    assert stated == pytest.approx(spread, rel=4 / math.sqrt(2 * 40))
    assert spread > 1e-3 * exact


def test_more_modes_leave_less_to_estimate() -> None:
    model, p = toy(width=32), points(20)
    errors = [ntk.top_spectrum(model, p, k, generator()).trace_error for k in (1, 4, 16)]
    assert errors[0] > 2 * errors[1] > 4 * errors[2] > 0


@pytest.mark.parametrize("k", [1, 3, 10, 19])
def test_the_effective_rank_lies_between_its_bounds(k: int) -> None:
    model, p = toy(), points()
    values = ntk.spectrum(ntk.empirical(model, p)).values
    found = ntk.TopSpectrum(values[:k], float(values.sum()), 0.0, len(values))
    low, high = found.effective_rank_bounds
    assert 1 <= low <= ntk.effective_rank(values) * (1 + 1e-12) <= high * (1 + 2e-12)
    assert found.share == pytest.approx(float(values[:k].sum() / values.sum()))
    if k == 19:
        assert high / low < 1 + 1e-6


def test_the_bounds_are_reached() -> None:
    """Where the rest is equal to the last mode, and where it is spread evenly over all others."""
    top = torch.tensor([4.0, 2.0], dtype=F64)
    low, _ = ntk.TopSpectrum(top, 12.0, 0.0, 50).effective_rank_bounds
    assert low == pytest.approx(ntk.effective_rank(torch.tensor([4.0, 2, 2, 2, 2])))
    _, high = ntk.TopSpectrum(top, 12.0, 0.0, 50).effective_rank_bounds
    even = torch.cat([top, torch.full((48,), 6 / 48, dtype=F64)])
    assert high == pytest.approx(ntk.effective_rank(even))
    assert ntk.TopSpectrum(top, 6.0, 0.0, 2).effective_rank_bounds == pytest.approx(
        (ntk.effective_rank(top),) * 2
    )


# ---------------------------------------------------------------- bad input

X, T = points(4)
BAD = [
    (lambda: ntk.top_spectrum(toy(), (X, T), 0, generator()), "k must be from 1 to N d - 1 = 7"),
    (lambda: ntk.top_spectrum(toy(), (X, T), 8, generator()), "k must be from 1 to N d - 1 = 7"),
    (lambda: ntk.top_spectrum(toy(), (X, T), 2, generator(), probes=1), "at least 2 probes, not 1"),
    (lambda: ntk.top_spectrum(toy(), (X, T), 2, generator(), chunk=0), "at least 1 point, not 0"),
    (
        lambda: ntk.top_spectrum(toy(), (X, T), 2, generator(), torch.ones(3)),
        r"one per point, \(4,\), not \(3,\)",
    ),
    (lambda: ntk.top_spectrum(toy(), (X / 0, T), 2, generator()), "points and times must be"),
    (lambda: ntk.top_spectrum(nn.Identity(), (X, T), 2, generator()), "without parameters"),
]


@pytest.mark.parametrize(("call", "message"), BAD)
def test_a_bad_argument_gets_one_sentence(call, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
