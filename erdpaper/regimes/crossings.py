"""What is kept of speciation and collapse in the book's own networks, and how it is read back."""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from erdpaper import datasets, speciation
from erdpaper.files import write_atomically
from erdpaper.regimes import collapsed, decided
from erdpaper.regimes.decided import Curve, Problem
from erdpaper.regimes.system import fashion
from erdpaper.speciation import Crossing
from erdpaper.tasks import fill, read_kept, write_card

NAME = "11_pca_speciation/speciation"
COMMAND = "erdpaper regimes"
TEN = (-8.0, -6.0, -5.0, -4.0, -3.0, -2.0, -1.0, 0.0, 1.0)
FAR = (-6.0, -5.0, -4.0, -3.0, -2.0, -1.0)
NEAR = (-5.0, -4.0, -3.0, -2.0, -1.0, 0.0, 1.0, 2.0)
PROBLEMS = {
    each.name: each
    for each in (
        Problem("ten classes", "latents", None, TEN, 400),
        Problem("Trouser or Bag", "latents", (1, 8), FAR, 200),
        Problem("Dress or Sandal", "latents", (3, 5), FAR, 200),
        Problem("Sneaker or Ankle boot", "latents", (7, 9), FAR, 200),
        Problem("T-shirt or Shirt", "latents", (0, 6), NEAR, 200),
        Problem("Pullover or Coat", "latents", (2, 4), NEAR, 200),
        Problem("ten classes, pixels", "pixels", None, TEN[:-1], 200),
    )
}
# a few levels are enough for a share that should be the same at all
CONTROL = (-8.0, -6.0, -4.0, -2.0, 0.0)
WAYS: dict[str, Callable[..., Curve]] = {
    "clones": decided.clones,
    "U-turns": decided.uturns,
    "injection": decided.injected,
    "conditional": decided.conditional,
    "deterministic": decided.deterministic,
}
# each is continued twice
_INJECTED = 120
# training images that the collapse is looked for with, and levels around it
_POINTS = 400
_AROUND = (-1.0, 0.0, 1.0, 2.0, 3.0)
_COLLAPSE_LEVELS = torch.linspace(-4, 4, 17, dtype=torch.float64)
_COPIES = {"network": 500, "exact": 200}
_RETURNS = 800


def _row(problem: Problem, way: str, curve: Curve) -> dict[str, Any]:
    crossing = curve.crossing
    return {
        "problem": problem.name,
        "way": way,
        "n": curve.values.shape[1],
        "threshold": round(curve.threshold, 6),
        "levels": curve.levels.tolist(),
        "mean": _rounded(curve.mean),
        "error": _rounded(curve.error),
        "crossing": None if crossing is None else [round(part, 4) for part in crossing],
    }


def _rounded(values: Tensor) -> list[float]:
    return [round(value, 4) for value in values.tolist()]


def _way(name: str, way: str) -> str:
    problem = PROBLEMS[name]
    if way in ("conditional", "deterministic"):
        problem = problem._replace(levels=CONTROL, n=200)
    if way == "injection":
        problem = problem._replace(n=_INJECTED)
    return json.dumps(_row(problem, way, WAYS[way](fashion(problem.space), problem))) + "\n"


def _exact(name: str) -> str:
    problem = PROBLEMS[name]
    curves = decided.exact(fashion(problem.space), problem)
    rows = zip(("own image in", "own image out"), curves, strict=True)
    return "".join(json.dumps(_row(problem, way, curve)) + "\n" for way, curve in rows)


def _covariance(name: str) -> str:
    problem = PROBLEMS[name]
    x, numbers = decided.of_data(fashion(problem.space), problem)
    found = {
        "covariance": speciation.time_from_covariance(x),
        "between classes": speciation.time_from_covariance(x, numbers),
    }
    rows = [{"problem": name, "way": way, **each._asdict()} for way, each in found.items()]
    return "".join(json.dumps(row) + "\n" for row in rows)


def _takeover(name: str) -> str:
    problem = PROBLEMS[name]
    level = speciation.takeover_level(*decided.of_data(fashion(problem.space), problem))
    return json.dumps({"problem": name, "way": "takeover", "logsnr": level}) + "\n"


def _copies(subject: str) -> str:
    system = fashion("latents")
    denoise = system.denoiser(None, 1.0)
    if subject == "exact":
        denoise = collapsed.exact_denoiser(system)
    found = collapsed.copies(system, denoise, _COPIES[subject])
    row = {
        "way": "copies",
        "subject": subject,
        "n": len(found),
        "share": float(found.double().mean()),
    }
    return json.dumps(row) + "\n"


