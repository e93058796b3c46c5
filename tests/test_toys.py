import json
import math
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from torch import Tensor, nn

from erdpaper import cli, datasets, tasks, toys
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


def test_bins_train_on_their_times_each_from_a_start_of_its_own() -> None:
    second, third = (Toy("eps", "linear", low=low, high=low + 0.2) for low in (0.2, 0.4))
    t = third.draw()().t
    assert 0.4 <= float(t.min()) < 0.41 and 0.59 < float(t.max()) <= 0.6
    assert not torch.equal(third.network().readout.weight, second.network().readout.weight)
    assert not torch.equal((t - 0.4), second.draw()().t - 0.2)


def test_the_defaults_are_the_setting_of_the_paper() -> None:
    toy = Toy("eps", "linear")
    assert (toy.steps, toy.lr, toy.decay, toy.width) == (2_000, 1e-3, "constant", 256)
    assert toy.draw()().x.shape == (512, 2)
    assert float(toy.draw()().weight.std()) == 0
    assert float(Toy("eps", "linear", time_scale=1e3).network().embed.frequencies[0]) == 1e3
    assert Toy("eps", "linear", width=9).network().readout.in_features == 9


@pytest.mark.parametrize("name", spec.WEIGHTS)
def test_weights_are_those_of_the_package(name: str) -> None:
    batch = Toy("v", "GVP", name).draw()()
    alpha, sigma = SCHEDULES["GVP"](batch.t.double())
    snr = (alpha / sigma).square()
    formulas = {
        "uniform": torch.ones_like(snr),
        "erd": alpha * sigma,
        # over log-SNR, whose rate on this path is -pi / (alpha sigma)
        "erd-logsnr": torch.ones_like(snr) * (snr.log().abs() <= 10),
        "min-snr": snr.clamp(max=5) / (snr + 1),
        "p2": snr / (snr + 1).square(),
        "p2-half": snr / (snr + 1).pow(1.5),
    }
    ratio = batch.weight.double()[formulas[name] > 1e-4] / formulas[name][formulas[name] > 1e-4]
    assert float(ratio.max() / ratio.min()) == pytest.approx(1, rel=1e-4)


def test_a_density_is_drawn_and_not_weighted() -> None:
    batch = Toy("eps", "GVP", "erd", as_density=True).draw()()
    assert float(batch.weight.std()) == 0
    # density proportional to sin(pi t / 2): mean 2 / pi
    assert abs(float(batch.t.mean()) - 2 / math.pi) < 4.5 * 0.25 / math.sqrt(512)


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
    scores = (found.loss - floor) / found.error
    assert scores.abs().max() < 4.5 and scores.square().mean() > 0.2
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


def test_samples_that_run_off_are_infinitely_bad_in_strict_json() -> None:
    class Exploding(nn.Module):
        def forward(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
            return torch.full_like(x, math.inf)

    found = measure.sample_quality(Exploding(), "eps", "GVP")
    assert set(found) == {math.inf}
    stored = json.loads(json.dumps({"samples": tasks.rounded(found._asdict())}, allow_nan=False))
    assert set(kept.Result(Toy("eps", "GVP"), stored).samples.values()) == {math.inf}


def test_a_sweep_passes_over_a_training_that_failed() -> None:
    good, bad = Toy("eps", "GVP", lr=1e-3).as_dict(), Toy("eps", "GVP", lr=1e-2).as_dict()
    sweep = [bad | {"likelihood": None}, good | {"likelihood": 3.0}]
    assert {toy.lr for toy in grid.judged(sweep)} == {1e-3}


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "POINTS", 64)
    monkeypatch.setattr(grid, "CHECKPOINTS", (2,))


@pytest.fixture
def forget() -> None:
    for cached in (measure._points, measure._start, measure.oracle, kept._load):
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
    first = tmp_path / f"{toys_[0].key}.json"
    tasks.fill({first: partial(grid._line, toys_[0])}, 1, "before")
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
    assert shown.exit_code == 0 and "interrupted run" in shown.output
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
    assert len(everything.select(lr=kept.OPEN, weight=kept.OPEN)) == 4
    with pytest.raises(LookupError, match="p2"):
        everything.select(weight="p2")


