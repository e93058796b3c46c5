"""The rehearsal of a full-scale run: every command in processes of its own, killed and repeated."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.commands.launch import launch_command_parser
from diffusers import AutoencoderKL
from PIL import Image
from torch.distributed import run

from erdpaper import datasets
from erdpaper.fullscale.data import adm
from erdpaper.fullscale.data.shards import Shards
from erdpaper.fullscale.evaluation import extractors
from erdpaper.fullscale.rehearsals import kept_run, rehearsal, small_vae
from erdpaper.fullscale.rehearsals.terminal import CommandError, Terminal
from erdpaper.fullscale.sampling import runs

ROOT = Path(__file__).resolve().parents[1]
ENCODE = (
    "erdpaper encode --images imagenet --size 28 --encoder vae --per-shard 20 --workers 0 --cpu"
)
TRAIN = "erdpaper train --preset rehearsal-erd --data latents --steps 4 --every 1 --cpu"
SAMPLE = "erdpaper sample --run one --decoder vae --count 10 --steps 3 --scale 1.5 --cpu"
TWO = "torchrun --standalone --nproc_per_node 2 -m --"


@pytest.fixture(scope="module")
def terminal(tmp_path_factory: pytest.TempPathFactory) -> Terminal:
    """A folder with images and an autoencoder, encoded, trained and sampled from once."""
    folder = tmp_path_factory.mktemp("rehearsal")
    made = Terminal(folder)
    made.warm()
    rehearsal.write_images(folder / "imagenet", 7)
    rehearsal.link_autoencoder(folder / "vae")
    assert made.run(f"{ENCODE} --out latents") == "encoded: latents\n"
    assert made.run(f"{TRAIN} --out one") == "the network: one/model.safetensors\n"
    assert made.run(f"{SAMPLE} --out all.npz") == "the samples: all.npz\n"
    return made


def test_images_are_colour_files_in_class_folders_in_the_order_of_labels(
    terminal: Terminal,
) -> None:
    folders = sorted((terminal.folder / "imagenet").iterdir())
    assert [folder.name for folder in folders] == [rehearsal.folder_name(k) for k in range(10)]
    clothes = datasets.fashion_mnist("train")
    for label, folder in enumerate(folders):
        paths = sorted(folder.iterdir())
        assert len(paths) == 7
        with Image.open(paths[0]) as image:
            pixels = np.asarray(image).astype(float)
        first = clothes.images[clothes.labels == label][0, 0].numpy()
        # JPEG moves a pixel by a few of 256 grey levels
        assert np.abs(pixels.mean(-1) / 127.5 - 1 - first).mean() < 0.05
        assert pixels.shape == (28, 28, 3)


def test_a_function_is_asked_in_another_process(terminal: Terminal) -> None:
    assert terminal.ask(os.getppid) not in (os.getpid(), os.getppid())
    assert terminal.ask(rehearsal.folder_name, 3) == "n03-dress"
    with pytest.raises(CommandError, match=r"^folder_name failed: IndexError: tuple index"):
        terminal.ask(rehearsal.folder_name, 99)
    with pytest.raises(CommandError, match=r"^_exit failed: its process ended without a word$"):
        terminal.ask(os._exit, 3)


def test_an_interrupted_encoding_ends_with_the_same_bytes(terminal: Terminal) -> None:
    terminal.kill(f"{ENCODE} --out killed", once="killed/work/shard-00000.json")
    assert not (terminal.folder / "killed" / "index.json").exists()
    terminal.run(f"{ENCODE} --out killed")
    folders = terminal.folder / "latents", terminal.folder / "killed"
    assert rehearsal.different_files(*folders, "shard-*.safetensors") == 0
    labels = Shards(folders[1]).labels
    assert labels is not None and labels.tolist() == [k for k in range(10) for _ in range(7)]


def test_latents_are_those_of_diffusers(terminal: Terminal) -> None:
    folder = terminal.folder
    errors = rehearsal.encoding_errors(folder / "imagenet", folder / "latents", folder / "vae")
    # half precision keeps a value to 2^-11 of itself
    assert 0 < errors["mean"] < 1.01 * 2**-11 and 0 < errors["std"] < 1.01 * 2**-11


def test_an_interrupted_training_ends_with_the_same_bytes(terminal: Terminal) -> None:
    terminal.kill(f"{TRAIN} --out again", once="again/step-*")
    assert not (terminal.folder / "again" / "model.safetensors").exists()
    terminal.run(f"{TRAIN} --out again")
    one, again = terminal.folder / "one", terminal.folder / "again"
    assert rehearsal.losses_of(one).tolist() == rehearsal.losses_of(again).tolist()
    assert len(rehearsal.losses_of(one)) == 4
    assert rehearsal.different_files(one, again, "model.safetensors") == 0


def test_two_processes_give_the_losses_of_one_and_one_goes_on_from_two(terminal: Terminal) -> None:
    one = rehearsal.losses_of(terminal.folder / "one")
    terminal.run(f"{TWO} {TRAIN} --out two")
    terminal.kill(f"{TWO} {TRAIN} --out changed", once="changed/step-*")
    terminal.run(f"{TRAIN} --out changed")
    for name in ("two", "changed"):
        losses = rehearsal.losses_of(terminal.folder / name)
        np.testing.assert_allclose(losses, one, rtol=1e-6)


def test_interrupted_sampling_and_other_batches_give_the_same_images(terminal: Terminal) -> None:
    whole = rehearsal.images_of(terminal.folder / "all.npz")
    assert whole.shape == (10, 28, 28, 3) and whole.std() > 1
    terminal.kill(f"{SAMPLE} --batch 2 --out killed.npz", once="killed.npz.parts/part-*")
    assert not (terminal.folder / "killed.npz").exists()
    terminal.run(f"{SAMPLE} --batch 2 --out killed.npz")
    images = rehearsal.images_of(terminal.folder / "killed.npz").astype(int)
    assert np.abs(images - whole).max() <= 1


def test_the_distance_is_that_of_a_direct_computation(terminal: Terminal) -> None:
    folder = terminal.folder
    extractors.stand_in(folder / "weights.safetensors")
    rehearsal.write_reference(folder / "reference.npz", 2)
    said = terminal.run(
        "erdpaper evaluate all.npz --reference reference.npz --inception weights.safetensors --cpu "
        "--out report.json"
    )
    assert "no FID" in said and "\nFID" not in said
    weights = folder / "weights.safetensors"
    direct = rehearsal.frechet(folder / "all.npz", folder / "reference.npz", weights)
    found = rehearsal.reported(folder / "report.json", "Fréchet distance")
    assert found == pytest.approx(direct, rel=1e-6) and direct > 0


def test_fréchet_distance_of_known_laws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # features are the images' own first two bytes, in two clouds of known mean and covariance
    class Bytes:
        def __call__(self, images: torch.Tensor) -> extractors.Features:
            return extractors.Features(images.flatten(1)[:, :2].float(), None, None)

    monkeypatch.setattr(extractors, "load", lambda path, device: Bytes())
    first = np.array([[0, 0], [20, 0], [0, 20], [20, 20]])
    second = 100 + 2 * first
    for name, points in (("a", first), ("b", second)):
        images = np.zeros((4, 1, 2, 1), dtype=np.uint8)
        images[:, 0, :, 0] = points
        adm.write(tmp_path / f"{name}.npz", adm.Shape(4, 1, 2, 1), [images], None, {})
    # means differ by 110 in both; standard deviations s and 2 s in both, s^2 = 400/3
    expected = 2 * 110**2 + 2 * 400 / 3
    found = rehearsal.frechet(tmp_path / "a.npz", tmp_path / "b.npz", tmp_path)
    assert found == pytest.approx(expected)


def test_torchrun_does_the_same(terminal: Terminal) -> None:
    """What a shell would start, against the terminal's two processes."""
    terminal.run(f"{TWO} {TRAIN} --steps 2 --out here")
    launcher = [sys.executable, "-m", "torch.distributed.run", *TWO.split()[1:]]
    command = [*launcher, *f"{TRAIN} --steps 2 --out there".split()]
    done = subprocess.run(
        command, cwd=terminal.folder, env={**os.environ}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    folders = terminal.folder / "here", terminal.folder / "there"
    assert rehearsal.losses_of(folders[0]).tolist() == rehearsal.losses_of(folders[1]).tolist()


def test_launchers_leave_the_commands_own_options_to_it() -> None:
    """Lines of chapter 8 and all of the README, by the launchers' own parsers."""
    own = ["sample", "--run", "alone", "--count", "4"]
    given = run.get_args_parser().parse_args([*TWO.split()[1:], "erdpaper", *own])
    assert [given.training_script, *given.training_script_args] == ["erdpaper", *own]
    text = (ROOT / "README.md").read_text().replace("\\\n", "")
    lines = [line.partition("#")[0] for line in text.splitlines()]
    lines = [line for line in lines if line.startswith("accelerate launch")]
    assert len(lines) == 3
    for line in lines:
        _, _, *options = shlex.split(line)
        asked = launch_command_parser().parse_args(options)
        start = options.index("erdpaper")
        assert [asked.training_script, *asked.training_script_args] == options[start:]


def test_a_command_that_ends_otherwise_is_an_error(terminal: Terminal) -> None:
    with pytest.raises(CommandError, match="failed: Error: nothing is not a folder"):
        terminal.run("erdpaper encode --images nothing --size 28 --out x")
    with pytest.raises(CommandError, match="was not refused in one sentence"):
        terminal.refused("erdpaper --version")
    with pytest.raises(CommandError, match=r"ended before never was there"):
        terminal.kill("erdpaper --version", once="never")
    with pytest.raises(ValueError, match="a command begins with erdpaper or torchrun"):
        terminal.run("rm -r latents")
    rehearsal.write_broken(terminal.folder / "broken")
    said = terminal.refused("erdpaper encode --images broken --check --workers 0")
    assert said.startswith("Error: broken/n00-t-shirt/00001.JPEG cannot be read as an image")


def test_files_are_compared_by_name_and_bytes(tmp_path: Path) -> None:
    for folder, names in (("a", "123"), ("b", "234")):
        (tmp_path / folder).mkdir()
        for name in names:
            (tmp_path / folder / name).write_text(folder if name == "3" else "same")
    # 1 and 4 are in one folder only, 3 differs
    assert rehearsal.different_files(tmp_path / "a", tmp_path / "b", "*") == 3


def test_the_kept_autoencoder_is_the_one_of_its_card() -> None:
    folder = small_vae.folder()
    sums = dict(line.split()[::-1] for line in (folder / "SHA256SUMS").read_text().splitlines())
    assert sums == {name: extractors.sha256(folder / name) for name in sums} and len(sums) == 2
    network = AutoencoderKL.from_pretrained(folder, use_safetensors=True).eval()
    images = datasets.fashion_mnist("test").images[:200].expand(-1, 3, -1, -1)
    with torch.no_grad():
        latents = network.encode(images).latent_dist.mean
        error = (network.decode(latents).sample.clamp(-1, 1) - images).square().mean().sqrt()
    card = (folder / "README.md").read_text()
    assert f"{sum(p.numel() for p in network.parameters()):,} parameters" in card
    assert f"| {float(error):.3f} on the first 200 test images" in card
    assert f"| {network.config.scaling_factor} |" in card.replace(", one over", " |")


def test_the_autoencoder_learns_and_its_factor_scales(tmp_path: Path) -> None:
    images = datasets.fashion_mnist("train").images[:64].expand(-1, 3, -1, -1)
    network = small_vae.train(images, 12)
    fresh = small_vae.untrained().eval()
    with torch.no_grad():
        errors = [
            float((n.decode(n.encode(images).latent_dist.mean).sample - images).square().mean())
            for n in (network, fresh)
        ]
        scaled = network.encode(images).latent_dist.mean * network.config.scaling_factor
    assert errors[0] < 0.8 * errors[1]
    assert float(scaled.std()) == pytest.approx(1, abs=1e-3)


def test_the_kept_run_is_one_that_can_be_sampled_from() -> None:
    card = kept_run.load_card()
    assert card["commands"] == list(kept_run.COMMANDS)
    folder = kept_run.folder() / kept_run.RUN
    trained = runs.load(folder)
    assert trained.config["preset"] == kept_run.RUN and trained.shape == (4, 7, 7)
    assert len(rehearsal.losses_of(folder)) == kept_run.STEPS == trained.config["steps"]
    assert trained.config["examples"] == 10 * kept_run.PER_CLASS
    assert card["images"] == f"{kept_run.PER_CLASS:,} of each class"


def test_a_kept_run_names_no_place_of_this_machine(tmp_path: Path) -> None:
    run = tmp_path / kept_run.RUN
    run.mkdir()
    (run / "config.json").write_text(
        json.dumps({"encoder": "/somewhere/vae", "steps": 2, "source": "images /here"})
    )
    for name in ("losses.csv", "model.safetensors", "step-00000002.safetensors"):
        (run / name).write_text(name)
    kept_run.keep(run, tmp_path / "kept")
    kept = tmp_path / "kept" / kept_run.RUN
    config = json.loads((kept / "config.json").read_text())
    assert config["encoder"] == "small-vae" and config["steps"] == 2
    assert "/" not in config["source"]
    assert not list(kept.glob("step-*"))
    assert (tmp_path / "kept" / "card.json").exists()
