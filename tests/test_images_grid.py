"""The grid of trainings: names, pairing, what is chosen, measured, skipped and collected."""

import itertools
import json
import math
import pickle
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import small_images
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from erdpaper import tasks
from erdpaper.images import data, grid, measure, probes, spec, weighting
from erdpaper.images.spec import Cell
from erdpaper.schedules import DDPM


@pytest.fixture(scope="module")
def small() -> Iterator[pytest.MonkeyPatch]:
    """Small random data, and few samples of everything."""
    with pytest.MonkeyPatch.context() as patch:
        small_images.install(patch)
        for name in ("SWEEP_SAMPLES", "CURVE_SAMPLES", "FINAL_SAMPLES"):
            patch.setattr(grid, name, 40)
        patch.setattr(probes, "measured", partial(probes.measured, n=100))
        patch.setattr(probes, "KERNEL_LEVELS", (0.0,))
        patch.setattr(probes, "kernel", partial(probes.kernel, n=4, k=2))
        yield patch
    small_images.forget()


# ---------------------------------------------------------------- cells

# a key shows six digits of the learning rate
rates = st.floats(1e-6, 1).map(lambda x: float(f"{x:.6g}"))
cells = st.builds(
    Cell,
    target=st.sampled_from(grid.TARGETS),
    weight=st.sampled_from(weighting.NAMES),
    lr=rates | st.sampled_from([1e-3, 4e-3, 1e-2]),
    model=st.sampled_from(list(spec.ARCHITECTURES)),
    beta2=st.sampled_from([0.95, 0.999]) | st.floats(0.5, 0.9999),
    decay=st.sampled_from(["cosine", "constant"]),
    steps=st.sampled_from([300, 750]) | st.integers(1, 10**6),
    batch=st.sampled_from([64, 128]),
    ema=st.sampled_from([0.99, 0.999]),
    seed=st.integers(0, 200),
    schedule=st.sampled_from(list(spec.SCHEDULES)),
)


@given(cells)
def test_a_cell_comes_back_from_what_is_written(cell: Cell) -> None:
    written = json.loads(json.dumps(cell.as_dict() | {"final": {"fd": 1.0}, "loss": 2.0}))
    assert Cell.from_dict(written) == cell
    assert "/" not in cell.key and len(f"{cell.key}.json") < 200


@settings(max_examples=300)
@given(cells, st.data())
def test_different_cells_have_different_keys(cell: Cell, draw: st.DataObject) -> None:
    # differing in few fields is the hard case
    other = draw.draw(cells)
    names = draw.draw(st.sets(st.sampled_from([item.name for item in fields(Cell)]), max_size=2))
    near = replace(cell, **{name: getattr(other, name) for name in names})
    for one in (other, near):
        assert (one.key == cell.key) == (one == cell)


def test_keys_name_what_differs_from_the_defaults() -> None:
    assert Cell("eps", "erd", 4e-3).key == "eps,erd,lr=0.004"
    assert Cell("v", "p2", 1e-2, beta2=0.999, seed=3).key == "v,p2,lr=0.01,beta2=0.999,seed=3"
    every = [
        *grid.sweep(),
        *grid.ladder(),
        *grid.noise_ladder(),
        *grid.architectures(),
        *(Cell(y, w, 4e-3, seed=k) for y in grid.TARGETS for w in grid.NAMES for k in range(6)),
    ]
    assert len({cell.key for cell in every}) == len(set(every))


# ---------------------------------------------------------------- pairing


def batches(cell: Cell) -> list[Any]:
    draw = cell.trainer().draw
    # the 2,000 samples end within step 32
    return [draw(step) for step in (1, 2, 31, 32, 33)]


def test_one_seed_is_one_start_whatever_the_rest(small: pytest.MonkeyPatch) -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = Cell("eps", "uniform", 4e-3, seed=5).network().state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    others = (
        Cell("x0", "erd", 1e-2, beta2=0.999, decay="constant", steps=9, seed=5),
        Cell("v", "online", 1e-3, ema=0.9, batch=8, seed=5),
    )
    for cell in others:
        for state in (cell.network().state_dict(), cell.trainer().model.state_dict()):
            assert all(torch.equal(part, state[name]) for name, part in first.items())
    other = Cell("eps", "uniform", 4e-3, seed=6).network().state_dict()
    assert not torch.equal(other["first.weight"], first["first.weight"])


