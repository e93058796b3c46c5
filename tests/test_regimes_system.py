"""A system is the kept network, its data and its judge, joined without a change of any of them."""

import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from erdpaper import sampling
from erdpaper.images import data, keep, measure
from erdpaper.images.spec import SCHEDULE
from erdpaper.regimes import system


@pytest.mark.parametrize("space", system.SPACES)
def test_denoiser_is_that_of_the_network(space: str) -> None:
    found, network = system.fashion(space), keep.model(f"fashion-{space}")
    x, label = found.start(3), torch.tensor([0, 4, 9])
    alpha, sigma = SCHEDULE(0.6)

    def x0(classes: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            v = network(x, torch.full((3,), 0.6), classes)
        return alpha * x - sigma * v  # x0 from v on a variance-preserving path

    known, unknown = x0(label), x0(torch.full((3,), data.CLASSES))
    guided = unknown + 3 * (known - unknown)
    for asked, scale, expected in ((label, 1.0, known), (None, 3.0, unknown), (label, 3.0, guided)):
        torch.testing.assert_close(found.denoiser(asked, scale)(x, 0.6).x0, expected.float())


def test_sampling_waits_for_no_library_of_training() -> None:
    # each takes a second or more to import
    slow = {"accelerate", "diffusers", "transformers", "torch._dynamo", "torch.distributed.tensor"}
    slow |= {"scipy.interpolate", "scipy.stats", "sklearn"}
    code = (
        "import sys; from erdpaper.regimes import system; opened = system.fashion('pixels');"
        "opened.denoiser(1, 2.0)(opened.start(1), 0.5); print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not slow & set(done.stdout.split())


@pytest.mark.parametrize("space", system.SPACES)
def test_its_own_data_are_judged_as_what_they_are(space: str) -> None:
    found = system.fashion(space)
    for label in (1, 8):
        x, labels = found.data("test", label)
        assert x.shape == (1000, *found.shape) and bool((labels == label).all())
        # trousers and bags are hard to mistake, also after the autoencoder
        share = (found.seen(x[:200]).logits.argmax(1) == label).float().mean()
        assert share > 0.93
    assert len(found.data("test", None)[0]) == 10_000


def test_latents_are_decoded_before_they_are_judged() -> None:
    found, pixels = system.fashion("latents"), system.fashion("pixels")
    x, _ = found.data("test", None)
    images = found.decode(x[:50])
    error = (images - pixels.data("test", None)[0][:50]).square().mean().sqrt()
    assert error < 0.15
    assert torch.equal(found.seen(x[:50]).logits, measure.look(images).logits)


@pytest.mark.parametrize("space", system.SPACES)
def test_images_stay_within_the_range_of_the_data(space: str) -> None:
    found = system.fashion(space)
    images = found.decode(30 * found.start(5))
    assert float(images.max()) <= 1 and float(images.min()) >= -1
    if space == "pixels":
        x = found.data("test", None)[0][:5]
        assert torch.equal(found.decode(x), x)


def test_samples_carry_the_class_asked_for() -> None:
    found, labels = system.fashion("latents"), torch.arange(10).repeat(10)
    times = sampling.times.karras(found.schedule, 18)
    x = sampling.heun(found.denoiser(labels, 2.0), found.start(100), found.schedule, times)
    assert (found.seen(x).logits.argmax(1) == labels).float().mean() > 0.9


def test_starting_noise_depends_on_seed_and_place_alone() -> None:
    found = system.fashion("latents")
    assert torch.equal(found.start(5, 3)[:2], found.start(2, 3))
    assert not torch.equal(found.start(1, 0), found.start(1, 1))
    assert abs(float(found.start(200).std()) - 1) < 0.01


def test_what_is_not_known_is_refused_in_one_sentence() -> None:
    with pytest.raises(ValueError, match="the space must be one of pixels, latents, not 'audio'"):
        system.fashion("audio")


@pytest.mark.parametrize("label", [-1, 10, 99])
def test_a_class_that_there_is_not_is_refused_wherever_it_is_asked_for(label: int) -> None:
    """10 stands for none in the network, and is asked for as None."""
    found = system.fashion("latents")
    with pytest.raises(ValueError, match=f"a class must lie in 0..9, got {label}"):
        found.data("test", label)
    for wanted in (label, torch.tensor([3, label])):
        with pytest.raises(ValueError, match=f"a class must lie in 0..9, got {label}"):
            found.denoiser(wanted, 1.0)


def test_large_states_are_looked_at_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    found = system.fashion("latents")
    x = found.data("test", None)[0][:30]
    whole = found.seen(x)
    monkeypatch.setattr(system, "_NUMBERS", 8 * 4 * 7 * 7)
    decoded: list[int] = []

    def decode(z: torch.Tensor) -> torch.Tensor:
        decoded.append(len(z))
        return found.decode(z)

    parts = replace(found, decode=decode).seen(x)
    assert decoded == [8, 8, 8, 6]
    torch.testing.assert_close(parts.logits, whole.logits, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(parts.features, whole.features, rtol=1e-4, atol=1e-4)
