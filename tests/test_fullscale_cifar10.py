"""CIFAR-10's own files, and networks of diffusers that diffusers' own loops agree about."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_pipelines as tiny
import torch
from diffusers import DDIMScheduler, DDPMScheduler
from torch import Tensor

from erdpaper import sampling, schedules
from erdpaper.datasets import DatasetError
from erdpaper.fullscale.data import cifar10
from erdpaper.fullscale.pretrained import cifar10_unet

NAMES = ("test_batch.bin", *(f"data_batch_{number}.bin" for number in range(1, 6)))


def write(path: Path, records: int, seed: int = 0) -> np.ndarray:
    """Random records of CIFAR-10's binary format, (records, 1 + 3072)."""
    found = np.random.default_rng(seed).integers(0, 256, (records, 3073), dtype=np.uint8)
    found[:, 0] %= 10
    path.write_bytes(found.tobytes())
    return found


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """All six files, with four images each."""
    monkeypatch.setattr(cifar10, "RECORDS", 4)
    for seed, name in enumerate(NAMES):
        write(tmp_path / name, 4, seed)
    return tmp_path


def test_file_of_real_size_is_read_pixel_by_pixel(tmp_path: Path) -> None:
    records = write(tmp_path / "test_batch.bin", 10_000)
    found = cifar10.read(tmp_path, "test")
    assert found.images.shape == (10_000, 3, 32, 32) and len(cifar10.CLASSES) == 10
    assert np.array_equal(found.labels, records[:, 0])
    # channel c, row r, column s stands at 1 + 1024 c + 32 r + s
    for n, c, r, s in ((0, 0, 0, 0), (17, 1, 5, 30), (9_999, 2, 31, 31)):
        byte = int(records[n, 1 + 1024 * c + 32 * r + s])
        assert float(found.images[n, c, r, s]) == pytest.approx(byte / 127.5 - 1, abs=1e-6)
    assert float(found.images.min()) == -1 and float(found.images.max()) == 1


def test_training_images_are_those_of_five_files_in_order(folder: Path) -> None:
    found = cifar10.read(folder)
    expected = [np.fromfile(folder / name, np.uint8).reshape(4, 3073)[:, 0] for name in NAMES[1:]]
    assert np.array_equal(found.labels, np.concatenate(expected)) and len(found) == 20


def test_bad_files_are_named(folder: Path) -> None:
    with pytest.raises(ValueError, match="split must be one of train, test, not 'val'"):
        cifar10.read(folder, "val")
    path = folder / "data_batch_3.bin"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    size = r"data_batch_3\.bin has 12,291 bytes, not the 12,292 of 4 images"
    with pytest.raises(DatasetError, match=size):
        cifar10.read(folder)
    path.write_bytes(whole[:3073] + bytes([10]) + whole[3074:])
    with pytest.raises(DatasetError, match=r"data_batch_3\.bin holds a label of 10, beyond"):
        cifar10.read(folder)
    path.unlink()
    with pytest.raises(DatasetError, match=r"data_batch_3\.bin is missing"):
        cifar10.read(folder)
    cifar10.read(folder, "test")


def saved(folder: Path, **options: Any) -> Path:
    tiny.class_conditional(**options).save_pretrained(folder)
    return folder


def ask(unet: Any, x: Tensor, k: int, label: int) -> Tensor:
    with torch.no_grad():
        return unet(x, k, class_labels=torch.full((len(x),), label)).sample


