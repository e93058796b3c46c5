"""The models of data/fashion-models: how they are made and kept, and what is there."""

import csv
import json
import os
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import small_images
import torch
from accelerate.state import AcceleratorState
from click.testing import CliRunner
from safetensors.torch import load_file
from torch import Tensor

from erdpaper.cli import main
from erdpaper.datasets import DatasetError, Images
from erdpaper.images import data, grid, keep
from erdpaper.images.presets import PRESETS, TOOLS, described


def losses(folder: Path) -> list[tuple[int, float]]:
    with (folder / "losses.csv").open() as log:
        return [(int(row["step"]), float(row["loss"])) for row in csv.DictReader(log)]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_half_leaves_whole_numbers_alone() -> None:
    state = {
        "single": torch.tensor([1.0, 1 / 3, -2.5e-8]),
        "double": torch.tensor([0.1], dtype=torch.float64),
        "count": torch.tensor(10**9),
        "bytes": torch.arange(4).to(torch.uint8),
    }
    found = keep.half(state)
    assert list(found) == list(state)
    for name in ("single", "double"):
        assert found[name].dtype == torch.half
        # eleven binary digits
        difference = (found[name].double() - state[name].double()).abs()
        assert bool((difference <= 2**-11 * state[name].abs() + 2**-25).all())
    for name in ("count", "bytes"):
        assert found[name].dtype == state[name].dtype and torch.equal(found[name], state[name])


def clear() -> None:
    for cached in (data.autoencoder, data.classifier, data.latents):
        cached.cache_clear()
    small_images.forget()


