"""How pretrained weights come in, and where they work."""

from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from safetensors import SafetensorError

# what schedulers call the target that their network predicts
_TARGETS = {"epsilon": "eps", "v_prediction": "v", "sample": "x0"}


def device() -> torch.device:
    """The accelerator if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def pretrained(kind: Any, name: str | Path, what: str, **options: Any) -> Any:
    """`kind.from_pretrained(name)` of diffusers or transformers, ValueError if there is no such.

    kind: the class; what: its name in the error's sentence. Without the libraries' own progress
    bars, which would tear that of a command and fill a notebook.
    """
    for library in (diffusers.utils.logging, transformers.utils.logging):
        library.disable_progress_bar()
    try:
        return kind.from_pretrained(str(name), **options)
    except (OSError, ValueError, SafetensorError) as error:
        raise ValueError(
            f"no {what} can be loaded from {str(name)!r}: "
            "name a folder, or a hub name, with its configuration and safetensors weights"
        ) from error


def target(scheduler: Any) -> str:
    """The name of the target that a scheduler of diffusers expects of its network."""
    kind = scheduler.config.prediction_type
    if kind not in _TARGETS:
        raise ValueError(f"prediction_type must be one of {', '.join(_TARGETS)}, not {kind!r}")
    return _TARGETS[kind]