def test_one_seed_is_one_sequence_of_batches(small: pytest.MonkeyPatch) -> None:
    plain = batches(Cell("eps", "uniform", 4e-3, seed=5))
    for cell in (
        Cell("eps", "erd", 1e-2, seed=5),
        Cell("eps", "min-snr", 4e-3, beta2=0.999, decay="constant", seed=5),
        Cell("eps", "online", 4e-3, model="DiT-fashion-latent", steps=40, seed=5),
    ):
        for mine, other in zip(batches(cell), plain, strict=True):
            for name in ("x", "t", "y", "label"):
                assert torch.equal(getattr(mine, name), getattr(other, name))
    for mine, other in zip(batches(Cell("eps", "uniform", 4e-3, seed=6)), plain, strict=True):
        assert not torch.equal(mine.x, other.x) and not torch.equal(mine.label, other.label)


@pytest.mark.parametrize("weight", ["uniform", "edm", "logit-normal", "sigmoid"])
def test_targets_and_densities_leave_data_noise_and_labels(
    small: pytest.MonkeyPatch, weight: str
) -> None:
    noise = batches(Cell("eps", "uniform", 4e-3, seed=5))
    clean = batches(Cell("x0", weight, 4e-3, seed=5))
    mixed = batches(Cell("v", weight, 4e-3, seed=5))
    z, labels = data.latents()
    for x0, eps, v in zip(clean, noise, mixed, strict=True):
        assert torch.equal(x0.label, eps.label) and torch.equal(v.label, eps.label)
        assert torch.equal(x0.t, v.t) and torch.equal(x0.x, v.x)
        alpha, sigma = (c.float().view(-1, 1, 1, 1) for c in spec.SCHEDULE(v.t.double()))
        # y of the targets x0 and eps is the data and the noise itself
        torch.testing.assert_close(alpha * x0.y + sigma * eps.y, x0.x, rtol=0, atol=1e-5)
        torch.testing.assert_close(alpha * eps.y - sigma * x0.y, v.y, rtol=0, atol=1e-5)
        # and the labels are those of the data, or none
        own = torch.cdist(x0.y.flatten(1), z.flatten(1)).argmin(1)
        assert ((x0.label == labels[own]) | (x0.label == data.CLASSES)).all()
    dropped = torch.cat([batch.label for batch in clean]) == data.CLASSES
    assert abs(int(dropped.sum()) - 32) < 4.5 * math.sqrt(320 * 0.09)


# ---------------------------------------------------------------- which trainings there are


def test_the_sweep_is_every_weight_at_every_rate() -> None:
    swept = grid.sweep()
    count = len(grid.TARGETS) * len(grid.NAMES) * len(grid.LEARNING_RATES)
    assert len(swept) == len(set(swept)) == count
    assert {cell.seed for cell in swept}.isdisjoint(grid.JUDGED_SEEDS)
    for y, w in itertools.product(grid.TARGETS, weighting.NAMES):
        own = [cell for cell in swept if (cell.target, cell.weight) == (y, w)]
        assert sorted(cell.lr for cell in own) == sorted(grid.LEARNING_RATES)
        assert own == [Cell(y, w, cell.lr, seed=grid.SWEEP_SEED) for cell in own]


def judged_of(distances: dict[tuple[str, str, float], float | None]) -> set[Cell]:
    runs = [
        Cell(y, w, lr, seed=grid.SWEEP_SEED).as_dict() | {"final": {"fd": fd}}
        for (y, w, lr), fd in distances.items()
    ]
    return set(grid.judged(runs))


def test_judged_is_the_rate_with_the_least_distance() -> None:
    found = judged_of(
        {
            ("eps", "erd", 1e-3): 5.0,
            ("eps", "erd", 2e-3): 3.0,
            ("eps", "erd", 4e-3): 4.0,
            ("eps", "edm", 1e-3): None,
            ("eps", "edm", 2e-3): 9.0,
            ("v", "erd", 1e-3): 0.0,
            ("v", "erd", 2e-3): None,
            ("v", "edm", 2e-3): 4.0,
            ("v", "online", 2e-3): 4.0,
            ("x0", "p2", 1e-3): None,
        }
    )
    expected = {Cell("eps", "erd", 2e-3, seed=seed) for seed in grid.JUDGED_SEEDS}
    # today's practice has a seed more for v, with which it is in use
    expected |= {Cell("v", "edm", 2e-3, seed=seed) for seed in grid.PRACTICE_SEEDS}
    expected |= {Cell("eps", "edm", 2e-3, seed=seed) for seed in grid.POOLED_SEEDS}
    expected |= {Cell("v", "online", 2e-3, seed=seed) for seed in grid.POOLED_SEEDS}
    # a distance of 0 is the least, and where all failed there is nothing to judge
    expected |= {Cell("v", "erd", 1e-3, seed=seed) for seed in grid.JUDGED_SEEDS}
    assert found == expected
    assert set(grid.POOLED_SEEDS) < set(grid.JUDGED_SEEDS)


