"""The presets of full scale against the paper's tables, and what a run of each would be."""

from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from erdpaper import datasets
from erdpaper.cli import main
from erdpaper.fullscale import plan, presets, train
from erdpaper.fullscale.data import shards
from erdpaper.fullscale.presets import DATA, PRESETS
from erdpaper.fullscale.tables import published
from erdpaper.images import build, command, weighting
from erdpaper.images.presets import PRESETS as FASHION
from erdpaper.images.presets import TOOLS, described
from erdpaper.schedules import VP
from erdpaper.training import Held

# in the order of the table
COLUMNS = [
    "imagenet-dit-b2-erd",
    "imagenet-dit-l2-erd",
    "imagenet-dit-xl2-erd",
    "imagenet-uvit-m2-erd",
    "imagenet-uvit-l2-erd",
    "imagenet-uvit-h2-erd",
    "imagenet-uvit-h2-erd-long",
]
# our rows in the order of the tables
TABLE_1 = [
    "imagenet-dit-s2",
    "imagenet-dit-s2-erd",
    "imagenet-dit-s2",
    "imagenet-dit-s2-beta",
    "imagenet-dit-s2-cosine",
    "imagenet-dit-s2-cosine-erd",
]
TABLE_2 = [
    "celeba-ddim",
    "celeba-soft-truncation",
    "celeba-unet-erd",
    "celeba-uvit-s",
    "celeba-dit-s",
    "celeba-dit-s-erd",
]
TABLE_3 = [
    *("imagenet-dit-b2", "imagenet-sit-b2", "imagenet-dit-b2-erd"),
    *("imagenet-dit-l2", "imagenet-sit-l2", "imagenet-dit-l2-erd"),
    *("imagenet-dit-xl2", "imagenet-sit-xl2", "imagenet-dit-xl2-erd"),
    *("imagenet-uvit-m2-uniform", "imagenet-uvit-m2-erd"),
    *("imagenet-uvit-l2-uniform", "imagenet-uvit-l2-erd"),
    *("imagenet-uvit-h2-uniform", "imagenet-uvit-h2-min-snr", "imagenet-uvit-h2-erd"),
]


def network(name: str) -> Any:
    with torch.device("meta"):
        return build.network(name)


def size(name: str) -> float:
    return sum(p.numel() for p in network(PRESETS[name].model).parameters()) / 1e6


@pytest.mark.parametrize("number", range(7))
def test_columns_of_table_5(number: int) -> None:
    column, name = published.table(5)[number], COLUMNS[number]
    row = PRESETS[name]
    sizes, recipe = network(row.model).config, row.recipe
    assert row.model == column["model"]
    assert column["input_dim"] == f"{sizes.size}x{sizes.size}x{sizes.channels}"
    assert sizes.depth == column.value("layers")
    assert sizes.width == column.value("width") and sizes.heads == column.value("heads")
    # the signs of the DiTs are illegible
    conv = {"yes": True, "no": False, "": None}[column["convolution"]]
    assert conv in (None, getattr(sizes, "conv", None))
    assert round(size(name)) == pytest.approx(column.value("params"), abs=1)
    steps = 400_000 if column["length"] == "400K" else 4_000_000
    assert column["length"] in ("400K", "800") and recipe.steps == steps
    assert row.batch == column.value("batch") and recipe.lr == float(column["learning_rate"])
    assert str(recipe.betas).replace(" ", "") == column["betas"]
    assert (row.schedule, row.target) == (column["schedule"], column["objective"])
    # App. G.1
    assert (column["optimizer"], recipe.weight_decay, recipe.decay) == ("AdamW", 0, "constant")
    assert (row.weight, row.dropout, recipe.ema) == ("erd", 0.1, 0.9999)


def test_the_long_run_is_as_many_epochs_as_table_5_says() -> None:
    row = PRESETS["imagenet-uvit-h2-erd-long"]
    epochs = row.recipe.steps * row.batch / DATA[row.data].examples
    assert epochs == pytest.approx(800, rel=1e-3)


def test_rows_of_table_1() -> None:
    table = published.table(1)
    assert len(table) == len(TABLE_1)
    rows = [PRESETS[name] for name in TABLE_1]
    assert table[0]["method"] == rows[0].model == "DiT-S/2"
    assert all((row.recipe.steps, row.batch, row.recipe.lr) == (400_000, 256, 1e-4) for row in rows)
    assert rows[1] == rows[0]._replace(weight="erd")
    assert "beta2 = 0.95" in table[3]["method"] and rows[3].recipe.betas == (0.9, 0.95)
    assert rows[3].recipe.steps == rows[2].recipe.steps and rows[3].schedule == rows[2].schedule
    assert "osine" in table[4]["method"] and rows[4] == rows[3]._replace(schedule="cosine")
    assert rows[5] == rows[4]._replace(weight="erd")
    decay = PRESETS["imagenet-dit-s2-decay"]
    assert decay.recipe.decay == "cosine" and decay.schedule == rows[3].schedule
    assert PRESETS["imagenet-dit-s2-decay-erd"] == decay._replace(weight="erd")