def few(split: str) -> Images:
    """As many as the largest batch."""
    shown = small_images.images(split)
    return Images(shown.images[:128], shown.labels[:128])


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """A data folder without models, short trainings on small images; what is trained, in order."""
    (tmp_path / "data").mkdir()
    monkeypatch.setenv("ERDPAPER_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(keep.datasets, "fashion_mnist", few)
    monkeypatch.setattr(keep, "SAMPLES", 20)
    monkeypatch.setattr(keep, "STEPS", 3)
    trained, whole = [], keep.command.train

    def train(request: Any) -> Path:
        trained.append(request.preset)
        AcceleratorState._reset_state(True)
        return whole(request._replace(steps=1, cpu=True))

    monkeypatch.setattr(keep.command, "train", train)
    clear()
    yield trained
    clear()
    AcceleratorState._reset_state(True)


def test_models_are_trained_in_order_kept_and_described(shop: list[str], tmp_path: Path) -> None:
    work, kept = tmp_path / "runs" / "train", tmp_path / "data" / data.FOLDER
    keep.everything(work)
    presets = ["fashion-classifier", "fashion-autoencoder", "fashion-decoder", *keep.NAMES]
    assert shop == presets
    files = contents(kept)
    names = ["classifier", "autoencoder", "latents-train", "latents-test", "pixels", "latents"]
    own = {"card.json", "SHA256SUMS"}
    assert files.keys() == own | {f"{name}.safetensors" for name in names}
    sums = dict(line.split()[::-1] for line in files["SHA256SUMS"].decode().splitlines())
    assert sums == {n: sha256(files[n]).hexdigest() for n in files.keys() - own}
    card = json.loads(files["card.json"])
    assert list(card) == presets
    for preset in presets:
        ((step, loss),) = losses(work / preset)
        assert step == 1 and card[preset]["loss"] == pytest.approx(loss, abs=1e-5)
        assert card[preset]["config"] == json.loads((work / preset / "config.json").read_text())
        assert card[preset]["command"] == f"erdpaper train --preset {preset}"
    # the encoder of the latents is the one that is kept, the decoder the one trained on them
    shown = few("test")
    stored = load_file(kept / "latents-test.safetensors")
    with torch.no_grad():
        again = data.to_bytes(data.autoencoder().encode(shown.images))
    assert int((again.int() - stored["latents"].int()).abs().max()) <= 1
    decoder = load_file(work / "fashion-decoder" / "model.safetensors")
    halves = load_file(kept / "autoencoder.safetensors")
    assert halves.keys() == {name.removeprefix("autoencoder.") for name in decoder}
    assert all(
        torch.equal(halves[n.removeprefix("autoencoder.")], p.half()) for n, p in decoder.items()
    )
    with torch.no_grad():
        restored = data.autoencoder().decode(data.from_bytes(stored["latents"])).clamp(-1, 1)
        logits = data.classifier()(shown.images)
    error = float((restored - shown.images).square().mean().sqrt())
    assert card["fashion-decoder"]["rmse"] == pytest.approx(error, rel=1e-5)
    right = float((logits.argmax(1) == shown.labels).double().mean())
    assert card["fashion-classifier"]["accuracy"] == pytest.approx(right)
    # and again: nothing is trained anew, nothing differs
    before = {preset: contents(work / preset) for preset in presets}
    keep.everything(work)
    assert contents(kept) == files
    assert {preset: contents(work / preset) for preset in presets} == before


KEPT = {
    "fashion-classifier": "classifier.safetensors",
    "fashion-autoencoder": "latents-train.safetensors",
    "fashion-decoder": "autoencoder.safetensors",
    **keep.NAMES,
}


def card() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((data.folder() / keep.CARD).read_text())
    return found


def near(share: float, other: float, n: int) -> bool:
    """Whether a share of n samples is another share but for chance."""
    return abs(share - other) < 4.5 * ((other * (1 - other) + 1e-3) / n) ** 0.5


def test_the_card_describes_the_presets_and_the_files() -> None:
    assert card().keys() == keep.KEEPERS.keys() == KEPT.keys()
    for preset, kept in card().items():
        row = (PRESETS | TOOLS)[preset]
        expected = {"preset": preset, "seed": 0, "precision": "no"} | described(row)
        assert kept["config"] == json.loads(json.dumps(expected))
    files = {path.name: path.stat().st_size for path in data.folder().glob("*.safetensors")}
    assert files.keys() == {*KEPT.values(), "latents-test.safetensors"}
    assert all(size < 16e6 for size in files.values())
    for preset in ("fashion-classifier", "fashion-decoder", *keep.NAMES):
        state = load_file(data.folder() / KEPT[preset])
        floats = [part for part in state.values() if part.is_floating_point()]
        assert {part.dtype for part in floats} == {torch.half}
        assert all(bool(part.isfinite().all()) for part in floats)


def first(n: int) -> tuple[Tensor, Tensor]:
    test = keep.datasets.fashion_mnist("test")
    return test.images[:n], test.labels[:n]


@torch.no_grad()
def test_the_kept_classifier_is_as_good_as_the_card_says() -> None:
    images, labels = first(2_000)
    right = float((data.classifier()(images).argmax(1) == labels).double().mean())
    assert near(right, card()["fashion-classifier"]["accuracy"], 2_000)


@torch.no_grad()
def test_the_kept_latents_are_those_of_the_kept_autoencoder() -> None:
    images, labels = first(300)
    z, classes = data.latents("test")
    assert len(z) == 10_000 and torch.equal(classes[:300], labels)
    # rounding may go the other way where it is close
    encoded = data.autoencoder().encode(images).clamp(-5.3125, 5.3125)
    assert float((encoded - z[:300]).abs().max()) < 0.5 / 24 + 1e-3
    train, classes = data.latents("train")
    assert len(train) == 60_000 == card()["fashion-autoencoder"]["latents"]
    assert torch.bincount(classes).tolist() == [6_000] * 10
    # centre and scale are those of the training images
    assert float(train.mean(0).abs().max()) < 0.02
    assert float(train.double().var(0).mean()) == pytest.approx(1, abs=0.01)
    restored = data.autoencoder().decode(z[:300]).clamp(-1, 1)
    error = float((restored - images).square().mean().sqrt())
    assert error == pytest.approx(card()["fashion-decoder"]["rmse"], rel=0.1)


@torch.no_grad()
def test_the_kept_diffusion_models_make_what_they_are_asked_for() -> None:
    for preset, n in (("fashion-latents", 100), ("fashion-pixels", 20)):
        images, labels = keep.samples(preset, n, keep.GUIDANCE)
        assert images.shape == (n, 1, 28, 28) and float(images.abs().max()) <= 1
        right = float((data.classifier()(images).argmax(1) == labels).double().mean())
        assert near(right, card()[preset]["agreement"], n)


# ---------------------------------------------------------------- the other two commands


def test_models_and_weighting_are_told_where_to_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "data").mkdir()
    monkeypatch.setenv("ERDPAPER_DATA", str(tmp_path / "data"))
    seen: list[tuple[Any, ...]] = []
    monkeypatch.setattr(keep, "everything", lambda *args: seen.append(args))
    monkeypatch.setattr(grid, "everything", lambda *args: seen.append(args))
    for arguments in (["models"], ["weighting"], ["weighting", "--jobs", "3", "--out", "here"]):
        assert CliRunner().invoke(main, arguments).exit_code == 0
    work = tmp_path / "runs" / "07_weighting_on_images"
    kept = tmp_path / "data" / "results" / "07_weighting_on_images"
    assert seen == [
        (tmp_path / "runs" / "train",),
        (work, kept, os.cpu_count() or 1),
        (work, Path("here"), 3),
    ]
    assert CliRunner().invoke(main, ["weighting", "--jobs", "0"]).exit_code == 2


@pytest.mark.parametrize(("name", "module"), [("models", keep), ("weighting", grid)])
def test_what_models_and_weighting_miss_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, module: Any
) -> None:
    def missing(*arguments: Any) -> None:
        raise DatasetError("latents are missing")

    monkeypatch.setenv("ERDPAPER_DATA", str(tmp_path))
    monkeypatch.setattr(module, "everything", missing)
    result = CliRunner().invoke(main, [name])
    assert (result.exit_code, result.stderr) == (2, "Error: latents are missing\n")


def test_missing_latents_name_the_command_that_makes_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ERDPAPER_DATA", str(tmp_path))
    AcceleratorState._reset_state(True)
    data.latents.cache_clear()
    try:
        result = CliRunner().invoke(main, ["train", "--cpu", "--preset", "fashion-latents"])
    finally:
        data.latents.cache_clear()
        AcceleratorState._reset_state(True)
    assert result.exit_code == 2 and result.stderr.count("\n") == 1
    assert "latents-train.safetensors is missing" in result.stderr
    assert "`erdpaper train --preset fashion-autoencoder`" in result.stderr
