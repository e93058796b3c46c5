"""The second cell of every notebook: check the parameters, then open the run.

papermill passes on whatever it is given, so each mistake stops here with one sentence.
"""

import math
import types
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import torch

from erdpaper import claims, figures
from erdpaper.claims.session import PROFILES

T = TypeVar("T")

COMMON = ("profile", "seed", "device")
_IPYTHON = frozenset({"In", "Out", "exit", "quit", "get_ipython", "open"})
# which amounts of work stand in for a profile that names none
_FALLBACK = {
    "smoke": ("smoke", "cpu"),
    "cpu": ("cpu",),
    "gpu": ("gpu", "cpu"),
    "full": ("full", "gpu", "cpu"),
}


class ParameterError(ValueError):
    """A notebook's parameter is wrong; the message is one sentence that says how."""


class Spec(Protocol):
    """What a notebook's own parameter may be."""

    def check(self, name: str, value: object) -> None:
        """Raise ParameterError unless the value fits."""


@dataclass(frozen=True)
class Number:
    """An int or float from low to high, ends included."""

    low: float = -math.inf
    high: float = math.inf

    def check(self, name: str, value: object) -> None:
        """Raise ParameterError unless the value is a finite number in the range."""
        number = value if isinstance(value, int | float) else math.nan
        if isinstance(value, bool) or not _within(number, self.low, self.high):
            raise ParameterError(
                f"{name} must be a number{_range(self.low, self.high)}, not {value!r}"
            )


@dataclass(frozen=True)
class Integer:
    """An int from low to high, ends included; a float is refused even if it is whole."""

    low: float = -math.inf
    high: float = math.inf

    def check(self, name: str, value: object) -> None:
        """Raise ParameterError unless the value is an int in the range."""
        if isinstance(value, float) and value.is_integer():
            raise ParameterError(
                f"{name} must be an integer, not the float {value!r}; write {int(value)}"
            )
        number = value if isinstance(value, int) else math.nan
        if isinstance(value, bool) or not _within(number, self.low, self.high):
            raise ParameterError(
                f"{name} must be an integer{_range(self.low, self.high)}, not {value!r}"
            )


class Choice:
    """One of the given texts."""

    def __init__(self, *options: str) -> None:
        if not options:
            raise ValueError("a Choice needs at least one option")
        self.options = options

    def check(self, name: str, value: object) -> None:
        """Raise ParameterError unless the value is one of the options."""
        if not isinstance(value, str) or value not in self.options:
            raise ParameterError(f"{name} must be one of {', '.join(self.options)}, not {value!r}")


class Folder:
    """A folder that exists, or the empty text for none."""

    def check(self, name: str, value: object) -> None:
        """Raise ParameterError unless the value is the path of a folder, or empty."""
        if not isinstance(value, str) or (value and not Path(value).is_dir()):
            raise ParameterError(f"{name} must be an existing folder or empty, not {value!r}")


@dataclass(frozen=True)
class Run:
    """A notebook's run.  parameters: the notebook's own, by name."""

    name: str
    profile: str
    seed: int
    device: torch.device
    parameters: Mapping[str, Any] = field(default_factory=dict)

    def generator(self, offset: int = 0) -> torch.Generator:
        """A generator on the CPU, seeded from (seed, offset): each offset is its own stream.

        Draws are made on the CPU and moved, so that every device sees the same numbers.
        """
        if offset < 0:
            raise ValueError(f"offset must be an integer >= 0, not {offset}")
        state = np.random.SeedSequence([self.seed, offset]).generate_state(1, np.uint64)
        # torch takes seeds up to 2^63 - 1 on every platform
        return torch.Generator("cpu").manual_seed(int(state[0]) >> 1)

    def pick(self, **amounts: T) -> T:
        """The amount of work for this profile, as in run.pick(smoke=10, cpu=1000, gpu=100_000).

        `full` falls back to gpu, gpu and smoke to cpu, which must be given.
        """
        unknown = [name for name in amounts if name not in PROFILES]
        if unknown or "cpu" not in amounts:
            what = f"has the unknown {', '.join(unknown)}" if unknown else "needs an amount for cpu"
            raise ValueError(f"run.pick {what}; profiles are {', '.join(PROFILES)}")
        return next(amounts[name] for name in _FALLBACK[self.profile] if name in amounts)