def test_figure_6_is_every_weight_on_every_target() -> None:
    base = PRESETS["imagenet-dit-s2-cosine"]
    found = {
        (row.target, row.weight)
        for name, row in PRESETS.items()
        if row == base._replace(target=row.target, weight=row.weight) and "dit-s2" in name
    }
    weights = ("uniform", "min-snr", "p2", "erd")
    assert found == {(target, weight) for target in ("eps", "x0", "v") for weight in weights}


def test_rows_of_table_2() -> None:
    table = published.table(2)
    assert len(table) == len(TABLE_2)
    for printed, name in zip(table, TABLE_2, strict=True):
        assert size(name) == pytest.approx(float(printed["params"].rstrip("M")), rel=0.04)
        row = PRESETS[name]
        soft = printed["method"] == "Soft Truncation"
        length = 1_300_000 if soft else 500_000
        assert (row.batch, row.recipe.steps, row.dropout) == (128, length, 0.0)
        expected = "erd" if "Ours" in printed["method"] else "uniform"
        assert row.weight == ("soft-truncation" if soft else expected)
        # Sec. 4.2
        if "celeba-unet" in name or "celeba-dit" in name:
            betas = (0.9, 0.999) if "unet" in name else (0.9, 0.95)
            assert (row.recipe.betas, row.schedule) == (betas, "cosine")


def test_the_unet_for_faces_has_the_published_size() -> None:
    # "50M" [P Tab 2]
    assert size("celeba-unet-erd") == pytest.approx(51.97, abs=0.01)


def test_soft_truncation_is_trained_as_in_the_code_of_its_authors() -> None:
    row = PRESETS["celeba-soft-truncation"]
    assert size("celeba-soft-truncation") == pytest.approx(62.51, abs=0.01)
    assert (row.target, row.schedule, row.recipe.lr) == ("eps", "vp", 2e-4)
    assert (row.recipe.warmup, row.recipe.clip, row.recipe.ema) == (5_000, 1.0, 0.9999)
    assert PRESETS["celeba-soft-truncation-nll"] == row._replace(weight="soft-truncation-nll")


@pytest.mark.parametrize("name", ["celeba-soft-truncation", "celeba-soft-truncation-nll"])
def test_soft_truncation_trains_on_times_above_that_of_its_batch(name: str) -> None:
    # the row on a network for one core
    row = PRESETS[name]._replace(model="UNet-fashion-latent", batch=8)
    source = Held(torch.randn(16, 4, 7, 7), torch.arange(16) % 10)
    run = build.build(name, 2, 4, found=build.Found(row, source, {})).trainer
    batches = [run.draw(step) for step in range(1, 5)]
    # every batch is stratified between its own smallest time and 1
    level = [(-VP().logsnr(b.t.double())) if name.endswith("nll") else b.t for b in batches]
    gaps = [float(t[-1] - t[1]) for t in level]
    assert max(gaps) > 1.02 * min(gaps)
    assert all(bool((b.weight == b.weight[0]).all()) for b in batches)
    assert (len({float(b.weight[0]) for b in batches}) > 1) == name.endswith("nll")
    losses = [float(record.loss) for record in run.run()]
    assert len(losses) == 4 and max(losses) < 20


def test_rows_of_table_3() -> None:
    table = published.table(3)
    assert len(table) == len(TABLE_3)
    for printed, name in zip(table, TABLE_3, strict=True):
        row = PRESETS[name]
        assert row.model == printed["group"]
        assert size(name) == pytest.approx(float(printed["params"].rstrip("M")), abs=1)
        assert (row.recipe.steps, printed["iter"], row.batch) == (400_000, "400K", 256)
        expected = {"Ours": "erd", "Min-SNR": "min-snr"}.get(printed["model"], "uniform")
        assert row.weight == expected
        sit = printed["model"].startswith("SiT")
        assert (row.target, row.schedule == "linear") == ("u" if sit else "eps", sit)


def test_beside_every_erd_there_is_the_same_with_a_constant_weight() -> None:
    named = [name for name in PRESETS if name.endswith("-erd")]
    plain = {name: PRESETS[name]._replace(weight="uniform") for name in named}
    assert len(named) == 15
    for name, row in plain.items():
        assert row in PRESETS.values(), name
    pairs = [name for name in named if name.removesuffix("-erd") + "-uniform" in PRESETS]
    for name in pairs:
        assert PRESETS[name.removesuffix("-erd") + "-uniform"] == plain[name]
    assert len(pairs) == 9


