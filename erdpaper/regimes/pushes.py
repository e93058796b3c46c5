"""The steering runs that notebook 13 keeps: which they are, and how they are resumed.

A piece is one vector for one pair of classes, at all its pushes; it is a file in a work folder.
"""

import json
import math
from collections.abc import Iterator
from dataclasses import asdict
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from erdpaper.files import write_atomically
from erdpaper.regimes import push_realism
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
from erdpaper.regimes.system import fashion
from erdpaper.sampling import Hooks
from erdpaper.tasks import Task, fill, rounded, write_card

NAME = "13_steering"
COMMAND = "erdpaper regimes"
PAIRS = {
    "Pullover to Coat": Pair(2, 4),
    "Sneaker to Sandal": Pair(7, 5),
    "Trouser to Bag": Pair(1, 8),
    "Ankle boot to T-shirt": Pair(9, 0),
}
SETTINGS = {
    "ddpm": Setting(),
    "ddim": Setting(sampler="ddim"),
    "guidance 3": Setting(guidance=3.0),
}
BASE = "ddpm"
# total pushes in radii of the source class, and strengths of injection
PUSHES = (0.25, 0.5, 1.0, 1.5, 2.0, 3.0)
STRENGTHS = (0.1, 0.2, 0.35, 0.5, 0.75, 1.0)
SIGNS, RANDOM = 6, 10
INJECTION = Vector("injection")
# of the other samplers, at one push
OTHER_PAIRS = ("Pullover to Coat", "Ankle boot to T-shirt")
ONE = 1.0
# times as far from real images as untouched samples
_DESTROYED = 2.0
# whose realism is compared, with intervals
COMPARED = (("weighted sum", "shared"), *((kind, "injection") for kind in CONSTRUCTIONS))
_HALF = 0.5  # strength of the injection whose endpoint estimates are looked at


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
def bench(setting: str, pair: str) -> Bench:
    """The kept latent model, ready for one pair; ValueError for names that are not known."""
    for name, known in ((setting, SETTINGS), (pair, PAIRS)):
        if name not in known:
            raise ValueError(f"steering is kept for {', '.join(known)}, not for {name!r}")
    return Bench(fashion("latents"), PAIRS[pair], SETTINGS[setting])


def curve(setting: str, pair: str, vector: Vector) -> str:
    """One vector at its pushes, as JSON; one with signs drawn ends where samples are destroyed."""
    own, points = bench(setting, pair), []
    whole = vector == INJECTION or vector.variant == TOWARDS
    most = math.inf if whole else _DESTROYED * _plain(setting, pair)["realism"]
    for amount in amounts(setting, vector):
        points.append({"amount": amount, **own.measured(own.steered(vector, amount))})
        # other signs and random vectors are compared where samples are realistic, not beyond
        if points[-1]["realism"] > most:
            break
    return _line(setting, pair, kind=vector.kind, variant=vector.variant, points=points)


@cache
def _plain(setting: str, pair: str) -> dict[str, Any]:
    own = bench(setting, pair)
    return own.measured(own.run())


def untouched(setting: str, pair: str) -> str:
    """The same without a push, as JSON, and the radius of the source class."""
    points = [{"amount": 0.0, **_plain(setting, pair)}]
    radius = bench(setting, pair).radius
    return _line(setting, pair, kind="untouched", radius=radius, points=points)


def emergence(pair: str) -> str:
    """What x0hat is taken for along the way, untouched and under a push, as JSON."""
    own = bench(BASE, pair)
    hooks = {kind: own.hooks(Vector(kind), ONE) for kind in ("mean difference", *CONSTRUCTIONS)}  # type: ignore[arg-type]
    hooks |= {"untouched": Hooks(), "injection": own.hooks(INJECTION, _HALF)}
    found = {name: own.endpoint_probabilities(hook) for name, hook in hooks.items()}
    logsnr = own.system.schedule.logsnr(own.grid[:-1]).tolist()
    return _line(BASE, pair, kind="emergence", logsnr=logsnr, runs=found)


def realism(pair: str) -> str:
    """How real samples are under each construction less another or injection, as JSON.

    At equal effect, with intervals that need every sample; see `push_realism`.
    """
    own = bench(BASE, pair)
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


def pieces() -> Iterator[tuple[str, Task]]:
    """The name of every piece and what makes it, those first that matter most."""
    for pair in PAIRS:
        yield f"{BASE}-{pair}-untouched", partial(untouched, BASE, pair)
        yield f"{BASE}-{pair}-emergence", partial(emergence, pair)
        yield f"{BASE}-{pair}-realism", partial(realism, pair)
    for vector in vectors():
        for pair in PAIRS:
            name = f"{BASE}-{pair}-{vector.kind}-{vector.variant}"
            yield name, partial(curve, BASE, pair, vector)
    for setting in SETTINGS:
        for pair in OTHER_PAIRS if setting != BASE else ():
            yield f"{setting}-{pair}-untouched", partial(untouched, setting, pair)
            for vector in other_vectors():
                name = f"{setting}-{pair}-{vector.kind}-{vector.variant}"
                yield name, partial(curve, setting, pair, vector)


def collect(work: Path, out: Path, jobs: int) -> None:
    """Run what the work folder lacks, `jobs` at a time, and keep all of it in `out`."""
    tasks = {work / f"{name.replace(' ', '-')}.json": task for name, task in pieces()}
    fill(tasks, jobs, "steering", "vector")
    write_atomically(out / "runs.jsonl", "".join(path.read_text() for path in tasks))
    write_card(
        out,
        COMMAND,
        "piece",
        settings={name: asdict(setting) for name, setting in SETTINGS.items()},
        pushes=PUSHES,
        strengths=STRENGTHS,
        directions=DIRECTIONS,
        shared=SHARED,
    )
