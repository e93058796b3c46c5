"""Small finished runs of `erdpaper train`, for the tests of what is done with their networks."""

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from safetensors.torch import save_file
from torch import nn

from erdpaper.images import build

# not the value of any real model, so that a forgotten factor shows
FACTOR = 0.4
CONFIG = {"preset": "small", "target": "eps", "schedule": "cosine", "dropout": 0.1}


def run(folder: Path, model: str = "DiT-fashion-latent", **changes: Any) -> nn.Module:
    """A run whose network answers to all it is told; returns that network."""
    torch.manual_seed(0)
    network = build.network(model)
    with torch.no_grad():
        for part in network.parameters():
            # what starts at zero would hide time and class
            part += 0.1 * torch.randn_like(part)
    folder.mkdir(parents=True)
    save_file(network.state_dict(), folder / "model.safetensors")
    config = CONFIG | {"model": model, "data": "encoded", "stored": "moments", "factor": FACTOR}
    (folder / "config.json").write_text(json.dumps(config | changes))
    return network.eval().requires_grad_(False)


def autoencoder(folder: Path, **changes: Any) -> Any:
    """An autoencoder of latents (4, h, w) and colour images of twice the side."""
    torch.manual_seed(1)
    make: Any = AutoencoderKL
    sizes: dict[str, Any] = {
        "down_block_types": ("DownEncoderBlock2D",) * 2,
        "up_block_types": ("UpDecoderBlock2D",) * 2,
        "block_out_channels": (8, 8),
        "latent_channels": 4,
        "norm_num_groups": 4,
        "scaling_factor": FACTOR,
    }
    model = make(**(sizes | changes))
    model.save_pretrained(folder)
    return model.eval().requires_grad_(False)
