"""An autoencoder of diffusers as what turns images into latents."""

import hashlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from erdpaper.datasets import DatasetError
from erdpaper.fullscale.pretrained import loading
from erdpaper.training import generator_for


class Encoder:
    """An `AutoencoderKL` on a device.  name: its folder or hub name.

    factor: what latents are multiplied by to have about unit variance; digest: the sha256 of its
    weights, by which one autoencoder is told from another under the same name.
    """

    def __init__(self, name: str, network: Any, device: torch.device) -> None:
        self.name, self.device = name, device
        self.factor: float = network.config.scaling_factor
        self.digest = digest(network)
        self._network = network.to(device).eval().requires_grad_(False)

    def shape(self, side: int) -> tuple[int, int, int]:
        """That of a latent of side x side pixels, ValueError if they cannot be divided so."""
        config = self._network.config
        halved = 2 ** (len(config.block_out_channels) - 1)
        if side % halved:
            raise ValueError(f"the size must be a multiple of {halved} for {self.name!r}: {side}")
        return config.latent_channels, side // halved, side // halved

    @torch.no_grad()
    def moments(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation (n, C, h, w) of the posterior, before the factor, float32.

        pixels: (n, 3, H, W), bytes. The results are on the CPU.
        """
        x = pixels.to(self.device, non_blocking=True).float().div_(127.5).sub_(1)
        found = self._network.encode(x).latent_dist
        return found.mean.cpu(), found.std.cpu()

    def tensors(
        self, pixels: Tensor, indices: range, seed: int | None = None, flipped: bool = False
    ) -> dict[str, Tensor]:
        """What is kept of a batch (n, 3, H, W), bytes: `mean` and `std`, or with a seed `sample`.

        In half precision, (n, C, h, w) each. A sample's noise depends on the seed, the index of its
        image and whether that is flipped. What half precision cannot hold raises DatasetError.
        """
        mean, std = self.moments(pixels)
        found = {"mean": mean, "std": std}
        if seed is not None:
            noise = [
                torch.randn(mean.shape[1:], generator=generator_for(seed, index, int(flipped)))
                for index in indices
            ]
            found = {"sample": mean + std * torch.stack(noise)}
        found = {name: part.half() for name, part in found.items()}
        if not all(bool(part.isfinite().all()) for part in found.values()):
            raise DatasetError(
                f"{self.name!r} gives latents beyond half precision "
                f"for an image of {indices[0]}..{indices[-1]}"
            )
        return found


def load(name: str, device: torch.device) -> Encoder:
    """The autoencoder of a folder or hub name, or of a pipeline's that holds it as `vae`.

    Raises ValueError if there is none with safetensors weights, and for one whose latents are
    shifted, which the format of encoded data has no place for.
    """
    network = pretrained(name)
    if network.config.shift_factor:
        raise ValueError(f"{name!r} shifts its latents; use an autoencoder with a factor only")
    return Encoder(name, network, device)


def pretrained(name: str) -> Any:
    """The `AutoencoderKL` itself, as `load` finds it."""
    # imported here, as in `models.unet`: most commands need no autoencoder
    from diffusers import AutoencoderKL

    inside = Path(name) / "vae"
    # a folder is looked into here: where there is none, a hub name is meant
    if Path(name).is_dir():
        place = inside if inside.is_dir() else name
        return loading.pretrained(AutoencoderKL, place, "AutoencoderKL", use_safetensors=True)
    try:
        return AutoencoderKL.from_pretrained(name, subfolder="vae", use_safetensors=True)
    except (OSError, ValueError):
        return loading.pretrained(AutoencoderKL, name, "AutoencoderKL", use_safetensors=True)


def untrained() -> Any:
    """An `AutoencoderKL` of the shape of Stable Diffusion's, which costs what that one costs."""
    from diffusers import AutoencoderKL

    widths = (128, 256, 512, 512)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * len(widths),
        up_block_types=("UpDecoderBlock2D",) * len(widths),
        block_out_channels=widths,
        layers_per_block=2,
    )


def digest(network: Any) -> str:
    """The sha256 of a network's weights, names included, wherever they came from."""
    found = hashlib.sha256()
    for name, part in sorted(network.state_dict().items()):
        found.update(name.encode())
        found.update(part.detach().cpu().reshape(-1).view(torch.uint8).numpy())
    return found.hexdigest()
