"""Stable Diffusion: its prompts, its network, its autoencoder.

The network predicts eps (or v) of a latent z, told a time and a text; classifier-free guidance
[T 2.45] takes the empty text for no condition. Latents are the autoencoder's mean times its
scaling factor, which gives them unit variance or so.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionPipeline
from torch import Tensor

from erdpaper import guidance, sampling
from erdpaper.fullscale.data import folders
from erdpaper.fullscale.pretrained import loading
from erdpaper.fullscale.pretrained.networks import Adapter
from erdpaper.schedules import Discrete, from_diffusers

# a StableDiffusionPipeline, which gets its parts at run time
Pipeline = Any

# samples that the network sees at once, images that the autoencoder does, and texts
_BATCH = 16
_IMAGES = 8
_TEXTS = 64


def load(name: str | Path) -> Pipeline:
    """The pipeline of a folder or hub name, for evaluation, on the accelerator if there is one.

    Network and text encoder work there in half precision; the autoencoder, which can overflow it,
    does not. The checker that blackens images is left out: what is looked at here is the model.
    Raises ValueError for weights that are not safetensors, and for a distilled model that takes
    guidance as an input.
    """
    pipe = loading.pretrained(
        StableDiffusionPipeline,
        name,
        "Stable Diffusion pipeline",
        use_safetensors=True,
        safety_checker=None,
        requires_safety_checker=False,
    )
    if pipe.unet.config.time_cond_proj_dim is not None:
        raise ValueError(f"{str(name)!r} is distilled for one guidance; use the model it came from")
    device = loading.device()
    if device.type == "cuda":
        pipe.unet.half()
        pipe.text_encoder.half()
    return pipe.to(device)


def schedule(pipe: Pipeline) -> Discrete:
    """Its table of noise levels."""
    return from_diffusers(pipe.scheduler)


def latent_shape(pipe: Pipeline) -> tuple[int, int, int]:
    """(channels, height, width) of the latents that the network was trained on."""
    config = pipe.unet.config
    return config.in_channels, config.sample_size, config.sample_size


def image_size(pipe: Pipeline) -> int:
    """The side, in pixels, of the images that such latents stand for."""
    side: int = pipe.unet.config.sample_size * pipe.vae_scale_factor
    return side


@torch.no_grad()
def embed(pipe: Pipeline, texts: Sequence[str]) -> Tensor:
    """What the text encoder makes of P texts, (P, tokens, width)."""
    parts = [list(texts[first : first + _TEXTS]) for first in range(0, len(texts), _TEXTS)]
    return torch.cat([pipe.encode_prompt(part, pipe.device, 1, False)[0] for part in parts])


def network(pipe: Pipeline, prompts: Sequence[str], negative: str = "") -> Adapter:
    """The network called model(z, t, label): label i stands for prompts[i].

    Label len(prompts) stands for `negative`, the text of no condition.
    """
    if isinstance(prompts, str) or not prompts:
        raise ValueError("prompts must be a sequence of one or more texts")
    texts = embed(pipe, [*prompts, negative])  # (P + 1, tokens, width)

    def answer(z: Tensor, index: Tensor, label: Tensor) -> Tensor:
        asked = {"encoder_hidden_states": texts[label], "return_dict": False}
        y: Tensor = pipe.unet(z, index, **asked)[0]  # (N, C, H, W)
        return y

    return Adapter(pipe.unet, answer, schedule(pipe).T, _BATCH)


def denoiser(
    pipe: Pipeline, prompts: Sequence[str], scale: float, negative: str = ""
) -> sampling.Denoiser:
    """The guided denoiser of N latents with a prompt for each; scale 1 is plain conditioning.

    The thesis varies the scale in [1, 7.5] [T 3.2]. As `guidance.cfg` otherwise.
    """
    model, label = network(pipe, prompts, negative), torch.arange(len(prompts))
    wanted = loading.target(pipe.scheduler)
    return guidance.cfg(model, schedule(pipe), wanted, label, scale, len(prompts))


@torch.no_grad()
def encode(pipe: Pipeline, images: Tensor) -> Tensor:
    """Latents (N, C, h, w), float32, of images (N, 3, H, W) in [-1, 1]: scaling factor x mean."""
    parts = [
        pipe.vae.encode(part.to(pipe.vae.device, pipe.vae.dtype)).latent_dist.mode()
        for part in images.split(_IMAGES)
    ]
    return torch.cat([pipe.vae.config.scaling_factor * part.to(images) for part in parts])


@torch.no_grad()
def decode(pipe: Pipeline, z: Tensor) -> Tensor:
    """Images (N, 3, H, W), clamped to [-1, 1], of latents z (N, C, h, w)."""

    def image(part: Tensor) -> Any:
        unscaled = part.to(pipe.vae.device, pipe.vae.dtype) / pipe.vae.config.scaling_factor
        return pipe.vae.decode(unscaled, return_dict=False)[0]

    return torch.cat([image(part).to(z).clamp(-1, 1) for part in z.split(_IMAGES)])


def encode_folder(
    pipe: Pipeline, folder: str | Path, size: int, limit: int | None = None
) -> Tensor:
    """Latents (N, C, h, w) of the images of a folder, in the order of their names.

    Each is cut to its central square and resized to `size` pixels, a multiple of the
    autoencoder's factor. limit: how many of them at most. All are read before any is encoded:
    `datasets.DatasetError` names the first that is not an image.
    """
    if size < 1 or size % pipe.vae_scale_factor:
        factor = pipe.vae_scale_factor
        raise ValueError(f"the size must be a positive multiple of {factor} pixels, got {size}")
    pixels = folders.read_images(folder, size, limit)
    parts = (encode(pipe, part / 127.5 - 1) for part in pixels.split(_IMAGES))
    return torch.cat(list(parts))
