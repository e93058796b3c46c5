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

from erdpaper import speciation
from erdpaper.datasets import OWN_MODEL
from erdpaper.files import write_atomically
from erdpaper.regimes import collapsed, decided
from erdpaper.regimes.decided import Curve, Problem
from erdpaper.regimes.plans import FASHION, Plan
from erdpaper.speciation import Crossing
from erdpaper.tasks import fill, read_kept, write_card

NAME = "11_pca_speciation/speciation"
# states a level: of all classes in latents, and of other problems
ALL, PAIR = 400, 200
TEN = (-8.0, -6.0, -5.0, -4.0, -3.0, -2.0, -1.0, 0.0, 1.0)
# of another model, of which nothing is known beforehand
WIDE = (-8.0, -7.0, -6.0, -5.0, -4.0, -3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0)
FAR = (-6.0, -5.0, -4.0, -3.0, -2.0, -1.0)
NEAR = (-5.0, -4.0, -3.0, -2.0, -1.0, 0.0, 1.0, 2.0)
PROBLEMS = {
    each.name: each
    for each in (
        Problem("ten classes", "latents", None, TEN, ALL),
        Problem("Trouser or Bag", "latents", (1, 8), FAR, PAIR),
        Problem("Dress or Sandal", "latents", (3, 5), FAR, PAIR),
        Problem("Sneaker or Ankle boot", "latents", (7, 9), FAR, PAIR),
        Problem("T-shirt or Shirt", "latents", (0, 6), NEAR, PAIR),
        Problem("Pullover or Coat", "latents", (2, 4), NEAR, PAIR),
        Problem("ten classes, pixels", "pixels", None, TEN[:-1], PAIR),
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
_COPIES = {"network": 500, "exact": 200}
_RETURNS = 800


def collapse_levels(plan: Plan) -> Tensor:
    """Log-SNR (L,) to look for the collapse at, steps of 1/2; of any data for another model."""
    first, last = (-4, 4) if plan.model == OWN_MODEL else (-16, 8)
    return torch.linspace(first, last, 2 * (last - first) + 1, dtype=torch.float64)


def problems(plan: Plan = FASHION) -> dict[str, Problem]:
    """What is to be decided, by name; of another model all classes, near pairs and far ones."""
    if plan.model == OWN_MODEL:
        return PROBLEMS
    space, found = plan.spaces[-1], [Problem("all classes", plan.spaces[-1], None, WIDE, ALL)]
    for names in (*plan.far, *plan.near):
        a, b = (plan.label(name) for name in names)
        found.append(Problem(" or ".join(names), space, (a, b), WIDE, PAIR))
    return {each.name: each._replace(n=plan.size(each.n)) for each in found}


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


def _rounded(values: Tensor) -> list[float | None]:
    return [round(value, 4) if math.isfinite(value) else None for value in values.tolist()]


def _way(plan: Plan, problem: Problem, way: str) -> str:
    if way in ("conditional", "deterministic"):
        problem = problem._replace(levels=CONTROL, n=plan.size(PAIR))
    if way == "injection":
        problem = problem._replace(n=plan.size(_INJECTED))
    # a model's judge may take no test state of a pair for either of the two
    if way == "U-turns" and len(decided.unseen(plan.system(problem.space), problem)) < 2:
        return ""
    return json.dumps(_row(problem, way, WAYS[way](plan.system(problem.space), problem))) + "\n"


def _exact(plan: Plan, problem: Problem) -> str:
    curves = decided.exact(plan.system(problem.space), problem)
    rows = zip(("own image in", "own image out"), curves, strict=True)
    return "".join(json.dumps(_row(problem, way, curve)) + "\n" for way, curve in rows)


def _covariance(plan: Plan, problem: Problem) -> str:
    x, numbers = decided.of_data(plan.system(problem.space), problem)
    lines = []
    for way, labels in (("covariance", None), ("between classes", numbers)):
        try:
            found = speciation.time_from_covariance(x, labels)._asdict()
        except ValueError:  # data that vary less than the noise have no such time
            found = {"logsnr": None}
        lines.append(json.dumps({"problem": problem.name, "way": way, **found}) + "\n")
    return "".join(lines)


def _takeover(plan: Plan, problem: Problem) -> str:
    level = speciation.takeover_level(*decided.of_data(plan.system(problem.space), problem))
    row = {"problem": problem.name, "way": "takeover", "logsnr": level}
    return json.dumps(row if math.isfinite(level) else row | {"logsnr": None}) + "\n"


def _copies(plan: Plan, subject: str) -> str:
    system = plan.system(plan.spaces[-1])
    denoise = system.denoiser(None, 1.0)
    if subject == "exact":
        denoise = collapsed.exact_denoiser(system)
    found = collapsed.copies(system, denoise, plan.size(_COPIES[subject]))
    row = {
        "way": "copies",
        "subject": subject,
        "n": len(found),
        "share": float(found.double().mean()),
    }
    return json.dumps(row) + "\n"


def _returns(plan: Plan) -> str:
    """Returns around the collapse; nothing without one, or if the schedule begins later."""
    system = plan.system(plan.spaces[-1])
    data, unseen = (system.data(split, None)[0] for split in ("train", "test"))
    generator = torch.Generator().manual_seed(0)
    points = plan.size(_POINTS)
    entropy = speciation.excess_entropy(data, collapse_levels(plan), points, generator)
    found = speciation.collapse_time(entropy)
    first = float(system.schedule.logsnr(1.0))
    after = [step for step in _AROUND if found is not None and found.estimate + step >= first]
    if found is None or not after:
        return ""
    levels = found.estimate + torch.tensor(after, dtype=torch.float64)
    n = min(plan.size(_RETURNS), len(data), len(unseen))
    back = collapsed.returns(system, levels, n)
    row = {
        "way": "returns",
        "n": n,
        "collapse": [round(part, 4) for part in found],
        "after": after,
        "train": _rounded(back.train.double().mean(1)),
        "test": _rounded(back.test.double().mean(1)),
    }
    return json.dumps(row) + "\n"


def tasks(work: Path, plan: Plan = FASHION) -> dict[Path, Callable[[], str]]:
    """The files of the work folder and what makes them."""
    made: dict[str, Callable[[], str]] = {}
    for name, problem in problems(plan).items():
        made[f"{name}, covariance"] = partial(_covariance, plan, problem)
        made[f"{name}, exact"] = partial(_exact, plan, problem)
        ways = ["clones", "U-turns"]
        if problem.space == plan.spaces[-1]:
            ways.append("injection")
        if problem.classes is None:
            ways.append("conditional")
        else:
            made[f"{name}, takeover"] = partial(_takeover, plan, problem)
        for way in ways:
            made[f"{name}, {way}"] = partial(_way, plan, problem, way)
    everything = next(iter(problems(plan).values()))
    made[f"{everything.name}, deterministic"] = partial(_way, plan, everything, "deterministic")
    made |= {f"copies, {subject}": partial(_copies, plan, subject) for subject in _COPIES}
    made["returns"] = partial(_returns, plan)
    return {work / f"{name}.jsonl": task for name, task in made.items()}


def collect(work: Path, out: Path, jobs: int, plan: Plan = FASHION) -> None:
    """Measure what the work folder lacks and write runs.jsonl and card.json to `out`."""
    made = tasks(work, plan)
    fill(made, jobs, "speciation", "curve")
    write_atomically(out / "runs.jsonl", "".join(path.read_text() for path in made))
    samples = {name: problem.n for name, problem in problems(plan).items()}
    write_card(out, plan.command, "curve", plan.device, states=samples, steps=decided.STEPS)


@dataclass(frozen=True)
class Kept:
    """All kept rows, by problem and way.  card: command, device, versions, date and sizes."""

    rows: dict[tuple[str, str], dict[str, Any]] = field(repr=False)
    card: dict[str, Any]

    def crossing(self, problem: str, way: str) -> Crossing | None:
        """The level of a way, with its interval; without one for those from a covariance.

        None for one that never crosses its threshold or could not be measured.
        """
        row = self.rows.get((problem, way), {})
        if row.get("logsnr") is not None:
            return Crossing(row["logsnr"], row["logsnr"], row["logsnr"])
        return Crossing(*row["crossing"]) if row.get("crossing") else None

    def distance(self, problem: str, way: str) -> tuple[float, float]:
        """How far a way's level lies from that of clones, and the 95 % half-width of that.

        Not a number where one of the two never crosses its threshold.
        """
        found, clones = self._level(problem, way), self._level(problem, "clones")
        spread = math.hypot(found.half_width, clones.half_width)
        return abs(found.estimate - clones.estimate), spread

    def outside_exact(self, problem: str) -> tuple[float, float]:
        """How far clones' level lies outside the two of the exact posterior, and its half-width.

        A posterior without the own image that never gets as sure as the criterion leaves the
        interval open.
        """
        within, clones = self._level(problem, "own image in"), self._level(problem, "clones")
        without = self.crossing(problem, "own image out")
        ends = sorted((within.estimate, math.inf if without is None else without.estimate))
        beyond = max(ends[0] - clones.estimate, clones.estimate - ends[1], 0.0)
        return beyond, clones.half_width

    def _level(self, problem: str, way: str) -> Crossing:
        return self.crossing(problem, way) or Crossing(math.nan, math.nan, math.nan)


@cache
def load(folder: Path | None = None, plan: Plan = FASHION) -> Kept:
    """Read the kept rows; a missing file raises DatasetError with the command that makes it."""
    runs, card = read_kept(folder or plan.kept(NAME), plan.command)
    return Kept(
        {(run.get("problem", run.get("subject", "")), run["way"]): run for run in runs}, card
    )
