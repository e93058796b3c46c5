"""The steering runs that notebook 13 keeps: which they are, and how they are resumed.

A piece is one vector for one pair of classes, at all its pushes; it is a file in a work folder.
"""

import json
import math
from collections.abc import Iterator
from dataclasses import asdict, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from erdpaper.files import write_atomically
from erdpaper.regimes import push_realism
from erdpaper.regimes.plans import FASHION, Plan
from erdpaper.regimes.push_runs import (
    CONSTRUCTIONS,
    DIRECTIONS,
    REVERSED,
    SHARED,
    TOWARDS,
    Bench,
    Pair,
    Setting,
    Vector,
)
from erdpaper.sampling import Hooks
from erdpaper.tasks import Task, fill, rounded, write_card

NAME = "13_steering"
BASE = "ddpm"
# total pushes in radii of the source class, and strengths of injection
PUSHES = (0.25, 0.5, 1.0, 1.5, 2.0, 3.0)
STRENGTHS = (0.1, 0.2, 0.35, 0.5, 0.75, 1.0)
SIGNS, RANDOM = 6, 10
INJECTION = Vector("injection")
# of the other settings
ONE = 1.0
# times as far from real images as untouched samples
_DESTROYED = 2.0
# whose realism is compared, with intervals
COMPARED = (("weighted sum", "shared"), *((kind, "injection") for kind in CONSTRUCTIONS))
_HALF = 0.5  # strength of the injection whose endpoint estimates are looked at


def settings(plan: Plan = FASHION) -> dict[str, Setting]:
    """How samples are drawn: plainly, without noise, and with guidance."""
    plain = Setting(guidance=plan.guidance, samples=plan.size(Setting.samples))
    return {
        BASE: plain,
        "ddim": replace(plain, sampler="ddim"),
        "guidance 3": replace(plain, guidance=3.0),
    }


def pairs(plan: Plan = FASHION) -> dict[str, Pair]:
    """Pairs of classes by name, near ones first."""
    return {" to ".join(names): Pair(*map(plan.label, names)) for names in plan.steered}


def other_pairs(plan: Plan = FASHION) -> tuple[str, str]:
    """Those that the other settings are tried with, a near one and a far one."""
    first, *_, last = pairs(plan)
    return first, last


def random_vectors() -> list[Vector]:
    """Ten isotropic ones and ten drawn from the source class."""
    return [Vector(k, i) for k in ("isotropic", "source") for i in range(1, RANDOM + 1)]


def sign_patterns(kind: str) -> list[Vector]:
    """A construction towards the target, reversed, and with random signs where it has several."""
    draws = [] if kind == "SVD" else range(1, SIGNS + 1)
    return [Vector(kind, v) for v in (TOWARDS, REVERSED, *draws)]  # type: ignore[arg-type]


def vectors() -> list[Vector]:
    """All that is compared by the base setting."""
    patterns = [v for kind in CONSTRUCTIONS for v in sign_patterns(kind)]
    plain = [Vector("mean difference"), INJECTION, Vector("residual"), Vector("residual", REVERSED)]
    return plain + patterns + random_vectors()


def other_vectors() -> list[Vector]:
    """Eleven, for the question whether sampler and guidance matter."""
    both = [
        Vector(kind, v) for kind in ("weighted sum", "SVD", "shared") for v in (TOWARDS, REVERSED)
    ]
    plain = [Vector("residual"), Vector("mean difference")]
    return [*both, *plain, Vector("isotropic", 1), Vector("isotropic", 2), Vector("source", 1)]


def amounts(setting: str, vector: Vector) -> tuple[float, ...]:
    """Strengths of an injection, else pushes in radii."""
    if setting != BASE:
        return (ONE,)
    return STRENGTHS if vector == INJECTION else PUSHES


@cache
def bench(plan: Plan, setting: str, pair: str) -> Bench:
    """The model, ready for one pair; ValueError for names that are not known."""
    for name, known in ((setting, settings(plan)), (pair, pairs(plan))):
        if name not in known:
            raise ValueError(f"steering is kept for {', '.join(known)}, not for {name!r}")
    return Bench(plan.system(plan.spaces[-1]), pairs(plan)[pair], settings(plan)[setting])


