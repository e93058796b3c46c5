"""Checkpoints: all that a trainer needs to go on, as one safetensors file written as a whole.

- `model.*`, the network; `average.*`, its moving average, if it has one;
- `optimiser.*`, AdamW's moments; `loss.*`, what a loss remembers, if it does;
- `rng.*`, the states of torch's own generators in the process that saves, for dropout.

The file's metadata hold the step, on which the batches to come depend (`training.stream`), and the
scale of half-precision losses. Nothing is pickled. Tensors are whole, however many processes they
were spread over, so that any number of processes can go on from any other.
"""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from erdpaper.files import replacing
from erdpaper.training import sharding
from erdpaper.training.loop import Trainer, TrainingError


def save(path: Path, trainer: Trainer) -> None:
    """Write the state of a trainer after its last step; all its processes must call this.

    The main one writes.
    """
    tensors = gathered(_tensors(trainer), trainer)
    facts = {"step": str(trainer.step), "scaler": json.dumps(_scaler(trainer))}
    if trainer.engine.is_main_process:
        with replacing(path) as temporary:
            save_file(tensors, temporary, facts)


def gathered(tensors: dict[str, Tensor], trainer: Trainer) -> dict[str, Tensor]:
    """Copies on the CPU of what the main process is to write, none elsewhere; all must call."""
    found = {}
    for name, part in tensors.items():
        full = sharding.whole(part)
        if trainer.engine.is_main_process:
            # a copy each, since tied weights share memory, which the format refuses
            found[name] = full.cpu().contiguous().clone()
    return found


def load(path: Path, trainer: Trainer) -> None:
    """Put a trainer, made as the one that was saved, into the saved state.

    Raises TrainingError for a file that is damaged or belongs to another network, average or loss.
    """
    try:
        with safe_open(path, "pt") as file:
            facts: dict[str, str] = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise TrainingError(
            f"{path} is no readable checkpoint ({error}); delete it to go on from the one before"
        ) from None
    if not {"step", "scaler"} <= facts.keys() or "rng.cpu" not in tensors:
        raise TrainingError(f"{path} is no checkpoint of a training")
    _check(path, tensors, trainer)
    _restore(trainer, tensors)
    trainer.step = int(facts["step"])
    scaler, scale = getattr(trainer.engine, "scaler", None), json.loads(facts["scaler"])
    if scaler is not None and scale:
        scaler.load_state_dict(scale)


def _tensors(trainer: Trainer) -> dict[str, Tensor]:
    found = _named(trainer)
    for index, moments in trainer.optimiser.state_dict()["state"].items():
        found |= _prefixed(f"optimiser.{index}", moments)
    found["rng.cpu"] = torch.get_rng_state()
    if torch.cuda.is_available():
        found["rng.cuda"] = torch.cuda.get_rng_state()
    return found


def _named(trainer: Trainer) -> dict[str, Tensor]:
    """What a checkpoint must have by the same names and shapes as the trainer it is loaded into."""
    found = _prefixed("model", trainer.model.state_dict())
    if trainer.average is not None:
        found |= _prefixed("average", trainer.average.state_dict())
    if hasattr(trainer.loss, "state_dict"):
        found |= _prefixed("loss", trainer.loss.state_dict())
    return found


def _prefixed(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}.{name}": torch.as_tensor(value) for name, value in state.items()}


def _scaler(trainer: Trainer) -> dict[str, Any]:
    scaler = getattr(trainer.engine, "scaler", None)
    return {} if scaler is None else dict(scaler.state_dict())


def _check(path: Path, tensors: dict[str, Tensor], trainer: Trainer) -> None:
    expected = {name: _kind(part) for name, part in _named(trainer).items()}
    named = ("model.", "average.", "loss.")
    found = {name: _kind(part) for name, part in tensors.items() if name.startswith(named)}
    for name in [*expected, *found]:
        if expected.get(name) != found.get(name):
            raise TrainingError(f"{path} belongs to another training: {name} differs")


def _kind(part: Tensor) -> tuple[torch.Size, torch.dtype]:
    return part.shape, part.dtype


def _restore(trainer: Trainer, tensors: dict[str, Tensor]) -> None:
    _fill(trainer.model, _part("model.", tensors))
    if trainer.average is not None:
        _fill(trainer.average, _part("average.", tensors))
    if hasattr(trainer.loss, "load_state_dict"):
        trainer.loss.load_state_dict(_part("loss.", tensors))
    parameters = [p for group in trainer.optimiser.param_groups for p in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in _part("optimiser.", tensors).items():
        index, moment = name.split(".")
        state.setdefault(int(index), {})[moment] = _laid_out(value, parameters[int(index)])
    torch.set_rng_state(tensors["rng.cpu"])
    if torch.cuda.is_available() and "rng.cuda" in tensors:
        torch.cuda.set_rng_state(tensors["rng.cuda"])
    groups = trainer.optimiser.state_dict()["param_groups"]
    trainer.optimiser.load_state_dict({"state": state, "param_groups": groups})


def _fill(module: nn.Module, state: dict[str, Tensor]) -> None:
    there = module.state_dict()
    module.load_state_dict({n: sharding.laid_out(part, there[n]) for n, part in state.items()})


def _laid_out(moment: Tensor, parameter: Tensor) -> Tensor:
    """Where the parameter is, in its order of memory, which the fused AdamW takes for granted."""
    if moment.shape != parameter.shape:
        return moment
    if sharding.distributed(parameter):
        return sharding.laid_out(moment, parameter)
    return torch.empty_like(parameter, dtype=moment.dtype, device="cpu").copy_(moment)


def _part(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {n.removeprefix(prefix): part for n, part in tensors.items() if n.startswith(prefix)}
