"""The enclosure of a law's floor, the linear denoiser's loss, and the recoverable signal."""

import pytest
import torch

from erdpaper import posterior, targets, weights
from erdpaper.schedules import signal_and_noise

TOY = posterior.GaussianMixture.square()
STANDARD = TOY.standardised()
LEVELS = torch.tensor([-5.0, -2.0, 0.0, 2.0, 12.0], dtype=torch.float64)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_linear_loss_on_other_data_is_what_sampling_finds() -> None:
    # data with another mean and covariance than the denoiser was fitted to
    data = TOY.sample(500, generator(0)) @ torch.tensor([[1.0, 0.4], [0.0, 0.5]]).double() + 0.7
    linear = posterior.Gaussian.fitted(TOY.sample(300, generator(1)))
    n = 200_000
    x0 = data[torch.randint(len(data), (n,), generator=generator(2))]
    eps = torch.randn(n, 2, generator=generator(3), dtype=torch.float64)
    for alpha, sigma in ((0.9, 0.3), (0.5, 0.5), (0.1, 1.4)):
        guess = linear.moments(alpha * x0 + sigma * eps, alpha, sigma)
        r = (alpha**2 + sigma**2) ** 0.5
        missed = (sigma * (x0 - guess.x0) - alpha * (eps - guess.eps)) / r
        errors = missed.square().sum(-1)
        error = errors.std() / n**0.5
        assert abs(linear.hidden_loss(data, alpha, sigma) - errors.mean()) < 4 * error


def test_linear_loss_on_its_own_data_is_its_floor() -> None:
    data = TOY.sample(50, generator(4))
    linear = posterior.Gaussian.fitted(data)
    at = signal_and_noise(LEVELS, "vp")
    assert torch.allclose(linear.hidden_loss(data, *at), linear.hidden_variance(*at).value)


def test_the_enclosure_holds_the_known_floor_of_the_law() -> None:
    train, other = TOY.sample(2_000, generator(5)), TOY.sample(2_000, generator(6))
    index = torch.randperm(len(train), generator=generator(7))[:1_000]
    found = posterior.enclose(posterior.Empirical(train), index, LEVELS, other, generator(8))
    floor = TOY.hidden_variance(*signal_and_noise(LEVELS, "vp")).value
    assert (found.lower.value < floor + 4 * found.lower.error).all()
    # the ends are ordered on average over training sets; one set of 2,000 is off by a per cent
    assert (found.upper.value > 0.98 * floor - 4 * found.left_out.error).all()
    # the linear denoiser as control variate takes most of the spread away at high noise
    plain = found.unseen[0].std() / 1_000**0.5
    assert found.left_out.error[0] < 0.1 * plain
    assert torch.equal(found.upper.value, found.left_out.value.minimum(found.linear))
    assert found.left_out.value[-1] > 10 * found.linear[-1]
    # at low noise 2,000 points are memorised; at high noise both ends agree
    assert found.lower.value[-1] < 0.3 * floor[-1]
    assert found.width.value[0] < 0.02 * floor[0]


def test_left_out_errors_are_those_of_a_training_set_without_the_query() -> None:
    train = TOY.sample(30, generator(9))
    index, level = torch.tensor([3, 11]), torch.tensor([1.0], dtype=torch.float64)
    found = posterior.enclose(posterior.Empirical(train), index, level, train, generator(10))
    alpha, sigma = signal_and_noise(level[0], "vp")
    eps = torch.randn(2, 2, generator=generator(10), dtype=torch.float64)
    for row, own in enumerate(index.tolist()):
        x_t = (alpha * train[own] + sigma * eps[row])[None]
        rest = torch.cat([train[:own], train[own + 1 :]])
        weight = (-(x_t - alpha * rest).square().sum(-1) / (2 * sigma**2)).softmax(0)
        missed = (train[own] - weight @ rest) / sigma
        assert torch.allclose(found.unseen[0, row], missed.square().sum())


def test_a_subset_has_the_chosen_queries_in_order() -> None:
    train = TOY.sample(40, generator(11))
    labels = torch.arange(40)
    data = posterior.Empirical(train, labels)
    found = posterior.enclose(data, labels[:6], LEVELS, train, generator(12))
    again = found.subset(torch.tensor([4, 1, 1]))
    assert again.labels.tolist() == [4, 1, 1]
    assert torch.equal(again.unseen, found.unseen[:, [4, 1, 1]])
    assert torch.equal(again.linear, found.linear)


def test_too_few_queries_are_refused() -> None:
    train = TOY.sample(40, generator(13))
    with pytest.raises(ValueError, match="at least 2 training indices"):
        posterior.enclose(posterior.Empirical(train), torch.tensor([1]), LEVELS, train)


@pytest.mark.parametrize("target", targets.ALL, ids=lambda target: target.name)
def test_recoverable_signal_is_the_exact_one_between_the_nodes(target: targets.Target) -> None:
    nodes = torch.arange(-14, 14.01, 0.5, dtype=torch.float64)
    signal = posterior.RecoverableSignal.of(TOY, nodes)
    alpha, sigma = signal_and_noise(torch.linspace(-9.1, 8.7, 9, dtype=torch.float64), "linear")
    exact = (TOY.recoverable_energy(alpha, sigma, target) / 2).sqrt()
    assert torch.allclose(signal.rms(alpha, sigma, target), exact, atol=5e-3)


@pytest.mark.parametrize("target", targets.ALL, ids=lambda target: target.name)
def test_standardised_signal_is_that_of_the_standardised_data(target: targets.Target) -> None:
    nodes = torch.arange(-14, 14.01, 0.5, dtype=torch.float64)
    moved = posterior.RecoverableSignal.of(TOY, nodes).standardised(4.09)
    direct = posterior.RecoverableSignal.of(STANDARD, nodes)
    at = signal_and_noise(torch.linspace(-8, 8, 33, dtype=torch.float64), "vp")
    assert torch.allclose(moved.rms(*at, target), direct.rms(*at, target), atol=5e-3)


def test_total_variation_counts_what_must_move() -> None:
    first, second = torch.tensor([1.0, 1.0, 0.0, 0.0]), torch.tensor([0.0, 5.0, 5.0, 0.0])
    assert float(weights.total_variation(first, second)) == pytest.approx(0.5)
    assert float(weights.total_variation(first, 3 * first)) == pytest.approx(0.0)
    assert float(weights.total_variation(first, first.flip(0))) == pytest.approx(1.0)


@pytest.mark.parametrize("logsnr", [-6.0, -1.0, 1.0, 6.0])
def test_left_out_is_the_moments_with_and_without_the_own_image(logsnr: float) -> None:
    data = torch.randn(300, 5, dtype=torch.float64, generator=generator(3))
    law, own = posterior.Empirical(data), torch.arange(0, 300, 7)
    alpha, sigma = (float(c) for c in signal_and_noise(torch.tensor(logsnr).double(), "vp"))
    noise = torch.randn(len(own), 5, dtype=torch.float64, generator=generator(4))
    x_t = alpha * data[own] + sigma * noise
    mean, hidden = law.left_out(x_t, alpha, sigma, own)
    others = law.moments(x_t, alpha, sigma, exclude=own)
    torch.testing.assert_close(mean, others.x0, rtol=0, atol=1e-9)
    whole = law.moments(x_t, alpha, sigma).hidden_variance
    torch.testing.assert_close(hidden, whole, rtol=1e-9, atol=1e-9)
