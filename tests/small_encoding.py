"""Small sets of images in the formats of the large ones, and an autoencoder for them."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
# not the value of any real model, so that a forgotten factor shows
SCALING = 0.4
SIDE = 16


def picture(seed: int, width: int = 20, height: int = 24) -> Image.Image:
    """Noise on a slope of colours, so that neither place nor side is like another."""
    generator = np.random.default_rng(seed)
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    slope = 160 * np.stack([x, y, (x + y) / 2], axis=-1)
    found = slope + generator.integers(0, 96, (height, width, 3))
    return Image.fromarray(found.astype(np.uint8))


def class_folders(root: Path, counts: dict[str, int], suffix: str = "png") -> Path:
    """A folder of class folders with so many images each."""
    for number, (name, count) in enumerate(counts.items()):
        (root / name).mkdir(parents=True)
        for k in range(count):
            # names whose alphabetical order is not that in which they are written
            picture(100 * number + k).save(root / name / f"{name}_{(7 * k) % 100}.{suffix}")
    return root


def autoencoder(folder: Path, seed: int = 0, **options: Any) -> Path:
    """A folder with an AutoencoderKL that halves images."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            block_out_channels=(8, 16),
            norm_num_groups=4,
            layers_per_block=1,
            latent_channels=4,
            scaling_factor=SCALING,
            **options,
        )
    network.save_pretrained(folder)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    """The files of an encoded folder, by name."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}


def index(folder: Path) -> dict[str, Any]:
    """The index of an encoded folder."""
    found: dict[str, Any] = json.loads((folder / "index.json").read_text())
    return found


def start(*arguments: Any) -> "subprocess.Popen[str]":
    """`erdpaper encode` on the CPU, running."""
    return subprocess.Popen(
        [sys.executable, "-m", "erdpaper", "encode", "--cpu", *map(str, arguments)],
        cwd=ROOT,
        env=os.environ | {"TQDM_DISABLE": "1", "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
