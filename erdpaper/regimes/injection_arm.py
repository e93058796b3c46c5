"""One arm of the injection experiments: a pair of classes, a way of sampling, and its partners.

All windows of an arm share their beginning and their noise (`course`), and every sample has
partners with the same noise: one that was left alone and one of the adversary alone.
"""

from dataclasses import asdict, dataclass, replace
from typing import Any

from torch import Tensor

from erdpaper import sampling
from erdpaper.regimes import outcomes
from erdpaper.regimes.course import Course, Stop, even_grid
from erdpaper.regimes.injected import encoded
from erdpaper.regimes.outcomes import Judged
from erdpaper.regimes.system import System

BASE = ("Trouser", "Bag")
# the streams of noise of the samplers begin here
_SEED = 12
Result = dict[str, Any]


@dataclass(frozen=True)
class Arm:
    """One pair of classes and one way of sampling.

    adversary_guidance: the scale of the adversary's own guidance. grid: "even" or "edm", 60 steps.
    first: log-SNR at which injection begins; None is the first level.
    """

    original: str = BASE[0]
    adversary: str = BASE[1]
    strength: float = 1.0
    guidance: float = 1.0
    adversary_guidance: float = 1.0
    sampler: str = "ddpm"
    space: str = "latents"
    grid: str = "even"
    first: float | None = None
    seed: int = 0


def class_of(system: System, name: str) -> int:
    """The label of a class by its name, as printed or up to a slash."""
    names = [full.split("/")[0] for full in system.classes]
    for known in (names, list(system.classes)):
        if name in known:
            return known.index(name)
    shown = ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")
    raise ValueError(f"unknown class {name!r}; {system.name} has {shown}")


def course(system: System, arm: Arm) -> Course:
    """The run of an arm, with its two denoisers."""
    labels = [class_of(system, name) for name in (arm.original, arm.adversary)]
    if labels[0] == labels[1]:
        raise ValueError(f"the adversary must be another class than {arm.original!r}")
    if arm.grid not in ("even", "edm"):
        raise ValueError(f"the grid must be even or edm, not {arm.grid!r}")
    even = arm.grid == "even"
    times = even_grid(system.schedule) if even else sampling.times.karras(system.schedule, 60)
    denoise = system.denoiser(labels[0], arm.guidance)
    adversary = system.denoiser(labels[1], arm.adversary_guidance)
    return Course(system.schedule, times, denoise, adversary, arm.strength, arm.sampler)


@dataclass(frozen=True)
class Runs:
    """An arm with its samples that were left alone and those of the adversary alone."""

    system: System
    arm: Arm
    course: Course
    start: Stop
    untouched: Judged
    whole: Judged

    @classmethod
    def begin(cls, system: System, arm: Arm, n: int) -> "Runs":
        """Draw n of each, with the same noise."""
        made = course(system, arm)
        start = made.begin(system.start(n, arm.seed), _SEED + arm.seed)
        alone = replace(made, denoise=made.adversary)
        untouched, whole = (outcomes.judge(system, c.run(start, c.end).x) for c in (made, alone))
        return cls(system, arm, made, start, untouched, whole)

    def judged(self, states: list[Tensor]) -> list[Judged]:
        """What the classifier says of each."""
        return [outcomes.judge(self.system, x) for x in states]

    @property
    def labels(self) -> list[int]:
        """The class asked for and the adversary's."""
        return [class_of(self.system, c) for c in (self.arm.original, self.arm.adversary)]

    def common(self) -> Result:
        """What every part of a result is read with."""
        return {
            "arm": asdict(self.arm),
            "labels": self.labels,
            "first": self.course.first,
            "untouched": encoded(self.untouched.classes),
            "whole": encoded(self.whole.classes),
        }
