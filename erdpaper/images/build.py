"""From the name of a preset to a trainer that is ready to run, and what decides it as JSON."""

import copy
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from erdpaper import datasets
from erdpaper.images import data, tools, weighting
from erdpaper.images.presets import PRESETS, TOOLS, Preset, Tool, described
from erdpaper.models import dit, hourglass, latent_mlp, unet, uvit
from erdpaper.models.autoencoder import Autoencoder, Decoder
from erdpaper.models.classifier import Classifier
from erdpaper.schedules import DDPM, VP, Cosine, Linear, Schedule
from erdpaper.training import Ahead, Held, Labels, Recipe, Source, Stream, Trainer, share

if TYPE_CHECKING:
    from accelerate import Accelerator

SCHEDULES: dict[str, Schedule] = {
    "cosine": Cosine(),
    "ddpm": DDPM(),
    "linear": Linear(),
    "vp": VP(),
}
_FAMILIES: tuple[tuple[Any, Any], ...] = (
    (dit.DiT, dit.CONFIGS),
    (uvit.UViT, uvit.CONFIGS),
    (unet.UNet, unet.CONFIGS),
    (latent_mlp.LatentMLP, latent_mlp.CONFIGS),
    (hourglass.Hourglass, hourglass.CONFIGS),
)


class Found(NamedTuple):
    """A row of another table, its data, and what the configuration is to say of them."""

    row: Preset
    source: Source
    facts: dict[str, Any]


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
    accelerator: "Accelerator | None" = None,
    accumulate: int = 1,
    compiled: bool = False,
    recompute: bool = False,
    found: Found | None = None,
) -> Run:
    """The run of a preset, the same for the same arguments.

    steps: another length; the learning rate then falls over it, after a warm-up that is not longer
    than a tenth. compiled: torch.compile, and recompute: activations are computed again for the
    gradients; both change nothing but time and memory. found: what `preset` names, where it is no
    row of `images.presets`; its data are read ahead.
    Raises ValueError for an unknown preset, for a network that cannot recompute, and for a batch
    that cannot be cut into equal parts.
    """
    row = known(preset) if found is None else found.row
    recipe = resolved(row.recipe, steps, accumulate)
    share(row.batch, 1 if accelerator is None else accelerator.num_processes, accumulate)
    config = {"preset": preset, "seed": seed} | described(row) | vars(recipe)
    torch.manual_seed(seed)
    if isinstance(row, Tool):
        made = _tool(row, seed)
    else:
        source = _held(row.data) if found is None else found.source
        made = _diffusion(row, source, seed, recipe.steps)
    if found is not None:
        config |= found.facts
        made = made._replace(draw=Ahead(made.draw, recipe.steps))
    if recompute:
        recompute_activations(made.model, row.model)
    if accelerator is not None:
        made.model.to(accelerator.device)
    if compiled:
        made.model.compile()
    trainer = Trainer(made.model, made.draw, recipe, made.loss, accelerator)
    return Run(trainer, config, row.batch)


def known(preset: str) -> Preset | Tool:
    """A row by its name, ValueError if there is none."""
    if preset not in PRESETS | TOOLS:
        raise ValueError(f"unknown preset {preset!r}; use one of {', '.join(PRESETS | TOOLS)}")
    row: Preset | Tool = (PRESETS | TOOLS)[preset]
    return row


class _Made(NamedTuple):
    model: nn.Module
    draw: Any
    loss: Any


def resolved(recipe: Recipe, steps: int | None, accumulate: int) -> Recipe:
    """A recipe of another length and with accumulation; the warm-up is a tenth at most."""
    steps = recipe.steps if steps is None else steps
    warmup = min(recipe.warmup, max(steps, 1) // 10)
    return replace(recipe, steps=steps, warmup=warmup, accumulate=accumulate)


def _held(name: str) -> Held:
    return Held(*training_data(name))


def _diffusion(row: Preset, source: Source, seed: int, steps: int) -> _Made:
    model: Any = network(row.model)
    objective = weighting.objective(row.weight, SCHEDULES[row.schedule], row.target)
    # a network without classes is shown none, whatever the data have
    classes = source.labels if model.null else None
    labels = None if classes is None else Labels(classes, model.null, row.dropout)
    loss = weighting.loss(row.weight, SCHEDULES[row.schedule], row.target, steps)
    return _Made(model, Stream(source, objective, row.batch, seed, labels), loss)


def recompute_activations(model: Any, name: str) -> None:
    """Let a network compute its activations again, ValueError for one that cannot."""
    if not hasattr(model, "recompute"):
        raise ValueError(f"{name} keeps its activations; a DiT, U-ViT or UNet can recompute them")
    model.recompute = True


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
