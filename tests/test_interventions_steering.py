"""Steering vectors against numpy, and pushes against runs whose result is known in closed form."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from erdpaper import sampling, schedules
from erdpaper.interventions import directions, steering
from erdpaper.interventions.directions import towards
from erdpaper.interventions.window import Window
from erdpaper.posterior import Gaussian
from erdpaper.sampling import Hooks, Prediction, times

F64 = torch.float64
VP, COSINE = schedules.VP(), schedules.Cosine()
SEEDS = st.integers(0, 10_000)
DIM = 12


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def rows(k: int, seed: int, dim: int = DIM) -> Tensor:
    """k orthonormal rows."""
    return torch.linalg.qr(normal(dim, k, seed=seed))[0].T


def spreads(k: int, seed: int) -> Tensor:
    return normal(k, seed=seed).square().sort(descending=True).values


def plus(k: int) -> directions.Orientation:
    return directions.given([1.0] * k)


def line(vector: Tensor) -> Tensor:
    """The line through a vector, which has no sign."""
    unit = vector / vector.norm()
    return torch.outer(unit, unit)


# ---------------------------------------------------------------- projections


@settings(max_examples=30)
@given(SEEDS, st.integers(1, 6), st.integers(1, DIM))
def test_projections_are_those_of_least_squares(seed: int, k: int, k_target: int) -> None:
    A, B = rows(k, seed), rows(k_target, seed + 1)
    found = directions.projections(A, B)
    fitted = np.linalg.lstsq(B.T.numpy(), A.T.numpy(), rcond=None)[0]
    np.testing.assert_allclose(found, fitted.T @ B.numpy(), atol=1e-12)
    # what is left is orthogonal to B, and to project again changes nothing
    assert float(((A - found) @ B.T).abs().max()) < 1e-12
    torch.testing.assert_close(found @ B.T @ B, found, atol=1e-12, rtol=0)


@settings(max_examples=30)
@given(SEEDS, st.integers(1, 5))
def test_constructions_know_the_span_of_the_target_and_not_its_basis(seed: int, k: int) -> None:
    A, B, variances = rows(4, seed), rows(k, seed + 1), spreads(4, seed)
    turned = torch.linalg.qr(normal(k, k, seed=seed + 2))[0] @ B
    reference = normal(DIM, seed=seed + 3)
    first, second = (
        torch.stack(
            [
                directions.weighted_sum(A, variances, basis, towards(reference)),
                directions.dominant(A, basis, towards(reference)),
                directions.disentangled(A, basis, min(2, k), towards(reference)),
                directions.disentangled(A, basis, 2, towards(reference), "residual"),
            ]
        )
        for basis in (B, turned)
    )
    torch.testing.assert_close(first, second, atol=1e-8, rtol=0)


# ---------------------------------------------------------------- the three constructions


@settings(max_examples=30)
@given(SEEDS, st.lists(st.sampled_from([-1.0, 1.0]), min_size=4, max_size=4))
def test_weighted_sum_is_that_of_the_thesis(seed: int, signs: list[float]) -> None:
    A, B, variances = rows(4, seed), rows(3, seed + 1), spreads(4, seed)
    raw, total = np.zeros(DIM), 0.0
    for a, lam, sign in zip(A.numpy(), variances.tolist(), signs, strict=True):
        p = sum((b @ a) * b for b in B.numpy())
        raw += sign * np.linalg.norm(p) * p
        total += (np.linalg.norm(p) * math.sqrt(lam)) ** 2
    expected = math.sqrt(total) * raw / np.linalg.norm(raw)
    found = directions.weighted_sum(A, variances, B, directions.given(signs))
    np.testing.assert_allclose(found, expected, atol=1e-9)
    # signs given, or turned into the rows themselves
    turned = torch.tensor(signs, dtype=F64)[:, None] * A
    again = directions.weighted_sum(turned, variances, B, plus(4))
    torch.testing.assert_close(found, again)


@settings(max_examples=30)
@given(SEEDS, st.integers(1, 4))
def test_svd_directions_are_those_of_numpy(seed: int, m: int) -> None:
    A, B = rows(5, seed), rows(6, seed + 1)
    P = A.numpy() @ B.numpy().T @ B.numpy()
    for part, matrix in (("shared", P), ("residual", A.numpy() - P)):
        _, s, vt = np.linalg.svd(matrix, full_matrices=False)
        found = directions.disentangled(A, B, m, plus(m), part)
        # the weights are those of numpy, whatever the sign of each direction
        expected = s[:m] / np.linalg.norm(s[:m])
        np.testing.assert_allclose(np.abs(vt[:m] @ found.numpy()), expected, atol=1e-9)
        assert float(found.norm()) == pytest.approx(1)
        if part == "residual":
            assert float((B @ found).abs().max()) < 1e-9
        else:
            assert float((found - B.T @ (B @ found)).norm()) < 1e-9
    strength = float(directions.dominant(A, B, plus(1), by_strength=True).norm())
    assert strength == pytest.approx(np.linalg.svd(P, compute_uv=False)[0])
    assert float(directions.dominant(A, B, plus(1)).norm()) == pytest.approx(1)


@settings(max_examples=30)
@given(SEEDS)
def test_with_one_direction_the_third_construction_is_the_second(seed: int) -> None:
    A, B = rows(4, seed), rows(4, seed + 1)
    torch.testing.assert_close(
        directions.disentangled(A, B, 1, plus(1)), directions.dominant(A, B, plus(1))
    )


def test_singular_values_are_cosines_of_the_angles_between_the_subspaces() -> None:
    # a plane and one that is tilted out of it by 30 degrees about their common axis
    A = torch.eye(3, dtype=F64)[:2]
    tilted = torch.tensor([0.0, math.cos(math.pi / 6), math.sin(math.pi / 6)], dtype=F64)
    B = torch.stack([A[0], tilted])
    torch.testing.assert_close(directions.dominant(A, B, plus(1)), A[0])
    both = directions.disentangled(A, B, 2, plus(2))
    cosine = math.cos(math.pi / 6)
    expected = (A[0] + cosine * tilted) / math.hypot(1, cosine)
    torch.testing.assert_close(both, expected)


@settings(max_examples=30)
@given(SEEDS, st.lists(st.sampled_from([-1.0, 1.0]), min_size=4, max_size=4))
def test_only_the_weighted_sum_depends_on_the_signs_of_the_source(
    seed: int, signs: list[float]
) -> None:
    A, B, variances = rows(4, seed), rows(3, seed + 1), spreads(4, seed)
    flipped = torch.tensor(signs, dtype=F64)[:, None] * A
    sums = [line(directions.weighted_sum(source, variances, B, plus(4))) for source in (A, flipped)]
    same = len(set(signs)) == 1
    assert bool(torch.allclose(*sums, atol=1e-6)) == same
    for make in (
        lambda source: directions.dominant(source, B, plus(1)),
        lambda source: directions.disentangled(source, B, 3, plus(3)),
        lambda source: directions.disentangled(source, B, 2, plus(2), "residual"),
    ):
        torch.testing.assert_close(make(A), make(flipped), atol=1e-7, rtol=0)
    # and not at all where the signs follow a reference
    reference = towards(normal(DIM, seed=seed + 2))
    torch.testing.assert_close(
        directions.weighted_sum(A, variances, B, reference),
        directions.weighted_sum(flipped, variances, B, reference),
    )


@settings(max_examples=30)
@given(SEEDS)
def test_orientation_is_the_choice_of_signs_that_goes_furthest_towards(seed: int) -> None:
    A, B, variances = rows(4, seed), rows(3, seed + 1), spreads(4, seed)
    reference = normal(DIM, seed=seed + 2)
    shared = directions.projections(A, B)
    for make, k in (
        (lambda rule: directions.dominant(A, B, rule), 1),
        (lambda rule: directions.disentangled(A, B, 3, rule), 3),
        (lambda rule: directions.disentangled(A, B, 2, rule, "residual"), 2),
    ):
        patterns = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0])] * k).reshape(-1, k)
        every = [float(make(directions.given(signs)) @ reference) for signs in patterns]
        assert float(make(towards(reference)) @ reference) == pytest.approx(max(every))
    signs = (shared @ reference).sign()
    torch.testing.assert_close(
        directions.weighted_sum(A, variances, B, towards(reference)),
        directions.weighted_sum(A, variances, B, directions.given(signs)),
    )


def test_wrong_directions_are_refused() -> None:
    A, B = rows(3, 0), rows(2, 1)
    for call, words in (
        (lambda: directions.projections(2 * A, B), "source directions must be .* orthonormal"),
        (lambda: directions.projections(A, B[0]), r"target directions must be rows \(k, D\)"),
        (lambda: directions.projections(A, rows(2, 1, dim=5)), "one dimension, got 12 and 5"),
        (lambda: directions.weighted_sum(A, -torch.ones(3), B, plus(3)), "variances must be 3"),
        (lambda: directions.weighted_sum(A, torch.ones(2), B, plus(3)), "variances must be 3"),
        (lambda: directions.dominant(A, B, plus(2)), "1 directions need as many signs, not 2"),
        (lambda: directions.given([1, 0.5]), r"signs must be a sequence of \+1 and -1"),
        (lambda: directions.dominant(A, B, towards(torch.ones(3))), "the reference must have"),
        (lambda: directions.dominant(A, B, towards(torch.full((DIM,), math.nan))), "be of finite"),
        (lambda: directions.disentangled(A, B, 4, plus(4)), r"m must lie in 1\.\.3"),
        (lambda: directions.disentangled(A, B, 1, plus(1), "rest"), "part must be shared or"),  # type: ignore[arg-type]
        (lambda: directions.dominant(A[:1], A[1:], plus(1)), "nothing is left of the source"),
        (lambda: directions.disentangled(A, A, 1, plus(1), "residual"), "nothing is left"),
    ):
        with pytest.raises(ValueError, match=words):
            call()


# ---------------------------------------------------------------- pushes


def far(x: Tensor, t: float) -> Prediction:
    """A denoiser that says nothing, so that a sampler only rescales."""
    return Prediction(torch.zeros_like(x), torch.zeros_like(x))


@settings(max_examples=30)
@given(st.integers(2, 60), st.floats(0, 0.5), st.floats(0.1, 0.5), st.floats(0.1, 20))
def test_total_push_is_what_a_run_adds(steps: int, low: float, length: float, s: float) -> None:
    grid, window = times.uniform(steps, 0.99), Window(low, low + length)
    delta = normal(2, 3, seed=steps)
    try:
        calls = window.steps(grid)
    except ValueError:
        return
    hook = steering.Steering(delta, VP, grid, window, s)
    added: list[Tensor] = []

    def on_state(x: Tensor, t: float) -> Tensor:
        moved = hook(x, t)
        added.append(moved - x)
        assert bool((moved == x).all()) == (t not in window)
        return moved

    for _ in range(2):  # the hook serves many runs
        added.clear()
        sampling.ddim(far, normal(1, 2, 3, seed=1), VP, grid, hooks=Hooks(on_state=on_state))
        assert len(added) == steps
    sizes = sum(float(part.norm()) for part in added)
    assert sizes == pytest.approx(steering.total_push(delta, VP, grid, window, s))
    alphas = [float(VP(t)[0]) for t in grid[:-1].tolist() if t in window]
    assert sizes == pytest.approx(s / calls * float(delta.norm()) * sum(alphas))
    scaled = steering.at_push(delta, 3.0, VP, grid, window)
    assert steering.total_push(scaled, VP, grid, window) == pytest.approx(3)
    torch.testing.assert_close(line(scaled.flatten()), line(delta.flatten()))


def test_equal_strengths_are_no_equal_pushes() -> None:
    # the mean of cos(pi t / 2) over [a, b], on a path where alpha is just that
    grid, delta = times.uniform(20_000), torch.ones(1, dtype=F64)
    for low, high in ((0.0, 0.2), (0.4, 0.6), (0.8, 1.0), (0.0, 1.0)):
        mean = (math.sin(math.pi * high / 2) - math.sin(math.pi * low / 2)) / (math.pi / 2)
        found = steering.total_push(delta, schedules.GVP(), grid, Window(low, high))
        assert found == pytest.approx(mean / (high - low), rel=1e-3)


def test_formula_counts_a_grid_of_equal_steps_with_one_of_its_edges() -> None:
    grid = times.uniform(50)
    for low, high, formula, counted in ((0, 1, 50, 50), (0.8, 1, 10, 11), (0.4, 0.61, 10, 11)):
        window = Window(low, high)
        assert steering.calls_by_formula(window, 50) == formula
        assert window.steps(grid) == counted
    assert steering.calls_by_formula(Window(0.5, 0.52), 50) == 1
    with pytest.raises(ValueError, match="shorter than one of 50 steps: its count would be 0"):
        steering.calls_by_formula(Window(0.5, 0.51), 50)


def test_a_hook_for_a_single_step_serves_many_runs() -> None:
    grid, delta = times.uniform(1, 0.9), torch.ones(2, dtype=F64)
    hook = steering.Steering(delta, VP, grid, strength=3.0)
    x, alpha = normal(4, 2, seed=0), float(VP(0.9)[0])
    for _ in range(2):
        torch.testing.assert_close(hook(x, float(grid[0])), x + 3 * alpha * delta)


def test_wrong_pushes_are_refused() -> None:
    grid, delta = times.uniform(10, 0.9), torch.ones(2)
    x = torch.zeros(3, 2)
    hook = steering.Steering(delta, VP, grid)
    for call, words in (
        (lambda: hook(x, 0.123), "made for another grid"),
        (lambda: hook(x[:, :1], 0.9), "shape of one state"),
        (lambda: steering.at_push(0 * delta, 1.0, VP, grid), "has no direction"),
        (lambda: steering.at_push(delta, -1.0, VP, grid), "at least 0, got -1"),
        (lambda: steering.at_push(delta, math.nan, VP, grid), "at least 0, got nan"),
        (lambda: steering.Steering(delta, VP, grid, strength=math.nan), "finite number, got nan"),
        (lambda: steering.total_push(delta, VP, grid, strength=math.inf), "finite number, got inf"),
        (lambda: steering.Steering(delta / 0, VP, grid), "vector must be of finite numbers"),
        (lambda: steering.Steering(delta, VP, grid, Window(0.95, 1)), "no step of the grid begins"),
        (
            lambda: steering.gaussian_response(delta, VP, grid, math.nan),
            r"eta must lie in \[0, 1\]",
        ),
        (lambda: steering.gaussian_response(-delta, VP, grid), "numbers of at least 0"),
        (lambda: sampling.heun(far, x, VP, grid, hooks=Hooks(on_state=hook)), "not heun"),
    ):
        with pytest.raises(ValueError, match=words):
            call()


# ---------------------------------------------------------------- the linear model

LAW = Gaussian(normal(5, seed=1), torch.diag(torch.tensor([9.0, 4.0, 1.0, 0.3, 0.02], dtype=F64)))


@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("schedule", [VP, COSINE, schedules.Linear()], ids=repr)
def test_effect_on_gaussian_data_is_linear_and_known(schedule, eta: float) -> None:
    grid = times.uniform(30, 0.99, 0.01)
    x, delta = normal(4, 5, seed=2), normal(5, seed=3)
    denoise = sampling.exact(LAW, schedule)

    def run(hooks: Hooks) -> Tensor:
        generator = torch.Generator().manual_seed(5)
        return sampling.ddim(denoise, x, schedule, grid, generator, eta=eta, hooks=hooks)

    alpha, _ = schedule(grid[:-1])
    response = steering.gaussian_response(LAW.variances, schedule, grid, eta)
    for window in (Window(), Window(0.7, 1.0), Window(0.0, 0.3)):
        hook = steering.Steering(delta, schedule, grid, window, 2.5)
        moved = run(Hooks(on_state=hook)) - run(Hooks())
        inside = torch.tensor([t in window for t in grid[:-1].tolist()])
        share = 2.5 / window.steps(grid) * (alpha * inside) @ response  # (5,)
        expected = LAW.basis @ (share * (LAW.basis.T @ delta))
        torch.testing.assert_close(moved, expected.expand(4, 5))


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_response_tends_to_the_limit_of_small_steps(eta: float) -> None:
    # uniform in log-SNR, so that the last level is nearly clean
    grid = times.in_logsnr(VP, 8_000, -8, 16, to_zero=False)
    alpha, sigma = (part[:-1, None] for part in VP(grid))
    power = alpha.square() * LAW.variances + sigma.square()
    limit = alpha * LAW.variances / power if eta else (LAW.variances / power).sqrt()
    found = steering.gaussian_response(LAW.variances, VP, grid, eta)
    torch.testing.assert_close(found, limit, rtol=5e-3, atol=1e-4)
    # of unit variance and on this path a deterministic sampler keeps what is pushed
    whole = steering.gaussian_response(torch.ones(1, dtype=F64), VP, grid)
    assert float((whole - 1).abs().max()) < 5e-3
