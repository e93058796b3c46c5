"""A small autoencoder of images, on diffusers' AutoencoderKL: 28x28 pixels to a 4x7x7 latent.

Pixels are folded (28x28x1 to 14x14x4) before the first convolution, which costs a quarter of
convolving at full size. Latents leave this module centred and with one scale, as those of latent
diffusion do: the encoder's mean m over the training images and the root s of the mean variance of
its d coordinates are kept with the weights, and

    z = (mean of q(z | image) - m) / s,      so that E[z] = 0 and E||z||^2 = d

over the training images. Their covariance is far from I: a few directions hold most of it.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Config:
    """size and channels of the image, folded by `fold`; widths of the levels, one by one."""

    size: int
    channels: int
    fold: int
    widths: tuple[int, ...]
    latent_channels: int


class Autoencoder(nn.Module):
    """encode: images (N, C, H, W) in [-1, 1] -> latents (N, c, h, w); decode: back."""

    mean: Tensor
    scale: Tensor

    def __init__(self, config: Config) -> None:
        super().__init__()
        folded, levels = config.channels * config.fold**2, len(config.widths)
        side = config.size // config.fold
        if config.size % (config.fold * 2 ** (levels - 1)):
            raise ValueError(f"images of {config.size} cannot be halved as often as {config} asks")
        self.config = config
        # imported here, as in `models.unet`
        from diffusers import AutoencoderKL

        # diffusers is typed in part only
        make: Any = AutoencoderKL
        self.kl: Any = make(
            in_channels=folded,
            out_channels=folded,
            down_block_types=("DownEncoderBlock2D",) * levels,
            up_block_types=("UpDecoderBlock2D",) * levels,
            block_out_channels=config.widths,
            layers_per_block=1,
            latent_channels=config.latent_channels,
            norm_num_groups=8,
            sample_size=side,
            mid_block_add_attention=False,
        )
        h = side // 2 ** (levels - 1)
        self.shape = (config.latent_channels, h, h)
        self.register_buffer("mean", torch.zeros(self.shape))
        self.register_buffer("scale", torch.ones(()))

    @classmethod
    def from_name(cls, name: str) -> "Autoencoder":
        """An untrained autoencoder of a known configuration."""
        if name not in CONFIGS:
            raise ValueError(f"unknown autoencoder {name!r}; use one of {', '.join(CONFIGS)}")
        return cls(CONFIGS[name])

    def posterior(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of q(z | image) before centring and scaling, (N, c, h, w) each."""
        q = self.kl.encode(nn.functional.pixel_unshuffle(images, self.config.fold)).latent_dist
        return q.mean, q.logvar

    def decode_raw(self, z: Tensor) -> Tensor:
        """Latents as the encoder gives them, before centring and scaling -> images (N, C, H, W)."""
        folded: Tensor = self.kl.decode(z).sample  # (N, C * fold^2, S / fold, S / fold)
        images: Tensor = torch.pixel_shuffle(folded, self.config.fold)
        return images

    def forward(self, images: Tensor, noise: Tensor, strength: float) -> tuple[Tensor, Tensor]:
        """Images from their noisy latents, and those latents (N, c, h, w) before noise: training.

        The noise (N, c, h, w) is scaled to `strength` standard deviations of the batch's latents.
        """
        z, _ = self.posterior(images)  # (N, c, h, w)
        std = z.detach().std(0)
        return self.decode_raw(z + strength * std * noise), z

    @torch.no_grad()
    def fit_scale(self, images: Tensor, batch: int = 500) -> None:
        """Keep mean and scale of the encoder's means over images (N, C, H, W), in float64."""
        z = torch.cat([self.posterior(part)[0].double() for part in images.split(batch)])
        variance = z.var(0, correction=0).mean()
        if not 0 < float(variance) < torch.inf:
            raise ValueError("the latents of these images do not vary; they have no scale")
        self.mean.copy_(z.mean(0))
        self.scale.copy_(variance.sqrt())

    def encode(self, images: Tensor) -> Tensor:
        """Images (N, C, H, W) -> latents (N, c, h, w); no sampling."""
        latents: Tensor = (self.posterior(images)[0] - self.mean) / self.scale
        return latents

    def decode(self, z: Tensor) -> Tensor:
        """Latents (N, c, h, w) -> images (N, C, H, W), not clamped."""
        return self.decode_raw(z * self.scale + self.mean)


class Decoder(nn.Module):
    """The decoding half of an autoencoder as a network of its own, to be trained alone.

    Its weights are the autoencoder's, under the prefix `autoencoder`; the encoder's are frozen.
    """

    def __init__(self, autoencoder: Autoencoder) -> None:
        super().__init__()
        self.autoencoder = autoencoder
        autoencoder.requires_grad_(False)
        autoencoder.kl.decoder.requires_grad_(True)
        autoencoder.kl.post_quant_conv.requires_grad_(True)

    def forward(self, z: Tensor) -> Tensor:
        """Latents (N, c, h, w) -> images (N, C, H, W)."""
        return self.autoencoder.decode(z)


CONFIGS = {
    #                         size channels fold widths    latent_channels
    "KL-fashion":      Config(28,  1,       2,   (32, 64), 4),
    "KL-fashion-tiny": Config(28,  1,       2,   (8, 8),   4),
}  # fmt: skip
