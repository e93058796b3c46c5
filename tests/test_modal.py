import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad, solve_ivp
from torch import Tensor

from erdpaper import ntk
from erdpaper.dynamics import modal


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture(scope="module")
def blocks() -> Tensor:
    """A kernel on seven points in two dimensions."""
    jacobian = drawn(0, 7, 2, 40)
    return torch.einsum("nip,mjp->nmij", jacobian, jacobian)


KAPPA = torch.tensor([3.0, 0.7, 0.02, 0.0], dtype=torch.float64)
START = torch.tensor([1.0, -2.0, 0.5, 0.3], dtype=torch.float64)
WEIGHT, STEP = 0.6, 0.15


# ---------------------------------------------------------------- coefficients and forcing


def test_coefficients_rebuild_the_function_and_its_energy(blocks: Tensor) -> None:
    spectrum, r = ntk.spectrum(blocks), drawn(1, 7, 2)
    a = modal.coefficients(spectrum, r)
    torch.testing.assert_close(torch.einsum("j,jnd->nd", a, spectrum.functions), r)
    torch.testing.assert_close(modal.excess(a, 0.8), 0.4 * r.square().sum(-1).mean())


def test_the_kernel_acts_on_coefficients_as_its_eigenvalues(blocks: Tensor) -> None:
    spectrum, r = ntk.spectrum(blocks), drawn(2, 7, 2)
    pulled = torch.einsum("nmij,mj->ni", blocks, r) / 7
    torch.testing.assert_close(
        modal.coefficients(spectrum, pulled),
        spectrum.values * modal.coefficients(spectrum, r),
    )


def test_forcing_on_the_points_themselves_is_the_drift_of_the_noise(blocks: Tensor) -> None:
    # a batch of the spectrum's own points: eta_j = -M kappa_j <xi, phi_j>
    spectrum, xi = ntk.spectrum(blocks), drawn(3, 7, 2)
    found = modal.forcing(spectrum, blocks, torch.full((7,), 1.7), xi)
    a = modal.coefficients(spectrum, xi)
    torch.testing.assert_close(found, -1.7 * spectrum.values * a, rtol=1e-6, atol=1e-6)


def test_each_sample_is_forced_with_the_weight_of_its_own_noise_level(blocks: Tensor) -> None:
    spectrum, xi, weight = ntk.spectrum(blocks), drawn(4, 7, 2), drawn(5, 7).abs()
    whole = modal.forcing(spectrum, blocks, weight, xi)
    parts = [
        weight[b] * modal.forcing(spectrum, blocks[:, b : b + 1], torch.ones(1), xi[b : b + 1])
        for b in range(7)
    ]
    torch.testing.assert_close(whole, torch.stack(parts).mean(0))


def test_what_does_not_fit_is_refused(blocks: Tensor) -> None:
    spectrum = ntk.spectrum(blocks)
    with pytest.raises(ValueError, match="one shape"):
        modal.coefficients(spectrum, drawn(0, 6, 2))
    with pytest.raises(ValueError, match="different size: 7, 7 and 6"):
        modal.forcing(spectrum, blocks, torch.ones(7), drawn(0, 6, 2))
    with pytest.raises(ValueError, match="do not fit"):
        modal.evolve(START, KAPPA, 1.0, drawn(0, 5, 3), 0.1)
    with pytest.raises(ValueError, match="at least 0"):
        modal.evolve(START, KAPPA - 1, 1.0, drawn(0, 5, 4), 0.1)
    with pytest.raises(ValueError, match="step positive"):
        modal.bound(START, KAPPA, 1.0, drawn(0, 5, 4), 0.0, 1.0)
    with pytest.raises(ValueError, match="gamma > 0, not 0"):
        modal.bound(START, KAPPA, 1.0, drawn(0, 5, 4), 0.1, 0.0)


# ---------------------------------------------------------------- evolution


def test_without_forcing_modes_decay_each_at_its_rate() -> None:
    path = modal.evolve(START, KAPPA, WEIGHT, torch.zeros(6, 4), STEP)
    tau = STEP * torch.arange(7, dtype=torch.float64)[:, None]
    torch.testing.assert_close(path, START * (-WEIGHT * KAPPA * tau).exp())


