import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from erdpaper import cli
from erdpaper.datasets import DatasetError
from erdpaper.dynamics import couplings, flow, representation, tangent, terms
from erdpaper.dynamics.law import Law, Samples
from erdpaper.files import write_atomically
from erdpaper.models.mlp import MLP
from erdpaper.tasks import Task
from erdpaper.toys import (
    LAW,
    SCHEDULES,
    Toy,
    conditions,
    identities,
    limits,
    networks,
    runs,
    theorems,
)
from erdpaper.toys.runs import Run

STEPS = (1e-2, 1e-3)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# ---------------------------------------------------------------- identities


def test_difference_errors_have_their_order_and_see_a_wrong_sign() -> None:
    torch.manual_seed(0)
    model = MLP(width=4, depth=1, embedding=4).double()
    direction = torch.randn(sum(p.numel() for p in model.parameters())).double()

    def quantity(net: MLP) -> torch.Tensor:
        return sum(p.exp().sum() for p in net.parameters()).detach()[None]  # type: ignore[union-attr]

    before = [p.clone() for p in model.parameters()]
    flat = torch.cat([p.detach().flatten() for p in model.parameters()])
    slope = (flat.exp() * direction).sum()[None]
    found = identities.difference_errors(model, direction, quantity, slope, slope.abs(), STEPS)
    assert identities.order(STEPS, found.forward) == pytest.approx(1, abs=0.05)
    assert identities.order(STEPS, found.central) == pytest.approx(2, abs=0.05)
    wrong = identities.difference_errors(model, direction, quantity, -slope, slope.abs(), STEPS)
    assert wrong.central[-1] == pytest.approx(2, rel=1e-3)
    for p, q in zip(model.parameters(), before, strict=True):
        torch.testing.assert_close(p.detach(), q.detach())


@pytest.mark.parametrize("noisy", [False, True])
def test_the_joint_dynamics_are_the_kernel_average(
    noisy: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(identities, "POPULATION", 24)
    assert identities.joint([1e-4], noisy, generator()).central[0] < 1e-8


@pytest.mark.parametrize("target", ["x0", "u"])
def test_the_surrogate_obeys_its_theorem(target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identities, "POINTS", 12)
    found = identities.surrogate(target, [1e-4], generator())
    assert found.residual.central[0] < 1e-7 and found.excess.central[0] < 1e-6


def test_a_dropped_kernel_term_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = identities.layerwise

    def without_readout(model: MLP, *points: object) -> torch.Tensor:
        blocks: torch.Tensor = whole(model, *points)  # type: ignore[arg-type]
        return blocks - torch.eye(2).to(blocks)

    monkeypatch.setattr(identities, "layerwise", without_readout)
    monkeypatch.setattr(identities, "POPULATION", 24)
    assert identities.joint([1e-4], False, generator()).central[0] > 1e-3


@pytest.mark.parametrize("representation", [False, True])
def test_explicit_jacobians_give_the_sampled_gradient(representation: bool) -> None:
    torch.manual_seed(0)
    model = MLP(width=16).double()
    samples = Law(LAW, SCHEDULES["VP"], "eps").draw(3, generator())
    assert identities.split_error(model, samples, representation) < 1e-13
    broken = samples._replace(weight=samples.weight * torch.tensor([1.0, 1.0, 1.1]))
    J = identities._jacobian(model, samples, representation)
    r = terms.residual(model, samples) + samples.xi
    parts = torch.einsum("n,ndp,nd->p", broken.weight / 3, J, r)
    whole = identities._gradient(model, samples)[: J.shape[-1]]
    assert float((whole - parts).norm() / whole.norm()) > 1e-4


# ---------------------------------------------------------------- limits


def test_runs_side_by_side_are_runs_one_by_one() -> None:
    samples, points = limits.pool(generator(1)), limits.levels(generator(2))
    state, forcing, squared = limits._together(samples, points, 3, 2, generator(3), 0.05)
    stream = generator(3)
    chosen = [torch.randint(2 * limits.POOL, (2, limits.BATCH), generator=stream) for _ in range(3)]
    for k in range(2):
        model = limits.network()
        batches = [Samples(*(part[c[k]] for part in samples)) for c in chosen]
        path = list(flow.sgd(model, flow.held(batches, 1), 0.05, 3, points, len(limits.LEVELS)))
        torch.testing.assert_close(forcing[:, k], torch.stack([now.forcing for now in path]))
        torch.testing.assert_close(squared[:, k], torch.stack([now.forcing_norm for now in path]))
        for name, p in model.named_parameters():
            torch.testing.assert_close(state[name][k], p.detach())


def test_the_pool_has_no_mean_noise_at_any_point() -> None:
    samples = limits.pool(generator())
    half = len(samples.x) // 2
    assert torch.equal(samples.x[:half], samples.x[half:])
    assert float((samples.xi[:half] + samples.xi[half:]).abs().max()) == 0


def test_held_batches_converge_and_their_terms_add_up() -> None:
    found = limits.held([2, 4], generator(), duration=0.05)
    for part in found:
        assert math.log2(part[0] / part[1]) == pytest.approx(1, abs=0.2)


def test_noise_averages_out() -> None:
    sizes = [16, 256]
    for part in limits.noise_shares(sizes, 6, generator()):
        assert identities.order(sizes, part) == pytest.approx(-0.5, abs=0.2)


def test_smaller_steps_of_fresh_batches_come_closer_to_the_population_flow() -> None:
    found = limits.fresh([4, 64], 8, generator(), time=0.4)
    for part in (found.distance, found.signed):
        assert part[0] > 2 * part[1]
    assert found.absolute[1] > 0.7 * found.absolute[0]


# ---------------------------------------------------------------- conditions


def test_conditions_are_those_of_one_large_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conditions, "_POINTS", 32)
    monkeypatch.setattr(conditions, "_SAMPLES", 1_024)
    monkeypatch.setattr(conditions, "_GRADIENTS", 16)
    monkeypatch.setattr(conditions, "LEVELS", (-4.0, 2.0))
    network = Toy("v", "GVP").network().double()
    found = conditions.of(network, "v", "GVP")
    stream = generator(conditions._SEED)
    law = Law(LAW, SCHEDULES["GVP"], "v")
    samples = law.draw(1_024, stream)
    point = law.at(-4.0, 32, stream)
    whole = terms.terms(network, point, 1, terms.directions(network, samples))
    assert found["rate"][0] == pytest.approx(float(whole.coupling[0] / whole.excess[0]))
    assert found["excess"][0] == pytest.approx(float(whole.excess[0]))
    assert len(found["negative"]) == 2 and len(found["negative"][0]) == len(conditions.BATCHES)
    each = couplings.contributions(network, point, samples)
    assert found["rate_error"][0] == pytest.approx(each.rate[1])
    far = (SCHEDULES["GVP"].logsnr(samples.t) + 4).abs() > 1
    squares = each.forcing.square()
    assert found["far_forcing"][0] == pytest.approx(float(squares[far].sum() / squares.sum()))