def start(n: int = 2) -> Tensor:
    return torch.randn(n, *cifar10.SHAPE, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("kind", [DDPMScheduler, DDIMScheduler])
def test_samplers_are_the_loops_of_diffusers(kind: Any, tmp_path: Path) -> None:
    unet, steps = tiny.class_conditional(), 10
    model = cifar10_unet.load(saved(tmp_path))
    scheduler = kind(clip_sample=False, timestep_spacing="trailing")
    scheduler.set_timesteps(steps)
    x, generator = start(), torch.Generator().manual_seed(3)
    for k in scheduler.timesteps:
        unknown, known = ask(unet, x, k, 10), ask(unet, x, k, 4)
        y = unknown + 2.5 * (known - unknown)
        x = scheduler.step(y, k, x, generator=generator).prev_sample

    sampler = sampling.ddpm if kind is DDPMScheduler else sampling.ddim
    times = torch.arange(steps, -1, -1, dtype=torch.float64) / steps
    generator = torch.Generator().manual_seed(3)
    found = sampler(model.denoiser(4, 2.5), start(), model.schedule, times, generator)
    # random weights and guidance blow the states up, and their rounding
    torch.testing.assert_close(found, x, atol=2e-6 * float(x.abs().max()), rtol=0)


def test_labels_reach_the_network(tmp_path: Path) -> None:
    unet, x = tiny.class_conditional(), start(3)
    model = cifar10_unet.load(saved(tmp_path))
    labels = torch.tensor([0, 9, 4])
    found = model.denoiser(labels)(x, 0.7).eps
    each = [ask(unet, x[i : i + 1], 699, int(label)) for i, label in enumerate(labels)]
    torch.testing.assert_close(found, torch.cat(each), atol=1e-5, rtol=1e-4)
    none = model.denoiser(None, 3.0)(x, 0.7).eps
    torch.testing.assert_close(none, ask(unet, x, 699, 10), atol=1e-5, rtol=1e-4)
    assert (none - found).abs().max() > 1e-3


def test_network_without_a_class_for_none_is_not_guided(tmp_path: Path) -> None:
    model = cifar10_unet.load(saved(tmp_path, embeddings=10))
    assert not model.has_null and model.denoiser(3)(start(), 0.5).eps.shape == (2, 3, 32, 32)
    for label, scale in ((3, 2.0), (None, 1.0)):
        with pytest.raises(ValueError, match="knows no class for none: give a label, and a guid"):
            model.denoiser(label, scale)


def test_scheduler_beside_the_network_counts(tmp_path: Path) -> None:
    plain = cifar10_unet.load(saved(tmp_path / "plain"))
    assert plain.target == "eps"
    torch.testing.assert_close(plain.schedule.alpha, schedules.DDPM().alpha)
    config = {"beta_schedule": "squaredcos_cap_v2", "prediction_type": "v_prediction"}
    unet = tiny.class_conditional()
    whole = cifar10_unet.load(tiny.save_ddpm(tmp_path / "whole", unet, **config))
    assert whole.target == "v"
    cosine = schedules.Cosine().alpha
    torch.testing.assert_close(whole.schedule.alpha, cosine, atol=1e-5, rtol=1e-3)
    for found, expected in zip(
        whole.network.network.state_dict().values(), unet.state_dict().values(), strict=True
    ):
        assert torch.equal(found, expected)
    DDPMScheduler(**config).save_pretrained(tmp_path / "plain")
    assert cifar10_unet.load(tmp_path / "plain").target == "v"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"embeddings": None},
            "must have 10 class embeddings, or 11 with one for no class, not",
        ),
        ({"embeddings": 1000}, "must have 10 class embeddings, or 11 .* not 1000"),
        ({"in_channels": 1, "out_channels": 1}, "is not for 3 x 32 x 32 pixels"),
        ({"sample_size": 64}, "is not for 3 x 32 x 32 pixels"),
    ],
)
def test_other_networks_are_refused(options: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        cifar10_unet.load(saved(tmp_path, **options))


def test_pickled_weights_are_refused(tmp_path: Path) -> None:
    unet = tiny.class_conditional()
    unet.save_pretrained(tmp_path, safe_serialization=False)
    assert list(tmp_path.glob("*.bin"))
    with pytest.raises(ValueError, match=r"no UNet2DModel for CIFAR-10 can be loaded from '.*': n"):
        cifar10_unet.load(tmp_path)
