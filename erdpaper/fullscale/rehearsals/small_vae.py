"""A small AutoencoderKL of colour images of clothes, in the place of Stable Diffusion's.

It turns 28x28 pixels into latents of 4x7x7, is kept in data/small-vae as diffusers keeps one, and
stands in wherever a command asks for an autoencoder by its folder. This makes it anew, in a few
minutes of one core:

    python -m erdpaper.fullscale.rehearsals.small_vae FOLDER
"""

import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import trange

from erdpaper import datasets
from erdpaper.training import generator_for

NAME = "small-vae"
# weight of the divergence of the posterior from a standard normal
PRIOR = 1e-5
BATCH = 32
_WIDTHS = (16, 32, 32)


def folder() -> Path:
    """Where it is kept."""
    return datasets.data_dir() / NAME


def untrained(seed: int = 0) -> Any:
    """The network before training, in training mode."""
    # imported here, as in `models.unet`
    from diffusers import AutoencoderKL

    levels = len(_WIDTHS)
    torch.manual_seed(seed)
    # diffusers is typed in part only
    make: Any = AutoencoderKL
    return make(
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=_WIDTHS,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=28,
        mid_block_add_attention=False,
    )


def train(images: Tensor, steps: int, seed: int = 0) -> Any:
    """A network trained on images (N, 3, 28, 28) in [-1, 1], its factor fitted to their latents."""
    network = untrained(seed)
    optimiser = torch.optim.AdamW(network.parameters(), 3e-3)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimiser, 3e-3, total_steps=steps)
    for step in trange(steps, desc="autoencoder", unit="step"):
        generator = generator_for(seed, step)
        x = images[torch.randint(len(images), (BATCH,), generator=generator)]
        posterior = network.encode(x).latent_dist
        noise = torch.randn(posterior.mean.shape, generator=generator)
        restored = network.decode(posterior.mean + posterior.std * noise).sample
        loss = (restored - x).square().mean() + PRIOR * posterior.kl().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        rate.step()
    network.eval().requires_grad_(False)
    network.register_to_config(scaling_factor=_factor(network, images[:2_000]))
    return network


def _factor(network: Any, images: Tensor) -> float:
    """What makes latents of unit mean square about their mean; five digits."""
    latents = network.encode(images).latent_dist.mean
    return float(f"{1 / float(latents.std()):.5g}")


def main(out: str, steps: int = 600) -> None:
    """Train on the training images of Fashion-MNIST and keep the network in a folder."""
    torch.set_num_threads(1)
    images = datasets.fashion_mnist("train").images.expand(-1, 3, -1, -1)
    train(images, steps).save_pretrained(out)


if __name__ == "__main__":
    main(sys.argv[1])
