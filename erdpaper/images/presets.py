"""What `erdpaper train` can train on clothes: one row a run, everything that decides it.

data: "fashion" (1x28x28 pixels) or "fashion-latents" (4x7x7, see `images.data`), with the classes.
model: a name of one of the files in `erdpaper.models`.  weight: a row of `images.weighting`.
The rows of the first table lower the weighted error of a diffusion target [P 1], those of the
second are the autoencoder and the classifier that the latents and the metrics stand on.
"""

# ruff: noqa: E501  the rows of a table are as long as they are
from typing import Any, Literal, NamedTuple

from erdpaper.training import Recipe


class Preset(NamedTuple):
    """One row: a diffusion model and how it is trained."""

    data: str
    model: str
    target: str
    weight: str
    schedule: str
    batch: int
    dropout: float
    recipe: Recipe


class Tool(NamedTuple):
    """One row: a network that is no diffusion model."""

    kind: Literal["autoencoder", "decoder", "classifier"]
    model: str
    batch: int
    recipe: Recipe


def described(row: Preset | Tool) -> dict[str, Any]:
    """Every setting of a row by name, the recipe's among them."""
    own = row._asdict()
    recipe: Recipe = own.pop("recipe")
    return own | vars(recipe)


def _adam(steps: int, lr: float, **other: Any) -> Recipe:
    return Recipe(steps, lr, "cosine", warmup=min(200, steps // 10), **other)


PRESETS = {
    #                             data               model                  target weight     schedule  batch dropout
    "fashion-pixels":      Preset("fashion",         "Hourglass-fashion",   "v",   "uniform", "cosine", 128,  0.1, _adam(4_500, 1.5e-3, ema=0.999, clip=1.0)),
    "fashion-latents":     Preset("fashion-latents", "MLP-latent",          "v",   "uniform", "cosine", 128,  0.1, _adam(6_000, 2.0e-3, ema=0.999, clip=1.0)),
    "fashion-pixels-eps":  Preset("fashion",         "Hourglass-fashion",   "eps", "uniform", "cosine", 128,  0.1, _adam(4_500, 1.5e-3, ema=0.999, clip=1.0)),
    "fashion-pixels-x0":   Preset("fashion",         "Hourglass-fashion",   "x0",  "uniform", "cosine", 128,  0.1, _adam(4_500, 1.5e-3, ema=0.999, clip=1.0)),
    "fashion-latents-eps": Preset("fashion-latents", "MLP-latent",          "eps", "uniform", "cosine", 128,  0.1, _adam(6_000, 2.0e-3, ema=0.999, clip=1.0)),
    "fashion-latents-x0":  Preset("fashion-latents", "MLP-latent",          "x0",  "uniform", "cosine", 128,  0.1, _adam(6_000, 2.0e-3, ema=0.999, clip=1.0)),
    "fashion-dit":         Preset("fashion",         "DiT-fashion",         "eps", "erd",     "cosine", 64,   0.1, _adam(20_000, 1.0e-3, ema=0.999, clip=1.0)),
    "fashion-dit-latents": Preset("fashion-latents", "DiT-fashion-latent",  "eps", "erd",     "cosine", 64,   0.1, _adam(20_000, 1.0e-3, ema=0.999, clip=1.0)),
    "fashion-uvit":        Preset("fashion",         "U-ViT-fashion",       "eps", "erd",     "cosine", 64,   0.1, _adam(20_000, 1.0e-3, ema=0.999, clip=1.0)),
    "fashion-unet":        Preset("fashion",         "UNet-fashion",        "eps", "erd",     "cosine", 64,   0.1, _adam(20_000, 5.0e-4, ema=0.999, clip=1.0)),
}  # fmt: skip
TOOLS = {
    "fashion-classifier":  Tool("classifier",  "classifier", 128, _adam(3_000, 2e-3)),
    "fashion-autoencoder": Tool("autoencoder", "KL-fashion",  64, _adam(1_600, 2e-3, clip=1.0)),
    "fashion-decoder":     Tool("decoder",     "KL-fashion",  64, _adam(1_200, 1e-3, clip=1.0)),
}  # fmt: skip