@given(st.lists(st.none() | st.floats(0, 100), min_size=1, max_size=6), st.randoms())
def test_judged_is_the_minimum_in_any_order(values: list[float | None], shuffler: Any) -> None:
    rates = [10.0 ** -(2 + k) for k in range(len(values))]
    shuffled = list(zip(rates, values, strict=True))
    shuffler.shuffle(shuffled)
    found = judged_of({("v", "uniform", lr): fd for lr, fd in shuffled})
    known = {lr: fd for lr, fd in shuffled if fd is not None}
    assert len({cell.lr for cell in found}) == (1 if known else 0)
    assert all(known[cell.lr] == min(known.values()) for cell in found)


def changed(rungs: list[Cell]) -> list[set[str]]:
    """The fields that differ from rung to rung; the second is beside the ladder."""
    pairs = itertools.pairwise(cell.as_dict() for cell in [rungs[0], *rungs[2:]])
    return [{name for name in one if one[name] != other[name]} for one, other in pairs]


def test_the_ladder_changes_one_thing_a_rung() -> None:
    rungs = [cell for cell in grid.ladder() if cell.seed == 0]
    assert {cell.seed for cell in grid.ladder()} == set(grid.JUDGED_SEEDS)
    assert all(cell.target == "eps" and cell.model == "MLP-latent-S" for cell in rungs)
    assert changed(rungs) == [{"beta2"}, {"decay"}, {"weight"}]
    assert rungs[1] == replace(rungs[0], weight="erd")
    assert (rungs[0].weight, rungs[0].beta2, rungs[0].decay) == ("uniform", 0.999, "constant")
    # the last two are a judged pair, if the sweep chooses the ladder's rate
    assert rungs[3:] == [Cell("eps", w, grid.LADDER_LR) for w in ("uniform", "erd")]


def test_the_other_ladder_changes_one_thing_a_rung() -> None:
    rungs = [cell for cell in grid.noise_ladder() if cell.seed == 0]
    assert changed(rungs) == [{"beta2"}, {"schedule"}, {"weight"}]
    assert rungs[1] == replace(rungs[0], weight="erd")
    # the two ladders differ in the noise schedule of their start and share a rung
    assert rungs[0] == replace(grid.ladder()[0], schedule="ddpm")
    assert set(grid.noise_ladder()) & set(grid.ladder()) == {
        replace(rungs[3], seed=seed) for seed in grid.JUDGED_SEEDS
    }


def test_a_network_is_measured_on_its_own_noise_levels(small: pytest.MonkeyPatch) -> None:
    cell = Cell("eps", "erd", 1e-2, steps=10, beta2=0.95, decay="constant", schedule="ddpm")
    found, network = grid.trained(cell)
    path = DDPM()
    assert found["final"] == tasks.rounded(measure.summary(network, "eps", 40, schedule=path))
    assert found["final"] != tasks.rounded(measure.summary(network, "eps", 40))
    own = measure.errors(network, "eps", schedule=path).tolist()
    assert found["errors"] == tasks.rounded(own)
    # what is compared between weights is measured on the cosine table only
    assert not found.keys() & {"ways", "probes", "nearest", "kernel"}
    batch = cell.trainer().draw(1)
    alpha, sigma = (c.float().view(-1, 1, 1, 1) for c in path(batch.t.double()))
    z, _ = data.latents()
    gap = torch.cdist(((batch.x - sigma * batch.y) / alpha).flatten(1), z.flatten(1))
    # where hardly any signal is left, rounding is all there is
    assert float(gap[(alpha > 0.1).flatten()].min(1).values.max()) < 0.1


