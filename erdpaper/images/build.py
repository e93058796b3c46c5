"""From the name of a preset to a trainer that is ready to run, and what decides it as JSON."""

import copy
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from erdpaper import datasets
from erdpaper.images import data, tools, weighting
from erdpaper.images.presets import PRESETS, TOOLS, Preset, Tool, described
from erdpaper.models import dit, hourglass, latent_mlp, unet, uvit
from erdpaper.models.autoencoder import Autoencoder, Decoder
from erdpaper.models.classifier import Classifier
from erdpaper.schedules import DDPM, Cosine, Schedule
from erdpaper.training import Labels, Recipe, Stream, Trainer

SCHEDULES: dict[str, Schedule] = {"cosine": Cosine(), "ddpm": DDPM()}
_FAMILIES: tuple[tuple[Any, Any], ...] = (
    (dit.DiT, dit.CONFIGS),
    (uvit.UViT, uvit.CONFIGS),
    (unet.UNet, unet.CONFIGS),
    (latent_mlp.LatentMLP, latent_mlp.CONFIGS),
    (hourglass.Hourglass, hourglass.CONFIGS),
)


class Run(NamedTuple):
    """A trainer at its start, the configuration that made it, and the global batch."""

    trainer: Trainer
    config: dict[str, Any]
    batch: int


def network(name: str) -> nn.Module:
    """An untrained network by its name, whichever file of `erdpaper.models` it is in."""
    for family, configs in _FAMILIES:
        if name in configs:
            made: nn.Module = family.from_name(name)
            return made
    known = ", ".join(name for _, configs in _FAMILIES for name in configs)
    raise ValueError(f"unknown network {name!r}; use one of {known}")


def training_data(name: str) -> tuple[Tensor, Tensor]:
    """Data (N, C, H, W) and labels (N,) by name."""
    if name == "fashion":
        images = datasets.fashion_mnist("train")
        return images.images, images.labels
    if name == "fashion-latents":
        return data.latents("train")
    raise ValueError(f"unknown data {name!r}; use fashion or fashion-latents")


def build(
    preset: str,
    seed: int = 0,
    steps: int | None = None,
    accelerator: Accelerator | None = None,
    accumulate: int = 1,
    compiled: bool = False,
) -> Run:
    """The run of a preset, the same for the same arguments.

    steps: another length; the learning rate then falls over it, after a warm-up that is not longer
    than a tenth. compiled: torch.compile, which changes nothing but speed.
    Raises ValueError for an unknown preset.
    """
    if preset not in PRESETS | TOOLS:
        raise ValueError(f"unknown preset {preset!r}; use one of {', '.join(PRESETS | TOOLS)}")
    row: Preset | Tool = (PRESETS | TOOLS)[preset]
    recipe = _recipe(row.recipe, steps, accumulate)
    config = {"preset": preset, "seed": seed} | described(row) | vars(recipe)
    torch.manual_seed(seed)
    made = _tool(row, seed) if isinstance(row, Tool) else _diffusion(row, seed, recipe.steps)
    if accelerator is not None:
        made.model.to(accelerator.device)
    if compiled:
        made.model.compile()
    trainer = Trainer(made.model, made.draw, recipe, made.loss, accelerator)
    return Run(trainer, config, row.batch)


class _Made(NamedTuple):
    model: nn.Module
    draw: Any
    loss: Any


def _recipe(recipe: Recipe, steps: int | None, accumulate: int) -> Recipe:
    steps = recipe.steps if steps is None else steps
    warmup = min(recipe.warmup, max(steps, 1) // 10)
    return replace(recipe, steps=steps, warmup=warmup, accumulate=accumulate)


def _diffusion(row: Preset, seed: int, steps: int) -> _Made:
    model = network(row.model)
    x, classes = training_data(row.data)
    objective = weighting.objective(row.weight, SCHEDULES[row.schedule], row.target)
    labels = Labels(classes, data.CLASSES, row.dropout)
    loss = weighting.loss(row.weight, SCHEDULES[row.schedule], row.target, steps)
    return _Made(model, Stream(x, objective, row.batch, seed, labels), loss)


def _tool(row: Tool, seed: int) -> _Made:
    images = datasets.fashion_mnist("train")
    if row.kind == "classifier":
        labelled = tools.LabelledStream(images.images, images.labels, row.batch, seed, True)
        return _Made(Classifier(), labelled, tools.cross_entropy)
    if row.kind == "decoder":
        # a copy: the kept one is for evaluation
        kept = Decoder(copy.deepcopy(data.autoencoder()))
        encoded = tools.EncodedStream(data.latents("train")[0], images.images, row.batch, seed)
        return _Made(kept, encoded, tools.decoding)
    model = Autoencoder.from_name(row.model)
    noised = tools.NoisedStream(images.images, model.shape, row.batch, seed)
    return _Made(model, noised, tools.restoration)
