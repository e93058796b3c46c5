"""The systems of full scale, whole: from noise to a class, on tiny models in their real formats."""

from pathlib import Path

import numpy as np
import pytest
import tiny_pipelines as tiny
import torch
from PIL import Image

from erdpaper import sampling
from erdpaper.datasets import DatasetError
from erdpaper.fullscale.data import cifar10
from erdpaper.fullscale.pretrained import cifar10_unet, judge, stable_diffusion
from erdpaper.regimes import opened, system

CLASSES = ("banana", "race_car")
PER_CLASS = 10


def settings(**values: Path) -> dict[str, str]:
    return {f"ERDPAPER_{name}": str(value) for name, value in values.items()}


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def for_cifar(clip: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder, model = (tmp_path_factory.mktemp(name) for name in ("cifar", "model"))
    tiny.class_conditional().save_pretrained(model)
    for seed, name in enumerate(["test_batch", *(f"data_batch_{n}" for n in range(1, 6))]):
        records = np.random.default_rng(seed).integers(0, 256, (20, 3073), dtype=np.uint8)
        records[:, 0] = np.arange(20) % 10
        (folder / f"{name}.bin").write_bytes(records.tobytes())
    return settings(CIFAR10=folder, CIFAR10_MODEL=model, CLIP=clip)


@pytest.fixture(scope="module")
def for_stable(clip: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    model = tiny.save_stable_diffusion(tmp_path_factory.mktemp("sd"))
    images = tmp_path_factory.mktemp("images")
    for name in CLASSES:
        (images / name).mkdir()
        for number in range(PER_CLASS):
            pixels = np.random.default_rng(number).integers(0, 256, (20, 30, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(images / name / f"{number}.png")
    return settings(STABLE_DIFFUSION=model, IMAGENET=images, CLIP=clip)


def given(monkeypatch: pytest.MonkeyPatch, values: dict[str, str]) -> None:
    for name in opened.VARIABLES:
        monkeypatch.delenv(name, raising=False)
    for name, value in values.items():
        monkeypatch.setenv(name, value)


def drawn(found: system.System, labels: torch.Tensor, scale: float) -> torch.Tensor:
    times = sampling.times.uniform(4)
    x, generator = found.start(len(labels), seed=1), torch.Generator().manual_seed(2)
    return sampling.ddpm(found.denoiser(labels, scale), x, found.schedule, times, generator)


def test_cifar10_runs_from_noise_to_a_class(
    for_cifar: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    given(monkeypatch, for_cifar)
    monkeypatch.setattr(cifar10, "RECORDS", 20)
    found = system.open_system("cifar10", "pixels")
    assert found is system.open_system("cifar10", "latents")
    assert (found.name, found.shape, found.classes) == ("cifar10", (3, 32, 32), cifar10.CLASSES)
    x, labels = found.data("train", 3)
    assert x.shape == (10, 3, 32, 32) and bool((labels == 3).all())
    whole, all_labels = found.data("test", None)
    assert len(whole) == 20 and torch.equal(found.data("test", 7)[0], whole[all_labels == 7])
    labels = torch.tensor([0, 5, 9])
    x = drawn(found, labels, 2.0)
    model = cifar10_unet.load(for_cifar["ERDPAPER_CIFAR10_MODEL"])
    x_t = found.start(3)
    torch.testing.assert_close(
        found.denoiser(labels, 2.0)(x_t, 0.3), model.denoiser(labels, 2.0)(x_t, 0.3)
    )
    by_clip = judge.load(for_cifar["ERDPAPER_CLIP"], cifar10.CLASSES)
    torch.testing.assert_close(found.seen(x).logits, by_clip(x.clamp(-1, 1)).logits)
    assert found.seen(x).logits.shape == (3, 10) and bool((found.decode(x).abs() <= 1).all())


def test_stable_diffusion_runs_from_noise_to_a_class(
    for_stable: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    given(monkeypatch, for_stable)
    found = system.open_system("stable-diffusion", "latents")
    assert found is system.open_system("stable-diffusion", "pixels")
    assert (found.shape, found.classes) == ((4, 8, 8), CLASSES)

    pipe = stable_diffusion.load(for_stable["ERDPAPER_STABLE_DIFFUSION"])
    images = Path(for_stable["ERDPAPER_IMAGENET"])
    z = stable_diffusion.encode_folder(pipe, images / "race_car", 16)
    torch.testing.assert_close(found.data("test", 1)[0], z[[4, 9]])
    torch.testing.assert_close(found.data("train", 1)[0], z[[0, 1, 2, 3, 5, 6, 7, 8]])
    every, labels = found.data("train", None)
    assert labels.tolist() == [0, 1] * 8
    torch.testing.assert_close(every[labels == 1], found.data("train", 1)[0])
    with pytest.raises(ValueError, match="split must be train or test, not 'val'"):
        found.data("val", 0)

    labels, z = torch.tensor([1, 0, 1]), found.start(3)
    names = ["a photo of a race car", "a photo of a banana", "a photo of a race car"]
    expected = stable_diffusion.denoiser(pipe, names, 7.5)(z, 0.6)
    torch.testing.assert_close(found.denoiser(labels, 7.5)(z, 0.6), expected)
    expected = stable_diffusion.denoiser(pipe, ["", "", ""], 1.0)(z, 0.6)
    torch.testing.assert_close(found.denoiser(None, 7.5)(z, 0.6), expected)

    x = drawn(found, labels, 7.5)
    by_clip = judge.load(for_stable["ERDPAPER_CLIP"], ["banana", "race car"])
    images_drawn = stable_diffusion.decode(pipe, x)
    torch.testing.assert_close(found.seen(x).logits, by_clip(images_drawn).logits)
    assert images_drawn.shape == (3, 3, 16, 16) and found.seen(x).logits.shape == (3, 2)


@pytest.mark.parametrize("model", ["cifar10", "stable-diffusion"])
def test_what_is_not_set_is_named_before_anything_is_loaded(
    model: str,
    for_cifar: dict[str, str],
    for_stable: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    needed = for_cifar if model == "cifar10" else for_stable
    for name in needed:
        # paths that do not exist: had anything been loaded, the error would be another
        given(monkeypatch, {other: "/nowhere" for other in needed if other != name})
        with pytest.raises(ValueError, match=f"^set the environment variable {name} to a? ?"):
            system.open_system(model, "latents")


def test_data_are_checked_before_models_are_loaded(
    for_cifar: dict[str, str], for_stable: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    given(monkeypatch, {name: "/nowhere" for name in (*for_cifar, *for_stable)})
    with pytest.raises(DatasetError, match=r"/nowhere/data_batch_1\.bin is missing"):
        system.open_system("cifar10", "pixels")
    with pytest.raises(DatasetError, match="/nowhere is not a folder; it must hold a folder of"):
        system.open_system("stable-diffusion", "latents")


def test_models_and_spaces_that_are_not_known_are_refused() -> None:
    with pytest.raises(ValueError, match="model must be fashion, cifar10 or stable-diffusion, not"):
        system.open_system("imagenet", "pixels")
    with pytest.raises(ValueError, match="the space must be one of pixels, latents, not 'audio'"):
        system.open_system("cifar10", "audio")