def test_a_constant_forcing_leads_to_its_fixed_point_and_without_a_kernel_to_a_line() -> None:
    eta = torch.tensor([0.5, 0.5, 0.5, -0.2], dtype=torch.float64).expand(4_000, 4)
    path = modal.evolve(START, KAPPA, WEIGHT, eta, STEP)
    torch.testing.assert_close(path[-1, :2], 0.5 / (WEIGHT * KAPPA[:2]))
    torch.testing.assert_close(path[:, 3], 0.3 - 0.2 * STEP * torch.arange(4_001).double())


def test_evolution_is_that_of_an_ode_solver() -> None:
    eta = drawn(6, 9, 4)

    def slope(tau: float, a: object) -> object:
        row = eta[min(int(tau / STEP), 8)].numpy()
        return -WEIGHT * KAPPA.numpy() * a + row

    a = START.numpy()
    expected = [a]
    for k in range(9):
        # from a little inside of the step, so that the solver does not look at the next one
        span = (k * STEP + 1e-9, (k + 1) * STEP - 1e-9)
        a = solve_ivp(slope, span, a, rtol=1e-10, atol=1e-12).y[:, -1]
        expected.append(a)
    found = modal.evolve(START, KAPPA, WEIGHT, eta, STEP)
    torch.testing.assert_close(found, torch.from_numpy(np.stack(expected)), rtol=1e-7, atol=1e-7)


# ---------------------------------------------------------------- bound


@pytest.mark.parametrize("gamma", [0.05, 0.84, 2 * WEIGHT * 0.7, 6.0])
def test_the_bound_is_the_integral_of_the_paper(gamma: float) -> None:
    eta = drawn(7, 8, 4)
    end = 8 * STEP
    total = 0.0
    for j in range(4):
        c = 2 * WEIGHT * float(KAPPA[j]) - gamma
        total += math.exp(-c * end) * float(START[j]) ** 2
        for k in range(8):
            part = quad(lambda s, c=c: math.exp(-c * (end - s)), k * STEP, (k + 1) * STEP)[0]
            total += part * float(eta[k, j]) ** 2 / gamma
    found = modal.bound(START, KAPPA, WEIGHT, eta, STEP, gamma)
    assert float(found[-1]) == pytest.approx(WEIGHT / 2 * total, rel=1e-10)
    assert float(found[0]) == pytest.approx(WEIGHT / 2 * float(START.square().sum()))


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    gamma=st.floats(1e-3, 1e2),
    weight=st.floats(0.01, 10),
    step=st.floats(1e-3, 1),
    size=st.floats(0, 100),
)
def test_the_excess_lies_below_the_bound(
    seed: int, gamma: float, weight: float, step: float, size: float
) -> None:
    kappa, start, eta = drawn(seed, 3).square(), drawn(seed + 1, 3), size * drawn(seed + 2, 5, 3)
    a = modal.evolve(start, kappa, weight, eta, step)
    limit = modal.bound(start, kappa, weight, eta, step, gamma)
    assert bool((modal.excess(a, weight) <= limit * (1 + 1e-9)).all())


def test_without_forcing_the_bound_is_tight_as_gamma_vanishes() -> None:
    still = torch.zeros(5, 4)
    a = modal.evolve(START, KAPPA, WEIGHT, still, STEP)
    limit = modal.bound(START, KAPPA, WEIGHT, still, STEP, 1e-9)
    torch.testing.assert_close(modal.excess(a, WEIGHT), limit)


def test_a_forcing_of_one_mode_can_come_near_the_bound() -> None:
    # Young's inequality is an equality where gamma a = eta: here at every time
    gamma, kappa, start = 2.0, torch.ones(1).double(), torch.ones(1).double()
    eta = gamma * start * torch.exp(torch.arange(2_000) * 1e-3 * (gamma - 1)).double()[:, None]
    a = modal.evolve(start, kappa, 1.0, eta, 1e-3)
    limit = modal.bound(start, kappa, 1.0, eta, 1e-3, gamma)
    assert float(modal.excess(a, 1.0)[-1] / limit[-1]) == pytest.approx(1, rel=2e-3)
    for other in (gamma / 2, gamma * 2):
        assert float(modal.bound(start, kappa, 1.0, eta, 1e-3, other)[-1] / limit[-1]) > 1.02
