"""What is run of an arm of the injection experiments: windows nested, sliding and turned aside."""

from dataclasses import replace

import numpy as np

from erdpaper.interventions.injection import turned
from erdpaper.regimes.injected import Injected, encoded
from erdpaper.regimes.injection_arm import Arm, Result, Runs
from erdpaper.regimes.injection_effects import half, moved, responses
from erdpaper.regimes.outcomes import Judged
from erdpaper.regimes.system import System

# log-SNR at which nested windows end: the thesis' four by either reading, and others between them
ENDS = (-7.0, -6.0, -5.25, -4.75, -4.25, -3.75, -3.25, -2.75, -2.25, -1.75, -1.25, -0.75, -0.25,
        0.5, 1.25, 2.25)  # fmt: skip
# log-SNR at which sliding windows begin
STARTS = tuple(float(k) for k in range(-8, 4))


def nested(runs: Runs, ends: tuple[float, ...] = ENDS) -> tuple[Result, list[Judged]]:
    """Windows from where the arm's injection begins to each of the ends, and to the last level."""
    made, begins = runs.course, runs.arm.first
    begins = runs.course.first if begins is None else begins
    ends = tuple(e for e in ends if e > begins)
    to, first = [made.index(e) for e in ends], made.index(begins)
    found = runs.judged(made.nested(runs.start, [*to, made.end], first))
    return {"ends": list(ends), "nested": [encoded(j.classes) for j in found]}, found


def sliding(
    runs: Runs, length: float, starts: tuple[float, ...] = STARTS
) -> tuple[Result, list[Judged]]:
    """Windows of one length in log-SNR that begin at each of the starts that the run has."""
    index, starts = runs.course.index, tuple(s for s in starts if s >= runs.course.first)
    found = runs.judged(
        runs.course.sliding(runs.start, [(index(s), index(s + length)) for s in starts])
    )
    return {"starts": list(starts), "classes": [encoded(j.classes) for j in found]}, found


def full(system: System, arm: Arm, n: int) -> Result:
    """Everything of a pair: nested and sliding windows, what changed, and strength 1/2."""
    runs = Runs.begin(system, arm, n)
    windows, ended = nested(runs)
    result = runs.common() | windows
    level = Injected(result).halfway().value
    slid, found = sliding(runs, 2.0)
    result["sliding"] = {"2": slid}
    result["responses"] = responses(runs, slid["starts"], found, level)
    near = ended[_nearest(windows["ends"], level)]
    kept = (near.classes == runs.labels[0]) & (runs.untouched.classes == runs.labels[0])
    result["shift_800"] = moved(runs, ended[_nearest(windows["ends"], -3.25)], kept | True)
    result["shift_halfway"] = moved(runs, near, kept)
    result["half"] = half(runs)
    return result


def _nearest(ends: list[float], level: float) -> int:
    return int(np.abs(np.array(ends) - level).argmin())


def curve(system: System, arm: Arm, n: int) -> Result:
    """Nested windows alone."""
    runs = Runs.begin(system, arm, n)
    return runs.common() | nested(runs)[0]


def lengths(system: System, arm: Arm, n: int) -> Result:
    """Sliding windows of one and of four units."""
    runs = Runs.begin(system, arm, n)
    found = {f"{k:g}": sliding(runs, k, STARTS[: -round(k)])[0] for k in (1.0, 4.0)}
    return runs.common() | {"sliding": found}


def rotated(system: System, arm: Arm, n: int, rotations: int = 5) -> Result:
    """The control: classes after nested windows with the difference of predictions turned.

    turned: by the log-SNR at which the window ends (None: the last), a text for each rotation.
    """
    runs = Runs.begin(system, arm, n)
    ends: dict[float | None, list[str]] = {-1.75: [], None: []}
    for seed in range(rotations):
        other = turned(runs.course.denoise, runs.course.adversary, seed)
        made = replace(runs.course, adversary=other)
        to = [made.end if end is None else made.index(end) for end in ends]
        for end, judged in zip(ends, runs.judged(made.nested(runs.start, to)), strict=True):
            ends[end].append(encoded(judged.classes))
    return runs.common() | {"turned": [[end, found] for end, found in ends.items()]}
