"""`erdpaper train` on encoded folders: any number of processes, and what is refused at once."""

import csv
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import small_shards
import torch
from accelerate.state import AcceleratorState
from click.testing import CliRunner, Result
from fresh_process import fresh_process
from safetensors.torch import load_file
from torch import Tensor

from erdpaper.cli import main
from erdpaper.fullscale import train as fullscale
from erdpaper.fullscale.data.shards import INDEX, Shards, checksum
from erdpaper.images import build, weighting
from erdpaper.models.dit import DiT
from erdpaper.models.unet import UNet, UNetConfig
from erdpaper.models.uvit import UViT
from erdpaper.schedules import Cosine
from erdpaper.training import Ahead, Labels, Objective, Recipe, Stream, Trainer, generator_for

STEPS = 8
ASKED = ["--preset", "rehearsal-erd", "--steps", str(STEPS), "--every", "4"]

SCRIPT = """\
import sys
from pathlib import Path

from accelerate.state import AcceleratorState

from erdpaper.fullscale import train
from erdpaper.images import command

data, out = Path(sys.argv[1]), Path(sys.argv[2])


def stop(bar, record, batch):
    if record.step == 6:
        raise KeyboardInterrupt


for name, show in (("whole", command._show), ("stopped", stop)):
    AcceleratorState._reset_state(True)
    command._show = show
    asked = command.Request("rehearsal-erd", out / name, steps=8, every=4, cpu=True)
    try:
        train.train(asked, data)
    except KeyboardInterrupt:
        pass
"""

Train = Callable[..., Result]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_shards.write(tmp_path_factory.mktemp("data") / "encoded")


@pytest.fixture(scope="module")
def train() -> Iterator[Train]:
    """The command; each call is like one in a new process."""

    def invoke(*arguments: str) -> Result:
        AcceleratorState._reset_state(True)
        return CliRunner().invoke(main, ["train", "--cpu", *arguments])

    with fresh_process():
        yield invoke


