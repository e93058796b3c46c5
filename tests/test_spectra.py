import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from erdpaper import ntk
from erdpaper.datasets import DatasetError
from erdpaper.dynamics import Samples, tangent
from erdpaper.models.mlp import MLP
from erdpaper.toys import (
    LAW,
    SCHEDULES,
    Toy,
    closure,
    clusters,
    kept_spectra,
    kernels,
    lazy,
    modes,
    networks,
    spectra,
)
from erdpaper.toys.points import TIMES, cloud

TOY = Toy("v", "GVP", steps=5, width=32)


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def small(seed: int = 0, scale: float = 1.0) -> MLP:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return MLP(width=24, time_scale=scale).double().requires_grad_(False)


# ---------------------------------------------------------------- points


def test_points_are_those_of_the_toy_and_always_the_same() -> None:
    points = cloud("linear", 0.1)
    alpha, sigma = SCHEDULES["linear"](0.1)
    noise = (points.x - alpha * LAW.means[points.cluster]) / torch.hypot(0.3 * alpha, sigma)
    assert float(noise.abs().max()) < 5 and abs(float(noise.std()) - 1) < 0.15
    assert points.cluster.bincount(minlength=4).min() > 40
    cloud.cache_clear()
    assert torch.equal(cloud("linear", 0.1).x, points.x)
    for other in (cloud("linear", 0.1, draw=1), cloud("linear", 0.2), cloud("GVP", 0.1)):
        assert not torch.equal(other.x, points.x)
    exact = LAW.posterior_mean(points.x, alpha, sigma, "u")
    assert torch.equal(points.bayes("u"), exact)


def test_the_chance_to_be_right_is_what_counting_estimates() -> None:
    points = cloud("linear", 0.7, 20_000)
    guess = points.probabilities.argmax(-1)
    for classes in (guess, torch.zeros_like(guess)):
        counted = float((classes == points.cluster).double().mean())
        assert abs(counted - clusters.accuracy(classes, points)) < 4.5 * 0.5 / 20_000**0.5
    assert clusters.best_accuracy(points) == clusters.accuracy(guess, points)
    assert 0.4 < clusters.best_accuracy(points) < 0.9


# ---------------------------------------------------------------- kernels


@pytest.mark.parametrize("scale", [1.0, 1_000.0])
def test_eigenvalues_and_rank_are_those_of_the_jacobian(scale: float) -> None:
    network, x = small(scale=scale), cloud("VP", 0.3, 8).x
    # singular values of J itself, (N d, P), one autograd pass a row: no kernel code involved
    rows = []
    network.requires_grad_(True)
    for out in network(x, torch.tensor(0.3, dtype=torch.float64)).flatten():
        parts = torch.autograd.grad(out, list(network.parameters()), retain_graph=True)
        rows.append(torch.cat([p.flatten() for p in parts]))
    expected = np.linalg.svd(torch.stack(rows).numpy(), compute_uv=False) ** 2 / 8
    blocks = kernels.kernel(network, "VP", 0.3, 8)
    values = ntk.spectrum(blocks).values
    np.testing.assert_allclose(values, expected, rtol=1e-8, atol=1e-10 * expected[0])
    assert ntk.effective_rank(values) == pytest.approx(np.exp(stats.entropy(expected)))


@pytest.mark.parametrize("parameterisation", ["standard", "ntk"])
def test_doubling_keeps_the_network_and_its_time_embedding(
    parameterisation: Literal["standard", "ntk"],
) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = MLP(width=16, time_scale=1_000.0, parameterisation=parameterisation)
    twin = kernels.double(network)
    assert next(network.parameters()).dtype == torch.float32 == network.embed.frequencies.dtype
    assert network.readout.weight.requires_grad and not twin.readout.weight.requires_grad
    assert next(twin.parameters()).dtype == torch.float64 == twin.embed.frequencies.dtype
    assert kernels.double(twin) is twin
    x, t = drawn(0, 5, 2), torch.linspace(0, 1, 5, dtype=torch.float64)
    torch.testing.assert_close(
        twin(x, t).float(), network(x.float(), t.float()).detach(), rtol=1e-3, atol=1e-4
    )


