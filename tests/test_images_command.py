"""`erdpaper train`, what its presets build, and what is kept of them."""

import csv
import io
import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import small_images
import step_by_step
import torch
from accelerate.state import AcceleratorState
from click.testing import CliRunner, Result
from fresh_process import fresh_process
from safetensors.torch import load_file
from torch import nn
from tqdm import tqdm

from erdpaper.cli import main
from erdpaper.images import command, weighting
from erdpaper.images.presets import PRESETS
from erdpaper.models.dit import DiT
from erdpaper.schedules import Cosine
from erdpaper.training import Labels, Recipe, Record, Stream, Trainer

DIT = ["--preset", "fashion-dit", "--steps", "50"]

SCRIPT = """\
import sys

import pytest
import small_images

from erdpaper.cli import main
from erdpaper.images import command


def show(bar, record, batch):
    print(record.step, flush=True)
    # until it is killed, or told to go on
    sys.stdin.readline()


small_images.install(pytest.MonkeyPatch())
command._show = show
main()
"""

Train = Callable[..., Result]


class Whole(NamedTuple):
    """A run that nobody stopped: its folder, and what its progress bar wrote."""

    folder: Path
    bar: str


@pytest.fixture(scope="module")
def train() -> Iterator[Train]:
    """The command on small data; each call is like one in a new process."""
    with pytest.MonkeyPatch.context() as patch, fresh_process():
        small_images.install(patch)

        def invoke(*arguments: str) -> Result:
            AcceleratorState._reset_state(True)
            return CliRunner().invoke(main, ["train", "--cpu", *arguments])

        yield invoke
    small_images.forget()


