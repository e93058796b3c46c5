"""Spectra of samples against scikit-learn and known ranks, of images against known fields."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.decomposition import PCA
from torch import Tensor

from erdpaper import spectral
from erdpaper.spectral import gram

F64 = torch.float64
SHAPES = [(40, 7), (7, 40), (12, 12), (13, 12)]


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def sample(n: int, d: int, seed: int = 0) -> Tensor:
    """Correlated rows with a mean that is large beside their spread."""
    return normal(n, d, seed=seed) @ normal(d, d, seed=seed + 1) + 50


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("piece", [1 << 26, 200])
def test_spectrum_is_that_of_scikit_learn(shape, piece: int, monkeypatch) -> None:
    monkeypatch.setattr(gram, "_PIECE_BYTES", piece)
    x = sample(*shape)
    theirs = PCA(svd_solver="full").fit(x.numpy())
    values = spectral.spectrum(x)
    assert values.shape == (min(shape[0] - 1, shape[1]),)
    expected = torch.from_numpy(theirs.explained_variance_)[: len(values)]
    torch.testing.assert_close(values, expected, rtol=1e-9, atol=1e-10)
    shares = torch.from_numpy(theirs.explained_variance_ratio_.cumsum())[: len(values)]
    torch.testing.assert_close(spectral.explained(values), shares)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("share", [0.5, 0.9, 0.99])
def test_components_are_as_many_as_scikit_learn_keeps(shape, share: float) -> None:
    x = sample(*shape)
    # it wants more than the share, not the share itself, which differs only where they are equal
    theirs = PCA(n_components=share, svd_solver="full").fit(x.numpy())
    assert spectral.components_for(x, share) == theirs.n_components_
    image = x.reshape(len(x), 1, -1, 1)
    assert spectral.components_for(image, share) == theirs.n_components_


@pytest.mark.parametrize("shape", [(60, 20), (20, 60)])
def test_rank_of_a_sample_in_a_subspace(shape) -> None:
    n, d = shape
    x = normal(n, 4) @ normal(4, d, seed=1) + 3
    values = spectral.spectrum(x)
    assert bool((values[:4] > 0).all()) and bool((values[4:] == 0).all())
    assert spectral.count(values, 1) == 4 == spectral.components_for(x, 1.0)


def test_shares_and_ranks_of_known_spectra() -> None:
    flat, steep = torch.tensor([2.0] * 4 + [0.0] * 3), torch.tensor([98.0, 1.0, 0.5, 0.5])
    torch.testing.assert_close(
        spectral.explained(steep), torch.tensor([0.98, 0.99, 0.995, 1.0], dtype=F64)
    )
    assert [spectral.count(steep, share) for share in (0.5, 0.98, 0.985, 0.99, 0.992, 1)] == [
        *(1, 1, 2, 2, 3, 4)
    ]
    assert spectral.participation_ratio(flat) == pytest.approx(4)
    assert spectral.entropy_rank(flat) == pytest.approx(4)
    # (1 + 1/4)^2 / (1 + 1/16), and exp of the entropy of 4/5 and 1/5
    two = torch.tensor([1.0, 0.25])
    assert spectral.participation_ratio(two) == pytest.approx(25 / 17)
    assert spectral.entropy_rank(two) == pytest.approx(5 / 4**0.8)


@settings(deadline=None, max_examples=30)
@given(
    n=st.integers(3, 12),
    d=st.integers(2, 12),
    seed=st.integers(0, 10**6),
    power=st.integers(-6, 6),
    share=st.floats(0.05, 0.98),
)
def test_turning_shifting_and_scaling_change_no_share(n, d, seed, power, share) -> None:
    x = normal(n, d, seed=seed)
    turn, _ = torch.linalg.qr(normal(d, d, seed=seed + 1))
    moved = 2.0**power * (x @ turn + normal(d, seed=seed + 2))
    values = spectral.spectrum(x)
    torch.testing.assert_close(spectral.spectrum(moved), 4.0**power * values, rtol=1e-7, atol=1e-9)
    shares = spectral.explained(values)
    k = spectral.count(values, share)
    assert float(shares[k - 1]) >= share and (k == 1 or float(shares[k - 2]) < share)
    if float((shares - share).abs().min()) > 1e-6:
        assert spectral.components_for(moved, share) == k
    # all of the variance, as numpy has it
    assert float(values.sum()) == pytest.approx(float(np.var(x.numpy(), axis=0, ddof=1).sum()))


def test_little_variance_on_a_large_mean_is_not_lost() -> None:
    x = 1 + 1e-9 * normal(50, 4)
    expected = (x - 1).var(0).sum()
    assert float(spectral.spectrum(x).sum()) == pytest.approx(float(expected), rel=1e-6)


@pytest.mark.parametrize(
    ("shape", "value"), [((7, 30), 0.1), ((11, 4), 1 / 3), ((7, 30), 1234.567)]
)
def test_equal_samples_have_no_variance_though_their_mean_is_rounded(shape, value: float) -> None:
    assert bool((spectral.spectrum(torch.full(shape, value, dtype=F64)) == 0).all())


def test_single_precision_is_summed_in_double() -> None:
    x = (1e-3 * normal(500, 6)).float() + 100
    expected = np.linalg.eigvalsh(np.cov(x.double().numpy().T))[::-1].copy()
    torch.testing.assert_close(spectral.spectrum(x), torch.from_numpy(expected), rtol=1e-8, atol=0)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("k", [1, 5])
def test_principal_components_are_those_of_scikit_learn(shape, k: int) -> None:
    x = sample(*shape)
    theirs = PCA(svd_solver="full").fit(x.numpy())
    mean, directions, variances = spectral.principal(x, k)
    torch.testing.assert_close(mean, torch.from_numpy(theirs.mean_))
    torch.testing.assert_close(variances, torch.from_numpy(theirs.explained_variance_[:k]))
    cosines = (directions * torch.from_numpy(theirs.components_[:k])).sum(1)
    torch.testing.assert_close(cosines.abs(), torch.ones(k, dtype=F64))
    assert bool((directions.max(1).values == directions.abs().max(1).values).all())


@settings(deadline=None, max_examples=30)
@given(n=st.integers(2, 14), d=st.integers(1, 14), rank=st.integers(1, 6), seed=st.integers(0, 999))
def test_directions_are_orthonormal_whatever_the_rank(n, d, rank, seed) -> None:
    x = normal(n, rank, seed=seed) @ normal(rank, d, seed=seed + 1)
    k = min(n - 1, d)
    found = spectral.principal(x, k)
    torch.testing.assert_close(found.directions @ found.directions.T, torch.eye(k, dtype=F64))
    # variances are those along the directions, and all that there is
    along = ((x - x.mean(0)) @ found.directions.T).var(0)
    torch.testing.assert_close(along, found.variances, rtol=1e-6, atol=1e-9)
    assert float(found.variances.sum()) == pytest.approx(float(x.var(0).sum()), abs=1e-9)


def test_variance_ratio() -> None:
    x0, other = normal(30, 2, 3, 3), normal(50, 18, seed=1)
    assert spectral.variance_ratio(0.5 * x0 + 4, x0) == pytest.approx(0.25)
    ratio = spectral.variance_ratio(other, x0)
    assert ratio == pytest.approx(float(spectral.spectrum(other).sum() / x0.var(0).sum()))


@settings(deadline=None, max_examples=20)
@given(size=st.integers(1, 17), channels=st.integers(1, 3), seed=st.integers(0, 999))
def test_power_adds_up_to_the_sum_of_squares(size, channels, seed) -> None:
    x = normal(3, channels, size, size, seed=seed)
    found = spectral.radial_power(x)
    assert float(found.modes.sum()) == size**2
    torch.testing.assert_close(found.total(0), x.square().sum((2, 3)).mean(1))
    assert bool((found.total(0, 2) + found.total(3) - found.total(0) < 1e-9).all())


def test_a_wave_has_its_power_on_its_ring() -> None:
    place = torch.arange(28, dtype=F64) / 28
    down, across = torch.meshgrid(place, place, indexing="ij")
    for k, m in ((3, 4), (0, 7), (6, 8), (0, 0)):
        wave = torch.cos(2 * torch.pi * (k * down + m * across))
        power = spectral.radial_power(wave[None])
        ring = round((k**2 + m**2) ** 0.5)
        assert float(power.total(ring, ring)) == pytest.approx(float(wave.square().sum()))
        assert float(power.total(0)) == pytest.approx(float(power.total(ring, ring)))


def test_white_noise_is_flat() -> None:
    found = spectral.radial_power(0.7 * normal(3_000, 1, 16, 16))
    power, draws = found.power.mean(0), 3_000 * found.modes
    # a mode's power has the spread of a chi-square of one degree, at most
    assert bool(((power / 0.49 - 1).abs() < 5 * (2 / draws).sqrt()).all())
    assert abs(spectral.slope(found.frequency, power, 1, 8)) < 0.02


@pytest.mark.parametrize("exponent", [-1.0, -2.0, -3.0])
def test_slope_of_a_field_made_with_it(exponent: float) -> None:
    along = torch.fft.fftfreq(64, 1 / 64, dtype=F64)
    radius = torch.hypot(along[:, None], along)
    radius[0, 0] = 1
    white = torch.fft.fft2(normal(400, 64, 64))
    field = torch.fft.ifft2(white * radius ** (exponent / 2)).real
    found = spectral.radial_power(field)
    power = found.power.mean(0)
    assert spectral.slope(found.frequency, power, 3, 30) == pytest.approx(exponent, abs=0.03)
    exact = 5 * found.frequency**exponent
    assert spectral.slope(found.frequency, exact, 1, 30) == pytest.approx(exponent)


@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 999), power=st.integers(-3, 3), down=st.integers(0, 9))
def test_power_ignores_shifts_and_turns_of_an_image(seed, power, down) -> None:
    x = normal(2, 1, 9, 9, seed=seed)
    expected = spectral.radial_power(x).power
    for moved in (x.roll((down, 2), (2, 3)), x.rot90(1, (2, 3)), x.flip(3), x.mT):
        torch.testing.assert_close(spectral.radial_power(moved).power, expected)
    scaled = spectral.radial_power(2.0**power * x).power
    torch.testing.assert_close(scaled, 4.0**power * expected)


def test_noise_adds_its_own_power() -> None:
    x, eps = normal(4_000, 1, 8, 8).cumsum(3), normal(4_000, 1, 8, 8, seed=1)
    clean = spectral.radial_power(x)
    noisy = spectral.radial_power(0.6 * x + 0.8 * eps).power.mean(0)
    expected = 0.36 * clean.power.mean(0) + 0.64
    assert bool(((noisy / expected - 1).abs() < 0.05).all())


def test_bad_input_is_refused_in_one_sentence() -> None:
    x = sample(5, 3)
    with pytest.raises(ValueError, match=r"N at least 2, got torch.float64 \(1, 3\)"):
        spectral.spectrum(x[:1])
    with pytest.raises(ValueError, match="finite numbers"):
        spectral.spectrum(x / 0)
    for share in (0, 1.01, float("nan")):
        with pytest.raises(ValueError, match=r"must lie in \(0, 1\]"):
            spectral.components_for(x, share)
    with pytest.raises(ValueError, match="all equal"):
        spectral.components_for(torch.full((7, 30), 0.1))
    with pytest.raises(ValueError, match="all equal"):
        spectral.variance_ratio(x, torch.ones(4, 3))
    with pytest.raises(ValueError, match="of one size, got 3 and 2 numbers each"):
        spectral.variance_ratio(x, x[:, :2])
    # before any work on the samples, which are no better
    with pytest.raises(ValueError, match="share of variance"):
        spectral.components_for(x / 0, 2)
    with pytest.raises(ValueError, match="descending order"):
        spectral.count(torch.tensor([1.0, 2.0]))
    with pytest.raises(ValueError, match="at least 0"):
        spectral.explained(torch.tensor([1.0, -2.0]))
    with pytest.raises(ValueError, match="one floating row"):
        spectral.entropy_rank(torch.ones(2, 2))
    for k in (0, 4, 2.0, True):
        with pytest.raises(ValueError, match=r"integer in 1..3 for 5 samples of 3 numbers"):
            spectral.principal(x, k)
    with pytest.raises(ValueError, match=r"integer in 1..4 for 5 samples of 9 numbers, got 5"):
        spectral.principal(sample(5, 9), 5)
    with pytest.raises(ValueError, match=r"square, got \(4, 5\)"):
        spectral.radial_power(torch.ones(2, 1, 4, 5))
    with pytest.raises(ValueError, match="floating"):
        spectral.radial_power(torch.ones(4, 4))
    row = torch.arange(4.0)
    with pytest.raises(ValueError, match=r"two frequencies in 2.5..3, and has 1"):
        spectral.slope(row, row, 2.5, 3)
    with pytest.raises(ValueError, match="positive frequencies and powers"):
        spectral.slope(row, row, 0, 3)
    with pytest.raises(ValueError, match="rows of one length"):
        spectral.slope(row, row[:2], 1, 3)


def test_two_neighbours_see_the_dimension_that_is_filled() -> None:
    """A flat torus of k circles fills k directions, in whatever space it is turned and scaled."""
    n, k = 2_000, 3
    angles = 2 * torch.pi * torch.rand(n, k, generator=torch.Generator().manual_seed(1), dtype=F64)
    turn = torch.linalg.qr(normal(20, 20, seed=2)).Q[: 2 * k]
    x = 7 * torch.cat([angles.sin(), angles.cos()], 1) @ turn + 50
    # the estimate has a relative standard deviation of 1 / sqrt(N)
    assert abs(spectral.two_neighbour_dimension(x) / k - 1) < 4 / n**0.5
    # all of which linear components count
    assert spectral.components_for(x) == 2 * k
    # the formula by brute force, here with few points
    few = x[:30].view(30, 4, 5)
    near = torch.cdist(x[:30], x[:30]).sort(1).values[:, 1:3]
    expected = 29 / float((near[:, 1] / near[:, 0]).log().sum())
    assert spectral.two_neighbour_dimension(few) == pytest.approx(expected, rel=1e-9)


def test_too_few_samples_or_copies_have_no_dimension() -> None:
    with pytest.raises(ValueError, match="needs 3 or more samples, got 2"):
        spectral.two_neighbour_dimension(normal(2, 4))
    with pytest.raises(ValueError, match="two samples coincide"):
        spectral.two_neighbour_dimension(normal(3, 4)[[0, 1, 2, 2]])
