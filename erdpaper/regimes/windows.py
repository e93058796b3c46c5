"""When an injected class takes over: windows of many lengths and places, arm by arm [T 3.4.2].

The thesis counts the timesteps of Stable Diffusion's table, 1000 at the noise end. A timestep is
read as the log-SNR there and sought on our own schedule (`time_of_thesis`); read as a fraction
of a schedule, T is the time T / 1000 as it stands.

Around one base case (trousers into bags, strength 1, no guidance, ancestral steps, latents) each of
the other arms changes one thing. What is kept of them is made by `collect`.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import torch

from erdpaper import datasets
from erdpaper.files import write_atomically
from erdpaper.regimes import injection_runs
from erdpaper.regimes.injected import Injected
from erdpaper.regimes.injection_arm import Arm, Result
from erdpaper.regimes.system import System, fashion
from erdpaper.schedules import Schedule, StableDiffusion
from erdpaper.tasks import fill, read_kept, write_card

NAME = "12_injection"
COMMAND = "erdpaper regimes"
THESIS = StableDiffusion()
# T_lower of Figure 3.7; what is left of 0 is the whole of the run
LOWER = (800, 600, 400, 200)
# class means of latents less than 8.5 apart, and more than 13
NEAR = (("Pullover", "Coat"), ("Sandal", "Sneaker"), ("Trouser", "Dress"))
FAR = (("Trouser", "Ankle boot"), ("T-shirt", "Sneaker"), ("Trouser", "Bag"))
SAMPLES = 200


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


def ordered(pairs: tuple[tuple[str, str], ...]) -> list[tuple[str, str]]:
    """Each pair in both orders."""
    return [order for a, b in pairs for order in ((a, b), (b, a))]


Measure = Callable[[System, Arm, int], Result]


@dataclass(frozen=True)
class Job:
    """One kept line: an arm, what is measured of it, and of how many samples."""

    name: str
    measure: Measure
    arm: Arm
    n: int = SAMPLES

    def __call__(self) -> str:
        """Run it; a line of JSON."""
        found = self.measure(fashion(self.arm.space), self.arm, self.n)
        return json.dumps({"name": self.name, "n": self.n, **found})


GUIDED = {
    "guidance 3": Arm(guidance=3.0, adversary_guidance=3.0),
    "guidance 7.5": Arm(guidance=7.5, adversary_guidance=7.5),
    "guidance 3, adversary without": Arm(guidance=3.0),
    "guidance 7.5, adversary without": Arm(guidance=7.5),
}
OTHERS = {
    "DDIM": Arm(sampler="ddim"),
    "grid of EDM": Arm(grid="edm"),
    "injection from Stable Diffusion's first level": Arm(first=-5.25),
    "other noise": Arm(seed=1),
    "pixel model": Arm(space="pixels"),
}


def jobs() -> list[Job]:
    """All kept lines, pairs first."""
    pairs = [Job(f"{a} to {b}", injection_runs.full, Arm(a, b)) for a, b in ordered((*NEAR, *FAR))]
    stars = [
        Job(name, injection_runs.curve, arm)
        for name, arm in ({"strength 0.5": Arm(strength=0.5)} | GUIDED | OTHERS).items()
    ]
    return [
        *pairs,
        *stars,
        Job("lengths", injection_runs.lengths, Arm()),
        Job("rotated, Trouser to Bag", injection_runs.rotated, Arm()),
        Job("rotated, Pullover to Coat", injection_runs.rotated, Arm("Pullover", "Coat")),
    ]


def collect(work: Path, out: Path, jobs_at_once: int) -> None:
    """Run what the work folder lacks and write runs.jsonl and card.json to `out`."""
    wanted = jobs()
    files = [work / f"{job.name}.json" for job in wanted]
    fill(dict(zip(files, wanted, strict=True)), jobs_at_once, "injection", unit="arm")
    lines = "".join(file.read_text() + "\n" for file in files)
    write_atomically(out / "runs.jsonl", lines)
    write_card(out, COMMAND, "arm", samples=SAMPLES, arms=len(wanted))


@dataclass(frozen=True)
class Kept:
    """The kept arms by name, and their card."""

    arms: dict[str, Injected] = field(repr=False)
    card: dict[str, Any]

    def pairs(self, which: tuple[tuple[str, str], ...] = (*NEAR, *FAR)) -> dict[str, Injected]:
        """Pairs in both orders."""
        return {f"{a} to {b}": self.arms[f"{a} to {b}"] for a, b in ordered(which)}

    @property
    def base(self) -> Injected:
        """The base case."""
        return self.arms["Trouser to Bag"]


@cache
def load(folder: Path | None = None) -> Kept:
    """Read data/results/12_injection; a missing file raises DatasetError with the command."""
    runs, card = read_kept(folder or datasets.data_dir() / "results" / NAME, COMMAND)
    return Kept({run["name"]: Injected(run) for run in runs}, card)
