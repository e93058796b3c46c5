"""What a run would be: its settings, size, costs and length, without a look at its data."""

import os
from typing import Any, NamedTuple

import torch
from torch import nn

from erdpaper.datasets import FASHION_CLASSES
from erdpaper.fullscale import costs, presets, train
from erdpaper.fullscale.costs import Memory, Way
from erdpaper.images import build, command
from erdpaper.images.presets import Preset, Tool, described
from erdpaper.models.autoencoder import Autoencoder, Decoder
from erdpaper.models.classifier import Classifier
from erdpaper.training import share
from erdpaper.training.folder import check_snapshots

_FASHION = 60_000
_GB = 1e9


class Plan(NamedTuple):
    """A run before it begins.

    settings: the resolved configuration.  parameters: of the network.  operations: floating-point,
    of a step over all devices.  memory: of one of `way.processes` devices, which holds `images` at
    a time.  epochs: passes over `examples`.
    """

    settings: dict[str, Any]
    parameters: int
    operations: int
    memory: Memory
    images: int
    way: Way
    steps: int
    examples: int

    @property
    def epochs(self) -> float:
        """Passes over the data."""
        return float(self.steps * self.settings["batch"] / self.examples)


def plan(request: command.Request, processes: int | None = None) -> Plan:
    """The plan of a request; processes: how many, by default those that a launcher started.

    Raises ValueError for a wrong request, and TrainingError for a snapshot that is not on the way.
    """
    row = train.row(request.preset)
    recipe = build.resolved(row.recipe, request.steps, request.accumulate)
    check_snapshots(request.snapshots, recipe.steps)
    settings = {"preset": request.preset, "seed": request.seed} | described(row) | vars(recipe)
    settings["precision"] = request.precision
    many = int(os.environ.get("WORLD_SIZE", "1")) if processes is None else processes
    images = share(row.batch, many, recipe.accumulate)
    way = Way(request.precision != "no", request.recompute, many, request.shard)
    model, inputs = _example(row)
    if request.recompute:
        build.recompute_activations(model, row.model)
    forward = costs.forward_operations(model, *inputs)
    memory = costs.memory(model, images, way, *inputs)
    if recipe.ema is None:
        memory = memory._replace(average=0)
    return Plan(
        settings,
        costs.parameters(model),
        costs.step_operations(forward, row.batch),
        memory,
        images,
        way,
        recipe.steps,
        _examples(row),
    )


def lines(plan: Plan) -> list[str]:
    """A plan as text, a setting a line."""
    way, memory = plan.way, plan.memory
    devices = f"{way.processes} device" + ("s" if way.processes > 1 else "")
    sizes = [f"{name} {value / _GB:.2f}" for name, value in memory._asdict().items() if value]
    shown = [
        *((name, str(value)) for name, value in plan.settings.items()),
        ("parameters", f"{plan.parameters:,}"),
        ("operations", f"{plan.operations / 1e12:,.3f} TFLOP a step"),
        ("memory", f"about {memory.total / _GB:.2f} GB on each of {devices}, {plan.images} images"),
        ("", ", ".join(sizes) + " GB"),
        (
            "length",
            f"{plan.steps:,} steps, {plan.epochs:,.1f} epochs of {plan.examples:,} examples",
        ),
    ]
    width = max(len(name) for name, _ in shown)
    return [f"{name:<{width}}  {value}" for name, value in shown]


def _examples(row: Preset | Tool) -> int:
    if isinstance(row, Tool) or row.data not in presets.DATA:
        return _FASHION
    return presets.DATA[row.data].examples


def _example(row: Preset | Tool) -> tuple[nn.Module, tuple[Any, ...]]:
    """The network of a row, untrained, and inputs for one image if they are needed."""
    if isinstance(row, Tool):
        return _tool(row)
    with torch.random.fork_rng(devices=[]):
        model: Any = _untrained(row.model)
        sizes = model.config
        shape = getattr(sizes, "shape", None) or (sizes.channels, sizes.size, sizes.size)
        inputs = [torch.randn(1, *shape), torch.rand(1)]
    if model.null:
        inputs.append(torch.zeros(1, dtype=torch.int64))
    return model, tuple(inputs)


def _untrained(name: str) -> nn.Module:
    """Without weights where only shapes are looked at."""
    if name.startswith(("DiT", "U-ViT")):
        with torch.device("meta"):
            return build.network(name)
    return build.network(name)


def _tool(row: Tool) -> tuple[nn.Module, tuple[Any, ...]]:
    image = torch.zeros(1, 1, 28, 28)
    if row.kind == "classifier":
        return Classifier(classes=len(FASHION_CLASSES)), (image,)
    coder = Autoencoder.from_name(row.model)
    latent = torch.zeros(1, *coder.shape)
    if row.kind == "decoder":
        return Decoder(coder), (latent,)
    return coder, (image, latent, 0.1)