def test_the_rate_is_that_at_which_training_at_one_level_contracts() -> None:
    network, points = small(), cloud("GVP", 0.4, 32)
    t, bayes = torch.full((32,), 0.4, dtype=torch.float64), points.bayes("x0")
    r = network(points.x, t) - bayes
    found = kernels.rate(kernels.kernel(network, "GVP", 0.4, 32), r)
    network.requires_grad_(True)
    loss = (network(points.x, t) - bayes).square().sum(-1).mean()
    slope = torch.autograd.grad(loss / 2, list(network.parameters()))
    # d/dtau of the loss under d theta / d tau = -grad(loss / 2) is -2 <r, Theta r>
    contraction = sum(float(g.square().sum()) for g in slope) / float(loss.detach())
    assert found == pytest.approx(contraction, rel=1e-9)


def test_cosines_of_clusters_that_are_known() -> None:
    cluster = torch.tensor([0, 0, 1, 1])
    vectors = torch.tensor([[2.0, 0], [1, 0], [0, 1], [1, 1]], dtype=torch.float64)
    found = kernels.cosines(kernels.directions(vectors), cluster)
    half = 0.5**0.5
    assert found.within == pytest.approx((1 + half) / 2)
    assert found.between == pytest.approx(half / 2)
    assert found.overall == pytest.approx((1 + 3 * half) / 6)
    top = float(torch.linalg.eigvalsh(kernels.directions(vectors))[-1])
    assert found.share == pytest.approx(top / 4)
    assert kernels.cosines(torch.ones(4, 4), cluster) == (1, 1, 1, pytest.approx(1))


# ---------------------------------------------------------------- features


def test_the_plane_is_that_of_principal_components() -> None:
    h = drawn(1, 50, 6) * torch.tensor([3.0, 1, 2, 0.1, 0.1, 0.1]) + 5
    fig9 = clusters.plane(h)
    centred = (h - h.mean(0)).numpy()
    expected = np.linalg.svd(centred)[2][:2]
    for mine, theirs in zip(fig9.axes.numpy(), expected, strict=True):
        assert abs(mine @ theirs) == pytest.approx(1)
    assert float(fig9.axes.gather(1, fig9.axes.abs().argmax(1, keepdim=True)).min()) > 0
    shown = fig9.project(h)
    torch.testing.assert_close(shown.mean(0), torch.zeros(2).double(), atol=1e-9, rtol=0)
    assert float(shown[:, 0].var()) > float(shown[:, 1].var())


def test_scatter_adds_up_and_knows_clusters() -> None:
    cluster = torch.arange(4).repeat_interleave(500)
    h = LAW.means[cluster] + 0.3 * drawn(2, 2_000, 2)
    found = clusters.scatter(h, cluster)
    total = float((h - h.mean(0)).square().sum(-1).mean())
    assert found.within + found.between == pytest.approx(total)
    assert found.within == pytest.approx(2 * 0.09, rel=0.1)
    assert found.between == pytest.approx(8, rel=0.02) and found.ratio == pytest.approx(44, rel=0.1)
    assert clusters.scatter(h, cluster.flip(0).roll(250)).ratio < found.ratio / 5


def test_a_probe_finds_what_is_linear_and_is_least_squares() -> None:
    cluster = torch.arange(4).repeat_interleave(50)
    h = LAW.means[cluster] + 0.3 * drawn(3, 200, 2)
    labels = torch.nn.functional.one_hot(cluster).double()
    assert torch.equal(clusters.probe(h, labels, h), cluster)
    features, fresh, answers = drawn(4, 60, 5), drawn(5, 30, 5), drawn(6, 60, 4)
    one, other = (np.c_[part.numpy(), np.ones(len(part))] for part in (features, fresh))
    map_ = np.linalg.lstsq(one, answers.numpy(), rcond=None)[0]
    assert (clusters.probe(features, answers, fresh).numpy() == (other @ map_).argmax(1)).all()
    blind = clusters.probe(torch.zeros(200, 3).double(), labels, torch.zeros(200, 3).double())
    assert len(blind.unique()) == 1


