"""A small labelled training on a small network, for the tests of the training kernel."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from erdpaper import weights
from erdpaper.models.latent_mlp import LatentMLP
from erdpaper.schedules import VP, Cosine
from erdpaper.training import (
    Batch,
    Labels,
    Objective,
    Recipe,
    SoftTruncation,
    Stream,
    Trainer,
    generator_for,
)

SHAPE, CLASSES = (2, 3, 3), 3
RECIPE = Recipe(
    12, 1e-2, "cosine", warmup=3, betas=(0.9, 0.95), weight_decay=0.1, clip=0.8, ema=0.9
)


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


class Dropping(nn.Module):
    """A network whose input passes dropout, which draws from torch's own generator."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network, self.drop = network, nn.Dropout(0.3)

    def forward(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        answer: Tensor = self.network(self.drop(x), t, label)
        return answer


def network(init: int = 0, dtype: torch.dtype = torch.float32) -> LatentMLP:
    torch.manual_seed(init)
    sizes = {"shape": SHAPE, "width": 16, "depth": 2, "embedding": 8, "classes": CLASSES}
    net = LatentMLP.from_name("MLP-latent-S", **sizes).to(dtype)
    # adaLN-Zero would hide the blocks in the first steps
    with torch.no_grad():
        for parameter in net.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return net


def stream(
    seed: int = 3, dtype: torch.dtype = torch.float32, labelled: bool = True, n: int = 20
) -> Stream:
    objective = Objective(
        Cosine(), "v", weights.normalised(weights.erd, Cosine(), "v"), stratified=True
    )
    labels = Labels(torch.arange(n) % CLASSES, CLASSES, 0.3) if labelled else None
    return Stream(normal(n, *SHAPE, dtype=dtype), objective, 8, seed, labels)


def truncated(dtype: torch.dtype = torch.float32) -> Stream:
    """Times above a smallest one that each step draws anew, with the weight that goes with it."""
    soft = SoftTruncation(VP(), likelihood=True)
    objective = Objective(VP(), "eps", stratified=True, truncation=soft)
    labels = Labels(torch.arange(20) % CLASSES, CLASSES, 0.3)
    return Stream(normal(20, *SHAPE, dtype=dtype), objective, 8, 3, labels)


def trainer(init: int = 0, dtype: torch.dtype = torch.float32, **changes: Any) -> Trainer:
    """`net`, `draw`, `loss` and `accelerator` go to the trainer, the rest to the recipe."""
    net = changes.pop("net", None) or network(init, dtype)
    draw = changes.pop("draw", None) or stream(dtype=dtype)
    own = {name: changes.pop(name) for name in ("loss", "accelerator") if name in changes}
    return Trainer(net, draw, replace(RECIPE, **changes), **own)


def losses(run: Trainer, until: int | None = None) -> list[float]:
    return [float(record.loss) for record in run.run(until)]


def generator_batch(step: int, shape: tuple[int, ...], dtype: torch.dtype) -> Batch:
    """The labelled batch of a step, 8 random examples."""
    generator = generator_for(11, step)
    x0 = torch.randn(8, *shape, generator=generator, dtype=dtype)
    label = torch.randint(CLASSES + 1, (8,), generator=generator)
    return Objective(Cosine(), "eps").batch(x0, generator, label)