def _returns() -> str:
    system = fashion("latents")
    data = system.data("train", None)[0]
    generator = torch.Generator().manual_seed(0)
    entropy = speciation.excess_entropy(data, _COLLAPSE_LEVELS, _POINTS, generator)
    found = speciation.collapse_time(entropy)
    if found is None:
        raise ArithmeticError("the training latents do not collapse within the levels looked at")
    levels = found.estimate + torch.tensor(_AROUND, dtype=torch.float64)
    back = collapsed.returns(system, levels, _RETURNS)
    row = {
        "way": "returns",
        "n": _RETURNS,
        "collapse": [round(part, 4) for part in found],
        "after": list(_AROUND),
        "train": _rounded(back.train.double().mean(1)),
        "test": _rounded(back.test.double().mean(1)),
    }
    return json.dumps(row) + "\n"


def tasks(work: Path) -> dict[Path, Callable[[], str]]:
    """The files of the work folder and what makes them."""
    made: dict[str, Callable[[], str]] = {}
    for name, problem in PROBLEMS.items():
        made[f"{name}, covariance"] = partial(_covariance, name)
        made[f"{name}, exact"] = partial(_exact, name)
        ways = ["clones", "U-turns"]
        if problem.space == "latents":
            ways.append("injection")
        if problem.classes is None:
            ways.append("conditional")
        else:
            made[f"{name}, takeover"] = partial(_takeover, name)
        for way in ways:
            made[f"{name}, {way}"] = partial(_way, name, way)
    made["ten classes, deterministic"] = partial(_way, "ten classes", "deterministic")
    made |= {f"copies, {subject}": partial(_copies, subject) for subject in _COPIES}
    made["returns"] = _returns
    return {work / f"{name}.jsonl": task for name, task in made.items()}


def collect(work: Path, out: Path, jobs: int) -> None:
    """Measure what the work folder lacks and write runs.jsonl and card.json to `out`."""
    made = tasks(work)
    fill(made, jobs, "speciation", "curve")
    write_atomically(out / "runs.jsonl", "".join(path.read_text() for path in made))
    samples = {name: problem.n for name, problem in PROBLEMS.items()}
    write_card(out, COMMAND, "curve", states=samples, steps=decided.STEPS)


@dataclass(frozen=True)
class Kept:
    """All kept rows, by problem and way.  card: command, device, versions, date and sizes."""

    rows: dict[tuple[str, str], dict[str, Any]] = field(repr=False)
    card: dict[str, Any]

    def crossing(self, problem: str, way: str) -> Crossing | None:
        """The level of a way, with its interval; without one for those from a covariance."""
        row = self.rows[problem, way]
        if "logsnr" in row:
            return Crossing(row["logsnr"], row["logsnr"], row["logsnr"])
        return None if row["crossing"] is None else Crossing(*row["crossing"])

    def distance(self, problem: str, way: str) -> tuple[float, float]:
        """How far a way's level lies from that of clones, and the 95 % half-width of that."""
        found, clones = self._both(problem, way)
        spread = math.hypot(found.half_width, clones.half_width)
        return abs(found.estimate - clones.estimate), spread

    def outside_exact(self, problem: str) -> tuple[float, float]:
        """How far clones' level lies outside the two of the exact posterior, and its half-width.

        A posterior without the own image that never gets as sure as the criterion leaves the
        interval open.
        """
        within, clones = self._both(problem, "own image in")
        without = self.crossing(problem, "own image out")
        ends = sorted((within.estimate, math.inf if without is None else without.estimate))
        beyond = max(ends[0] - clones.estimate, clones.estimate - ends[1], 0.0)
        return beyond, clones.half_width

    def _both(self, problem: str, way: str) -> tuple[Crossing, Crossing]:
        found, clones = self.crossing(problem, way), self.crossing(problem, "clones")
        if found is None or clones is None:
            raise ArithmeticError(f"{problem}: {way} or clones never cross their threshold")
        return found, clones


@cache
def load(folder: Path | None = None) -> Kept:
    """Read the kept rows; a missing file raises DatasetError with the command that makes it."""
    runs, card = read_kept(folder or datasets.data_dir() / "results" / NAME, COMMAND)
    return Kept(
        {(run.get("problem", run.get("subject", "")), run["way"]): run for run in runs}, card
    )