# ---------------------------------------------------------------- the kept numbers


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A work folder with one network of a few steps, and its measured line."""
    work = tmp_path_factory.mktemp("work")
    file = networks.file_of(TOY, work / "networks")
    file.parent.mkdir()
    file.write_bytes(networks._weights(TOY))  # type: ignore[arg-type]
    return work, spectra._line(TOY, work / "networks")


def test_a_line_holds_every_number_at_every_time(line: tuple[Path, str]) -> None:
    found = json.loads(line[1])
    assert Toy.from_dict(found) == TOY and len(found["drift"]) == len(TIMES)
    for state, network in (
        ("untrained", TOY.network()),
        ("trained", networks.load(TOY, line[0] / "networks")),
    ):
        numbers = found[state]
        assert np.shape(numbers["joint"]) == (13, 13)
        assert np.shape(numbers["eigenvalues"]) == (13, 3)
        points = cloud("GVP", TIMES[7])
        blocks = kernels.kernel(network, "GVP", TIMES[7])
        values = ntk.spectrum(blocks).values
        assert numbers["eigenvalues"][7] == pytest.approx(values[:3].tolist(), rel=1e-5)
        assert numbers["trace"][7] == pytest.approx(float(values.sum()), rel=1e-5)
        assert numbers["rank"][7] == pytest.approx(ntk.effective_rank(values), rel=1e-5)
        t = torch.full((len(points.x),), TIMES[7], dtype=torch.float64)
        r = kernels.double(network)(points.x, t).detach() - points.bayes("v")
        assert numbers["rate"][7] == pytest.approx(kernels.rate(blocks, r), rel=1e-5)
        assert numbers["excess"][7] == pytest.approx(float(r.square().sum(-1).mean()), rel=1e-5)
        gram = kernels.cosines(ntk.normalised(blocks), points.cluster)
        for name, value in gram._asdict().items():
            assert numbers[name][7] == pytest.approx(value, rel=1e-5)
        h = clusters.features(network, "GVP", TIMES[7])
        parts = clusters.scatter(h, cloud("GVP", TIMES[7], len(h)).cluster)
        assert numbers["scatter_between"][7] == pytest.approx(parts.between, rel=1e-5)
        fit, test = (cloud("GVP", TIMES[7], len(h), draw) for draw in (0, 1))
        fresh = clusters.features(network, "GVP", TIMES[7], draw=1)
        classes = clusters.probe(h, fit.probabilities, fresh)
        assert numbers["probe"][7] == pytest.approx(clusters.accuracy(classes, test), rel=1e-5)
        labels = torch.nn.functional.one_hot(fit.cluster, 4).double()
        guess = clusters.probe(h, labels, fresh)
        share = float(test.probabilities[torch.arange(len(guess)), guess].mean())
        assert numbers["probe_labels"][7] == pytest.approx(share, rel=1e-5)
        # the plane of t = 0.1 by singular vectors; middles in it, from its origin and from h = 0
        early = clusters.features(network, "GVP", 0.1).numpy()
        axes = np.linalg.svd(early - early.mean(0), full_matrices=False)[2][:2]
        middles = np.stack([h[fit.cluster == c].numpy().mean(0) for c in range(4)])
        for name, origin in (("from_mean", early.mean(0)), ("from_zero", 0.0)):
            expected = np.linalg.norm((middles - origin) @ axes.T, axis=1).mean()
            assert numbers[name][7] == pytest.approx(expected, rel=1e-5)
    drift = ntk.drift(*(kernels.kernel(n, "GVP", TIMES[0]) for n in (TOY.network(), network)))
    assert found["drift"][0] == pytest.approx(drift, rel=1e-5)


def test_what_is_collected_reads_back(
    line: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work, text = line
    (work / f"{TOY.key}.json").write_text(text)
    monkeypatch.setattr(networks, "wanted", lambda: [TOY])
    spectra.collect(work, tmp_path, 1)
    kept = kept_spectra.load(tmp_path)
    (result,) = kept.seeds("v", "GVP")
    numbers = json.loads(text)["trained"]
    assert kept.card["networks"] == 1 and result.toy == TOY
    assert result.at("rank", 0.95) == numbers["rank"][11]
    assert result.at("eigenvalues", 0.02) == numbers["eigenvalues"][0][0] == float(result.top()[0])
    matrix = result.coupling()
    off = matrix[~torch.eye(13, dtype=torch.bool)]
    assert result.coupled() == pytest.approx(float(off.mean())) and 0 < float(off.max()) <= 1
    again = networks.load(TOY, tmp_path / "networks")
    assert torch.equal(again.readout.weight, networks.load(TOY, work / "networks").readout.weight)
    with pytest.raises(LookupError, match=r"no kept network has v, VP, 1\.0"):
        kept.seeds("v", "VP")
    with pytest.raises(DatasetError, match="erdpaper kernels"):
        kept_spectra.load(tmp_path / "nowhere")


def test_the_kept_numbers_are_those_of_the_kept_networks() -> None:
    kept = kept_spectra.load()
    assert len(kept.results) == kept.card["networks"] == 72
    for toy in spectra.kept_networks()[::5]:
        result = kept.seeds(toy.target, toy.schedule)[0]
        network = networks.load(toy)
        for t in (0.05, 0.95):
            blocks = kernels.kernel(network, toy.schedule, t)
            values = ntk.spectrum(blocks).values
            assert result.at("eigenvalues", t) == pytest.approx(float(values[0]), rel=1e-5)
            assert result.at("rank", t) == pytest.approx(ntk.effective_rank(values), rel=1e-5)


def test_drift_along_a_training_begins_at_zero_and_grows() -> None:
    toy = replace(TOY, steps=40)
    network, drift = lazy.drifting(toy, (0, 5, 40), (0.05, 0.95), points=32)
    assert drift.shape == (3, 2) and float(drift[0].max()) == 0
    assert bool((drift[2] > drift[1]).all())
    before, after = (kernels.kernel(n, "GVP", 0.95, 32) for n in (toy.network(), network))
    assert float(drift[2, 1]) == pytest.approx(ntk.drift(before, after))


# ---------------------------------------------------------------- Theorem 3.8 on the toy


def test_modes_of_the_network_follow_their_equation() -> None:
    found = modes.modal_flow("u", -4.0, 0, points=16)
    assert max(found) < 1e-7
    assert modes.parseval(small(), "x0", 0.0, points=16) < 1e-12


def test_the_surrogate_is_its_equation_in_function_space() -> None:
    sizes = {"points": 6, "steps": 5, "step": 0.5, "batch": 3}
    runs = modes.surrogate(["eps", "x0"], 1, [0.0], **sizes)  # type: ignore[arg-type]
    for target in ("eps", "x0"):
        run, law, network = runs[target, 0.0], modes.law_of(target), modes.untrained(1)
        here, there = law.at(0.0, 6, modes.stream(1, 1, 0)), law.draw(15, modes.stream(1, 2))
        theta = ntk.layerwise(network, (here.x, here.t))
        K = theta.permute(0, 2, 1, 3).reshape(12, 12) / 6
        r, M = (network(here.x, here.t) - here.bayes).flatten(), float(here.weight[0])
        cross = ntk.layerwise(network, (here.x, here.t), (there.x, there.t))
        for k in range(5):
            part = slice(3 * k, 3 * k + 3)
            noise = there.weight[part, None] * there.xi[part]
            pushed = -torch.einsum("nbde,be->nd", cross[:, part], noise).flatten() / 3
            for _ in range(4_000):
                r = r + 0.5 / 4_000 * (pushed - M * K @ r)
            energy = M / 2 * float(r.square().sum()) / 6
            assert float(run.excess[k + 1]) == pytest.approx(energy, rel=1e-3)
        over = (run.excess / run.bounds)[:, 1:]
        assert run.worst == float(over.max()) <= 1 + 1e-9
        assert run.later == float(over[:, len(run.times) // 2 - 1 :].max())
        assert float(run.times[-1]) == 2.5
        assert run.informative == float(run.bounds[:, -1].min() / run.excess[0])


def test_the_distance_of_drifts_does_not_know_their_scale() -> None:
    a, b = torch.tensor([3.0, 0, 0]), torch.tensor([1.0, 1, 0])
    assert closure._apart(a, b) == pytest.approx(0.5**0.5) == closure._apart(-2 * a, b)
    assert closure._apart(a, a) == 0 and closure._apart(a, torch.tensor([0.0, 1, 0])) == 1


def test_both_drifts_are_those_of_gradient_descent() -> None:
    found = closure.closure(["v"], -4.0, 2, points=10, samples=32)["v"]
    network, law = modes.untrained(2), modes.law_of("v")
    place = law.at(-4.0, 10, modes.stream(2, 6))

    def drift(samples: Samples) -> Tensor:
        r = network(samples.x, samples.t) - samples.bayes
        direction = tangent.pull(network, samples.x, samples.t, samples.weight[:, None] * r)[0]
        return tangent.push(network, place.x, place.t, direction)

    alone = drift(closure.mirrored(law.at(-4.0, 16, modes.stream(2, 7))))
    joint = [drift(closure.mirrored(law.draw(16, modes.stream(2, k)))) for k in (8, 9)]
    assert found.error == pytest.approx(closure._apart(alone, joint[0] + joint[1]))
    assert found.sampling == pytest.approx(closure._apart(*joint) / 2)


def test_a_level_is_closed_when_there_is_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {"points": 24, "samples": 2_048}
    open_ = closure.closure(["u"], 4.0, 0, **sizes)["u"]
    assert open_.error > 10 * open_.sampling
    narrow = replace(modes.law_of("u"), span=(3.99, 4.01))
    monkeypatch.setattr(closure, "law_of", lambda target, schedule="VP": narrow)
    closed = closure.closure(["u"], 4.0, 0, **sizes)["u"]
    assert closed.error < 4 * closed.sampling + 0.02 < open_.error / 2


def test_mirror_images_are_exact_samples() -> None:
    law = modes.law_of("v")
    both = closure.mirrored(law.draw(20, torch.Generator().manual_seed(0)))
    exact = LAW.posterior_mean(both.x, *SCHEDULES["VP"](both.t), "v")
    torch.testing.assert_close(both.bayes, exact)
    torch.testing.assert_close(both.x.sum(0), torch.zeros(2).double(), atol=1e-9, rtol=0)
    assert torch.equal(both.weight[:20], both.weight[20:])


def test_descent_moves_the_kernel_and_not_without_time() -> None:
    still, short, long = (
        lazy.drift_of_width(32, 0, points=16, time=tau) for tau in (0.0, 0.5, 2.0)
    )
    assert still == (0, 0, 1)
    assert 0 < short.kernel < long.kernel and short.loss > long.loss
    assert lazy.drift_of_width(512, 0, points=16).parameters < long.parameters / 4


def test_the_weights_are_those_of_the_card() -> None:
    sums = kept_spectra.load().card["sha256"]
    files = {path.name: path for path in networks.kept_folder().iterdir()}
    assert sums.keys() == files.keys() and len(sums) == 12
    for name, path in files.items():
        assert hashlib.sha256(path.read_bytes()).hexdigest() == sums[name]
