"""When an injected class takes over: windows of many lengths and places, arm by arm [T 3.4.2].

The thesis counts the timesteps of Stable Diffusion's table, 1000 at the noise end. A timestep is
read as the log-SNR there and sought on our own schedule (`time_of_thesis`); read as a fraction
of a schedule, T is the time T / 1000 as it stands.

Around one base case (trousers into bags, strength 1, no guidance, ancestral steps, latents) each of
the other arms changes one thing. What is kept of them is made by `collect`.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch

from erdpaper.datasets import OWN_MODEL
from erdpaper.files import write_atomically
from erdpaper.regimes import injection_runs
from erdpaper.regimes.injected import Injected
from erdpaper.regimes.injection_arm import Arm, Result
from erdpaper.regimes.plans import FASHION, Names, Plan, ordered
from erdpaper.regimes.system import System
from erdpaper.schedules import Schedule, StableDiffusion
from erdpaper.tasks import fill, read_kept, write_card

NAME = "12_injection"
THESIS = StableDiffusion()
# T_lower of Figure 3.7; what is left of 0 is the whole of the run
LOWER = (800, 600, 400, 200)
SAMPLES = 200
# of guidance [T 3.2]
_SCALES = (1.0, 3.0, 7.5)


def time_of_thesis(timestep: float, schedule: Schedule) -> float:
    """The time in [0, 1] at which a schedule has the log-SNR of Stable Diffusion's timestep.

    timestep from 0 (data) to 1000 (noise); a schedule that does not get as noisy raises ValueError.
    """
    if not 0 <= timestep <= 1000:
        raise ValueError(f"a timestep of the thesis lies in 0..1000, got {timestep}")
    return 0.0 if timestep == 0 else float(schedule.time(THESIS.logsnr(timestep / 1000)))


def log_snr(timestep: float, schedule: Schedule = THESIS) -> float:
    """Log-SNR at a timestep: Stable Diffusion's, or at t = timestep / 1000 of another schedule."""
    return float(schedule.logsnr(timestep / 1000))


def timestep_of(logsnr: float, schedule: Schedule = THESIS) -> float:
    """The timestep 0..1000 at a log-SNR, see `log_snr`; 1000 where that is noisier than any."""
    if logsnr <= float(schedule.logsnr(1.0)):
        return 1000.0
    return 1000 * float(schedule.time(torch.tensor(logsnr, dtype=torch.float64)))


def lower_ends(schedule: Schedule = THESIS) -> list[float]:
    """Log-SNR at T_lower = 800, 600, 400 and 200, see `log_snr`."""
    return [log_snr(T, schedule) for T in LOWER]


Measure = Callable[[System, Arm, int], Result]


@dataclass(frozen=True)
class Job:
    """One kept line: an arm, what is measured of it, and of whose."""

    name: str
    measure: Measure
    arm: Arm
    plan: Plan

    def __call__(self) -> str:
        """Run it; a line of JSON."""
        n = self.plan.size(SAMPLES)
        found = self.measure(self.plan.system(self.arm.space), self.arm, n)
        return json.dumps({"name": self.name, "n": n, **found})


PIXELS, LATER = "pixel model", "injection from Stable Diffusion's first level"
# what is changed of the base case, but for guidance
OTHERS: dict[str, dict[str, Any]] = {
    "DDIM": {"sampler": "ddim"},
    "grid of EDM": {"grid": "edm"},
    LATER: {"first": -5.25},
    "other noise": {"seed": 1},
    PIXELS: {"space": "pixels"},
}


def base(plan: Plan = FASHION, pair: Names | None = None) -> Arm:
    """The plain arm of a pair, by default of the last far one."""
    scale = plan.guidance
    return Arm(*(pair or plan.far[-1]), guidance=scale, adversary_guidance=scale)


def guided(plan: Plan = FASHION) -> dict[str, Arm]:
    """The base case with other guidance, alike for both classes and for the class asked for."""
    scales = [scale for scale in _SCALES if scale != plan.guidance]
    arm = base(plan)
    alike = {f"guidance {w:g}": replace(arm, guidance=w, adversary_guidance=w) for w in scales}
    without = {
        f"guidance {w:g}, adversary without": replace(arm, guidance=w, adversary_guidance=1.0)
        for w in (*scales, plan.guidance)
        if w != 1
    }
    return alike | without


def others(plan: Plan = FASHION) -> dict[str, Arm]:
    """The base case with one other thing changed, where that is possible.

    Only fashion has a second space, and Stable Diffusion begins at its first level anyway.
    """
    without = {PIXELS} if plan.model != OWN_MODEL else set()
    without |= {LATER} if plan.model == "stable-diffusion" else set()
    changes = {name: change for name, change in OTHERS.items() if name not in without}
    return {name: replace(base(plan), **change) for name, change in changes.items()}


def jobs(plan: Plan = FASHION) -> list[Job]:
    """All kept lines, pairs first."""
    arm = base(plan)
    near = base(plan, plan.near[0])
    stars = {"strength 0.5": replace(arm, strength=0.5)} | guided(plan) | others(plan)
    rotated = {f"rotated, {each.original} to {each.adversary}": each for each in (arm, near)}
    return [
        *(
            Job(" to ".join(pair), injection_runs.full, base(plan, pair), plan)
            for pair in ordered((*plan.near, *plan.far))
        ),
        *(Job(name, injection_runs.curve, star, plan) for name, star in stars.items()),
        Job("lengths", injection_runs.lengths, arm, plan),
        *(Job(name, injection_runs.rotated, each, plan) for name, each in rotated.items()),
    ]


def collect(work: Path, out: Path, jobs_at_once: int, plan: Plan = FASHION) -> None:
    """Run what the work folder lacks and write runs.jsonl and card.json to `out`."""
    wanted = jobs(plan)
    files = [work / f"{job.name}.json" for job in wanted]
    fill(dict(zip(files, wanted, strict=True)), jobs_at_once, "injection", unit="arm")
    lines = "".join(file.read_text() + "\n" for file in files)
    write_atomically(out / "runs.jsonl", lines)
    write_card(out, plan.command, "arm", plan.device, samples=plan.size(SAMPLES), arms=len(wanted))


@dataclass(frozen=True)
class Kept:
    """The kept arms by name, their card, and the plan they were made by."""

    arms: dict[str, Injected] = field(repr=False)
    card: dict[str, Any]
    plan: Plan = FASHION

    def pairs(self, which: tuple[Names, ...] | None = None) -> dict[str, Injected]:
        """Pairs in both orders, by default all near and far ones."""
        wanted = ordered(which or (*self.plan.near, *self.plan.far))
        return {" to ".join(pair): self.arms[" to ".join(pair)] for pair in wanted}

    @property
    def base(self) -> Injected:
        """The base case."""
        return self.arms[" to ".join(self.plan.far[-1])]


@cache
def load(folder: Path | None = None, plan: Plan = FASHION) -> Kept:
    """Read data/results/12_injection; a missing file raises DatasetError with the command."""
    runs, card = read_kept(folder or plan.kept(NAME), plan.command)
    return Kept({run["name"]: Injected(run) for run in runs}, card, plan)
