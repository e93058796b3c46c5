import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from scipy import stats
from torch import Tensor, nn

from erdpaper import cli, datasets, toys
from erdpaper.schedules import Linear
from erdpaper.targets import ALL
from erdpaper.toys import LAW, SCHEDULES, Toy, gradients, grid, kept, measure, signals, spec


class Bayes(nn.Module):
    """The exact predictor of a target, off by a constant."""

    def __init__(self, target: str, schedule: str, off: float = 0.0) -> None:
        super().__init__()
        self.target, self.schedule, self.off = target, schedule, off

    def forward(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        level = SCHEDULES[self.schedule](t.double())
        return (LAW.posterior_mean(x.double(), *level, self.target) + self.off).to(x)


CELLS = [(y.name, s) for y in ALL for s in SCHEDULES]
each_cell = pytest.mark.parametrize(("target", "schedule"), CELLS)


# ---------------------------------------------------------------- descriptions


def test_a_toy_is_its_description() -> None:
    toy = Toy("eps", "GVP", "erd", lr=3e-3, decay="cosine", seed=4)
    assert toy.key == "eps,GVP,weight=erd,lr=0.003,decay=cosine,seed=4"
    assert Toy.from_dict(json.loads(json.dumps(toy.as_dict() | {"excess": {}}))) == toy
    assert Toy("v", "VP").key == "v,VP"


def test_the_weights_of_a_seed_are_compared_on_the_same_draws() -> None:
    first, second = Toy("eps", "GVP"), Toy("eps", "GVP", "erd", lr=3e-3)
    for mine, theirs in zip(
        first.network().parameters(), second.network().parameters(), strict=True
    ):
        assert torch.equal(mine, theirs)
    assert torch.equal(first.draw()().x, second.draw()().x)
    other = replace(first, seed=1)
    assert not torch.equal(first.draw()().x, other.draw()().x)
    assert not torch.equal(first.network().readout.weight, other.network().readout.weight)


def test_making_a_network_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    Toy("eps", "GVP").network()
    assert torch.equal(torch.rand(1), expected)


@each_cell
def test_clean_labels_are_the_bayes_predictor_where_they_should_be(
    target: str, schedule: str
) -> None:
    toy = Toy(target, schedule)
    noisy, clean, half = (
        replace(toy, clean=which).draw()() for which in ("none", "all", "low-floor")
    )
    level = SCHEDULES[schedule](noisy.t.double())
    exact = LAW.posterior_mean(noisy.x.double(), *level, target).float()
    assert torch.equal(clean.x, noisy.x) and torch.equal(half.x, noisy.x)
    torch.testing.assert_close(clean.y, exact)
    replaced = (half.y == clean.y).all(-1)
    kept_noisy = (half.y == noisy.y).all(-1)
    assert bool((replaced | kept_noisy).all()) and 0.4 < float(replaced.float().mean()) < 0.6
    floor = toys.floor_at(target, schedule, toys.midpoints())
    there = floor[(noisy.t * 25).long().clamp(max=24)]
    assert float(there[replaced].max()) < float(there[~replaced].min())


def test_bins_train_on_their_times() -> None:
    t = Toy("eps", "linear", low=0.4, high=0.6).draw()().t
    assert 0.4 <= float(t.min()) < 0.41 and 0.59 < float(t.max()) <= 0.6


# ---------------------------------------------------------------- measurements


@each_cell
def test_the_bayes_predictor_has_no_excess_and_a_constant_its_square(
    target: str, schedule: str
) -> None:
    assert measure.excess(Bayes(target, schedule), target, schedule).max() < 1e-9
    off = measure.excess(Bayes(target, schedule, 0.3), target, schedule)
    torch.testing.assert_close(off, torch.full_like(off, 2 * 0.3**2), rtol=1e-4, atol=0)


@each_cell
def test_sampled_loss_and_signal_are_floor_and_recoverable_energy(
    target: str, schedule: str
) -> None:
    found = measure.losses(Bayes(target, schedule), target, schedule)
    level = SCHEDULES[schedule](toys.midpoints())
    floor, energy = LAW.bayes_floor(*level, target), LAW.energy(*level, target)
    assert ((found.loss - floor) / found.error).abs().max() < 4.5
    # of an energy of a few units, the mean of 4,096 is known to a few per cent
    assert (found.signal - (energy - floor)).abs().max() < 0.1 * energy.max()


@pytest.mark.parametrize("target", ["eps", "x0", "u"])
def test_the_likelihood_gap_is_half_the_integral_of_the_eps_error(target: str) -> None:
    # an error of size c in eps is one of c times the ratio of hidden parts in the target
    class Off(Bayes):
        def forward(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
            alpha, sigma = Linear()(t.double())
            gain = {"eps": 1.0, "x0": sigma / alpha, "u": 1 + sigma / alpha}[self.target]
            exact = super().forward(x, t).double()
            return (exact + 0.1 * torch.as_tensor(gain).reshape(-1, 1)).to(x)

    gap = measure.likelihood_gap(Off(target, "linear"), target, "linear")
    assert gap == pytest.approx(0.5 * 16 * 2 * 0.1**2, rel=1e-3)


def test_the_exact_denoiser_samples_like_the_oracle() -> None:
    found = measure.sample_quality(Bayes("eps", "GVP"), "eps", "GVP")
    assert found.to_oracle < 1e-3
    assert found.to_truth < max(
        measure.sliced(measure.truth("GVP", seed), measure.truth("GVP", 9)) for seed in range(9)
    )
    assert found.stray < 0.005 and found.spread == pytest.approx(1, abs=0.03)


# ---------------------------------------------------------------- the grid


def test_the_grid_names_every_training_once_and_every_weight_is_defined() -> None:
    parts = grid.parts()
    for name, part in parts.items():
        assert len({toy.key for toy in part}) == len(part), name
    for toy in parts["sweep"]:
        toy.objective()
    wide, usual = (
        sum(p.numel() for p in toy.network().parameters())
        for toy in (parts["wide"][0], Toy("eps", "VP"))
    )
    assert wide == pytest.approx(5 * usual, rel=0.01)


def test_judged_trainings_take_the_best_rate_of_their_own_sweep() -> None:
    sweep = [
        Toy(y, "GVP", w, lr=lr, decay=decay, steps=9, seed=100).as_dict()
        | {"likelihood": abs(math.log(lr / (1e-3 if w == "uniform" else 3e-3)))}
        for y in ("eps", "x0")
        for w in ("uniform", "erd")
        for decay in ("constant", "cosine")
        for lr in (3e-4, 1e-3, 3e-3)
    ]
    found = grid.judged(sweep)
    assert {toy.lr for toy in found if toy.weight == "uniform"} == {1e-3}
    assert {toy.lr for toy in found if toy.weight == "erd"} == {3e-3}
    assert {toy.seed for toy in found} == set(range(6))
    # each pair of target and weight with both decays, and ERD as a density at a constant rate
    assert len(found) == 6 * (2 * 2 * 2 + 2)
    assert {(toy.weight, toy.decay) for toy in found if toy.as_density} == {("erd", "constant")}


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "POINTS", 64)
    monkeypatch.setattr(grid, "CHECKPOINTS", (2,))


@pytest.fixture
def forget() -> None:
    for cached in (measure._levels, measure._start, measure.oracle, kept._load):
        cached.cache_clear()


@pytest.mark.usefixtures("small", "forget")
def test_a_training_is_kept_with_what_was_measured_of_it() -> None:
    toy = Toy("v", "VP", steps=3)
    found = grid.compute(toy)
    result = kept.Result(toy, found)
    assert set(found["excess"]) == {"2", "3"} and len(result.excess()) == 25
    assert torch.equal(result.excess(), result.excess(3))
    # the network again, trained by hand
    net = toy.network()
    for _ in grid.train(net, toy.draw(), 3):
        pass
    torch.testing.assert_close(result.excess(), measure.excess(net, "v", "VP"), rtol=1e-5, atol=0)
    assert result.likelihood == pytest.approx(measure.likelihood_gap(net, "v", "VP"), rel=1e-5)
    bin_only = grid.compute(replace(toy, low=0.2, high=0.4))
    assert len(bin_only["excess"]["3"]) == 5 and "samples" not in bin_only


@pytest.mark.usefixtures("forget")
def test_an_interrupted_grid_goes_on_and_gives_the_same_numbers(tmp_path: Path) -> None:
    toys_ = [Toy("eps", "linear", steps=2, low=k / 5, high=(k + 1) / 5) for k in range(2)]
    # one training was finished before the interrupt
    grid._keep(toys_[0], tmp_path)
    first = tmp_path / f"{toys_[0].key}.json"
    stamp = first.stat().st_mtime_ns
    assert grid.run(toys_, tmp_path, 2, "resumed") == [grid.compute(toy) for toy in toys_]
    assert first.stat().st_mtime_ns == stamp


@pytest.mark.usefixtures("small", "forget")
def test_the_grid_is_collected_with_its_card(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def one_process(toys_: list[Toy], folder: Path, jobs: int, label: str) -> list[object]:
        return [toy.as_dict() | {"likelihood": toy.lr} for toy in toys_]

    monkeypatch.setattr(grid, "run", one_process)
    grid.everything(tmp_path / "work", tmp_path / "out", 1)
    card = json.loads((tmp_path / "out" / "card.json").read_text())
    assert card["command"] == "erdpaper toys" and card["trainings"]["judged"] == 6 * 48
    lines = kept.load(tmp_path / "out").results
    assert len({line.toy.key for line in lines}) == len(lines) == sum(card["trainings"].values())


def test_the_command_explains_itself() -> None:
    shown = CliRunner().invoke(cli.main, ["toys", "--help"])
    assert shown.exit_code == 0 and "an interrupted run goes on" in shown.output
    refused = CliRunner().invoke(cli.main, ["toys", "--jobs", "0"])
    assert refused.exit_code == 2 and "Invalid value" in refused.output


# ---------------------------------------------------------------- what is said of kept results


def test_missing_results_say_how_to_get_them(tmp_path: Path) -> None:
    with pytest.raises(datasets.DatasetError, match="erdpaper toys"):
        kept.load(tmp_path)


def test_select_takes_defaults_unless_told_otherwise() -> None:
    def result(**fields: object) -> kept.Result:
        return kept.Result(Toy("eps", "VP", **fields), {})  # type: ignore[arg-type]

    everything = kept.Kept((result(seed=1), result(), result(lr=0.1), result(weight="erd")), {})
    assert [r.toy.seed for r in everything.select(target="eps", schedule="VP")] == [0, 1]
    assert len(everything.select(lr=any, weight=any)) == 4
    with pytest.raises(LookupError, match="p2"):
        everything.select(weight="p2")


def test_a_paired_ratio_is_scipys_paired_t() -> None:
    generator = np.random.default_rng(0)
    below = generator.lognormal(size=6)
    above = 1.3 * below * generator.lognormal(sigma=0.1, size=6)
    found = kept.paired_ratio(above.tolist(), below.tolist())
    theirs = stats.ttest_rel(np.log(above), np.log(below)).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((math.exp(theirs.low), math.exp(theirs.high)))
    assert found.mean == pytest.approx(stats.gmean(above / below))
    with pytest.raises(ValueError, match="2 or more pairs"):
        kept.paired_ratio([1.0], [1.0])


def test_a_prediction_interval_holds_as_often_as_it_says() -> None:
    generator = np.random.default_rng(1)
    centres = np.array([[0.1], [1.0], [30.0]])
    inside = []
    for _ in range(1_000):
        groups = (centres * generator.lognormal(sigma=0.3, size=(3, 4))).tolist()
        new = 30.0 * float(generator.lognormal(sigma=0.3))
        inside.append(kept.outside(new, groups[2], groups, 0.9) <= 1)
    assert abs(np.mean(inside) - 0.9) < 4.5 * math.sqrt(0.9 * 0.1 / 1_000)


def test_rank_correlation_is_of_ranks() -> None:
    a = torch.tensor([1.0, 5.0, 2.0, 9.0], dtype=torch.float64)
    assert kept.spearman(a, a.exp()) == pytest.approx(1)
    assert kept.spearman(a, -a.exp()) == pytest.approx(-1)
    assert spec.lower_half("x0", "linear").tolist() == [True] * 12 + [False] * 13


# ---------------------------------------------------------------- signal, noise, gradients


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_noise_and_signal_are_equal_at_a_crossing(schedule: str) -> None:
    (t,) = signals.crossings("x0", schedule, 0.5)
    level = SCHEDULES[schedule](t)
    assert float(LAW.bayes_floor(*level, "x0")) == pytest.approx(
        float(LAW.recoverable_energy(*level, "x0")), rel=1e-6
    )
    # x0 is known without noise and unknown without signal
    ends = signals.noise_share("x0", schedule, torch.tensor([0.001, 0.999]).double(), 0.5)
    assert ends[0] < 0.01 and ends[1] > 0.9


def test_the_noise_share_is_floor_over_energy() -> None:
    t = torch.tensor([0.1, 0.45, 0.8], dtype=torch.float64)
    for target in ("eps", "v", "u"):
        level = Linear()(t)
        exact = LAW.bayes_floor(*level, target) / LAW.energy(*level, target)
        torch.testing.assert_close(
            signals.noise_share(target, "linear", t, 0.5), exact, rtol=1e-3, atol=1e-4
        )


def test_parts_of_a_gradient_are_those_of_autograd() -> None:
    net, n = Toy("v", "GVP", width=8).network().double(), 5
    found = gradients.parts(
        net, "v", "GVP", torch.tensor([0.3]), n, torch.Generator().manual_seed(0)
    )
    generator = torch.Generator().manual_seed(0)
    alpha, sigma = SCHEDULES["GVP"](0.3)
    x0 = LAW.sample(n, generator)
    eps = torch.randn(x0.shape, generator=generator, dtype=x0.dtype)
    x, y = alpha * x0 + sigma * eps, alpha * eps - sigma * x0
    bayes = LAW.posterior_mean(x, alpha, sigma, "v")
    total, signal, noise = [], [], []
    for i in range(n):
        t = torch.full((1,), 0.3, dtype=torch.float64)
        for label, to in ((y, total), (bayes, signal)):
            net.zero_grad()
            (net(x[i : i + 1], t) - label[i]).square().sum().div(2).backward()
            to.append(torch.cat([p.grad.flatten() for p in net.parameters()]))  # type: ignore[union-attr]
        noise.append(total[-1] - signal[-1])
    for name, gradient in (("total", total), ("signal", signal), ("noise", noise)):
        expected = torch.stack(gradient).square().sum(-1).mean().sqrt()
        torch.testing.assert_close(getattr(found, name)[0], expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(found.mean[0], torch.stack(signal).mean(0))


def test_conflicts_are_pairs_that_point_apart() -> None:
    mean = torch.tensor([[1.0, 0.0], [1.0, 1.0], [-1.0, 0.1]])
    assert gradients.conflicts(mean) == pytest.approx(2 / 3)
