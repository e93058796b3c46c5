"""Every way of allotting effort: mean weight 1 over what is drawn, and the allocation it names."""

from functools import cache
from itertools import islice, pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.special import expit
from small_training import losses, network, stream, trainer
from torch import Tensor

from erdpaper import training, weights
from erdpaper.images import weighting
from erdpaper.images.spec import SCHEDULE
from erdpaper.posterior import Gaussian, RecoverableSignal
from erdpaper.schedules import VP
from erdpaper.training import checkpoints

F64 = torch.float64
TARGETS = ("eps", "x0", "v")
T = 1000
VARIANCES = np.array([1.7, 1.2, 0.1])


@cache
def signal() -> RecoverableSignal:
    """What a Gaussian of unequal variances, of mean 1, lets anyone recover."""
    law = Gaussian(torch.zeros(3, dtype=F64), torch.from_numpy(np.diag(VARIANCES)))
    return RecoverableSignal.of(law, torch.linspace(-12, 12, 241, dtype=F64))


def objective(name: str, target: str) -> training.Objective:
    return weighting.objective(name, SCHEDULE, target, signal() if name == "recoverable" else None)


def drawn(name: str, target: str, n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Nodes 1..T of the table and weights of one batch of n."""
    batch = objective(name, target).batch(
        torch.zeros(n, 1, dtype=F64), torch.Generator().manual_seed(seed)
    )
    return (batch.t * T).round().long().numpy(), batch.weight.numpy()


def table() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """alpha, sigma and log-SNR at nodes 1..T of the cosine table, from its formula."""
    f = np.cos((np.arange(T + 1) / T + 0.008) / 1.008 * np.pi / 2) ** 2
    log_abar = np.cumsum(np.log1p(-np.minimum(1 - f[1:] / f[:-1], 0.999)))
    abar = np.exp(log_abar)
    return np.sqrt(abar), np.sqrt(1 - abar), log_abar - np.log(-np.expm1(log_abar))


ALPHA, SIGMA, LEVEL = table()
# how much an error of a target is in an error of eps, squared, at one x_t
PER_EPS = {"eps": np.ones(T), "x0": (SIGMA / ALPHA) ** 2, "v": 1 / ALPHA**2}


@cache
def shares(name: str) -> Tensor:
    """How often each node is drawn, by bisection in the uniform numbers that times are made of."""
    times = objective(name, "v").times
    edges = torch.arange(1, T, dtype=F64) / T
    low, high = torch.zeros(T - 1, dtype=F64), torch.ones(T - 1, dtype=F64)
    for _ in range(60):
        middle = (low + high) / 2
        below = times(middle) < edges
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return torch.cat([high.new_zeros(1), high, high.new_ones(1)]).diff()


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", weighting.NAMES)
def test_the_mean_weight_over_the_times_drawn_is_1(name: str, target: str) -> None:
    asked, generator = objective(name, target), torch.Generator().manual_seed(1)
    t = torch.arange(1, T + 1, dtype=F64) / T
    part = asked.weight(t) * shares(name)
    # sampled, but for the noisiest times: EDM's weight of eps grows as k^2, and a tenth of its
    # mean lies at the last three nodes, which one sample in two million meets
    batches = [asked.batch(torch.zeros(64, 1), generator) for _ in range(60)]
    means = torch.stack([(b.weight.double() * (b.t < 0.9505)).mean() for b in batches])
    error = float(means.std()) / len(means) ** 0.5
    known = float(part[:950].sum())
    assert float(means.mean()) == pytest.approx(known, abs=max(4.5 * error, 1e-6))
    exact = float(part.sum())
    rare = {("edm", "eps"): 0.02, ("edm", "x0"): 1e-3}
    assert exact == pytest.approx(1, abs=rare.get((name, target), 1e-9))


FORMULAS = {
    "uniform": lambda a, s: (np.ones(T), np.ones(T), np.ones(T)),
    "min-snr": lambda a, s: (
        np.minimum(1, 5 * s**2 / a**2),
        np.minimum(a**2 / s**2, 5),
        np.minimum(a**2, 5 * s**2),
    ),
    "p2": lambda a, s: (s**2, a**2, a**2 * s**2),
    "erd": lambda a, s: (s, a, a * s),
}


@pytest.mark.parametrize("name", FORMULAS)
def test_weights_at_uniform_times_are_their_formulas(name: str) -> None:
    for target, formula in zip(TARGETS, FORMULAS[name](ALPHA, SIGMA), strict=True):
        node, weight = drawn(name, target, 4 * T)
        # four in every cell of the table
        assert (np.bincount(node, minlength=T + 1)[1:] == 4).all()
        expected = formula[node - 1] / formula.mean()
        np.testing.assert_allclose(weight, expected, rtol=1e-9, atol=0)


def test_erd_over_log_snr_allots_its_score() -> None:
    t = torch.arange(1, T + 1, dtype=F64) / T
    inside = np.abs(LEVEL) < 10
    # the middle, where the table's log-SNR is smooth
    middle = slice(5, int(inside.nonzero()[0][-1]) - 5)
    rate = np.abs(np.gradient(LEVEL)) * T
    for target, formula in zip(TARGETS, FORMULAS["erd"](ALPHA, SIGMA), strict=True):
        weight = objective("erd-logsnr", target).weight(t).numpy()
        ratio = (weight / rate / formula)[middle]
        np.testing.assert_allclose(ratio, ratio[0], rtol=1e-9)
        assert (weight[~inside] == 0).all()


def edm_cells() -> np.ndarray:
    """How often ln k ~ N(-1.2 + ln 2, 1.2^2), cut at t = 1, lies in each cell of the table."""
    cdf = stats.norm(-1.2 + np.log(2), 1.2).cdf(-LEVEL / 2)
    return np.diff(np.concatenate([[0], cdf])) / cdf[-1]


@pytest.mark.parametrize("target", TARGETS)
def test_edm_is_its_density_of_noise_levels_times_its_weight(target: str) -> None:
    asked, cells = objective("edm", target), edm_cells()
    found = shares("edm").numpy()
    assert np.abs(found - cells).sum() < 5e-4
    # Karras et al.: W = (k^2 + s^2) / (k s)^2 on the error of x_0, for data of s = 1
    k = SIGMA / ALPHA
    raw = (k**2 + 1) / k**2 * k**2 / PER_EPS[target]
    weight = asked.weight(torch.arange(1, T + 1, dtype=F64) / T).numpy()
    np.testing.assert_allclose(weight / raw, weight[0] / raw[0], rtol=1e-9)
    assert np.allclose(weight, 1, rtol=1e-9) == (target == "v")
    # the effort of every stretch of log-SNR, where the table is not steep
    bins = np.digitize(LEVEL, np.arange(-10, 7, 0.5))
    effort, allotted = (np.bincount(bins, part)[1:-1] for part in (weight * found, raw * cells))
    np.testing.assert_allclose(effort / effort.sum(), allotted / allotted.sum(), rtol=0.02)


def test_edms_noise_levels_are_those_of_data_scaled_to_unit_variance() -> None:
    # ln sigma has mean -1.2 on data of standard deviation 1 / 2; the data doubled, so has sigma
    node, _ = drawn("edm", "v", 1 << 16)
    log_k = -LEVEL[node - 1] / 2
    assert np.median(log_k) == pytest.approx(-1.2 + np.log(2), abs=0.01)
    assert log_k.std() == pytest.approx(1.2, abs=0.02)


def test_logit_normal_times_have_the_quantiles_of_scipy() -> None:
    n = 1 << 14
    node, weight = drawn("logit-normal", "v", n, seed=4)
    u = torch.rand(n, generator=torch.Generator().manual_seed(4), dtype=F64).numpy()
    exact = expit(stats.norm.ppf((np.arange(n) + u) / n))
    # moved up to the next node
    assert ((node - T * exact) > -1e-2).all() and ((node - T * exact) < 1.01).all()
    np.testing.assert_allclose(weight, 1, rtol=1e-6)


@pytest.mark.parametrize("target", TARGETS)
def test_the_sigmoid_row_never_rises_with_log_snr_on_the_error_of_eps(target: str) -> None:
    t = torch.arange(1, T + 1, dtype=F64) / T
    weight = objective("sigmoid", target).weight(t).numpy()
    inside = np.abs(LEVEL) < 10
    assert (weight[~inside] == 0).all()
    # the rate of the first node is that towards clean data, and the last betas are clipped
    inner = inside & (t.numpy() > 0.005) & (t.numpy() < 0.995)
    rate = np.abs(np.gradient(LEVEL)) * T
    allocation = (weight * PER_EPS[target] / rate)[inner]
    assert (np.diff(allocation) >= -1e-9).all()  # log-SNR falls with t
    ratio = allocation / expit(2 - LEVEL[inner])
    np.testing.assert_allclose(ratio, ratio[0], rtol=1e-6)


@pytest.mark.parametrize("target", TARGETS)
def test_recoverable_follows_the_data(target: str) -> None:
    t = torch.arange(1, T + 1, dtype=F64) / T
    weight = objective("recoverable", target).weight(t)
    known = signal().rms(*SCHEDULE(t), target)
    torch.testing.assert_close(weight, known / known.mean(), rtol=1e-9, atol=1e-12)
    # E[y | x_t] = gain x_t in every direction of the Gaussian
    seen = (ALPHA**2)[:, None] * VARIANCES + (SIGMA**2)[:, None]
    of_x0, of_eps = ALPHA[:, None] * VARIANCES / seen, SIGMA[:, None] / seen
    gain = {
        "x0": of_x0,
        "eps": of_eps,
        "v": ALPHA[:, None] * of_eps - SIGMA[:, None] * of_x0,
    }[target]
    exact = np.sqrt((gain**2 * seen).mean(1))
    inside = np.abs(LEVEL) < 12
    expected = (exact / float(known.mean()))[inside]
    np.testing.assert_allclose(weight.numpy()[inside], expected, rtol=0, atol=2e-3)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", weighting.NAMES)
def test_effort_is_the_weight_times_how_often_a_time_is_drawn(name: str, target: str) -> None:
    asked = objective(name, target)
    t = torch.arange(1, T + 1, dtype=F64) / T
    effort = weighting.effort(asked, t)
    drawn_there = asked.weight(t) * shares(name) * T
    # a table's steep ends apart, where few or no samples fall
    inner = slice(10, -10)
    torch.testing.assert_close(effort[inner], drawn_there[inner], rtol=0.02, atol=1e-4)
    assert float(effort.mean()) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("name", weighting.TRUNCATED)
def test_soft_truncation_allots_what_its_batches_bring(name: str) -> None:
    asked, generator = weighting.objective(name, VP(), "eps"), torch.Generator().manual_seed(2)
    batches = [asked.batch(torch.zeros(64, 1, dtype=F64), generator) for _ in range(1500)]
    # one number for a batch, whose samples depend on one smallest time
    means = torch.stack([batch.weight.mean() for batch in batches])
    assert abs(float(means.mean()) - 1) < max(4.5 * float(means.std()) / 1500**0.5, 1e-12)
    assert (float(means.std()) > 0.1) == (name == "soft-truncation-nll")
    # parts of [0, 1], the first of which ends below most smallest times
    edges = torch.tensor([1e-5, 1e-3, 0.02, 0.2, 0.5, 0.9], dtype=F64)
    for low, high in pairwise(edges):
        part = torch.stack([(b.weight * ((b.t >= low) & (b.t < high))).mean() for b in batches])
        s = low.log() + (high / low).log() * (torch.arange(4000, dtype=F64) + 0.5) / 4000
        effort = weighting.effort(asked, s.exp()) * s.exp() * (high / low).log()
        assert abs(float(part.mean() - effort.mean())) < 4.5 * float(part.std()) / 1500**0.5


# ---------------------------------------------------------------- the online estimate


def online(steps: int = 120) -> weighting.OnlineLoss:
    loss = weighting.loss("online", SCHEDULE, "v", steps)
    assert isinstance(loss, weighting.OnlineLoss)
    return loss


def by_hand(net: torch.nn.Module, batch: training.Batch) -> Tensor:
    assert batch.label is not None
    error = (net(batch.x, batch.t, batch.label) - batch.y).square()
    return error.flatten(1).mean(1)


def test_the_online_loss_looks_on_first_and_then_weighs_by_its_estimate() -> None:
    loss, net, draw = online(), network(), stream()
    # it forgets over a twentieth of the run's 120 steps
    known = weights.OnlineRecoverability(SCHEDULE, "v", 1.0, rate=1 / 6)
    for step in range(1, 25):
        batch = draw(step)
        error = by_hand(net, batch).detach()
        known.update(batch.t, error)
        weight = torch.ones(8) if step <= 12 else known(batch.t)
        found = loss(net, batch).detach()
        # the weight that the batch brings does not count
        torch.testing.assert_close(found, (weight * error).mean())
        assert (step <= 12) == torch.equal(weight, torch.ones(8))


def test_the_online_weight_carries_no_gradient_of_its_own() -> None:
    loss, net, draw = online(30), network(), stream()
    for step in range(1, 4):
        loss(net, draw(step))
    batch = draw(4)
    found = torch.autograd.grad(loss(net, batch), net.parameters())  # type: ignore[arg-type]
    weight = loss.online(batch.t)
    assert float(weight.std()) > 0.1
    expected = torch.autograd.grad((weight * by_hand(net, batch)).mean(), net.parameters())  # type: ignore[arg-type]
    for mine, other in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, other)


def test_a_training_with_the_online_weight_goes_on_bit_for_bit(tmp_path: Path) -> None:
    whole = losses(trainer(loss=online(40)))
    first = trainer(loss=online(40))
    begun = [float(record.loss) for record in islice(first.run(), 7)]
    checkpoints.save(tmp_path / "half.safetensors", first)
    second = trainer(5, loss=online(40))
    checkpoints.load(tmp_path / "half.safetensors", second)
    assert begun + losses(second) == whole
    # the weight came in after the fourth step, before the break
    plain = losses(trainer(loss=online(400)))
    assert plain[:4] == whole[:4] and plain[4] != whole[4]
    kept, going = online(40), online(40)
    kept.load_state_dict(second.loss.state_dict())  # type: ignore[attr-defined]
    assert kept.seen == 12 and going.seen == 0
    again = kept.state_dict()
    assert all(torch.equal(v, again[name]) for name, v in second.loss.state_dict().items())  # type: ignore[attr-defined]


def test_only_the_online_row_has_a_loss_of_its_own() -> None:
    for name in weighting.NAMES:
        loss = weighting.loss(name, SCHEDULE, "eps", 250)
        if name == "online":
            assert isinstance(loss, weighting.OnlineLoss) and loss.first == 25
        else:
            assert loss is training.loss_of


# ---------------------------------------------------------------- what is refused


def test_bad_requests_are_one_sentence() -> None:
    for call, sentence in (
        (lambda: weighting.objective("snr", SCHEDULE, "eps"), "unknown weight 'snr'; use one of "),
        (lambda: weighting.objective("recoverable", SCHEDULE, "eps"), "signal of the data"),
        (lambda: weighting.objective("erd", SCHEDULE, "noise"), "unknown target 'noise'"),
        (
            lambda: weighting.objective("soft-truncation", VP(), "v"),
            "the weight 'soft-truncation' is one of the error of eps, not of v",
        ),
    ):
        with pytest.raises(ValueError, match=sentence) as caught:
            call()
        assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="unknown weight 'x'") as caught:
        weighting.objective("x", SCHEDULE, "eps")
    known = [*weighting.NAMES, "soft-truncation", "soft-truncation-nll"]
    assert str(caught.value).endswith(", ".join(known))