def test_both_architectures_are_trained_with_and_without_erd() -> None:
    found = grid.architectures()
    counted = Counter((cell.model, cell.weight) for cell in found)
    assert counted == dict.fromkeys(
        itertools.product(("DiT-fashion-latent", "UNet-fashion-latent"), ("uniform", "erd")),
        len(grid.ARCHITECTURE_SEEDS),
    )
    assert {cell.target for cell in found} == {"eps"} and len(set(found)) == len(found)
    for cell in found:
        partner = replace(cell, weight={"erd": "uniform", "uniform": "erd"}[cell.weight])
        assert partner in found


# ---------------------------------------------------------------- one training


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (1234567.0, 1234570.0),
        (-0.000123456789, -0.000123457),
        (math.nan, None),
        ([math.inf, 1 / 3], [None, 0.333333]),
        ({"a": {"b": [2 / 3, 7]}, "c": "text"}, {"a": {"b": [0.666667, 7]}, "c": "text"}),
        (1234567, 1234567),
        (None, None),
    ],
)
def test_numbers_are_rounded_to_six_digits(value: Any, expected: Any) -> None:
    assert tasks.rounded(value) == expected


@given(st.floats(-1e200, 1e200))
def test_rounding_is_close_and_done_once(value: float) -> None:
    found = tasks.rounded(value)
    assert found == pytest.approx(value, rel=5.1e-6, abs=1e-300)
    assert tasks.rounded(found) == found


def test_a_training_is_measured_as_it_stands(small: pytest.MonkeyPatch) -> None:
    cell = Cell("v", "erd", 4e-3, steps=10)
    found, network = grid.trained(cell)
    kinds = {
        "curve",
        "loss",
        "final",
        "errors",
        "ways",
        "train_errors",
        "probes",
        "nearest",
        "kernel",
    }
    assert found.keys() == cell.as_dict().keys() | kinds
    assert Cell.from_dict(found) == cell and json.loads(json.dumps(found)) == found
    # looking at it on the way has not moved it
    alone = cell.trainer()
    losses = [float(record.loss) for record in alone.run()]
    assert alone.average is not None
    state = alone.average.module.state_dict()
    assert all(torch.equal(part, state[name]) for name, part in network.state_dict().items())
    # the moving average, and not what it follows
    assert not torch.equal(state["first.weight"], alone.model.state_dict()["first.weight"])
    part = round(grid.CHECKPOINTS[-2] * 10)
    assert found["loss"] == tasks.rounded(sum(losses[part:]) / (10 - part))
    assert list(found["curve"]) == [str(round(share * 10)) for share in grid.CHECKPOINTS]
    summary = measure.summary(network, "v", 40)
    assert found["final"] == tasks.rounded(summary)
    assert found["errors"] == tasks.rounded(measure.errors(network, "v").tolist())
    assert found["train_errors"] == tasks.rounded(measure.errors(network, "v", "train").tolist())
    assert found["errors"] != found["train_errors"]
    assert found["ways"].keys() == grid.WAYS.keys()
    # other starting noise, and the same samples by more steps, are other numbers
    assert len({found["final"]["fd"], *found["ways"].values()}) == 1 + len(grid.WAYS)
    train, test = (data.latents(split)[0].flatten(1) for split in ("train", "test"))
    nearest = torch.cdist(test[:500].double(), train.double()).min(1).values.median()
    assert found["nearest"][1] == pytest.approx(float(nearest), rel=1e-5)


def test_a_point_of_the_curve_is_a_shorter_look_at_the_average(small: pytest.MonkeyPatch) -> None:
    cell = Cell("v", "edm", 4e-3, steps=10, seed=1)
    found, _ = grid.trained(cell)
    # of weights that the paper does not rank, less is kept
    assert not found.keys() & {"ways", "train_errors", "probes", "nearest", "kernel"}
    step = round(grid.CHECKPOINTS[0] * 10)
    run = cell.trainer()
    list(run.run(step))
    assert run.average is not None
    expected = measure.summary(run.average.module.eval(), "v", grid.CURVE_SAMPLES)["fd"]
    assert found["curve"][str(step)] == tasks.rounded(expected)


def test_a_training_of_the_sweep_is_looked_at_once(small: pytest.MonkeyPatch) -> None:
    for weight in ("recoverable", "online"):
        found = grid.compute(Cell("x0", weight, 4e-3, steps=24, seed=grid.SWEEP_SEED))
        assert found["curve"] == {} and "errors" not in found
        assert found["final"]["fd"] > 0 and found["loss"] > 0


