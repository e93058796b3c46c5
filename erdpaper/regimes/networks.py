"""Networks that differ in target and in length of training, for the question what contracts.

They are trained as the kept models are, for fewer steps; as the learning rate falls to zero within
every length, the weights at the end count, not their moving average, which would lag in a short
run. The networks stay in a work folder; what is measured of them is kept.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

from safetensors.torch import load_file, save
from torch import nn

from erdpaper.images import build, keep
from erdpaper.images.presets import PRESETS
from erdpaper.tasks import fill

TARGETS = ("eps", "x0", "v")
# lengths of training, in steps of 128
STEPS = {"pixels": (100, 300, 1_000), "latents": (300, 1_000, 3_000)}


class Training(NamedTuple):
    """One training: space "pixels" or "latents", target and length."""

    space: str
    target: str
    steps: int

    @property
    def preset(self) -> str:
        """The row of `images.presets`."""
        name = f"fashion-{self.space}"
        return name if self.target == "v" else f"{name}-{self.target}"

    @property
    def file(self) -> str:
        """Its name in the work folder."""
        return f"{self.space}-{self.target}-{self.steps}.safetensors"


def trainings() -> Iterator[Training]:
    """All of them, the cheap ones first: every length for eps, the longest for the others."""
    for space in ("latents", "pixels"):
        for target in TARGETS:
            for steps in STEPS[space] if target == "eps" else STEPS[space][-1:]:
                yield Training(space, target, steps)


def train(folder: Path, jobs: int) -> None:
    """Write the networks that the folder lacks, `jobs` at a time."""
    fill({folder / each.file: partial(_trained, each) for each in trainings()}, jobs, "networks")


def _trained(training: Training) -> bytes:
    trainer = build.build(training.preset, steps=training.steps).trainer
    for _ in trainer.run():
        pass
    return save(keep.half(trainer.model.state_dict()))


def load(folder: Path, training: Training) -> nn.Module:
    """The network for evaluation."""
    network = build.network(PRESETS[training.preset].model)
    state = load_file(folder / training.file)
    network.load_state_dict({name: part.float() for name, part in state.items()})
    return network.eval().requires_grad_(False)