def test_piecewise_puts_the_bins_of_one_seed_in_order() -> None:
    def result(low: float, high: float, seed: int, value: float) -> kept.Result:
        toy = Toy("eps", "VP", low=low, high=high, seed=seed)
        return kept.Result(toy, {"excess": {"2000": [value]}, "averaged": [-value]})

    bins = [result(low, high, 0, 10 * low) for low, high in grid.BINS]
    others = [result(0, 1, 0, 99), result(0, 0.2, 1, 99)]
    everything = kept.Kept((*reversed(bins), *others), {})
    expected = torch.tensor([0, 2, 4, 6, 8]).double()
    torch.testing.assert_close(kept.piecewise(everything, "eps", "VP"), expected)
    found = kept.piecewise(everything, "eps", "VP", kept.Result.averaged)
    torch.testing.assert_close(found, -expected)


def test_judged_and_swept_are_told_apart_by_seed() -> None:
    def result(**fields: object) -> kept.Result:
        toy = Toy("eps", "GVP", "erd", steps=grid.WEIGHTING_STEPS, **fields)  # type: ignore[arg-type]
        return kept.Result(toy, {})

    sweep = [result(lr=lr, seed=grid.SWEEP_SEED) for lr in (1e-2, 1e-3)]
    runs = [result(lr=1e-2, seed=seed) for seed in grid.JUDGED_SEEDS]
    dense = [result(lr=1e-2, seed=seed, as_density=True) for seed in grid.JUDGED_SEEDS]
    everything = kept.Kept((*sweep, *runs, *dense), {})
    assert kept.judged(everything, "eps", "erd", "constant") == runs
    assert kept.judged(everything, "eps", "erd", "constant", as_density=True) == dense
    assert [r.toy.lr for r in kept.swept(everything, "eps", "erd", "constant")] == [1e-3, 1e-2]


@pytest.mark.parametrize("target", ["eps", "x0", "u"])
def test_a_part_of_the_likelihood_is_the_integral_over_that_part(target: str) -> None:
    # an error of 0.1 in each coordinate of eps, as an error in the target, at the 25 times
    alpha, sigma = Linear()(toys.midpoints())
    gain = {"eps": torch.ones(25), "x0": sigma / alpha, "u": 1 + sigma / alpha}[target]
    excess = (2 * 0.1**2 * gain.double().square()).tolist()
    result = kept.Result(Toy(target, "linear"), {"excess": {"2000": excess}})
    levels = Linear().logsnr(toys.midpoints())
    inside = levels[levels.abs() <= 4]
    width = float(inside.max() - inside.min())
    assert result.likelihood_within(-4, 4) == pytest.approx(0.5 * width * 2 * 0.1**2)
    assert 7 < width < 8


def test_lower_half_is_where_the_floor_is_low() -> None:
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


def test_v_crosses_twice_and_too_coarse_a_spline_says_so() -> None:
    found = signals.crossings("v", "GVP", 0.5)
    for t in found:
        level = SCHEDULES["GVP"](t)
        share = LAW.bayes_floor(*level, "v") / LAW.energy(*level, "v")
        assert float(share) == pytest.approx(0.5, abs=1e-6)
    assert len(found) == 2
    with pytest.raises(ArithmeticError, match="too coarse"):
        signals.crossings("v", "linear", 4.0)


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
    # the same draws again, for their mean
    mean = gradients.expected(
        net, "v", "GVP", torch.tensor([0.3]), n, torch.Generator().manual_seed(0)
    )
    torch.testing.assert_close(mean[0], torch.stack(signal).mean(0))


def test_conflicts_are_pairs_that_point_apart_in_both_draws() -> None:
    first = torch.tensor([[1.0, 0.0], [1.0, 1.0], [-1.0, 0.1]])
    second = torch.tensor([[1.0, 0.0], [1.0, 1.0], [1.0, -2.0]])
    assert gradients.conflicts(first, first) == pytest.approx(2 / 3)
    assert gradients.conflicts(first, second) == pytest.approx(1 / 3)