def test_gradients_of_a_level_are_those_of_its_samples() -> None:
    network = Toy("eps", "VP").network().double()
    points = Law(LAW, SCHEDULES["VP"], "eps").at(1.0, 24, generator())
    found = conditions._gradients(network, points)
    r = terms.residual(network, points)
    norms = representation.norms(network, points)
    signal, noise = representation.batch_norms(network, points)
    smaller = r.norm(dim=-1) <= points.xi.norm(dim=-1)
    longer = smaller & (norms.noise > norms.signal)

    def rms(values: torch.Tensor) -> float:
        return math.sqrt(float(values.square().sum()) / 24)

    expected = {
        "signal": rms(norms.signal),
        "noise": rms(norms.noise),
        "batch_signal": signal,
        "batch_noise": noise,
        "residual": rms(r),
        "recoverable": rms(points.bayes),
        "xi": rms(points.xi),
        "small": int(smaller.sum()) / 24,
        "noise_longer": int(longer.sum()) / 24,
    }
    assert found == pytest.approx(expected)
    assert 0 < expected["noise_longer"] < 1


def test_the_middle_cell_of_distance_is_one_either_way() -> None:
    distance = torch.tensor([-0.99, 0.99, 1.01, -1.01], dtype=torch.float64)
    sums = conditions._by_distance(torch.tensor([1.0, 2.0, -4.0, 8.0]), distance)
    near = conditions._CENTRES.abs() < 0.5
    assert sums[near].tolist() == [3.0] and sorted(sums[~near].tolist())[-2:] == [4.0, 8.0]


# ---------------------------------------------------------------- runs and what is kept


def test_sixty_different_runs_are_kept() -> None:
    wanted = runs.wanted()
    assert len({run.key for run in wanted}) == len(wanted) == 60
    assert {run.batch for run in wanted if run.schedule == "VP"} == set(runs.BATCHES)


def test_a_run_keeps_what_its_path_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "POINTS", 8)
    run = Run("eps", batch=4, steps=20)
    found, path = runs.compute(run), runs.Measured(run).go()
    np.testing.assert_allclose(found["excess"], path.whole[::2], rtol=1e-4)
    np.testing.assert_allclose(found["bounds"][3], path.young(runs.BETAS[3])[::2], rtol=1e-4)
    np.testing.assert_allclose(found["rate_min"], path.rate.min(0), rtol=1e-3)
    np.testing.assert_allclose(
        found["tail"]["rate"] * found["tail"]["excess"], path.coupling[-4:].mean(0), rtol=1e-3
    )
    np.testing.assert_allclose(
        found["tail"]["forcing_norm"], path.forcing_norm[-4:].mean(0), rtol=1e-3
    )
    np.testing.assert_allclose(found["forcing_norm_max"], path.forcing_norm.max(0), rtol=1e-3)
    np.testing.assert_allclose(found["rate_negative"], (path.coupling < 0).mean(0))
    cosine = np.median(np.abs(path.forcing) / path.norms, 0)
    np.testing.assert_allclose(found["cosine"], cosine, rtol=1e-3)
    bounds = np.array([path.young(beta)[1:] for beta in runs.BETAS])
    second = np.array([path.young(beta, second_order=True) for beta in runs.BETAS])
    ladder = {
        "signed": path.signed()[-1],
        "second_order": path.signed(second_order=True)[-1],
        "absolute": path.absolute()[-1],
        "norm": path.norm()[-1],
        "young": second[:, -1].min(0),
    }
    for name, expected in ladder.items():
        np.testing.assert_allclose(found["ladder"][name], expected, rtol=1e-3)
    assert found["violated"] == 0
    assert found["excess_over_bound"] == pytest.approx((path.whole[1:] / bounds).max(), rel=1e-3)
    largest = (path.whole[1:] / second[:, 1:]).max()
    assert found["excess_over_second_order"] == pytest.approx(largest, rel=1e-3)


