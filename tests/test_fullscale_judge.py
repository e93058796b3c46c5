"""CLIP as a judge says what transformers' own model and processor say."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_pipelines as tiny
import torch
from PIL import Image
from transformers import CLIPImageProcessor, CLIPModel, CLIPTokenizer

from erdpaper.fullscale.pretrained import judge
from erdpaper.fullscale.pretrained.judge import Judge

CLASSES = ("cat", "race car", "banana")
SIDE = 16


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save_clip(tmp_path_factory.mktemp("clip"), SIDE)


@pytest.fixture(scope="module")
def found(folder: Path) -> Judge:
    return judge.load(folder, CLASSES)


def pixels(n: int, height: int, width: int) -> np.ndarray:
    """Smooth bytes (n, H, W, 3): what is resized is no noise."""
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    waves = [
        np.sin(6 * (a * x + b * y) + c)
        for a, b, c in np.random.default_rng(0).uniform(0.2, 1, (3 * n, 3))
    ]
    stacked = np.stack(waves).reshape(n, 3, height, width).transpose(0, 2, 3, 1)
    return np.round(127.5 * (1 + 0.9 * stacked)).astype(np.uint8)


def as_tensor(images: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(images).permute(0, 3, 1, 2) / 127.5 - 1


def asked_directly(folder: Path, images: np.ndarray) -> Any:
    model, words = CLIPModel.from_pretrained(folder), CLIPTokenizer.from_pretrained(folder)
    texts = words([f"a photo of a {name}" for name in CLASSES], padding=True, return_tensors="pt")
    shown = CLIPImageProcessor.from_pretrained(folder)(
        [Image.fromarray(image) for image in images], return_tensors="pt"
    )
    with torch.no_grad():
        return shown["pixel_values"], model(**texts, pixel_values=shown["pixel_values"])


@pytest.mark.parametrize("size", [(SIDE, SIDE), (32, 32), (40, 56), (49, 31), (8, 8)])
def test_it_is_transformers_own(folder: Path, found: Judge, size: tuple[int, int]) -> None:
    images = pixels(5, *size)
    shown, expected = asked_directly(folder, images)
    # the processor rounds to bytes after resizing, a 255th over a deviation of 0.26
    rough = 0.0 if size == (SIDE, SIDE) else 0.6 / 255 / 0.26
    ours = found.pixels(as_tensor(images))
    torch.testing.assert_close(ours, shown, atol=2e-6 + 2 * rough, rtol=0)
    said = found(as_tensor(images))
    torch.testing.assert_close(said.features, expected.image_embeds, atol=1e-5 + rough, rtol=0)
    logits = expected.logits_per_image
    torch.testing.assert_close(said.logits, logits, atol=1e-4 + 10 * rough, rtol=1e-4)
    assert said.logits.std(0).min() > 0.001 and said.logits.std(1).min() > 0.01


def test_batches_do_not_show(found: Judge, monkeypatch: pytest.MonkeyPatch) -> None:
    images = as_tensor(pixels(5, 24, 24))
    whole = found(images)
    monkeypatch.setattr(judge, "_BATCH", 2)
    torch.testing.assert_close(found(images), whole, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found(3 * images).logits, found((3 * images).clamp(-1, 1)).logits)


def test_bad_input_is_refused(folder: Path, found: Judge, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"images must be \(N, 3, H, W\), got \(2, 1, 16, 16\)"):
        found(torch.zeros(2, 1, 16, 16))
    with pytest.raises(ValueError, match="classes must be a sequence of one or more names"):
        judge.load(folder, "cat")
    with pytest.raises(ValueError, match=r"no CLIP model can be loaded from '.*': name a folder"):
        judge.load(tmp_path, CLASSES)


def test_pickled_weights_are_refused(folder: Path, tmp_path: Path) -> None:
    tiny.save_clip(tmp_path, SIDE)
    (tmp_path / "model.safetensors").unlink()
    torch.save(CLIPModel.from_pretrained(folder).state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match="no CLIP model can be loaded from"):
        judge.load(tmp_path, CLASSES)