def begin(name: str, namespace: Mapping[str, Any], **own: Spec) -> Run:
    """Check a notebook's parameters, set the plot style and open its claims session.

    name: the notebook's, as in claims.yml.  namespace: the notebook's globals().
    own: a Number, Integer or Choice for each further parameter of the notebook.
    Also seeds torch's global generator, which initialises models.

    Raises ParameterError, one sentence, for the first parameter that is wrong, common ones first.
    """
    profile = _check_profile(_given(namespace, "profile"))
    seed = _check_seed(_given(namespace, "seed"))
    device = _check_device(_given(namespace, "device"))
    for parameter, spec in own.items():
        spec.check(parameter, _given(namespace, parameter))
    _check_unknown(namespace, (*COMMON, *own))
    parameters = {parameter: namespace[parameter] for parameter in own}
    run = Run(name, profile, seed, device, types.MappingProxyType(parameters))
    figures.use_style()
    # libraries that import tqdm.auto complain about widgets that the book does not use
    warnings.filterwarnings("ignore", message="IProgress not found")
    torch.manual_seed(run.generator().initial_seed())
    claims.begin(name, profile, seed, str(device), parameters)
    return run


def _within(value: float, low: float, high: float) -> bool:
    """Whether a value is finite and from low to high."""
    # not math.isfinite, which overflows on a huge int
    return abs(value) < math.inf and low <= value <= high


def _range(low: float, high: float) -> str:
    if math.isfinite(low) and math.isfinite(high):
        return f" from {low:g} to {high:g}"
    if math.isfinite(low):
        return f" >= {low:g}"
    return f" <= {high:g}" if math.isfinite(high) else ""


def _given(namespace: Mapping[str, Any], name: str) -> object:
    if name not in namespace:
        raise ParameterError(f"the parameters cell must set {name}")
    return namespace[name]


def _check_profile(value: object) -> str:
    Choice(*PROFILES).check("profile", value)
    return str(value)


def _check_seed(value: object) -> int:
    Integer(low=0).check("seed", value)
    assert isinstance(value, int)
    return value


def _check_device(value: object) -> torch.device:
    """`auto` is the first GPU if there is one, else the CPU."""
    cards = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if value == "auto":
        return torch.device("cuda" if cards else "cpu")
    if value == "cpu":
        return torch.device("cpu")
    kind, _, index = value.partition(":") if isinstance(value, str) else ("", "", "")
    if kind != "cuda" or (value != "cuda" and not (index.isascii() and index.isdigit())):
        raise ParameterError(f"device must be auto, cpu, cuda or cuda:N, not {value!r}")
    if not cards:
        raise ParameterError(f"device {value!r} needs a CUDA GPU, and torch finds none here")
    if index and int(index) >= cards:
        raise ParameterError(f"device {value!r} does not exist; torch finds {cards} CUDA GPU(s)")
    return torch.device(str(value))


def _check_unknown(namespace: Mapping[str, Any], known: tuple[str, ...]) -> None:
    """Refuse a plain value that no parameter declares, as papermill injects a misspelt one."""
    # a second run of this cell in one kernel sees what the notebook has computed since
    if any(isinstance(value, Run) for value in namespace.values()):
        return
    for name, value in namespace.items():
        if name.startswith("_") or name in _IPYTHON or name in known or _is_code(value):
            continue
        raise ParameterError(f"unknown parameter {name!r}; this notebook knows {', '.join(known)}")


def _is_code(value: object) -> bool:
    return isinstance(value, types.ModuleType) or callable(value)