@pytest.mark.parametrize("target", ["x0", "u"])
def test_a_surrogate_is_told_by_its_first_order_and_lies_below_its_bounds(target: str) -> None:
    path = limits.surrogate(target, 16, generator())
    np.testing.assert_allclose(path.signed(), path.whole, rtol=0.05)
    for beta in runs.BETAS:
        assert bool((path.whole[1:] <= path.young(beta)[1:] * 1.001).all())


def test_a_population_flow_is_gradient_descent_on_bayes_labels(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(runs, "POINTS", 8)
    run = Run("x0", batch=16, steps=20)
    found = runs.population(run)
    measured = runs.Measured(run)
    np.testing.assert_allclose(found["excess"][0], measured.excess(), rtol=1e-6)
    for _ in range(2):
        batch = measured.clean()
        y, weight = batch.bayes, batch.weight / 16
        f = measured.network(batch.x, batch.t)
        loss = (weight * (f - y).square().sum(-1)).sum() / 2
        gradient = torch.autograd.grad(loss, list(measured.network.parameters()))
        tangent.move(measured.network, torch.cat([g.flatten() for g in gradient]), -run.lr)
    np.testing.assert_allclose(found["excess"][1], measured.excess(), rtol=1e-4)


def test_the_kernel_of_the_start_tells_everything_until_it_moves(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(runs, "POINTS", 8)
    errors = []
    for lr in (1e-7, 0.1):
        measured = runs.Measured(Run("x0", batch=4, steps=20, lr=lr))
        measured.go()
        errors.append(float(torch.stack(measured.frozen).max()))
    assert errors[0] < 1e-3 < errors[1]


def test_everything_is_collected_and_read_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def one_process(tasks: dict[Path, Task], jobs: int, label: str, unit: str = "") -> None:
        for path, task in tasks.items():
            write_atomically(path, task())

    toy = Toy("eps", "VP", steps=2)
    monkeypatch.setattr(networks, "wanted", lambda: [toy, replace(toy, time_scale=1_000.0)])
    monkeypatch.setattr(runs, "wanted", lambda: [Run("eps", batch=1, steps=10)])
    monkeypatch.setattr(runs, "small_step_wanted", lambda: [Run("v", steps=10, lr=0.005)])
    monkeypatch.setattr(runs, "population_wanted", lambda: [Run("eps", batch=8, steps=10)])
    for module in (networks, theorems):
        monkeypatch.setattr(module, "fill", one_process)
    for name in ("_POINTS", "_SAMPLES", "_GRADIENTS", "_BATCH"):
        monkeypatch.setattr(conditions, name, 512)
    theorems.everything(tmp_path / "work", tmp_path / "out", tmp_path / "weights", 2)
    kept, states, short, population = theorems.load(tmp_path / "out")
    assert population[0]["excess"].shape == (11, 3) and short[0]["lr"] == 0.005
    assert [row["state"] for row in states] == ["start", "trained"] and len(kept) == 1
    assert kept[0]["bounds"].shape == (len(runs.BETAS), 11, 3)
    assert states[0]["negative"].shape == (len(conditions.LEVELS), len(conditions.BATCHES))
    card = json.loads((tmp_path / "out" / "card.json").read_text())
    assert card["command"] == "erdpaper theorems"
    assert card["pieces"] == {"conditions": 2, "runs": 1, "small_step": 1, "population": 1}


def test_missing_results_are_named_with_the_command_that_makes_them(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"runs\.jsonl is missing.*erdpaper theorems"):
        theorems.load(tmp_path)
    with pytest.raises(DatasetError, match=r"safetensors is missing.*erdpaper kernels"):
        networks.load(Toy("eps", "VP", seed=99), tmp_path)


def test_the_book_keeps_every_run_and_condition() -> None:
    found = theorems.load()
    assert [len(part) for part in found] == [60, 72, 6, 12]


@pytest.mark.parametrize("command", ["theorems", "kernels", "toys"])
def test_a_command_says_what_is_wrong_before_any_work(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ERDPAPER_DATA", str(tmp_path / "nowhere"))
    result = CliRunner().invoke(cli.main, [command])
    assert result.exit_code == 2 and "nowhere" in result.output
    assert CliRunner().invoke(cli.main, [command, "--jobs", "0"]).exit_code == 2
