import math
import subprocess
import sys
from typing import Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.func import functional_call, jvp, vjp

from erdpaper import ntk
from erdpaper.models.mlp import BIAS_FACTOR, MLP, SILU_GAIN
from erdpaper.ntk import layerwise as closed_form

Name = Literal["standard", "ntk"]
NAMES: tuple[Name, Name] = ("standard", "ntk")


def network(
    name: Name = "standard", depth: int = 3, width: int = 12, seed: int = 0, dim: int = 2
) -> MLP:
    """A float64 network whose weights and biases are far from small, as after training."""
    torch.manual_seed(seed)
    model = MLP(dim, width, depth, embedding=8, parameterisation=name).double()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.5 * torch.randn_like(p))
    return model


def points(n: int, seed: int = 0, dim: int = 2, t: float | None = None) -> ntk.Points:
    generator = torch.Generator().manual_seed(seed)
    x = 2 * torch.randn(n, dim, generator=generator, dtype=torch.float64)
    times = torch.rand(n, generator=generator, dtype=torch.float64)
    return x, times if t is None else t


class Conv(nn.Module):
    """Images (N, 1, 4, 4), a parameter used twice and one not at all."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 2, 3, padding=1)
        self.second = nn.Conv2d(2, 1, 3, padding=1)
        self.shared = nn.Parameter(torch.randn(()))
        self.unused = nn.Parameter(torch.randn(3))

    def forward(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        h = torch.tanh(self.first(x) * self.shared + t[:, None, None, None])
        prediction: Tensor = self.second(h) + self.shared * x
        return prediction


class Affine(nn.Module):
    """f = W x + c, whatever the time: Theta = (x . x' + 1) I."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.map = nn.Linear(dim, dim)

    def forward(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        prediction: Tensor = self.map(x)
        return prediction


def conv() -> tuple[Conv, ntk.Points, ntk.Points]:
    torch.manual_seed(0)
    model = Conv().double()
    model.second.requires_grad_(False)  # a frozen parameter is a parameter
    rows, columns = (torch.randn(n, 1, 4, 4).double() for n in (5, 3))
    return model, (rows, torch.rand(5).double()), (columns, 0.7)


def jacobian(model: nn.Module, x: Tensor, t: Tensor | float, features: bool = False) -> Tensor:
    """One backward pass per point and output, (N, d, P)."""
    parameters = list((model.hidden if features else model).parameters())  # type: ignore[operator, union-attr]
    asked = [p.requires_grad for p in parameters]
    for p in parameters:
        p.requires_grad_(True)
    t = torch.as_tensor(t, dtype=x.dtype).expand(len(x))
    rows = []
    for k in range(len(x)):
        f = (model.features if features else model)(x[k : k + 1], t[k : k + 1]).flatten()  # type: ignore[operator, union-attr]
        for entry in f:
            parts = torch.autograd.grad(
                entry, parameters, retain_graph=True, allow_unused=True, materialize_grads=True
            )
            rows.append(torch.cat([g.flatten() for g in parts]))
    for p, was in zip(parameters, asked, strict=True):
        p.requires_grad_(was)
    return torch.stack(rows).view(len(x), -1, len(rows[0]))


def brute(model: nn.Module, first: ntk.Points, second: ntk.Points) -> Tensor:
    return torch.einsum("iap,jbp->ijab", jacobian(model, *first), jacobian(model, *second))


def close(found: Tensor, expected: Tensor, relative: float = 1e-11) -> None:
    assert found.shape == expected.shape
    assert float((found - expected).norm()) <= relative * float(expected.norm())


# ---------------------------------------------------------------- the kernel


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_the_closed_form_is_the_kernel(name: Name, depth: int) -> None:
    model, first, second = network(name, depth), points(7), points(4, seed=1)
    expected = brute(model, first, second)
    close(ntk.layerwise(model, first, second), expected)
    close(ntk.empirical(model, first, second), expected)
    # between noise levels, one of them a number
    first, second = points(3, t=0.05), points(5, seed=1, t=0.9)
    close(ntk.layerwise(model, first, second), ntk.empirical(model, first, second))


def test_each_parameter_has_its_part_in_both_kernels() -> None:
    """What the kernel gains by a parameter is the product of its gradients."""
    model, p = network(), points(5)
    whole, kernel = jacobian(model, *p), ntk.layerwise(model, p)
    for name, parameter in model.named_parameters():
        start = sum(q.numel() for q in before(model, name))
        part = whole[..., start : start + parameter.numel()]
        rest = torch.cat([whole[..., :start], whole[..., start + parameter.numel() :]], -1)
        own = torch.einsum("iap,jbp->ijab", part, part)
        assert float(own.norm()) > 1e-3 * float(kernel.norm())
        close(kernel - own, torch.einsum("iap,jbp->ijab", rest, rest), 1e-9)


def before(model: nn.Module, name: str) -> list[Tensor]:
    names = [other for other, _ in model.named_parameters()]
    return list(model.parameters())[: names.index(name)]


@pytest.mark.parametrize("chunk", [1, 2, 3, 100, None])
def test_the_general_kernel_is_that_of_backward_passes(chunk: int | None) -> None:
    model, first, second = conv()
    assert ntk.empirical(model, first, second).shape == (5, 3, 16, 16)
    close(ntk.empirical(model, first, second, chunk), brute(model, first, second))
    close(ntk.empirical(model, first, chunk=chunk), brute(model, first, first))
    assert not model.second.weight.requires_grad


@pytest.mark.parametrize("chunk", [1, 3, 4])
def test_tiles_do_not_show(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model, first, second = network("ntk"), points(8), points(5, seed=1)
    alone, pair = ntk.layerwise(model, first), ntk.layerwise(model, first, second)
    own, norms = ntk.diagonal(model, first), ntk.feature_norms(model, first)
    monkeypatch.setattr(sys.modules[closed_form.__module__], "_CHUNK", chunk)
    monkeypatch.setattr(sys.modules[closed_form.__module__], "_FEATURE_CHUNK", chunk)
    close(ntk.layerwise(model, first), alone)
    close(ntk.layerwise(model, first, first), alone)
    close(ntk.layerwise(model, first, second), pair)
    close(ntk.diagonal(model, first), own)
    close(ntk.feature_norms(model, first), norms)


def test_the_kernel_applied_to_a_direction_is_a_derivative() -> None:
    """sum_j Theta(x_i, x_j) v_j is how f(x_i) moves when the parameters move by sum_j J_j^T v_j."""
    model, (x, t), (y, s) = network(), points(6), points(4, seed=1)
    v = torch.randn(4, 2, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    state = {name: p.detach() for name, p in model.named_parameters()}
    _, pull, *_ = vjp(lambda q: functional_call(model, q, (y, s)), state)
    _, moved = jvp(lambda q: functional_call(model, q, (x, t)), (state,), (pull(v)[0],))
    for kernel in (ntk.layerwise, ntk.empirical):
        close(torch.einsum("ijab,jb->ia", kernel(model, (x, t), (y, s)), v), moved)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("depth", [1, 3])
def test_diagonal_blocks_and_the_features_jacobian(name: Name, depth: int) -> None:
    model, p = network(name, depth), points(5)
    own = torch.arange(5)
    close(ntk.diagonal(model, p), ntk.empirical(model, p)[own, own])
    j = jacobian(model, *p, features=True)
    close(ntk.feature_norms(model, p), j.square().sum((1, 2)))


def test_a_kernel_has_the_precision_of_its_model() -> None:
    model, p = network().float(), points(3)
    for kernel in (ntk.layerwise(model, p), ntk.empirical(model, p), ntk.diagonal(model, p)):
        assert kernel.dtype == torch.float32 and not kernel.requires_grad
    close(ntk.layerwise(model, p).double(), ntk.layerwise(network(), p), 1e-5)


def peak_of(kernel: str) -> float:
    """Peak resident memory in GB of a process that makes one kernel of 2,048 points."""
    code = f"""
import re, resource, sys, torch
from pathlib import Path
from erdpaper import ntk
from erdpaper.models.mlp import MLP
torch.manual_seed(0)
points = torch.randn(2048, 2, dtype=torch.float64), torch.rand(2048)
assert len({kernel}) == 2048
status = Path("/proc/self/status")
if status.exists():  # there ru_maxrss begins with what the parent process had
    print(1024 * int(re.search(r"VmHWM:\\s+(\\d+) kB", status.read_text())[1]))
else:
    unit = 1 if sys.platform == "darwin" else 1024
    print(unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return int(done.stdout) / 1e9


@pytest.mark.parametrize(
    "kernel",
    ["ntk.layerwise(MLP().double(), points)", "ntk.feature_norms(MLP(depth=1).double(), points)"],
)
def test_two_thousand_points_take_less_than_two_gigabytes(
    kernel: str,
) -> None:
    assert peak_of(kernel) < 2


@settings(max_examples=25)
@given(seed=st.integers(0, 10**6), name=st.sampled_from(NAMES), depth=st.integers(1, 3))
def test_the_joint_kernel_over_noise_levels_is_symmetric_and_positive(
    seed: int, name: Name, depth: int
) -> None:
    model = network(name, depth, width=6, seed=seed)
    x = torch.cat([points(4, seed + k)[0] for k in range(3)])
    t = torch.tensor([0.05, 0.5, 0.95], dtype=torch.float64).repeat_interleave(4)
    # as if of two sets, so that no symmetry is imposed
    blocks = ntk.layerwise(model, (x, t), (x.clone(), t))
    matrix = blocks.permute(0, 2, 1, 3).reshape(24, 24)
    close(matrix, matrix.T)
    values = torch.linalg.eigvalsh(matrix)
    assert float(values[0]) >= -1e-12 * float(values[-1])


# ---------------------------------------------------------------- the operator


def test_eigenfunctions_solve_the_integral_equation() -> None:
    blocks = ntk.layerwise(network(), points(10, t=0.3))
    values, functions = ntk.spectrum(blocks)
    assert functions.shape == (20, 10, 2) and bool((values.diff() <= 0).all())
    # an average over the sample, written out
    applied = torch.stack([(blocks @ phi[None, :, :, None])[..., 0].mean(1) for phi in functions])
    close(applied, values[:, None, None] * functions)
    overlaps = torch.einsum("jna,kna->jk", functions, functions) / 10
    close(overlaps, torch.eye(20, dtype=torch.float64))
    traces = ntk.diagonal(network(), points(10, t=0.3)).diagonal(dim1=1, dim2=2).sum(-1)
    close(values.sum(), traces.mean())


def test_the_spectrum_of_an_affine_model_is_that_of_its_second_moments() -> None:
    torch.manual_seed(0)
    model, (x, _) = Affine(3).double(), points(40, dim=3)
    blocks = ntk.empirical(model, (x, 0.5))
    eye = torch.eye(3, dtype=torch.float64)
    close(blocks, (x @ x.T + 1)[..., None, None] * eye)
    lifted = torch.cat([x, torch.ones(40, 1, dtype=torch.float64)], 1)
    moments = torch.linalg.eigvalsh(lifted.T @ lifted / 40).flip(0)
    values = ntk.spectrum(blocks).values
    close(values[:12], moments.repeat_interleave(3))  # each once for every output
    # the rest are rounding error, of either sign before it is cut
    assert float(values[12:].max()) < 1e-12 * float(values[0])
    assert float(values.min()) == 0


def test_effective_rank_counts_equal_values_and_ignores_scale() -> None:
    for k in (1, 4, 9):
        values = torch.cat([torch.full((k,), 3.0), torch.zeros(5)])
        assert ntk.effective_rank(values) == pytest.approx(k)
    values = torch.tensor([4.0, 2.0, 2.0])
    assert ntk.effective_rank(values) == pytest.approx(2**1.5)  # 1.5 bits
    assert ntk.effective_rank(1e-6 * values) == pytest.approx(2**1.5)


def test_normalised_kernels_are_cosines_of_jacobians() -> None:
    model, p = network(), points(6)
    cosines = ntk.normalised(ntk.layerwise(model, p))
    flat = jacobian(model, *p).flatten(1)
    close(cosines, flat @ flat.T / (flat.norm(dim=1)[:, None] * flat.norm(dim=1)))
    close(cosines.diagonal(), torch.ones(6, dtype=torch.float64))


# ---------------------------------------------------------------- noise levels and training


@pytest.mark.parametrize("closed", [True, False])
def test_cross_noise_is_the_mean_square_over_all_pairs(closed: bool) -> None:
    model = network() if closed else Affine(2).double()
    levels = [points(n, seed=n, t=t) for n, t in ((3, 0.1), (5, 0.5), (4, 0.9))]
    expected = [
        [math.sqrt(np.mean([float(b.norm()) ** 2 for row in brute(model, p, q) for b in row]))
         for q in levels] for p in levels
    ]  # fmt: skip
    found = ntk.cross_noise(model, levels)
    close(found, torch.tensor(expected, dtype=torch.float64))
    assert torch.equal(found, found.T)
    x = torch.cat([p[0] for p in levels])
    t = torch.tensor([0.1] * 3 + [0.5] * 5 + [0.9] * 4, dtype=torch.float64)
    corner = ntk.empirical(model, (x, t))[:3, 8:]
    close(found[0, 2], corner.square().sum((2, 3)).mean().sqrt())


@settings(max_examples=15)
@given(seed=st.integers(0, 10**6), counts=st.lists(st.integers(1, 4), min_size=1, max_size=4))
def test_no_two_levels_are_coupled_more_than_one(seed: int, counts: list[int]) -> None:
    levels = [points(n, seed + k, t=k / 4) for k, n in enumerate(counts)]
    found = ntk.coupling(ntk.cross_noise(network(width=6, seed=seed), levels))
    close(found.diagonal(), torch.ones(len(counts), dtype=torch.float64))
    assert float(found.min()) > 0 and float(found.max()) <= 1 + 1e-12


def test_coupling_divides_by_the_geometric_mean() -> None:
    found = ntk.coupling(torch.tensor([[4.0, 3.0], [3.0, 9.0]]))
    torch.testing.assert_close(found, torch.tensor([[1.0, 0.5], [0.5, 1.0]]))


def test_drift_is_relative_to_the_kernel_before() -> None:
    kernel = ntk.layerwise(network(), points(4))
    assert ntk.drift(kernel, kernel) == 0
    assert ntk.drift(kernel, 3 * kernel) == pytest.approx(2)
    assert ntk.drift(2 * kernel, kernel) == pytest.approx(0.5)


# ---------------------------------------------------------------- the ntk parameterisation


def kernels(width: int, depth: int, seeds: int) -> Tensor:
    """Kernels at initialisation in the ntk parameterisation, (seeds, 3, 3, 2, 2)."""
    found = []
    for seed in range(seeds):
        torch.manual_seed(seed)
        model = MLP(width=width, depth=depth, parameterisation="ntk").double()
        found.append(ntk.layerwise(model, points(3)))
    return torch.stack(found)


def test_the_kernel_at_initialisation_concentrates_as_the_width_grows() -> None:
    spread = [
        float(kernels(w, 3, 60).std(0).square().mean().sqrt()) for w in (32, 128, 512)
    ]  # of the mean square over entries
    # the width grows by 4, the spread falls by about 2
    assert 1.6 < spread[0] / spread[1] < 2.6
    assert 1.6 < spread[1] / spread[2] < 2.6


def test_the_mean_kernel_of_one_wide_layer_is_its_infinite_width_limit() -> None:
    """E silu silu' + E silu' silu' times the covariance of z, both under a Gaussian of it."""
    x, t = points(3)
    a = MLP().inputs(x, t).double()
    cov = SILU_GAIN**2 * a @ a.T / a.shape[1] + BIAS_FACTOR**2  # of z, which is Gaussian
    nodes, mass = (torch.from_numpy(z) for z in np.polynomial.hermite_e.hermegauss(80))
    mass = mass / mass.sum()
    expected = torch.empty(3, 3, dtype=torch.float64)
    for i in range(3):
        for j in range(3):
            u = cov[i, i].sqrt() * nodes[:, None]
            rest = (cov[j, j] - cov[i, j] ** 2 / cov[i, i]).clamp(min=0).sqrt()
            w = cov[i, j] / cov[i, i] * u + rest * nodes
            silu = [z * z.sigmoid() for z in (u, w)]
            slope = [z.sigmoid() * (1 + z * (1 - z.sigmoid())) for z in (u, w)]
            means = [mass @ (p * q) @ mass for p, q in (silu, slope)]
            expected[i, j] = means[0] + BIAS_FACTOR**2 + cov[i, j] * means[1]
    found = kernels(512, 1, 200)
    wanted = expected[..., None, None] * torch.eye(2, dtype=torch.float64)
    error = found.std(0) / math.sqrt(200)
    assert float(((found.mean(0) - wanted).abs() / error).max()) < 4
    assert float(error.max()) < 0.01 * float(expected.max())


# ---------------------------------------------------------------- bad input


def test_bad_points_are_refused() -> None:
    x, t = points(3)
    for kernel in (ntk.layerwise, ntk.empirical, ntk.diagonal, ntk.feature_norms):
        for bad, words in (
            ((x[:0], t[:0]), "at least 1"),
            ((x[0], t[0]), "at least 1"),
            ((x[:, :1], t), "do not fit"),
            ((x, t[:2]), "one per point"),
            ((x, t[:, None]), "one per point"),
            ((x / 0, t), "finite"),
            (x, "a pair"),
        ):
            with pytest.raises(ValueError, match=words):
                kernel(network(), bad)  # type: ignore[operator]


def test_the_closed_form_refuses_another_network() -> None:
    for kernel in (ntk.layerwise, ntk.diagonal, ntk.feature_norms):
        with pytest.raises(TypeError, match="not Affine; use empirical"):
            kernel(Affine(2), points(3))  # type: ignore[operator]


def test_the_general_kernel_refuses_what_it_cannot_use() -> None:
    model = Affine(2).double()
    with pytest.raises(ValueError, match="more than their number"):
        ntk.empirical(model, points(3), points(3, dim=3))
    with pytest.raises(ValueError, match="at least 1 point, not 0"):
        ntk.empirical(model, points(3), chunk=0)
    with pytest.raises(ValueError, match="without parameters"):
        ntk.empirical(nn.Identity(), points(3))


def test_a_matrix_that_is_no_kernel_is_refused() -> None:
    blocks = ntk.layerwise(network(), points(4))
    lopsided = blocks.clone()
    lopsided[0, 1] *= 1.001
    for bad, words in (
        (lopsided, "symmetric"),
        (blocks * math.nan, "symmetric"),
        (-blocks, "positive semidefinite"),
        (blocks - 0.5 * blocks.diagonal().mean() * torch.eye(2).double(), "semidefinite"),
        (blocks[:3], "N, N, d, d"),
        (blocks[:0, :0], "N, N, d, d"),
        (blocks[0], "N, N, d, d"),
    ):
        with pytest.raises(ValueError, match=words):
            ntk.spectrum(bad)
    with pytest.raises(ValueError, match="positive trace"):
        ntk.normalised(0 * blocks)
    with pytest.raises(ValueError, match="N, N, d, d"):
        ntk.normalised(blocks[:, :2])


def test_numbers_that_mean_nothing_are_refused() -> None:
    kernel = ntk.layerwise(network(), points(3))
    for values in (torch.tensor([1.0, -1e-9]), torch.tensor([math.nan]), torch.ones(2, 2)):
        with pytest.raises(ValueError, match="eigenvalues"):
            ntk.effective_rank(values)
    with pytest.raises(ValueError, match="positive and finite"):
        ntk.effective_rank(torch.zeros(3))
    with pytest.raises(ValueError, match="one shape"):
        ntk.drift(kernel, kernel[:2])
    with pytest.raises(ValueError, match="is 0"):
        ntk.drift(0 * kernel, kernel)
    with pytest.raises(ValueError, match="at least one noise level"):
        ntk.cross_noise(network(), [])
    with pytest.raises(ValueError, match="square"):
        ntk.coupling(torch.ones(2, 3))
    with pytest.raises(ValueError, match="diagonal"):
        ntk.coupling(torch.zeros(2, 2))


def test_alignment_is_the_cosine_of_two_kernels() -> None:
    first = torch.zeros(2, 2, 1, 1, dtype=torch.float64)
    second = first.clone()
    first[0, 0], second[0, 0], second[1, 1] = 3.0, 1.0, 1.0
    assert ntk.alignment(first, second) == pytest.approx(1 / 2**0.5)
    assert ntk.alignment(second, 7 * second) == pytest.approx(1)
    assert ntk.alignment(second, -second) == pytest.approx(-1)