def test_a_training_that_diverges_says_so_and_has_no_distance(small: pytest.MonkeyPatch) -> None:
    cell = Cell("eps", "uniform", 1e30, steps=10, seed=grid.SWEEP_SEED)
    found = grid.compute(cell)
    assert found == cell.as_dict() | {
        "final": {"fd": None},
        "stopped": "the loss is not finite at step 2; try a lower learning rate",
    }
    assert grid.judged([json.loads(json.dumps(found))]) == []


# ---------------------------------------------------------------- all of them


def quick(cell: Cell) -> dict[str, Any]:
    """A distance that depends on the cell alone."""
    return cell.as_dict() | {"final": {"fd": abs(math.log(cell.lr / 5e-3)) + 1 + cell.seed}}


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The keys of what is computed, by threads of this process."""
    keys: list[str] = []

    def compute(cell: Cell) -> dict[str, Any]:
        keys.append(cell.key)
        return quick(cell)

    monkeypatch.setattr(grid, "compute", compute)
    monkeypatch.setattr(tasks, "ProcessPoolExecutor", lambda n, *_, **__: ThreadPoolExecutor(n))
    monkeypatch.setattr(tasks, "_one_thread", lambda: None)
    return keys


def test_finished_trainings_are_not_repeated(computed: list[str], tmp_path: Path) -> None:
    asked = grid.architectures()
    (tmp_path / f"{asked[2].key}.json").write_text('{"kept": true}\n')
    found = grid.run(asked, tmp_path, 1, "test")
    assert len(computed) == len(asked) - 1 and asked[2].key not in computed
    assert found == [{"kept": True} if cell == asked[2] else quick(cell) for cell in asked]
    computed.clear()
    assert grid.run(asked, tmp_path, 1, "test") == found and computed == []
    (tmp_path / f"{asked[0].key}.json").unlink()
    assert grid.run(asked, tmp_path, 1, "test") == found and computed == [asked[0].key]


def test_a_task_goes_to_another_process() -> None:
    task = partial(grid._line, Cell("eps", "erd", 4e-3))
    assert b"_line" in pickle.dumps(task)


def test_everything_is_collected_once(computed: list[str], tmp_path: Path) -> None:
    work, out = tmp_path / "work", tmp_path / "out"
    grid.everything(work, out, 2)
    lines, card = tasks.read_kept(out, grid.COMMAND)
    assert sorted(computed) == [Cell.from_dict(line).key for line in lines]
    swept = [quick(cell) for cell in grid.sweep()]
    parts = {
        "sweep": grid.sweep(),
        "judged": grid.judged(swept),
        "ladder": grid.ladder(),
        "noise ladder": grid.noise_ladder(),
        "architectures": grid.architectures(),
    }
    every = {cell.key: cell for cells in parts.values() for cell in cells}
    assert lines == [quick(every[key]) for key in sorted(every)]
    assert card["trainings"] == {name: len(cells) for name, cells in parts.items()}
    assert card["command"] == "erdpaper weighting"
    assert card["sampling"]["samples"]["final"] == grid.FINAL_SAMPLES
    kept = {name: (out / name).read_bytes() for name in ("runs.jsonl", "card.json")}
    computed.clear()
    grid.everything(work, out, 2)
    assert computed == []
    assert {path.name for path in out.iterdir()} == kept.keys()
    assert (out / "runs.jsonl").read_bytes() == kept["runs.jsonl"]


def test_an_interrupted_collection_leaves_what_was_there(
    computed: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work, out = tmp_path / "work", tmp_path / "out"
    out.mkdir()
    (out / "runs.jsonl").write_text("old\n")
    whole = grid.compute

    def failing(cell: Cell) -> dict[str, Any]:
        if len(computed) == 20:
            raise KeyError("out of memory")
        return whole(cell)

    with monkeypatch.context() as patch:
        patch.setattr(grid, "compute", failing)
        with pytest.raises(KeyError):
            grid.everything(work, out, 1)
    assert {path.name for path in out.iterdir()} == {"runs.jsonl"}
    assert (out / "runs.jsonl").read_text() == "old\n"
    # what is there is whole
    done = [json.loads(path.read_text()) for path in work.iterdir()]
    assert 0 < len(done) <= 20 and all("final" in line for line in done)
    computed.clear()
    grid.everything(work, out, 1)
    assert not {Cell.from_dict(line).key for line in done} & set(computed)
    assert len((out / "runs.jsonl").read_text().splitlines()) == len(done) + len(computed)
