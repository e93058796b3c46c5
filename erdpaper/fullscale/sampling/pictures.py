"""From what a network generates to images: pixels as they are, latents through a decoder."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from erdpaper.fullscale.pretrained import encoder
from erdpaper.fullscale.sampling.runs import Trained
from erdpaper.images import data

# images that a decoder makes at once
_BATCH = 16
_KEPT = "kept"


class Pictures(NamedTuple):
    """decode: (n, C, h, w) -> images (n, c, H, W); shape: (c, H, W); name: of the decoder.

    sha256: of the decoder's weights, by which one is told from another under the same name.
    """

    decode: Callable[[Tensor], Tensor]
    shape: tuple[int, int, int]
    name: str | None
    sha256: str | None = None

    def as_bytes(self, x: Tensor) -> Tensor:
        """Images (n, H, W, c) on the CPU, the byte nearest to 127.5 (value + 1).

        Raises ValueError where an image is not finite, as after an overflow of half precision.
        """
        images = torch.cat([self.decode(part) for part in x.split(_BATCH)])
        if not bool(images.isfinite().all()):
            raise ValueError("the network generated values that are not finite")
        stored = ((images.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
        return stored.permute(0, 2, 3, 1).cpu()


def pictures(trained: Trained, decoder: str | None, device: torch.device) -> Pictures:
    """How to see what a network generates.

    The latents of Fashion-MNIST have their kept decoder. Other latents are divided by the factor of
    an `AutoencoderKL`, by folder or hub name, and decoded by it; without a name it is the one that
    encoded the training data. Pixels stay. Raises ValueError for a decoder that is of other
    latents, or of none.
    """
    config = trained.config
    if config["data"] == "fashion-latents":
        return _kept(decoder, device)
    if config["data"] == "fashion" or config.get("stored") == "pixels":
        if decoder is not None:
            raise ValueError("this network generates pixels: leave --decoder out")
        return Pictures(lambda x: x, trained.shape, None)
    name = decoder or config.get("encoder")
    if name is None:
        raise ValueError(
            f"this network generates latents of {trained.shape[0]} channels: name their decoder, "
            "for instance --decoder stabilityai/sd-vae-ft-ema"
        )
    return _pretrained(trained, name, device)


def _kept(decoder: str | None, device: torch.device) -> Pictures:
    if decoder is not None:
        raise ValueError("latents of Fashion-MNIST have their own decoder: leave --decoder out")
    model = data.autoencoder().to(device)
    size = model.config.size
    return Pictures(model.decode, (model.config.channels, size, size), _KEPT)


def _pretrained(trained: Trained, name: str, device: torch.device) -> Pictures:
    vae = encoder.pretrained(name)
    config = vae.config
    channels = trained.shape[0]
    if config.latent_channels != channels:
        raise ValueError(
            f"{name!r} decodes latents of {config.latent_channels} channels, "
            f"and this network generates {channels}"
        )
    factor, wanted = config.scaling_factor, trained.config.get("factor")
    if config.shift_factor or (wanted is not None and wanted != factor):
        found = f"scales its latents by {factor} and shifts them by {config.shift_factor or 0}"
        raise ValueError(f"{name!r} {found}; this network was trained with a factor of {wanted}")
    return decoded(vae.to(device).eval().requires_grad_(False), trained.shape, name)


def decoded(vae: Any, shape: tuple[int, int, int], name: str | None) -> Pictures:
    """Images that an `AutoencoderKL`, on its device, makes of latents of a shape (C, h, w)."""
    config = vae.config
    # every level but the last doubles the sides
    times = 2 ** (len(config.block_out_channels) - 1)

    @torch.no_grad()
    def decode(z: Tensor) -> Tensor:
        images: Tensor = vae.decode(z / config.scaling_factor, return_dict=False)[0]
        return images

    _, height, width = shape
    made = (config.out_channels, height * times, width * times)
    return Pictures(decode, made, name, encoder.digest(vae))
