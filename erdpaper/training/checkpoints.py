"""Checkpoints: all that a trainer needs to go on, as one safetensors file written as a whole.

    model.*      the network            average.*    its moving average
    optimiser.*  AdamW's moments        loss.*       what a loss remembers, if it does

    rng.*        the states of torch's own generators, which dropout draws from

The file's metadata hold the step, on which the batches to come depend (`training.stream`), and the
scale of half-precision losses. Nothing is pickled.
"""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from erdpaper.files import replacing
from erdpaper.training.loop import Trainer, TrainingError


def save(path: Path, trainer: Trainer) -> None:
    """Write the state of a trainer after its last step."""
    tensors = {name: part.detach().cpu().contiguous() for name, part in _tensors(trainer).items()}
    facts = {"step": str(trainer.step), "scaler": json.dumps(_scaler(trainer))}
    with replacing(path) as temporary:
        # a copy each, since tied weights share memory, which the format refuses
        save_file({name: part.clone() for name, part in tensors.items()}, temporary, facts)


def load(path: Path, trainer: Trainer) -> None:
    """Put a trainer, made as the one that was saved, into the saved state.

    Raises TrainingError for a file that is damaged or belongs to another network.
    """
    try:
        with safe_open(path, "pt") as file:
            facts: dict[str, str] = file.metadata()
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise TrainingError(f"{path} is no readable checkpoint ({error})") from None
    _check(path, tensors, trainer)
    _restore(trainer, tensors)
    trainer.step = int(facts["step"])
    scaler = getattr(trainer.engine, "scaler", None)
    if scaler is not None:
        scaler.load_state_dict(json.loads(facts["scaler"]))


def _tensors(trainer: Trainer) -> dict[str, Tensor]:
    found = _prefixed("model", trainer.model.state_dict())
    if trainer.average is not None:
        found |= _prefixed("average", trainer.average.state_dict())
    if hasattr(trainer.loss, "state_dict"):
        found |= _prefixed("loss", trainer.loss.state_dict())
    for index, moments in trainer.optimiser.state_dict()["state"].items():
        found |= _prefixed(f"optimiser.{index}", moments)
    found["rng.cpu"] = torch.get_rng_state()
    if torch.cuda.is_available():
        found["rng.cuda"] = torch.cuda.get_rng_state()
    return found


def _prefixed(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}.{name}": torch.as_tensor(value) for name, value in state.items()}


def _scaler(trainer: Trainer) -> dict[str, Any]:
    scaler = getattr(trainer.engine, "scaler", None)
    return {} if scaler is None else dict(scaler.state_dict())


def _check(path: Path, tensors: dict[str, Tensor], trainer: Trainer) -> None:
    expected = _prefixed("model", trainer.model.state_dict())
    found = {name: part for name, part in tensors.items() if name.startswith("model.")}
    for name in expected.keys() | found.keys():
        if name not in expected or name not in found or expected[name].shape != found[name].shape:
            raise TrainingError(f"{path} belongs to another network: {name} differs")


def _restore(trainer: Trainer, tensors: dict[str, Tensor]) -> None:
    trainer.model.load_state_dict(_part("model.", tensors))
    if trainer.average is not None:
        trainer.average.load_state_dict(_part("average.", tensors))
    if hasattr(trainer.loss, "load_state_dict"):
        trainer.loss.load_state_dict(_part("loss.", tensors))
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in _part("optimiser.", tensors).items():
        index, moment = name.split(".")
        state.setdefault(int(index), {})[moment] = value
    torch.set_rng_state(tensors["rng.cpu"])
    if torch.cuda.is_available() and "rng.cuda" in tensors:
        torch.cuda.set_rng_state(tensors["rng.cuda"])
    groups = trainer.optimiser.state_dict()["param_groups"]
    trainer.optimiser.load_state_dict({"state": state, "param_groups": groups})


def _part(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {n.removeprefix(prefix): part for n, part in tensors.items() if n.startswith(prefix)}
