"""What is kept of endpoint estimates: which runs, how they are made, and how they are read."""

import json
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

from erdpaper.files import write_atomically
from erdpaper.regimes import bands, endpoint_arms, endpoint_known
from erdpaper.regimes.endpoint_arms import Arm, Result
from erdpaper.regimes.plans import FASHION, Plan
from erdpaper.regimes.system import SPACES, open_system
from erdpaper.tasks import fill, read_kept, write_card

NAME = "10_endpoint_estimates"
GUIDANCE = (1.0, 2.0, 4.0, 7.5)
_OTHER_SPACE = dict(zip(SPACES, SPACES[::-1], strict=True))


def arms() -> list[Arm]:
    """All trajectories that are kept."""
    found = [Arm("latents", grid="cosine")]
    for space in SPACES[::-1]:
        found += [Arm(space, sampler, classes=False) for sampler in endpoint_arms.SAMPLERS]
        found += [Arm(space, sampler, "sd") for sampler in endpoint_arms.SAMPLERS]
        found += [Arm(space, grid=grid, classes=False) for grid in ("sd", "cosine")]
        found += [
            Arm(space, "heun", classes=False, denoiser=name) for name in ("linear", "training")
        ]
    found += [Arm("latents", grid="sd", guidance=scale) for scale in (4.0, 7.5)]
    return found + [
        Arm(space, sampler, guidance=scale)
        for scale in GUIDANCE
        for space in SPACES[::-1]
        for sampler in endpoint_arms.SAMPLERS
    ]


class Sizes(NamedTuple):
    """Samples of a trajectory, known images, and draws of the noise of each."""

    samples: int = 200
    images: int = 400
    draws: int = 8


def pieces(model: str = "fashion", sizes: Sizes | None = None) -> dict[str, Callable[[], str]]:
    """Every line by its name; a call makes it."""
    sizes = sizes or Sizes()
    made: dict[str, Callable[[], str]] = {
        arm.key: partial(_arm, model, arm, sizes.samples) for arm in arms()
    }
    for space in SPACES:
        for split, classes in (("test", True), ("test", False), ("train", True)):
            what = (space, split, classes, "network")
            made[known_name(*what)] = partial(_known, model, what, sizes.images)
        made[f"joined {space}"] = partial(_joined, model, space, sizes)
    what = ("pixels", "test", False, "linear")
    return made | {known_name(*what): partial(_known, model, what, sizes.images)}


def known_name(space: str, split: str, classes: bool, denoiser: str) -> str:
    """The name of a line of controlled diffusion."""
    return f"known {space} {split} {'with a class' if classes else 'no class'} {denoiser}"


def _arm(model: str, arm: Arm, n: int) -> str:
    system = open_system(model, arm.space)
    return _line(arm.key, endpoint_arms.measured(system, arm, n, real(model)))


def _known(model: str, what: tuple[str, str, bool, str], n: int) -> str:
    space, split, classes, denoiser = what
    found = endpoint_known.known(open_system(model, space), split, classes, n, denoiser)
    return _line(known_name(*what), found)


def _joined(model: str, space: str, sizes: Sizes) -> str:
    found = endpoint_known.joined(open_system(model, space), sizes.images, sizes.draws)
    return _line(f"joined {space}", found)


def _line(name: str, result: Result) -> str:
    return json.dumps({"name": name} | result) + "\n"


@cache
def real(model: str) -> dict[str, float]:
    """Power of the test images in each of `bands.BANDS`."""
    system = open_system(model, "pixels")
    return bands.content_of(system.decode(system.data("test", None)[0]))


def collect(work: Path, out: Path, jobs: int, plan: Plan = FASHION) -> None:
    """Run what the work folder lacks and write runs.jsonl and card.json to `out`."""
    usual, there_are = Sizes(), plan.images[1] * len(plan.classes)
    sizes = Sizes(plan.size(usual.samples), min(plan.size(usual.images), there_are), usual.draws)
    wanted = pieces(plan.model, sizes)
    files = {name: work / f"{_source(name, plan.spaces, wanted)}.json" for name in wanted}
    tasks = {path: wanted[path.stem] for path in files.values()}
    fill(tasks, jobs, "endpoint estimates", unit="arm")
    lines = (json.loads(path.read_text()) | {"name": name} for name, path in files.items())
    write_atomically(out / "runs.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    write_card(out, plan.command, "arm", plan.device, **sizes._asdict(), arms=len(tasks))


def _source(name: str, spaces: tuple[str, ...], wanted: Collection[str]) -> str:
    """The line that one is a copy of, where a model has one space under both names."""
    twin = " ".join(_OTHER_SPACE.get(word, word) for word in name.split(" "))
    copied = len(spaces) == 1 and spaces[0] not in name.split(" ") and twin in wanted
    return twin if copied else name


@dataclass(frozen=True)
class Kept:
    """The kept lines by name, and their card."""

    lines: dict[str, Result] = field(repr=False)
    card: dict[str, Any]

    def arm(self, *args: Any, **more: Any) -> Result:
        """The line of an `Arm` with these arguments."""
        return self.lines[Arm(*args, **more).key]

    def known(
        self, space: str, split: str = "test", classes: bool = True, denoiser: str = "network"
    ) -> Result:
        """The line of controlled diffusion."""
        return self.lines[known_name(space, split, classes, denoiser)]


@cache
def load(folder: Path | None = None, plan: Plan = FASHION) -> Kept:
    """Read data/results/10_endpoint_estimates; a missing file raises DatasetError."""
    return _gathered(*read_kept(folder or plan.kept(NAME), plan.command))


def made(model: str, sizes: Sizes) -> Kept:
    """All lines of another model, made now; its two spaces are one, so that each is made once."""
    wanted = pieces(model, sizes)
    sources = {name: _source(name, SPACES[:1], wanted) for name in wanted}
    lines = {name: json.loads(wanted[name]()) for name in dict.fromkeys(sources.values())}
    return _gathered([lines[source] | {"name": name} for name, source in sources.items()], {})


def _gathered(lines: list[Result], card: dict[str, Any]) -> Kept:
    return Kept({line["name"]: line for line in lines}, card)


Shown = tuple[float, float]


def centre(kept: Sequence[float]) -> Shown:
    """A kept interval (value, low, high) as its value and half its width."""
    return kept[0], (kept[2] - kept[1]) / 2


def lower(kept: Sequence[float]) -> Shown:
    """Its lower end, and how far that is from the value."""
    return kept[1], kept[0] - kept[1]


def upper(kept: Sequence[float]) -> Shown:
    """Its upper end, and how far that is from the value."""
    return kept[2], kept[2] - kept[0]


def difference(first: Sequence[float], second: Sequence[float]) -> Shown:
    """The difference of two kept values, and half the width of its interval if independent."""
    (a, half), (b, other) = centre(first), centre(second)
    return a - b, math.hypot(half, other)


def farthest(found: Mapping[str, Sequence[float]]) -> Shown:
    """Of kept ratios the one farthest from 1, whichever way."""
    return centre(max(found.values(), key=lambda kept: abs(math.log(kept[0]))))
