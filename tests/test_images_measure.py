"""What is measured of a network on latents, by networks whose errors and samples are known."""

import itertools
import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import small_images
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_training import normal
from torch import Tensor, nn
from torch.func import functional_call, jacrev

from erdpaper import datasets, sampling
from erdpaper.datasets import DatasetError, Images
from erdpaper.images import data, grid, measure, probes
from erdpaper.images.measure import Sampling
from erdpaper.images.spec import SCHEDULE
from erdpaper.models.latent_mlp import LatentMLP
from erdpaper.schedules import DDPM, Schedule

F64 = torch.float64
TARGETS = ("eps", "x0", "v")
D = math.prod(data.SHAPE)


class Law:
    """Gaussian latents: mean m, covariance Q diag(l) Q^T with eigenvalues over three decades."""

    def __init__(self) -> None:
        self.basis = torch.linalg.qr(normal(D, D, seed=1, dtype=F64))[0]
        raw = torch.logspace(-2, 1, D, dtype=F64)
        self.variances = raw / raw.mean()
        self.mean = 0.3 * normal(D, seed=2, dtype=F64)

    def sample(self, n: int) -> Tensor:
        z = normal(n, D, seed=3, dtype=F64) * self.variances.sqrt()
        return self.mean + z @ self.basis.T


LAW = Law()


