"""A small autoencoder of images, on diffusers' AutoencoderKL: 28x28 pixels to a 4x7x7 latent.

Pixels are folded (28x28x1 to 14x14x4) before the first convolution, which costs a quarter of
convolving at full size. Latents leave this module whitened: the encoder's mean m over the training
images and its covariance C are kept with the weights, and

    z = C^(-1/2) (mean of q(z | image) - m),      so that E[z] = 0 and Cov(z) = I

over the training images. The symmetric root moves each latent as little as a whitening can, so that
a latent still belongs to its place in the image.
"""

from dataclasses import asdict, dataclass
from typing import Any

import torch
from diffusers import AutoencoderKL
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
    """encode: images (N, C, H, W) in [-1, 1] -> whitened latents (N, c, h, w); decode: back."""

    mean: Tensor
    whiten: Tensor
    colour: Tensor

    def __init__(self, config: Config) -> None:
        super().__init__()
        folded, levels = config.channels * config.fold**2, len(config.widths)
        side = config.size // config.fold
        if config.size % (config.fold * 2 ** (levels - 1)):
            raise ValueError(f"images of {config.size} cannot be halved as often as {config} asks")
        self.config = config
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
        d = config.latent_channels * h * h
        self.register_buffer("mean", torch.zeros(d))
        self.register_buffer("whiten", torch.eye(d))
        self.register_buffer("colour", torch.eye(d))

    @classmethod
    def from_name(cls, name: str) -> "Autoencoder":
        """An untrained autoencoder of a known configuration."""
        if name not in CONFIGS:
            raise ValueError(f"unknown autoencoder {name!r}; use one of {', '.join(CONFIGS)}")
        return cls(CONFIGS[name])

    def posterior(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of q(z | image) before whitening, (N, c, h, w) each."""
        q = self.kl.encode(nn.functional.pixel_unshuffle(images, self.config.fold)).latent_dist
        return q.mean, q.logvar

    def decode_raw(self, z: Tensor) -> Tensor:
        """Latents as the encoder gives them, before whitening -> images (N, C, H, W)."""
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
    def fit_whitening(self, images: Tensor, batch: int = 500) -> None:
        """Keep mean and covariance of the encoder's means over images (N, C, H, W), in float64."""
        rows = [self.posterior(part)[0].flatten(1).double() for part in images.split(batch)]
        z = torch.cat(rows)
        if len(z) <= z.shape[1]:
            raise ValueError(f"whitening {z.shape[1]} latents needs more images than {len(z)}")
        variance, axes = torch.linalg.eigh(torch.cov(z.T))
        if not float(variance[0]) > 0:
            raise ValueError("the latents of these images fill a subspace only: no whitening")
        self.mean.copy_(z.mean(0))
        self.whiten.copy_(axes * variance.rsqrt() @ axes.T)
        self.colour.copy_(axes * variance.sqrt() @ axes.T)

    def encode(self, images: Tensor) -> Tensor:
        """Images (N, C, H, W) -> whitened latents (N, c, h, w); no sampling."""
        z = self.posterior(images)[0].flatten(1)  # (N, d)
        white: Tensor = (z - self.mean) @ self.whiten  # (N, d)
        latents: Tensor = white.unflatten(1, self.shape)
        return latents

    def decode(self, z: Tensor) -> Tensor:
        """Whitened latents (N, c, h, w) -> images (N, C, H, W), not clamped."""
        raw = z.flatten(1) @ self.colour + self.mean  # (N, d)
        return self.decode_raw(raw.unflatten(1, self.shape))

    def described(self) -> dict[str, object]:
        """The configuration, by name."""
        return asdict(self.config)


CONFIGS = {
    #                         size channels fold widths    latent_channels
    "KL-fashion":      Config(28,  1,       2,   (32, 64), 4),
    "KL-fashion-tiny": Config(28,  1,       2,   (8, 8),   4),
}  # fmt: skip
