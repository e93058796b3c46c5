"""Stable Diffusion asked by this package says what its own pipeline says."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_pipelines as tiny
import torch
from diffusers import DDPMScheduler, DPMSolverMultistepScheduler
from PIL import Image
from torch import Tensor

from erdpaper import sampling
from erdpaper.datasets import DatasetError
from erdpaper.fullscale.data import folders
from erdpaper.fullscale.pretrained import networks, solvers, stable_diffusion
from erdpaper.sampling import Hooks, Prediction

PROMPTS = ("a photo of a car", "a photo of a banana")


@pytest.fixture(scope="module", params=["epsilon", "v_prediction"])
def pipe(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp(request.param)
    found = stable_diffusion.load(tiny.save_stable_diffusion(folder, request.param))
    found.set_progress_bar_config(disable=True)
    return found


def start(n: int = 2) -> Tensor:
    return torch.randn(n, 4, tiny.LATENT_SIDE, tiny.LATENT_SIDE, generator=seeded(5))


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def scheduler_of(kind: str, pipe: Any) -> Any:
    if kind == "ddpm":
        return DDPMScheduler.from_config(pipe.scheduler.config, clip_sample=False)
    options = {"algorithm_type": "sde-dpmsolver++"}
    return DPMSolverMultistepScheduler.from_config(pipe.scheduler.config, **options)


def answer(pipe: Any, z: Tensor, k: int, prompt: str) -> Tensor:
    """What the network says, asked without this package."""
    with torch.no_grad():
        text = pipe.encode_prompt([prompt] * len(z), "cpu", 1, False)[0]
        return pipe.unet(z, torch.tensor(k), encoder_hidden_states=text).sample


@pytest.mark.parametrize("scale", [1.0, 7.5])
@pytest.mark.parametrize("kind", ["ddpm", "dpm"])
def test_without_hooks_it_is_the_pipeline(pipe: Any, kind: str, scale: float) -> None:
    scheduler, recorder = scheduler_of(kind, pipe), sampling.Recorder()
    denoise = stable_diffusion.denoiser(pipe, PROMPTS, scale)
    hooks = Hooks(on_prediction=recorder)
    found = solvers.follow(denoise, start(), scheduler, 6, seeded(9), hooks=hooks)

    before, pipe.scheduler = pipe.scheduler, scheduler
    shown: list[Tensor] = []

    def look(_: Any, step: int, k: Tensor, state: dict[str, Tensor]) -> dict[str, Tensor]:
        shown.append(state["latents"])
        return {}

    asked = {"guidance_scale": scale, "latents": start(), "generator": seeded(9)}
    expected = pipe(
        list(PROMPTS),
        num_inference_steps=6,
        output_type="latent",
        callback_on_step_end=look,
        **asked,
    ).images
    pipe.scheduler = before
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    # the recorder saw each state of the pipeline but the last, at the times of its indices
    expected = torch.stack([start(), *shown[:-1]])
    torch.testing.assert_close(recorder.states, expected, atol=1e-5, rtol=1e-5)
    scheduler.set_timesteps(6)
    torch.testing.assert_close(recorder.times * 1000 - 1, scheduler.timesteps.double())


def test_each_image_has_a_seed_of_its_own(pipe: Any) -> None:
    scheduler = scheduler_of("dpm", pipe)

    def draw(z: Tensor, prompts: tuple[str, ...], seeds: list[int]) -> Tensor:
        denoise = stable_diffusion.denoiser(pipe, prompts, 3.0)
        return solvers.follow(denoise, z, scheduler, 4, [seeded(seed) for seed in seeds])

    both = draw(start(), PROMPTS, [1, 2])
    torch.testing.assert_close(both[1:], draw(start()[1:], PROMPTS[1:], [2]))


def test_guided_prediction_is_that_of_two_calls(pipe: Any) -> None:
    z, k = start(), 601
    table = pipe.scheduler.alphas_cumprod.double()
    alpha, sigma = float(table[k].sqrt()), float((1 - table[k]).sqrt())
    none = answer(pipe, z, k, "")
    known = torch.cat([answer(pipe, z[i : i + 1], k, prompt) for i, prompt in enumerate(PROMPTS)])
    assert (known - none).abs().max() > 0.01  # the text matters
    for scale in (1.0, 7.5):
        y = none + scale * (known - none)
        if pipe.scheduler.config.prediction_type == "epsilon":
            x0, eps = (z - sigma * y) / alpha, y
        else:
            x0, eps = alpha * z - sigma * y, sigma * z + alpha * y
        found = stable_diffusion.denoiser(pipe, PROMPTS, scale)(z, (k + 1) / 1000)
        torch.testing.assert_close(found, Prediction(x0, eps), atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", ["ddpm", "dpm"])
def test_hooks_steer_and_inject(pipe: Any, kind: str) -> None:
    scheduler, steps, share = scheduler_of(kind, pipe), 5, 0.3
    push = 0.1 * torch.randn(start().shape, generator=seeded(3))
    wanted, other = (stable_diffusion.denoiser(pipe, [p, p], 1.0) for p in PROMPTS)

    def inject(z: Tensor, t: float, made: Prediction) -> Prediction:
        if t < 0.5:
            return made
        return Prediction(
            *(torch.lerp(a, b, share) for a, b in zip(made, other(z, t), strict=True))
        )

    hooks = Hooks(lambda z, t: z + t * push, inject)
    found = solvers.follow(wanted, start(), scheduler, steps, seeded(4), hooks=hooks)

    z, generator = start(), seeded(4)
    scheduler.set_timesteps(steps)
    for k in scheduler.timesteps:
        z = z + (int(k) + 1) / 1000 * push
        y = answer(pipe, z, int(k), PROMPTS[0])
        if k >= 499:
            # given the state, mixing eps is mixing the network's own target
            y = (1 - share) * y + share * answer(pipe, z, int(k), PROMPTS[1])
        z = scheduler.step(y, k, z, generator=generator).prev_sample
    torch.testing.assert_close(found, z, atol=2e-5, rtol=1e-5)
    plain = solvers.follow(wanted, start(), scheduler, steps, seeded(4))
    assert (found - plain).abs().max() > 0.05


def test_nodes_are_whole_indices_and_other_times_keep_their_place() -> None:
    k = torch.arange(1000)
    for dtype in (torch.float32, torch.float64):
        assert torch.equal(networks.index((k + 1).to(dtype) / 1000, 1000), k.float())
    times = torch.tensor([0.0, 0.0005, 0.6005])
    torch.testing.assert_close(networks.index(times, 1000), torch.tensor([0.0, 0.0, 599.5]))


def test_batches_and_dtypes_do_not_show(pipe: Any) -> None:
    model, label = stable_diffusion.network(pipe, PROMPTS), torch.tensor([0, 1, 2, 0, 1])
    z, t = start(5), torch.full((5,), 0.4)
    whole = model(z, t, label)
    model.batch = 2
    torch.testing.assert_close(model(z, t, label), whole)
    twice = model(z.double(), t.double(), label)
    torch.testing.assert_close(twice, whole.double(), atol=2e-6, rtol=1e-4)
    with pytest.raises(ValueError, match=r"must be float32 or float64, not torch\.float16"):
        model(z.half(), t.half(), label)
    with pytest.raises(ValueError, match="sequence of one or more texts"):
        stable_diffusion.network(pipe, "a photo of a car")


def test_half_precision_stays_within_the_network(tmp_path: Path) -> None:
    pipe = stable_diffusion.load(tiny.save_stable_diffusion(tmp_path))
    whole = stable_diffusion.denoiser(pipe, PROMPTS, 2.0)(start(), 0.6)
    # as on an accelerator
    pipe.unet.half()
    pipe.text_encoder.half()
    found = stable_diffusion.denoiser(pipe, PROMPTS, 2.0)(start(), 0.6)
    assert found.eps.dtype == torch.float32
    assert 0 < (found.eps - whole.eps).abs().max() < 0.01


def test_autoencoder_scales_its_latents(pipe: Any) -> None:
    images = torch.rand(3, 3, tiny.IMAGE_SIDE, tiny.IMAGE_SIDE, generator=seeded(0)) * 2 - 1
    with torch.no_grad():
        moments = pipe.vae.quant_conv(pipe.vae.encoder(images))
    z = stable_diffusion.encode(pipe, images)
    torch.testing.assert_close(z, tiny.SCALING * moments[:, :4])
    scheduler = scheduler_of("ddpm", pipe)
    before, pipe.scheduler = pipe.scheduler, scheduler
    asked = {"latents": start(), "num_inference_steps": 3, "guidance_scale": 1.0}
    shown, kept = (
        pipe(list(PROMPTS), output_type=kind, generator=seeded(6), **asked).images
        for kind in ("pt", "latent")
    )
    pipe.scheduler = before
    torch.testing.assert_close(stable_diffusion.decode(pipe, kept), 2 * shown - 1)
    assert stable_diffusion.latent_shape(pipe) == (4, 8, 8)
    assert stable_diffusion.image_size(pipe) == 16


def picture(path: Path, height: int, width: int, seed: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def test_folder_is_cut_resized_and_encoded(pipe: Any, tmp_path: Path) -> None:
    wide = picture(tmp_path / "b.png", 16, 24, 0)
    picture(tmp_path / "a.png", 32, 32, 1)
    (tmp_path / "notes.txt").write_text("no image")
    grey = Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16))
    grey.save(tmp_path / "c.PNG")
    z = stable_diffusion.encode_folder(pipe, tmp_path, 16)
    centre = torch.from_numpy(np.array(Image.open(wide))[:, 4:20]).permute(2, 0, 1)
    ramp = torch.arange(256).reshape(1, 1, 16, 16).expand(1, 3, 16, 16)
    expected = torch.cat([centre[None], ramp]).float() / 127.5 - 1
    torch.testing.assert_close(z[1:], stable_diffusion.encode(pipe, expected))
    assert z.shape == (3, 4, 8, 8)
    first = stable_diffusion.encode_folder(pipe, tmp_path, 16, limit=1)
    torch.testing.assert_close(first, z[:1])
    # a downscaled square is near the means of its cells
    small = folders.read_images(tmp_path, 16)[0].float()
    big = torch.from_numpy(np.array(Image.open(tmp_path / "a.png"))).permute(2, 0, 1).float()
    means = torch.nn.functional.avg_pool2d(big, 2)
    assert torch.corrcoef(torch.stack([small.flatten(), means.flatten()]))[0, 1] > 0.9
    with pytest.raises(ValueError, match="a positive multiple of 2 pixels, got 15"):
        stable_diffusion.encode_folder(pipe, tmp_path, 15)


def test_first_bad_image_is_named(pipe: Any, tmp_path: Path) -> None:
    for name in ("a", "b", "c", "d"):
        picture(tmp_path / f"{name}.jpg", 40, 40, 0)
    for name in ("c", "b"):
        path = tmp_path / f"{name}.jpg"
        path.write_bytes(path.read_bytes()[:600])
    with pytest.raises(DatasetError, match=r"b\.jpg cannot be read as an image"):
        stable_diffusion.encode_folder(pipe, tmp_path, 16)
    (tmp_path / "a.jpg").write_bytes(b"not an image")
    with pytest.raises(DatasetError, match=r"a\.jpg cannot be read as an image"):
        folders.read_images(tmp_path, 16)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match="holds no images"):
        folders.read_images(tmp_path / "empty", 16)
    with pytest.raises(DatasetError, match="is not a folder of images"):
        folders.read_images(tmp_path / "none", 16)


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_pickled_weights_are_refused(part: str, tmp_path: Path) -> None:
    folder = tiny.save_stable_diffusion(tmp_path / "sd")
    (weights,) = (folder / part).glob("*.safetensors")
    name = "pytorch_model.bin" if part == "text_encoder" else "diffusion_pytorch_model.bin"
    weights.unlink()
    module = getattr(tiny.stable_diffusion(), part)
    torch.save(module.state_dict(), folder / part / name)
    with pytest.raises(ValueError, match="no Stable Diffusion pipeline can be loaded from"):
        stable_diffusion.load(folder)


def test_what_is_no_pipeline_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"loaded from '.*': name a folder, or a hub name"):
        stable_diffusion.load(tmp_path)
    tiny.stable_diffusion(time_cond_proj_dim=8).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="is distilled for one guidance"):
        stable_diffusion.load(tmp_path)