class Exact(nn.Module):
    """E[y | x_t] of the law, and what it was called with."""

    def __init__(self, target: str) -> None:
        super().__init__()
        self.target = target
        self.labels: list[Tensor] = []

    def forward(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        assert label is not None and label.shape == t.shape == x.shape[:1]
        self.labels.append(label)
        alpha, sigma = (c[:, None] for c in SCHEDULE(t.double()))
        centred = (x.flatten(1).double() - alpha * LAW.mean) @ LAW.basis
        share = centred / (alpha**2 * LAW.variances + sigma**2)
        x0 = LAW.mean + (alpha * LAW.variances * share) @ LAW.basis.T
        eps = (sigma * share) @ LAW.basis.T
        y = {"x0": x0, "eps": eps, "v": alpha * eps - sigma * x0}[self.target]
        return y.to(x).view_as(x)


@pytest.fixture
def gaussian(monkeypatch: pytest.MonkeyPatch) -> None:
    latents = LAW.sample(2_500).float().view(-1, *data.SHAPE)
    labels = torch.arange(2_500) % 7
    both = {"test": (latents, labels), "train": (latents[100:], labels[100:])}
    monkeypatch.setattr(data, "latents", lambda split="train": both[split])


class Levels(nn.Module):
    """The exact denoiser of a law, asked at the times of another schedule."""

    def __init__(self, path: Schedule) -> None:
        super().__init__()
        self.exact, self.path = Exact("eps"), path

    def forward(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        return self.exact(x, SCHEDULE.time(self.path.logsnr(t.double())).to(t), label)


# ---------------------------------------------------------------- errors


def test_noise_levels_are_those_of_the_schedule(gaussian: None) -> None:
    path, labels = DDPM(), torch.zeros(40, dtype=torch.long)
    mine = measure.errors(Levels(path), "eps", n=200, schedule=path)
    torch.testing.assert_close(mine, measure.errors(Exact("eps"), "eps", n=200), rtol=1e-5, atol=0)
    # the flow is the same in noise over signal; the tables end at slightly different levels
    drawn = Sampling(steps=60).draw(Levels(path), "eps", 40, labels, path)
    usual = Sampling(steps=60).draw(Exact("eps"), "eps", 40, labels)
    torch.testing.assert_close(drawn, usual, rtol=0, atol=5e-3)


def test_the_errors_of_an_exact_denoiser_are_the_closed_form(gaussian: None) -> None:
    found = {target: measure.errors(Exact(target), target) for target in TARGETS}
    # of eps the share sigma^2 / (alpha^2 l + sigma^2) is seen, in each direction
    snr = measure.LEVELS.exp()[:, None]
    left = snr * LAW.variances / (snr * LAW.variances + 1)
    # squares of D independent normals, in 2,000 samples
    error = (2 * left.square().sum(1) / 2_000).sqrt() / D
    for target in TARGETS:
        assert found[target].dtype == F64
        assert bool(((found[target] - left.mean(1)).abs() < 4.5 * error).all())
        # and one number for all targets, up to single precision
        torch.testing.assert_close(found[target], found["eps"], rtol=1e-4, atol=1e-6)
    # much closer than chance would have them: the noise is the same for all
    assert float((error / left.mean(1)).max()) > 1e-3


def test_errors_are_of_the_implied_noise_of_any_network(gaussian: None) -> None:
    class Zero(nn.Module):
        def forward(self, x: Tensor, t: Tensor, label: Tensor) -> Tensor:
            return torch.zeros_like(x)

    z = data.latents("test")[0].double()[:2_000]
    alpha, sigma = measure.LEVELS.sigmoid().sqrt(), (-measure.LEVELS).sigmoid().sqrt()
    eps, x0, v = (measure.errors(Zero(), target) for target in TARGETS)
    # eps = 0, an error of eps itself
    power, noise = float(z.square().mean()), 4.5 * math.sqrt(3 / (2_000 * D))
    torch.testing.assert_close(eps, torch.ones(9, dtype=F64), rtol=noise, atol=0)
    # x_0 = 0 means eps = x / sigma, an error of alpha x_0 / sigma
    torch.testing.assert_close(x0, (alpha / sigma).square() * power, rtol=1e-4, atol=1e-6)
    # v = 0 means eps = sigma x, an error of alpha (sigma x_0 - alpha eps)
    expected = alpha.square() * (sigma.square() * power + alpha.square())
    torch.testing.assert_close(v, expected, rtol=2 * noise, atol=0)


def test_errors_show_the_labels_and_the_split_asked_for(
    gaussian: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = Exact("v")
    whole = measure.errors(net, "v", n=1_100)
    per_level = torch.cat(net.labels).view(9, 1_100)
    assert torch.equal(per_level, (torch.arange(1_100) % 7).expand(9, -1))
    monkeypatch.setattr(measure, "_BATCH", 170)
    torch.testing.assert_close(measure.errors(net, "v", n=1_100), whole, rtol=1e-6, atol=0)
    other = measure.errors(Exact("v"), "v", "train", 1_100)
    torch.testing.assert_close(other, whole, rtol=0.02, atol=0)
    assert not torch.equal(other, whole)


def test_the_signal_of_a_gaussian_is_what_the_linear_denoiser_recovers(gaussian: None) -> None:
    grid.signal.cache_clear()
    try:
        signal = grid.signal()
    finally:
        grid.signal.cache_clear()
    assert signal.energy == pytest.approx(float(data.latents()[0].square().mean()), rel=1e-5)
    snr = signal.logsnr.exp()[:, None]
    exact = ((1 + snr) * LAW.variances / (snr * LAW.variances + 1)).mean(1)
    ratio = signal.hidden_variance / exact
    # it is estimated from 2,400 latents in 196 directions, and never below the truth but by chance
    assert float(ratio.min()) > 0.97 and float(ratio.max()) < 1.15


# ---------------------------------------------------------------- samples


N = 1_500


def whitened(how: Sampling) -> Tensor:
    """Samples of the exact denoiser in the law's own coordinates, (N, D): white if they have it."""
    z = how.draw(Exact("v"), "v", N, measure.balanced(N))
    assert z.shape == (N, *data.SHAPE) and z.dtype == torch.float32
    return (z.flatten(1).double() - LAW.mean) @ LAW.basis / LAW.variances.sqrt()


def check_independent(white: Tensor) -> None:
    """The 19,110 covariances of different coordinates, of variance near 1, are 0 but for chance."""
    covariance = white.T @ white / N
    upper = covariance[torch.triu(torch.ones(D, D), 1) > 0]
    assert float(upper.abs().max()) < 5.5 / math.sqrt(N)
    assert float(upper.std()) == pytest.approx(1 / math.sqrt(N), rel=0.1)


@pytest.mark.parametrize(
    "how", [Sampling(steps=40), Sampling("ddim", 200)], ids=lambda how: how.sampler
)
def test_samples_of_an_exact_denoiser_have_the_law(how: Sampling) -> None:
    white = whitened(how)
    # a mean of zero at the first level, where the law's is alpha m, leaves sqrt(l) m / 80
    assert float((white.mean(0) * math.sqrt(N)).abs().max()) < 5
    variances = white.square().mean(0)
    # discretisation and chance
    assert float(variances.mean()) == pytest.approx(1, abs=0.03)
    assert float((variances - 1).abs().max()) < 5 * math.sqrt(2 / N)
    check_independent(white)


def test_ancestral_samples_have_the_variance_that_their_steps_leave() -> None:
    white = whitened(Sampling("ddpm", 30))
    times = sampling.times.karras(SCHEDULE, 30, sigma_max=80.0)
    levels = [tuple(c.item() for c in SCHEDULE(t)) for t in times]
    found = torch.ones(D, dtype=F64)
    for (a, s), (a_next, s_next) in itertools.pairwise(levels):
        # q(x' | x_t, x_0) of the forward process, with E[x_0 | x_t] put in for x_0
        step = a / a_next
        fresh = s**2 - step**2 * s_next**2
        share = a * LAW.variances / (a**2 * LAW.variances + s**2)
        gain = step * s_next**2 / s**2 + a_next * fresh / s**2 * share
        found = gain**2 * found + fresh * s_next**2 / s**2
    ratio = white.square().mean(0) / (found / LAW.variances)
    assert float(ratio.mean()) == pytest.approx(1, abs=4.5 * math.sqrt(2 / (N * D)))
    assert float((ratio - 1).abs().max()) < 5 * math.sqrt(2 / N)
    check_independent(white / (found / LAW.variances).sqrt())


def test_samples_are_one_for_every_target_batch_and_network_of_one_denoiser(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    labels = measure.balanced(130)
    first = {
        name: Sampling(name, 8).draw(Exact("v"), "v", 130, labels) for name in ("heun", "ddim")
    }
    for name, expected in first.items():
        how = Sampling(name, 8)
        for target in ("eps", "x0"):
            found = how.draw(Exact(target), target, 130, labels)
            torch.testing.assert_close(found, expected, rtol=0, atol=2e-3)
        with monkeypatch.context() as patch:
            patch.setattr(measure, "_BATCH", 37)
            cut = how.draw(Exact("v"), "v", 130, labels)
        torch.testing.assert_close(cut, expected, rtol=0, atol=1e-4)
    again = Sampling("heun", 8).draw(Exact("v"), "v", 130, labels)
    assert torch.equal(again, first["heun"])
    other = Sampling("heun", 8, seed=1).draw(Exact("v"), "v", 130, labels)
    assert not torch.allclose(other, first["heun"], atol=0.1)


def test_every_sample_is_drawn_with_its_label(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "_BATCH", 20)
    labels = torch.tensor([3, 1, 4, 1, 5, 9, 2, 6, 5, 3]).repeat(5)
    net = Exact("v")
    Sampling(steps=4).draw(net, "v", 50, labels)
    # Heun asks twice a step, but once in the last
    calls = 7
    assert len(net.labels) == 3 * calls
    for k, part in enumerate(labels.split(20)):
        assert all(torch.equal(seen, part) for seen in net.labels[k * calls : (k + 1) * calls])
    assert torch.bincount(measure.balanced(1_000)).tolist() == [100] * 10


def test_the_noisiest_level_is_the_one_asked_for() -> None:
    times: list[float] = []

    class Recording(Exact):
        def forward(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
            times.append(float(t[0]))
            return super().forward(x, t, label)

    for sigma_max, expected in ((80.0, 80.0), (5.0, 5.0), (1e6, None)):
        times.clear()
        Sampling(steps=3, sigma_max=sigma_max).draw(Recording("v"), "v", 2, torch.zeros(2).long())
        if expected is None:
            assert times[0] == 1
        else:
            assert float((-SCHEDULE.logsnr(times[0]) / 2).exp()) == pytest.approx(
                expected, rel=1e-3
            )
    with pytest.raises(ValueError, match="unknown sampler 'euler'; use heun, ddim or ddpm"):
        Sampling("euler").draw(Exact("v"), "v", 2, torch.zeros(2).long())


# ---------------------------------------------------------------- quality


class Identity:
    """An autoencoder that has nothing to do."""

    def decode(self, z: Tensor) -> Tensor:
        return z


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Iterator[Images]:
    """The first 1,000 test images in place of all, and the kept classifier."""
    small_images.forget()
    test = datasets.fashion_mnist("test")
    first = Images(test.images[:1_000], test.labels[:1_000])
    monkeypatch.setattr(datasets, "fashion_mnist", lambda split: {"test": first}[split])
    monkeypatch.setattr(data, "autoencoder", Identity)
    yield first
    small_images.forget()


def test_the_test_images_are_as_good_as_themselves(seen: Images) -> None:
    found = measure.quality(seen.images, seen.labels)
    assert found["fd"] == pytest.approx(0, abs=1e-8)
    with torch.no_grad():
        logits = data.classifier()(seen.images)
    right = (logits.argmax(1) == seen.labels).double().mean()
    assert found["agreement"] == pytest.approx(float(right), abs=1e-12)
    assert found["agreement"] > 0.88
    assert found["precision"] == found["recall"] == 1
    found_shares = torch.bincount(logits.argmax(1), minlength=10).double() / 1_000
    imbalance = float((found_shares - 0.1).abs().sum()) / 2
    assert found["imbalance"] == pytest.approx(imbalance, abs=1e-9) and imbalance > 0
    assert tuple(found) == measure.QUALITIES
    # without the pairs of an image with itself on one side only, the kernel distance is negative
    features = measure.reference()
    assert features.shape == (1_000, 128) and features.dtype == F64
    gram = (features @ features.T / 128 + 1) ** 3
    within = (gram.sum() - gram.diag().sum()) / (1_000 * 999)
    expected = 2 * within - 2 * gram.mean()
    assert found["kd"] == pytest.approx(float(expected), rel=1e-6) and found["kd"] < 0


def test_worse_images_are_farther_and_fewer_are_recognised(seen: Images) -> None:
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(seen.images.shape, generator=generator)
    found = [measure.quality(seen.images + s * noise, seen.labels) for s in (0.1, 0.3, 1.0)]
    for worse, better in zip(found[1:], found, strict=False):
        assert worse["fd"] > better["fd"] > 0 and worse["kd"] > better["kd"]
        assert worse["agreement"] < better["agreement"]
        assert worse["precision"] < better["precision"] <= 1
    # other labels, the same images
    shifted = measure.quality(seen.images, (seen.labels + 1) % 10)
    assert shifted["agreement"] < 0.05 and shifted["fd"] == pytest.approx(0, abs=1e-8)


def test_samples_at_infinity_have_no_quality(seen: Images) -> None:
    for value in (math.nan, math.inf):
        z = seen.images[:20].clone()
        z[3, 0, 5, 5] = value
        assert measure.quality(z, seen.labels[:20]) == dict.fromkeys(measure.QUALITIES)


def test_images_are_looked_at_as_a_display_shows_them(
    seen: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    wide = seen.images[:100] * 3
    look = measure.look(wide)
    with torch.no_grad():
        features = data.classifier().features(wide.clamp(-1, 1))
    torch.testing.assert_close(look.features, features)
    torch.testing.assert_close(look.logits, data.classifier().readout(features))
    monkeypatch.setattr(measure, "_BATCH", 33)
    torch.testing.assert_close(measure.look(wide).features, look.features, rtol=1e-4, atol=1e-5)
    moments = measure.reference_moments()
    features = measure.reference()
    torch.testing.assert_close(moments.mean, features.mean(0))
    torch.testing.assert_close(moments.covariance, torch.cov(features.T))


def test_a_summary_is_the_quality_of_balanced_samples(
    seen: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Blank(nn.Module):
        """Denoises to one image for every class: the mean of its test images."""

        def forward(self, x: Tensor, t: Tensor, label: Tensor) -> Tensor:
            return torch.stack([seen.images[seen.labels == c].mean(0) for c in range(10)])[label]

    monkeypatch.setattr(data, "SHAPE", (1, 28, 28))
    found = measure.summary(Blank(), "x0", 40)
    means = torch.stack([seen.images[seen.labels == c].mean(0) for c in range(10)])
    labels = torch.arange(40) % 10
    # rounding aside, samples are what the denoiser says last
    expected = measure.quality(means[labels], labels)
    assert found["fd"] == pytest.approx(expected["fd"], rel=1e-3)
    assert found["agreement"] == expected["agreement"] > 0.6


# ---------------------------------------------------------------- latents as bytes

latents = st.lists(st.floats(-8, 8, width=32), min_size=1, max_size=20).map(torch.tensor)


@given(latents)
def test_bytes_keep_latents_to_half_a_step(z: Tensor) -> None:
    stored = data.to_bytes(z)
    assert stored.dtype == torch.uint8
    back = data.from_bytes(stored)
    nearest = z.double().clamp(-5.3125, 5.3125)
    assert float((back.double() - nearest).abs().max()) <= 0.5 / 24 + 1e-6
    # order is kept, and what came back stays
    order = z.argsort()
    assert bool((back[order].diff() >= 0).all())
    assert torch.equal(data.to_bytes(back), stored)


def test_every_byte_is_a_latent_of_its_own() -> None:
    every = torch.arange(256).to(torch.uint8)
    expected = torch.arange(256, dtype=F64) / 24 - 5.3125
    torch.testing.assert_close(data.from_bytes(every).double(), expected, rtol=0, atol=1e-6)
    assert torch.equal(data.to_bytes(data.from_bytes(every)), every)
    spread = normal(100_000, seed=5)
    error = (data.from_bytes(data.to_bytes(spread)) - spread).std()
    assert float(error) == pytest.approx(0.012, abs=2e-4)


def test_kept_latents_are_those_of_the_encoder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        small_images.install(patch)
        coder, shown = data.autoencoder(), small_images.images()
        coder.fit_scale(shown.images)
        with torch.no_grad():
            z = coder.encode(shown.images)
        data.write_latents(tmp_path / data.FOLDER / "latents-test.safetensors", coder, shown)
    monkeypatch.setenv("ERDPAPER_DATA", str(tmp_path))
    data.latents.cache_clear()
    try:
        kept, labels = data.latents("test")
        assert kept.dtype == torch.float32 and torch.equal(labels, shown.labels)
        assert float((kept - z.clamp(-5.3125, 5.3125)).abs().max()) <= 0.5 / 24 + 1e-5
        with pytest.raises(DatasetError, match=r"latents-train\.safetensors is missing") as caught:
            data.latents("train")
        assert "erdpaper train --preset fashion-autoencoder" in str(caught.value)
        with pytest.raises(ValueError, match="split must be one of train, test, not 'valid'"):
            data.latents("valid")
    finally:
        data.latents.cache_clear()


# ---------------------------------------------------------------- what hidden layers know


@pytest.fixture
def clouds(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    small_images.install(monkeypatch)
    yield
    small_images.forget()


def test_probed_latents_are_noised_alike_for_every_network(clouds: None) -> None:
    for split in ("train", "test"):
        z, known = data.latents(split)
        noises = []
        for logsnr in probes.LEVELS:
            x, t, labels = probes.noisy(split, logsnr, 500)
            assert torch.equal(labels, known[:500])
            assert float(SCHEDULE.logsnr(t[0].double())) == pytest.approx(logsnr, abs=1e-3)
            alpha, sigma = (
                math.sqrt(1 / (1 + math.exp(-logsnr))),
                math.sqrt(1 / (1 + math.exp(logsnr))),
            )
            noises.append(((x - alpha * z[:500]) / sigma).flatten())
            assert float(noises[-1].std()) == pytest.approx(1, abs=4.5 / math.sqrt(2 * 500 * D))
            assert torch.equal(probes.noisy(split, logsnr, 500)[0], x)
        # new at every level
        together = torch.corrcoef(torch.stack(noises)).fill_diagonal_(0)
        assert float(together.abs().max()) < 5 / math.sqrt(500 * D)
    first, other = (probes.noisy(split, 0.0, 5)[0] for split in ("train", "test"))
    assert not torch.allclose(first - other, torch.zeros(()), atol=0.1)


def test_hidden_layers_know_the_class_where_the_noise_leaves_it(
    clouds: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probes, "LEVELS", (-8.0, 4.0))
    torch.manual_seed(0)
    net = LatentMLP.from_name("MLP-latent-S", width=196, depth=2, embedding=8)
    with torch.no_grad():
        # nothing is lost: the blocks of a new network are the identity
        net.first.weight.copy_(torch.eye(D))
        net.first.bias.zero_()
    found, of_input = probes.measured(net, 300), probes.of_input(300)
    assert found["linear"].keys() == {"blocks.0", "blocks.1"} == set(probes.layers(net))
    for name in found["linear"]:
        assert found["linear"][name] == pytest.approx(of_input["linear"], abs=0.01)
    assert found["neighbours"] == pytest.approx(of_input["neighbours"], abs=0.01)
    assert found["cka"] == pytest.approx(of_input["cka"], abs=1e-3)
    # a tenth by chance, all without much noise
    for accuracies in (of_input["linear"], of_input["neighbours"]):
        assert abs(accuracies[0] - 0.1) < 4.5 * math.sqrt(0.09 / 300)
        assert accuracies[1] > 0.95
    assert abs(of_input["cka"][0]) < 0.1 and of_input["cka"][1] > 0.9


def test_the_kernel_of_a_network_is_that_of_its_jacobian(
    clouds: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probes, "KERNEL_LEVELS", (0.0,))
    torch.manual_seed(0)
    net = LatentMLP.from_name("MLP-latent-S", width=8, depth=1, embedding=4)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    x, t, labels = probes.noisy("test", 0.0, 3)
    parameters = {name: part.detach() for name, part in net.named_parameters()}
    jacobian = jacrev(lambda own: functional_call(net, own, (x, t, labels)).flatten())(parameters)
    rows = torch.cat([part.flatten(1) for part in jacobian.values()], 1).double()
    values = torch.linalg.eigvalsh(rows @ rows.T / 3).numpy()
    found = probes.kernel(net, 3, 4)
    assert found["values"][0] == pytest.approx(values[:-5:-1].tolist(), rel=1e-4)
    # estimated beyond the first four
    assert abs(found["trace"][0] - values.sum()) < 5 * found["trace_error"][0]
    assert found["trace"] == pytest.approx([values.sum()], rel=0.1)