@pytest.fixture(scope="module")
def followed(train: Train, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """A run by the default of --out."""
    root = tmp_path_factory.mktemp("whole")
    (root / "data").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ERDPAPER_DATA", str(root / "data"))
        # it is shown at terminals only
        patch.setattr(command, "tqdm", lambda **asked: tqdm(**asked | {"disable": False}))
        result = train(*DIT)
    assert result.exit_code == 0, result.output
    folder = root / "runs" / "train" / "fashion-dit"
    assert result.stdout == f"the network: {folder / 'model.safetensors'}\n"
    return Whole(folder, result.stderr)


@pytest.fixture(scope="module")
def whole(followed: Whole) -> Path:
    return followed.folder


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the same run, killed three steps after its first checkpoint."""
    root = tmp_path_factory.mktemp("killed")
    out = root / "run"
    command = ("train", "--cpu", *DIT, "--out", str(out))
    step_by_step.kill_after(13, step_by_step.start(root / "script.py", SCRIPT, *command))
    return out


def losses(folder: Path) -> list[tuple[int, float]]:
    with (folder / "losses.csv").open() as log:
        return [(int(row["step"]), float(row["loss"])) for row in csv.DictReader(log)]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# ---------------------------------------------------------------- one run


@pytest.mark.parametrize(
    ("steps", "every"), [(1, 1), (50, 10), (1_000, 200), (30_000, 300), (1_000_000, 5_000)]
)
def test_a_short_run_has_checkpoints_too(tmp_path: Path, steps: int, every: int) -> None:
    asked = command.Request("fashion-dit", tmp_path, steps=steps, cpu=True)
    assert command._prepared(asked, None)[0].every == every


def test_every_setting_is_written_beside_the_run(whole: Path) -> None:
    assert json.loads((whole / "config.json").read_text()) == {
        "preset": "fashion-dit",
        "seed": 0,
        "data": "fashion",
        "model": "DiT-fashion",
        "target": "eps",
        "weight": "erd",
        "schedule": "cosine",
        "batch": 64,
        "dropout": 0.1,
        "steps": 50,
        "lr": PRESETS["fashion-dit"].recipe.lr,
        "decay": "cosine",
        "warmup": 5,
        "betas": [0.9, 0.999],
        "weight_decay": 0.0,
        "clip": 1.0,
        "ema": 0.999,
        "accumulate": 1,
        "precision": "no",
    }
    assert contents(whole).keys() == {
        "config.json",
        "losses.csv",
        "model.safetensors",
        "step-00000040.safetensors",
        "step-00000050.safetensors",
    }


def test_the_run_is_what_its_settings_say(whole: Path, killed: Path) -> None:
    torch.manual_seed(0)
    network = DiT.from_name("DiT-fashion")
    shown = small_images.images()
    objective = weighting.objective("erd", Cosine(), "eps")
    draw = Stream(shown.images, objective, 64, 0, Labels(shown.labels, 10, 0.1))
    rate = PRESETS["fashion-dit"].recipe.lr
    run = Trainer(network, draw, Recipe(50, rate, "cosine", warmup=5, clip=1.0, ema=0.999))
    first = [(record.step, float(record.loss)) for record in run.run(10)]
    assert losses(whole)[:10] == first
    assert run.average is not None
    kept = load_file(killed / "step-00000010.safetensors")
    for prefix, state in (("model", network.state_dict()), ("average", run.average.state_dict())):
        names = {name.removeprefix(f"{prefix}.") for name in kept if name.startswith(prefix)}
        assert names == state.keys()
        assert all(torch.equal(kept[f"{prefix}.{name}"], part) for name, part in state.items())
    # what is left in the end is the average
    last, found = (load_file(whole / f"{n}.safetensors") for n in ("step-00000050", "model"))
    assert all(torch.equal(last[f"average.module.{name}"], part) for name, part in found.items())


def test_the_bar_counts_images_a_second_and_shows_the_loss(followed: Whole) -> None:
    last = followed.bar.rsplit("\r", 1)[-1]
    # 50 batches of 64
    drawn = r"fashion-dit: 100%\|.*\| 3\.20k/3\.20k \["
    shown = re.search(drawn + r".*, ([\d.]+k?) images/s, loss=([\d.]+), step=50\]", last)
    assert shown is not None, last
    assert shown[2] == f"{losses(followed.folder)[-1][1]:.4f}"


def test_what_was_done_before_a_run_went_on_is_no_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("tqdm.std.time", lambda: now)
    bar = tqdm(total=500, mininterval=1, file=io.StringIO(), disable=False)
    for step in (31, 32, 33, 34):
        now += 2
        command._show(bar, Record(step, torch.tensor(0.5), 0.1), 10)
    assert bar.n == 340 and bar.format_dict["rate"] == pytest.approx(10 / 2)


def test_a_finished_run_is_left_as_it_is(whole: Path, train: Train) -> None:
    before = contents(whole)
    result = train(*DIT, "--out", str(whole))
    assert result.exit_code == 0 and result.stdout.startswith("the network: ")
    assert contents(whole) == before


def test_a_run_that_was_killed_gives_the_same_losses(
    whole: Path, killed: Path, train: Train, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    shutil.copytree(killed, out)
    # it got to its first checkpoint, and the losses after it are lost
    assert losses(out) == losses(whole)[:10]
    assert contents(out).keys() == {"config.json", "losses.csv", "step-00000010.safetensors"}
    result = train(*DIT, "--out", str(out))
    assert result.exit_code == 0
    found, expected = contents(out), contents(whole)
    assert found.keys() == expected.keys()
    for name in ("config.json", "losses.csv", "model.safetensors"):
        assert found[name] == expected[name]
    # a checkpoint's facts are in no fixed order
    for name in ("step-00000040.safetensors", "step-00000050.safetensors"):
        mine, other = (load_file(folder / name) for folder in (out, whole))
        assert mine.keys() == other.keys()
        assert all(torch.equal(part, other[k]) for k, part in mine.items())


def test_half_precision_is_close_and_keeps_single_weights(train: Train, tmp_path: Path) -> None:
    asked = ["--preset", "fashion-latents", "--steps", "2"]
    single, half = (tmp_path / name for name in ("no", "bf16"))
    for path in (single, half):
        result = train(*asked, "--out", str(path), "--precision", path.name)
        assert result.exit_code == 0, result.output
        assert json.loads((path / "config.json").read_text())["precision"] == path.name
    found, expected = ([loss for _, loss in losses(path)] for path in (half, single))
    assert found == pytest.approx(expected, rel=2**-7) and found != expected
    kept = load_file(half / "model.safetensors")
    assert {part.dtype for part in kept.values()} == {torch.float32}


def test_a_compiled_run_has_the_same_losses(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled = []

    # the networks' own tests are of the compiler's C++, which takes half a minute
    def compile_eagerly(module: nn.Module) -> None:
        compiled.append(type(module).__name__)
        module._compiled_call_impl = torch.compile(module._call_impl, backend="aot_eager")

    monkeypatch.setattr(nn.Module, "compile", compile_eagerly)
    asked = ["--preset", "fashion-latents", "--steps", "3"]
    for path, more in ((tmp_path / "no", []), (tmp_path / "yes", ["--compile"])):
        result = train(*asked, *more, "--out", str(path))
        assert result.exit_code == 0, result.output
    assert len(compiled) == 1
    found, expected = (losses(tmp_path / name) for name in ("yes", "no"))
    assert [step for step, _ in found] == [1, 2, 3]
    assert [loss for _, loss in found] == pytest.approx([loss for _, loss in expected], rel=1e-5)
    mine, other = (load_file(tmp_path / name / "model.safetensors") for name in ("yes", "no"))
    assert mine.keys() == other.keys()


def test_accumulated_parts_are_one_batch(train: Train, tmp_path: Path) -> None:
    asked = ["--preset", "fashion-latents", "--steps", "3", "--seed", "7"]
    for parts in ("1", "4"):
        assert train(*asked, "--out", str(tmp_path / parts), "--accumulate", parts).exit_code == 0
    found, expected = ([loss for _, loss in losses(tmp_path / parts)] for parts in ("4", "1"))
    assert found == pytest.approx(expected, rel=1e-5)
    assert json.loads((tmp_path / "4" / "config.json").read_text())["accumulate"] == 4


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--preset", "imagenet"], "unknown preset 'imagenet'; use one of fashion-pixels, "),
        (
            [*DIT, "--snapshots", "5,x"],
            "--snapshots takes steps with commas between them, such as ",
        ),
        ([*DIT, "--snapshots", "5,,7"], "--snapshots takes steps with commas between them, "),
        ([*DIT, "--snapshots", "5,51"], "snapshots must be of steps 1..50, got 51"),
        ([*DIT, "--every", "0"], "checkpoints need at least one step between them, got 0"),
        ([*DIT, "--accumulate", "0"], "accumulate must be at least 1, got 0"),
        ([*DIT, "--accumulate", "3"], "a batch of 64 cannot be cut into 1 (processes) x 3 "),
    ],
)
def test_a_wrong_request_is_one_sentence_and_status_2(
    train: Train, tmp_path: Path, arguments: list[str], sentence: str
) -> None:
    result = train(*arguments, "--out", str(tmp_path / "run"))
    assert result.exit_code == 2 and result.stdout == ""
    assert result.stderr.startswith(f"Error: {sentence}")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (["--steps", "13"], "holds a run with steps 50, not 13; name another folder or delete"),
        (["--seed", "1"], "holds a run with seed 0, not 1; name"),
        (["--precision", "bf16"], "holds a run with precision 'no', not 'bf16'; name"),
        (["--preset", "fashion-uvit"], "holds a run with "),
    ],
)
def test_another_run_does_not_go_into_the_folder_of_one(
    whole: Path, train: Train, changes: list[str], sentence: str
) -> None:
    before = contents(whole)
    result = train(*DIT, *changes, "--out", str(whole))
    assert result.exit_code == 2 and result.stdout == ""
    assert result.stderr.startswith(f"Error: {whole} {sentence}")
    assert result.stderr.count("\n") == 1
    assert contents(whole) == before


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--preset", "fashion-dit", "--out", "FILE"], "Invalid value for '--out': Directory "),
        (["--preset", "fashion-dit", "--steps", "0"], "Invalid value for '--steps': 0 is not in"),
        (["--preset", "fashion-dit", "--seed", "-1"], "Invalid value for '--seed': -1 is not in"),
        (["--preset", "fashion-dit", "--precision", "8"], "Invalid value for '--precision': "),
        ([], "Missing option '--preset'"),
    ],
)
def test_what_no_option_can_be_is_refused_before_anything_is_read(
    train: Train, tmp_path: Path, arguments: list[str], sentence: str
) -> None:
    (tmp_path / "file").write_text("")
    result = train(*(str(tmp_path / "file") if a == "FILE" else a for a in arguments))
    assert result.exit_code == 2 and result.stdout == ""
    errors = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert len(errors) == 1 and errors[0].startswith(f"Error: {sentence}")
