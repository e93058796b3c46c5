"""One training of a small network on the latents of Fashion-MNIST, described completely."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
from torch import nn

from erdpaper.images import data, weighting
from erdpaper.models.dit import DiT
from erdpaper.models.latent_mlp import LatentMLP
from erdpaper.models.unet import UNet
from erdpaper.posterior import RecoverableSignal
from erdpaper.schedules import DDPM, Cosine, Schedule
from erdpaper.training import Decay, Labels, Recipe, Stream, Trainer

SCHEDULE: Schedule = Cosine()
SCHEDULES: dict[str, Schedule] = {"cosine": SCHEDULE, "ddpm": DDPM()}
ARCHITECTURES: dict[str, Any] = {
    "MLP-latent-S": LatentMLP,
    "DiT-fashion-latent": DiT,
    "UNet-fashion-latent": UNet,
}
DROPOUT, CLIP = 0.1, 1.0
# the learning rate rises during one of so many parts of a training
WARMUP = 15


@dataclass(frozen=True)
class Cell:
    """The defaults are the ablation's: AdamW with beta2 = .95, a cosine learning rate, batch 64.

    `target`, `weight` and `lr` are what it varies; `seed` decides the initial weights, the order of
    the data, their noise and the dropped labels, whatever the rest.
    """

    target: str
    weight: str
    lr: float
    model: str = "MLP-latent-S"
    beta2: float = 0.95
    decay: Decay = "cosine"
    steps: int = 750
    batch: int = 64
    ema: float = 0.99
    seed: int = 0
    schedule: str = "cosine"

    @property
    def key(self) -> str:
        """A file name: target, weight and learning rate, and what differs from the defaults."""
        parts = [self.target, self.weight, f"lr={self.lr:g}"]
        for item in fields(self)[3:]:
            value = getattr(self, item.name)
            if value != item.default:
                parts.append(f"{item.name}={value}")
        return ",".join(parts)

    def as_dict(self) -> dict[str, Any]:
        """Every field, by name."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Cell":
        """The inverse of `as_dict`; other keys are left out."""
        known = {item.name for item in fields(cls)}
        return cls(**{name: value for name, value in values.items() if name in known})

    @property
    def levels(self) -> Schedule:
        """The schedule of noise levels that `schedule` names, in `SCHEDULES`."""
        return SCHEDULES[self.schedule]

    def network(self) -> nn.Module:
        """The network as it is initialised, by this cell's model and seed alone."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            network: nn.Module = ARCHITECTURES[self.model].from_name(self.model)
            return network

    def trainer(
        self, signal: RecoverableSignal | None = None, device: torch.device | str = "cpu"
    ) -> Trainer:
        """This cell's training, at its start; `signal` is that of the data, for "recoverable"."""
        z, labels = data.latents()
        stream = Stream(
            z,
            weighting.objective(self.weight, self.levels, self.target, signal),
            self.batch,
            self.seed,
            Labels(labels, data.CLASSES, DROPOUT),
        )
        recipe = Recipe(
            self.steps,
            self.lr,
            self.decay,
            warmup=self.steps // WARMUP,
            betas=(0.9, self.beta2),
            clip=CLIP,
            ema=self.ema,
        )
        loss = weighting.loss(self.weight, self.levels, self.target, self.steps)
        return Trainer(self.network().to(device), stream, recipe, loss)