@pytest.fixture(scope="module")
def whole(train: Train, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one process."""
    out = tmp_path_factory.mktemp("whole") / "run"
    result = train(*ASKED, "--data", str(data), "--out", str(out))
    assert result.exit_code == 0, result.output
    return out


def losses(folder: Path) -> list[float]:
    with (folder / "losses.csv").open() as log:
        rows = list(csv.DictReader(log))
    assert [int(row["step"]) for row in rows] == list(range(1, len(rows) + 1))
    return [float(row["loss"]) for row in rows]


def close(folder: Path, other: Path) -> None:
    found, expected = (load_file(path / "model.safetensors") for path in (folder, other))
    assert found.keys() == expected.keys()
    for name, part in expected.items():
        torch.testing.assert_close(found[name], part, rtol=1e-4, atol=1e-5)


# ---------------------------------------------------------------- one run


def test_the_run_is_what_its_row_says(whole: Path, data: Path) -> None:
    torch.manual_seed(0)
    model = DiT.from_name("DiT-fashion-latent")
    source = Shards(data)
    assert source.labels is not None
    labels = Labels(source.labels, 10, 0.1)
    draw = Stream(source, weighting.objective("erd", Cosine(), "eps"), 64, 0, labels)
    run = Trainer(model, draw, Recipe(STEPS, 1e-3, ema=0.99))
    assert losses(whole) == [float(record.loss) for record in run.run()]
    config = json.loads((whole / "config.json").read_text())
    assert config["preset"] == "rehearsal-erd" and config["model"] == "DiT-fashion-latent"
    assert (config["encoder"], config["factor"], config["examples"]) == ("none", 0.5, 150)
    assert config["index"] == checksum(data / INDEX)


def test_a_batch_is_the_same_however_it_is_read(data: Path) -> None:
    source = Shards(data)
    draw = Stream(source, Objective(Cosine(), "x0"), 32, 3)
    for step in (1, 4, 9):
        # y is the data: means and deviations as written, by numbers of the step alone
        generator = generator_for(3, 1, step)
        expected = source.take(draw._order(step), generator)
        assert torch.equal(draw(step).y, expected)
        assert torch.equal(Ahead(draw, 9)(step).x, draw(step).x)


def test_two_processes_are_one_and_one_goes_on_with_what_two_began(
    whole: Path, data: Path, train: Train, tmp_path: Path
) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    done = subprocess.run(
        [*command, str(tmp_path / "script.py"), str(data), str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    expected = losses(whole)
    assert losses(tmp_path / "whole") == pytest.approx(expected, rel=1e-6)
    close(tmp_path / "whole", whole)
    stopped = tmp_path / "stopped"
    assert losses(stopped) == pytest.approx(expected[:6], rel=1e-6)
    result = train(*ASKED, "--data", str(data), "--out", str(stopped))
    assert result.exit_code == 0, result.output
    assert losses(stopped) == pytest.approx(expected, rel=1e-6)
    close(stopped, whole)


def test_one_goes_on_in_other_parts_and_with_moved_data(
    whole: Path, data: Path, train: Train, tmp_path: Path
) -> None:
    for file in whole.iterdir():
        if file.name not in ("model.safetensors", "step-00000008.safetensors"):
            (tmp_path / "run").mkdir(exist_ok=True)
            (tmp_path / "run" / file.name).write_bytes(file.read_bytes())
    (tmp_path / "elsewhere").symlink_to(data)
    asked = ["--data", str(tmp_path / "elsewhere"), "--out", str(tmp_path / "run")]
    result = train(*ASKED, *asked, "--accumulate", "4")
    assert result.exit_code == 0, result.output
    assert losses(tmp_path / "run") == pytest.approx(losses(whole), rel=1e-5)


def test_checkpointed_activations_change_nothing(
    whole: Path, data: Path, train: Train, tmp_path: Path
) -> None:
    asked = [*ASKED, "--data", str(data), "--out", str(tmp_path / "run")]
    result = train(*asked, "--checkpoint-activations")
    assert result.exit_code == 0, result.output
    assert losses(tmp_path / "run") == pytest.approx(losses(whole), rel=1e-6)


MODELS: dict[str, Callable[[], Any]] = {
    "DiT": lambda: DiT.from_name("DiT-fashion", size=8, width=32, depth=3),
    "U-ViT": lambda: UViT.from_name("U-ViT-fashion", size=8, width=32, depth=5),
    "UNet": lambda: UNet(UNetConfig(8, 1, (16, 32), (1,), 1, 8, 4, 10)),
    "ADM": lambda: UNet(UNetConfig(8, 1, (16, 32), (1,), 1, 8, 4, 10, adm=True)),
}


@pytest.mark.parametrize("name", MODELS)
def test_recomputed_gradients_are_the_same(name: str) -> None:
    found: list[list[Tensor]] = []
    calls = []
    for recompute in (False, True):
        torch.manual_seed(1)
        model = MODELS[name]().double()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.1 * torch.randn_like(parameter)
        model.recompute = recompute
        assert model.recompute == recompute
        kinds = set(model._no_split_modules)
        blocks = [part for part in model.modules() if type(part).__name__ in kinds]
        seen: list[int] = []
        for block in blocks:
            # forward again, which ends early where all that is needed has been made
            block.register_forward_pre_hook(lambda *_, seen=seen: seen.append(1))
        x = torch.randn(3, 1, 8, 8, dtype=torch.float64)
        loss = model(x, torch.rand(3, dtype=torch.float64), torch.tensor([0, 4, 10])).square().sum()
        found.append(list(torch.autograd.grad(loss, list(model.parameters()))))
        calls.append(len(seen) / len(blocks))
    # diffusers keeps the activations of some blocks between its levels
    assert calls[0] == 1
    assert calls[1] == 2 if name in ("DiT", "U-ViT") else 1.6 < calls[1] < 2
    for mine, other in zip(*found, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-12, atol=1e-12)


# ---------------------------------------------------------------- what is refused


def refused(result: Result, sentence: str) -> None:
    assert result.exit_code == 2 and result.stdout == ""
    assert result.stderr == f"Error: {sentence}\n"


def test_data_are_asked_for(train: Train, tmp_path: Path) -> None:
    refused(
        train("--preset", "imagenet-dit-b2-erd", "--out", str(tmp_path / "run")),
        "imagenet-dit-b2-erd trains on ImageNet 256 in VAE latents: name a folder that "
        "`erdpaper encode` wrote, by --data FOLDER",
    )
    assert not (tmp_path / "run").exists()


def test_data_are_not_taken_where_they_are_there(train: Train, data: Path, tmp_path: Path) -> None:
    refused(
        train("--preset", "fashion-dit", "--data", str(data), "--out", str(tmp_path / "run")),
        "fashion-dit brings its own data; leave out --data",
    )


def test_data_of_another_kind_are_refused(train: Train, data: Path, tmp_path: Path) -> None:
    out = ["--out", str(tmp_path / "run")]
    refused(
        train("--preset", "imagenet-dit-b2-erd", "--data", str(data), *out),
        f"{data} holds examples of 4x7x7, and imagenet-dit-b2-erd trains on 4x32x32 "
        "(ImageNet 256 in VAE latents)",
    )
    few = small_shards.write(tmp_path / "few", classes=3)
    refused(
        train("--preset", "rehearsal-erd", "--data", str(few), *out),
        f"{few} holds 3 classes, and rehearsal-erd trains on 10",
    )
    missing = tmp_path / "missing"
    result = train("--preset", "rehearsal-erd", "--data", str(missing), *out)
    refused(result, f"{missing} is not a folder; it must be one that `erdpaper encode` wrote")
    assert not (tmp_path / "run").exists()


def test_data_with_classes_serve_a_network_without(tmp_path: Path) -> None:
    faces = small_shards.write(tmp_path / "faces", (3, 64, 64), classes=2, n=4)
    found = fullscale.found("celeba-dit-s-erd", faces)
    assert found is not None and found.source.labels is not None
    few = found._replace(row=found.row._replace(batch=2))
    run = build.build("celeba-dit-s-erd", found=few)
    batch = run.trainer.draw(1)
    assert batch.label is None and batch.x.shape == (2, 3, 64, 64)


def test_other_data_do_not_go_on_with_a_run(whole: Path, train: Train, tmp_path: Path) -> None:
    other = small_shards.write(tmp_path / "other", n=151)
    result = train(*ASKED, "--data", str(other), "--out", str(whole))
    assert result.exit_code == 2 and result.stderr.count("\n") == 1
    assert f"{whole} holds a run with examples 150, not 151; name another folder" in result.stderr


@pytest.mark.parametrize(
    ("extra", "sentence"),
    [
        (["--shard"], "a network is sharded over several GPUs, one a process: start it by "),
        (["--accumulate", "3"], "a batch of 64 cannot be cut into 1 (processes) x 3 "),
        (["--accumulate", "0"], "accumulate must be at least 1, got 0"),
    ],
)
def test_what_cannot_be_run_is_one_sentence(
    train: Train, data: Path, tmp_path: Path, extra: list[str], sentence: str
) -> None:
    asked = ["--preset", "rehearsal-erd", "--data", str(data), "--out", str(tmp_path / "run")]
    try:
        result = train(*asked, *extra)
    finally:
        os.environ.pop("ACCELERATE_USE_FSDP", None)
    assert result.exit_code == 2 and result.stdout == ""
    assert result.stderr.startswith(f"Error: {sentence}") and result.stderr.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_what_keeps_its_activations_says_so(train: Train, tmp_path: Path) -> None:
    for extra in ([], ["--dry-run"]):
        asked = ["--preset", "fashion-latents", "--checkpoint-activations", *extra]
        refused(
            train(*asked, "--out", str(tmp_path / "run")),
            "MLP-latent keeps its activations; a DiT, U-ViT or UNet can recompute them",
        )


def test_fewer_images_than_the_preset_stands_for_are_said(data: Path) -> None:
    with pytest.warns(UserWarning, match=r"holds 150 images, not the 60,000 of images of 28x28"):
        fullscale.found("rehearsal-erd", data)