def curve(plan: Plan, setting: str, pair: str, vector: Vector) -> str:
    """One vector at its pushes, as JSON; one with signs drawn ends where samples are destroyed."""
    own, points = bench(plan, setting, pair), []
    whole = vector == INJECTION or vector.variant == TOWARDS
    most = math.inf if whole else _DESTROYED * _plain(plan, setting, pair)["realism"]
    for amount in amounts(setting, vector):
        points.append({"amount": amount, **own.measured(own.steered(vector, amount))})
        # other signs and random vectors are compared where samples are realistic, not beyond
        if points[-1]["realism"] > most:
            break
    return _line(setting, pair, kind=vector.kind, variant=vector.variant, points=points)


@cache
def _plain(plan: Plan, setting: str, pair: str) -> dict[str, Any]:
    own = bench(plan, setting, pair)
    return own.measured(own.run())


def untouched(plan: Plan, setting: str, pair: str) -> str:
    """The same without a push, as JSON, and the radius of the source class."""
    points = [{"amount": 0.0, **_plain(plan, setting, pair)}]
    radius = bench(plan, setting, pair).radius
    return _line(setting, pair, kind="untouched", radius=radius, points=points)


def emergence(plan: Plan, pair: str) -> str:
    """What x0hat is taken for along the way, untouched and under a push, as JSON."""
    own = bench(plan, BASE, pair)
    hooks = {kind: own.hooks(Vector(kind), ONE) for kind in ("mean difference", *CONSTRUCTIONS)}  # type: ignore[arg-type]
    hooks |= {"untouched": Hooks(), "injection": own.hooks(INJECTION, _HALF)}
    found = {name: own.endpoint_probabilities(hook) for name, hook in hooks.items()}
    logsnr = own.system.schedule.logsnr(own.grid[:-1]).tolist()
    return _line(BASE, pair, kind="emergence", logsnr=logsnr, runs=found)


def realism(plan: Plan, pair: str) -> str:
    """How real samples are under each construction less another or injection, as JSON.

    At equal effect, with intervals that need every sample; see `push_realism`.
    """
    own = bench(plan, BASE, pair)
    plain = own.each(own.system.seen(own.run()))
    samples: dict[str, push_realism.Samples] = {}
    for vector in (*(Vector(kind) for kind in CONSTRUCTIONS), INJECTION):  # type: ignore[arg-type]
        steps = amounts(BASE, vector)
        found = [plain, *(own.each(own.system.seen(own.steered(vector, a))) for a in steps)]
        near, way = (torch.stack(part).numpy() for part in zip(*found, strict=True))
        samples[vector.kind] = push_realism.Samples(np.array([0.0, *steps]), near, way)
    gaps = push_realism.intervals(samples, COMPARED)
    named = zip(COMPARED, gaps, strict=True)
    return _line(
        BASE, pair, kind="realism", gaps=[[*names, *rounded(list(g))] for names, g in named]
    )


def _line(setting: str, pair: str, **facts: object) -> str:
    return json.dumps({"setting": setting, "pair": pair, **facts}) + "\n"


def pieces(plan: Plan = FASHION) -> Iterator[tuple[str, Task]]:
    """The name of every piece and what makes it, those first that matter most."""
    for pair in pairs(plan):
        yield f"{BASE}-{pair}-untouched", partial(untouched, plan, BASE, pair)
        yield f"{BASE}-{pair}-emergence", partial(emergence, plan, pair)
        yield f"{BASE}-{pair}-realism", partial(realism, plan, pair)
    for vector in vectors():
        for pair in pairs(plan):
            name = f"{BASE}-{pair}-{vector.kind}-{vector.variant}"
            yield name, partial(curve, plan, BASE, pair, vector)
    for setting in settings(plan):
        for pair in other_pairs(plan) if setting != BASE else ():
            yield f"{setting}-{pair}-untouched", partial(untouched, plan, setting, pair)
            for vector in other_vectors():
                name = f"{setting}-{pair}-{vector.kind}-{vector.variant}"
                yield name, partial(curve, plan, setting, pair, vector)


def collect(work: Path, out: Path, jobs: int, plan: Plan = FASHION) -> None:
    """Run what the work folder lacks, `jobs` at a time, and keep all of it in `out`."""
    tasks = {work / f"{name.replace(' ', '-')}.json": task for name, task in pieces(plan)}
    fill(tasks, jobs, "steering", "vector")
    write_atomically(out / "runs.jsonl", "".join(path.read_text() for path in tasks))
    write_card(
        out,
        plan.command,
        "piece",
        plan.device,
        settings={name: asdict(setting) for name, setting in settings(plan).items()},
        pushes=PUSHES,
        strengths=STRENGTHS,
        directions=DIRECTIONS,
        shared=SHARED,
    )
