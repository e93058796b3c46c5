import math
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from erdpaper.posterior import Empirical, GaussianMixture
from erdpaper.posterior import empirical as module

F64 = torch.float64
LEVELS = [(1.0, 0.02), (0.98, 0.2), (0.7, 0.7), (0.3, 1.0), (0.02, 1.0), (0.0, 1.0)]
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def normal(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=F64)


def clustered(n: int = 40, dim: int = 6, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Data in three groups far from the origin, with near and far neighbours, and their labels."""
    labels = torch.arange(n) % 3
    return 5 + 2 * normal(3, dim, seed=seed)[labels] + 0.3 * normal(n, dim, seed=seed + 1), labels


def queries(data: Tensor, alpha: float, sigma: float, n: int = 12) -> Tensor:
    return alpha * data[:n] + sigma * normal(n, data.shape[1], seed=9)


def by_loops(
    data: Tensor, labels: Tensor, x: Tensor, alpha: float, sigma: float
) -> tuple[Tensor, Tensor, float, float, list[float]]:
    """Posterior mean of x_0 and eps, tr Cov(x_0), log-density and classes of one point."""
    distances = [float(((x - alpha * row) ** 2).sum()) for row in data]
    least = min(distances)
    weights = [math.exp(-(d - least) / (2 * sigma**2)) for d in distances]
    total = math.fsum(weights)
    mean = sum(w / total * row for w, row in zip(weights, data, strict=True))
    pairs = list(zip(weights, data, strict=True))
    trace = math.fsum(w / total * float(((row - mean) ** 2).sum()) for w, row in pairs)
    scale = -least / (2 * sigma**2) - len(x) / 2 * math.log(2 * math.pi * sigma**2)
    chosen = [
        math.fsum(w for w, c in zip(weights, labels.tolist(), strict=True) if c == k) / total
        for k in range(int(labels.max()) + 1)
    ]
    log_density = math.log(total / len(data)) + scale
    return mean, (x - alpha * mean) / sigma, trace, log_density, chosen


@pytest.mark.parametrize(("alpha", "sigma"), LEVELS)
def test_posterior_is_the_sum_over_the_training_set(alpha: float, sigma: float) -> None:
    data, labels = clustered()
    law, x_t = Empirical(data, labels), queries(data, alpha, sigma)
    moments = law.moments(x_t, alpha, sigma)
    mean_of_v = law.posterior_mean(x_t, alpha, sigma, "v")
    trace_of_x0 = law.covariance_trace(x_t, alpha, sigma)
    scores, densities = law.score(x_t, alpha, sigma), law.log_density(x_t, alpha, sigma)
    classes = law.class_probabilities(x_t, alpha, sigma)
    for i, x in enumerate(x_t):
        x0, eps, trace, log_density, chosen = by_loops(data, labels, x, alpha, sigma)
        torch.testing.assert_close(moments.x0[i], x0, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(moments.eps[i], eps, rtol=1e-7, atol=1e-7)
        torch.testing.assert_close(mean_of_v[i], alpha * eps - sigma * x0, rtol=1e-7, atol=1e-7)
        assert float(trace_of_x0[i]) == pytest.approx(trace, rel=1e-7, abs=1e-14)
        hidden = trace * (alpha**2 + sigma**2) / sigma**2
        assert float(moments.hidden_variance[i]) == pytest.approx(hidden, rel=1e-7, abs=1e-12)
        torch.testing.assert_close(scores[i], -eps / sigma, rtol=1e-7, atol=1e-7)
        assert float(densities[i]) == pytest.approx(log_density, rel=1e-9)
        assert classes[i].tolist() == pytest.approx(chosen, abs=1e-12)


@pytest.mark.parametrize(("alpha", "sigma"), LEVELS)
def test_leaving_an_image_out_is_deleting_its_row(alpha: float, sigma: float) -> None:
    data, labels = clustered()
    law, x_t = Empirical(data, labels), queries(data, alpha, sigma)
    own = torch.arange(len(x_t))
    own[3] = -1
    left = law.moments(x_t, alpha, sigma, exclude=own)
    classes = law.class_probabilities(x_t, alpha, sigma, exclude=own)
    means = law.posterior_mean(x_t, alpha, sigma, "u", exclude=own)
    traces = law.covariance_trace(x_t, alpha, sigma, "v", exclude=own)
    scores = law.score(x_t, alpha, sigma, exclude=own)
    densities = law.log_density(x_t, alpha, sigma, exclude=own)
    for i in range(len(x_t)):
        keep = torch.arange(len(data)) != own[i]
        without = Empirical(data[keep], labels[keep])
        point = x_t[i : i + 1]
        expected = without.moments(point, alpha, sigma)
        for one, many in zip(expected, left, strict=True):
            torch.testing.assert_close(one[0], many[i], rtol=1e-7, atol=1e-9)
        torch.testing.assert_close(
            without.class_probabilities(point, alpha, sigma)[0], classes[i], rtol=1e-9, atol=1e-12
        )
        torch.testing.assert_close(
            without.posterior_mean(point, alpha, sigma, "u")[0], means[i], rtol=1e-7, atol=1e-9
        )
        trace = without.covariance_trace(point, alpha, sigma, "v")[0]
        torch.testing.assert_close(trace, traces[i], rtol=1e-7, atol=1e-9)
        score = without.score(point, alpha, sigma)[0]
        torch.testing.assert_close(score, scores[i], rtol=1e-7, atol=1e-9)
        density = without.log_density(point, alpha, sigma)[0]
        torch.testing.assert_close(density, densities[i], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("alpha", "sigma"), LEVELS)
def test_it_is_a_mixture_whose_components_have_no_width(alpha: float, sigma: float) -> None:
    data, labels = clustered()
    mixture = GaussianMixture(data, torch.zeros(len(data), dtype=F64), labels=labels)
    law, x_t = Empirical(data, labels), queries(data, alpha, sigma)
    close = {"rtol": 1e-7, "atol": 1e-9}
    torch.testing.assert_close(
        law.moments(x_t, alpha, sigma), mixture.moments(x_t, alpha, sigma), **close
    )
    for name in ("score", "log_density", "class_probabilities"):
        ours, theirs = (getattr(p, name)(x_t, alpha, sigma) for p in (law, mixture))
        torch.testing.assert_close(ours, theirs, **close)
    torch.testing.assert_close(law.second_moment(), mixture.second_moment())


@settings(max_examples=25)
@given(
    n=st.integers(2, 9),
    dim=st.integers(1, 4),
    seed=st.integers(0, 500),
    alpha=st.floats(0, 2),
    sigma=st.floats(0.05, 2),
    scale=st.floats(0.2, 5),
)
def test_only_the_ratio_of_alpha_and_sigma_matters(
    n: int, dim: int, seed: int, alpha: float, sigma: float, scale: float
) -> None:
    law = Empirical(normal(n, dim, seed=seed))
    x_t = normal(3, dim, seed=seed + 1)
    here = law.moments(x_t, alpha, sigma)
    there = law.moments(scale * x_t, scale * alpha, scale * sigma)
    torch.testing.assert_close(here, there, rtol=1e-6, atol=1e-9)


def image_like(n: int = 600) -> Tensor:
    """784 pixels in [-1, 1], a few smooth factors and a shared mean, as photographs have."""
    factors = normal(n, 8) @ normal(8, 784, seed=1)
    return torch.tanh(factors / 3 - 1 + 0.1 * normal(n, 784, seed=2))


@pytest.mark.parametrize("sigma", [1e-3, 0.02, 0.1, 0.5, 1.0, 3.0, 10.0, 100.0])
def test_float32_keeps_the_digits_of_float64(sigma: float) -> None:
    data = image_like()
    if sigma >= 0.1:
        data[1] = data[0] + 2 * sigma / 28 * normal(784, seed=3)  # a neighbour that competes
    alpha = 1 / (1 + sigma)
    sigma = sigma * alpha
    single, double = Empirical(data.float()), Empirical(data.float().double())
    x_t = queries(data, alpha, sigma, 40).float()
    ours, truth = single.moments(x_t, alpha, sigma), double.moments(x_t.double(), alpha, sigma)
    assert all(part.dtype == torch.float32 for part in ours)
    torch.testing.assert_close(ours.x0.double(), truth.x0, rtol=0, atol=2e-5)
    torch.testing.assert_close(ours.eps.double(), truth.eps, rtol=0, atol=2e-4 + 2e-7 / sigma)
    torch.testing.assert_close(
        ours.hidden_variance.double(), truth.hidden_variance, rtol=2e-2, atol=1e-4
    )
    assert (float(truth.hidden_variance[:2].max()) > 1e-3) == (sigma > 0.05)
    torch.testing.assert_close(
        single.log_density(x_t, alpha, sigma).double(),
        double.log_density(x_t.double(), alpha, sigma),
        rtol=1e-5,
        atol=1e-3,
    )


def test_queries_keep_their_dtype_and_device() -> None:
    data, labels = clustered()
    for device in DEVICES:
        for dtype in (torch.float32, F64):
            law = Empirical(data.to(device=device), labels)
            x_t = queries(data, 0.6, 0.5).to(device=device, dtype=dtype)
            results = (
                *law.moments(x_t, 0.6, 0.5, exclude=torch.arange(len(x_t))),
                law.posterior_mean(x_t, 0.6, 0.5, "eps"),
                law.score(x_t, 0.6, 0.5),
                law.log_density(x_t, 0.6, 0.5),
                law.class_probabilities(x_t, 0.6, 0.5),
            )
            assert {(part.dtype, part.device.type) for part in results} == {(dtype, device)}
            assert law.sample(3, torch.Generator().manual_seed(0)).device.type == device


def test_blocks_do_not_change_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    data, labels = clustered()
    law = Empirical(data, labels)
    alpha = torch.linspace(0.1, 0.9, 12, dtype=F64)
    x_t, own = queries(data, 0.5, 0.5), torch.arange(12)

    def answers() -> list[Tensor]:
        return [
            *law.moments(x_t, alpha, 1 - alpha, exclude=own),
            law.posterior_mean(x_t, alpha, 1 - alpha, exclude=own),
            law.log_density(x_t, alpha, 1 - alpha),
            law.class_probabilities(x_t, alpha, 1 - alpha, exclude=own),
        ]

    whole = answers()
    monkeypatch.setattr(module, "_BLOCK_BYTES", 5 * 8 * len(data))  # blocks of 5, 5 and 2
    torch.testing.assert_close(answers(), whole, rtol=1e-12, atol=1e-12)


def test_floor_meets_the_untransformed_definition() -> None:
    data, _ = clustered()
    law, n = Empirical(data), 4000
    for alpha, sigma in [(0.8, 0.5), (0.4, 0.9)]:
        x0 = data[torch.randint(len(data), (n,), generator=torch.Generator().manual_seed(7))]
        eps = normal(n, 6, seed=8)
        guess = law.posterior_mean(alpha * x0 + sigma * eps, alpha, sigma, "v")
        losses = (alpha * eps - sigma * x0 - guess).square().sum(-1)
        value, error = law.bayes_floor_estimate(alpha, sigma, "v")
        spread = math.hypot(float(losses.std()) / n**0.5, float(error))
        assert abs(float(losses.mean()) - float(value)) < 4 * spread
        assert 0 < float(error) < 0.1 * float(value)


def test_standard_error_of_the_floor_is_the_spread_of_repeats() -> None:
    law = Empirical(clustered()[0])
    runs = [
        law.hidden_variance(0.6, 0.6, n=64, generator=torch.Generator().manual_seed(seed))
        for seed in range(40)
    ]
    values = torch.stack([run.value for run in runs])
    errors = torch.stack([run.error for run in runs])
    assert float(errors.mean() / values.std()) == pytest.approx(1, abs=0.35)


def test_a_floor_does_not_depend_on_the_other_levels_asked_for() -> None:
    law = Empirical(clustered()[0])
    alpha = torch.tensor([0.9, 0.5, 0.2], dtype=F64)
    together = law.hidden_variance(alpha, 1 - alpha, n=50)
    for i in range(3):
        alone = law.hidden_variance(alpha[i], 1 - alpha[i], n=50)
        assert float(alone.value) == pytest.approx(float(together.value[i]), rel=1e-12)
        assert float(alone.error) == pytest.approx(float(together.error[i]), rel=1e-12)


def test_samples_are_training_points_drawn_evenly() -> None:
    data, _ = clustered(n=10)
    draws = Empirical(data).sample(5000, torch.Generator().manual_seed(1))
    distances = torch.cdist(draws, data)
    assert float(distances.min(-1).values.max()) < 1e-6
    counts = torch.bincount(distances.argmin(-1), minlength=10)
    assert bool(((counts - 500).abs() < 4 * 450**0.5).all())


MEMORY = """
import re, resource, torch
from pathlib import Path
from erdpaper.posterior import Empirical
torch.set_num_threads(1)
def peak():
    status = Path("/proc/self/status")
    if status.exists():  # there ru_maxrss begins with what the parent process had
        return int(re.search(r"VmHWM:\\s+(\\d+) kB", status.read_text())[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
data = torch.rand(60_000, 784)
before = peak()
law = Empirical(data, torch.arange(60_000) % 10)
x_t = data[:4].repeat(480, 1)
rows = 128 * 2**20 // (4 * 60_000)
assert len(x_t) > rows, "more than one block is needed to see them add up"
law.posterior_mean(x_t, 0.05, 1.0)
law.moments(x_t[: rows // 8], 0.5, 0.5)
print(peak() - before, data.nbytes / 2**20)
"""


def test_sixty_thousand_images_fit_in_memory() -> None:
    done = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    growth, data = (float(word) for word in done.stdout.split())
    assert data < growth < 1000, f"{growth:.0f} MiB beside the data"


EYE = torch.eye(3, dtype=F64)
LAW = Empirical(EYE)
BAD = [
    (lambda: Empirical(EYE[0]), r"shape \(N, d\) with N >= 2"),
    (lambda: Empirical(EYE[:1]), r"shape \(N, d\) with N >= 2"),
    (lambda: Empirical(EYE.int()), "must be a floating tensor"),
    (lambda: Empirical(EYE, torch.zeros(2)), "labels must be one integer of at least 0"),
    (lambda: Empirical(EYE, torch.tensor([0, 1, -1])), "labels must be one integer of at least 0"),
    (lambda: LAW.moments(EYE, 1.0, 0.0), "no density at sigma = 0"),
    (lambda: LAW.posterior_mean(EYE, 1.0, 0.0), "no density at sigma = 0"),
    (lambda: LAW.log_density(torch.zeros(2, 4), 0.5, 0.5), r"shape \(N, 3\)"),
    (lambda: LAW.moments(EYE, 0.5, 0.5, exclude=torch.tensor([0])), "exclude must hold one"),
    (lambda: LAW.moments(EYE, 0.5, 0.5, exclude=torch.tensor([0, 1, 3])), "exclude must hold one"),
    (lambda: LAW.moments(EYE, 0.5, 0.5, exclude=torch.tensor([0, 1, -2])), "exclude must hold one"),
    (lambda: LAW.bayes_floor(0.5, 0.5, "noise"), "unknown target 'noise'"),
]


@pytest.mark.parametrize(("call", "message"), BAD)
def test_a_bad_argument_gets_one_sentence(call, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
