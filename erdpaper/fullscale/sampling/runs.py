"""The network in a run folder of `erdpaper train`, with what is needed to sample from it."""

import json
import os
from hashlib import file_digest
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from erdpaper import targets
from erdpaper.images import build
from erdpaper.schedules import Schedule
from erdpaper.training.folder import snapshot


class Trained(NamedTuple):
    """A finished diffusion model.

    shape: (C, H, W) of what it generates; classes: how many it knows, 0 for none, the label
    `classes` standing for no class; config: the run's; sha256: that of its weights.
    """

    network: nn.Module
    schedule: Schedule
    target: str
    shape: tuple[int, int, int]
    classes: int
    config: dict[str, Any]
    sha256: str


def load(folder: Path, at: int | None = None) -> Trained:
    """The averaged network at the end of a run or in its snapshot of a step, on the CPU.

    Raises ValueError for a folder without a run, a run that is not finished or not of a diffusion
    model, a step without a snapshot, settings that mean nothing, and weights that are not the
    configured network's.
    """
    config = _config(folder)
    weights = folder / "model.safetensors" if at is None else snapshot(folder, at)
    if not weights.is_file() and at is not None:
        there = ", ".join(
            str(int(path.stem[8:])) for path in sorted(folder.glob("average-*.safetensors"))
        )
        raise ValueError(
            f"the run in {folder} holds no snapshot of step {at}; use one of {there or 'none'}"
        )
    if not weights.is_file():
        raise ValueError(f"the run in {folder} is not finished: it holds no {weights.name} yet")
    network = build.network(config["model"])
    _fill(network, weights)
    sizes: Any = network.config
    shape = getattr(sizes, "shape", None) or (sizes.channels, sizes.size, sizes.size)
    with weights.open("rb") as file:
        digest = file_digest(file, "sha256").hexdigest()
    schedule = build.SCHEDULES[config["schedule"]]
    network.eval().requires_grad_(False)
    return Trained(network, schedule, config["target"], shape, sizes.classes, config, digest)


def _config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    if not path.is_file():
        raise ValueError(f"{folder} is no run of erdpaper train: it holds no {path.name}")
    try:
        config: dict[str, Any] = json.loads(path.read_text())
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({os.strerror(error.errno or 0)})") from None
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error})") from None
    if not isinstance(config, dict):
        raise ValueError(f"{path} holds no settings of a run")
    missing = [name for name in ("model", "target", "schedule", "data") if name not in config]
    if missing:
        raise ValueError(
            f"the run in {folder} is of no diffusion model: it has no {', '.join(missing)}"
        )
    if config["schedule"] not in build.SCHEDULES:
        known = ", ".join(build.SCHEDULES)
        raise ValueError(f"{path}: unknown schedule {config['schedule']!r}; use one of {known}")
    targets.get(config["target"])
    return config


def _fill(network: nn.Module, path: Path) -> None:
    try:
        network.load_state_dict(load_file(path))
    except (SafetensorError, RuntimeError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{path} does not hold the weights of its network ({reason})") from None