@pytest.mark.parametrize("name", PRESETS)
def test_every_row_fits_together(name: str) -> None:
    row = PRESETS[name]
    assert name not in FASHION | TOOLS
    sizes = network(row.model).config
    wanted = DATA[row.data]
    assert (sizes.channels, sizes.size, sizes.size) == wanted.shape
    assert sizes.classes == wanted.classes and (row.dropout > 0) == (sizes.classes > 0)
    objective = weighting.objective(row.weight, build.SCHEDULES[row.schedule], row.target)
    times = (torch.arange(1_000, dtype=torch.float64) + 0.5) / 1_000
    assert float(objective.weight(times).mean()) == pytest.approx(1, rel=0.02)


# ---------------------------------------------------------------- what a run would be

MODELS = {row.model: name for name, row in (FASHION | TOOLS | PRESETS).items()}


@pytest.fixture
def no_data(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any, **other: Any) -> None:
        raise AssertionError("data were touched")

    monkeypatch.setattr(datasets, "data_dir", refuse)
    monkeypatch.setattr(shards.Index, "read", refuse)


@pytest.mark.parametrize("model", MODELS)
def test_a_dry_run_says_what_a_run_would_be(no_data: None, model: str) -> None:
    name = MODELS[model]
    result = CliRunner().invoke(main, ["train", "--preset", name, "--dry-run"])
    assert result.exit_code == 0, result.output
    shown = dict(line.split(maxsplit=1) for line in result.stdout.splitlines() if line[0] != " ")
    row = train.row(name)
    for setting, value in described(row).items():
        assert shown[setting] == str(value), setting
    assert int(shown["parameters"].replace(",", "")) == (
        sum(p.numel() for p in network(model).parameters())
        if name not in TOOLS
        else plan.plan(command.Request(name, Path())).parameters
    )
    assert " TFLOP a step" in shown["operations"]
    assert " GB on each of 1 device" in shown["memory"]
    assert shown["length"].startswith(f"{row.recipe.steps:,} steps, ")


def test_a_plan_follows_the_devices() -> None:
    request = command.Request("imagenet-dit-xl2-erd", Path(), precision="bf16")
    one, eight = plan.plan(request, 1), plan.plan(request, 8)
    assert (one.images, eight.images) == (256, 32)
    assert one.operations == eight.operations and one.epochs == eight.epochs
    # 8 divides the activations, but not the weights
    assert eight.memory.activations * 8 == one.memory.activations
    assert eight.memory.moments == one.memory.moments
    halved = plan.plan(request._replace(accumulate=2), 8)
    assert halved.images == 16 and halved.settings["accumulate"] == 2
    sharded = plan.plan(request._replace(shard=True, recompute=True), 8)
    assert 8 * sharded.memory.moments == pytest.approx(eight.memory.moments, rel=1e-6)
    assert sharded.memory.activations < eight.memory.activations / 5
    with pytest.raises(ValueError, match=r"batch of 256 cannot be cut into 3 \(processes\)"):
        plan.plan(request, 3)


def test_a_network_without_an_average_has_no_memory_for_it() -> None:
    found = plan.plan(command.Request("fashion-classifier", Path())).memory
    assert found.average == 0 and found.total == 4 * found.parameters + found.activations
    kept = plan.plan(command.Request("rehearsal-erd", Path())).memory
    assert kept.average == kept.parameters > 0


def test_a_plan_of_another_length_is_that_of_the_run() -> None:
    short = plan.plan(command.Request("cifar10-unet-erd", Path(), steps=1_000, seed=4))
    assert short.settings["warmup"] == 100 and short.settings["seed"] == 4
    assert short.epochs == pytest.approx(1_000 * 128 / 50_000)


def test_presets_are_listed_for_one_that_is_unknown() -> None:
    for extra in ([], ["--dry-run"], ["--data", "nowhere"]):
        result = CliRunner().invoke(main, ["train", "--preset", "imagenet", *extra])
        assert result.exit_code == 2 and result.stdout == ""
        assert result.stderr.startswith("Error: unknown preset 'imagenet'; use one of fashion-")
        assert all(name in result.stderr for name in presets.PRESETS)
        assert result.stderr.count("\n") == 1


def test_a_dry_run_refuses_a_snapshot_that_the_run_does_not_pass(no_data: None) -> None:
    asked = ["train", "--preset", "imagenet-dit-b2-erd", "--dry-run", "--steps", "100"]
    assert CliRunner().invoke(main, [*asked, "--snapshots", "1,100"]).exit_code == 0
    for step in ("0", "101"):
        result = CliRunner().invoke(main, [*asked, "--snapshots", f"50,{step}"])
        assert result.exit_code == 2
        assert result.stderr == f"Error: snapshots must be of steps 1..100, got {step}\n"


def test_a_launched_dry_run_speaks_once_and_for_all_devices(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = ["train", "--preset", "imagenet-dit-b2-erd", "--dry-run"]
    monkeypatch.setenv("WORLD_SIZE", "8")
    said = []
    for rank in ("0", "3"):
        monkeypatch.setenv("RANK", rank)
        result = CliRunner().invoke(main, asked)
        assert result.exit_code == 0
        said.append(result.stdout)
    assert " GB on each of 8 devices, 32 images" in said[0] and said[1] == ""
