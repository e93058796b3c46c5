"""How diverse the samples of a class are under guidance [T 3.2, 3.5]."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from erdpaper import metrics, sampling
from erdpaper.regimes.contraction import ranks
from erdpaper.regimes.plans import Plan
from erdpaper.regimes.system import System

SCALES = (1.0, 2.0, 4.0, 7.5)
SAMPLES = 1_000
_STEPS, _BATCH = 18, 500


def measure(system: System, label: int, scale: float, n: int = SAMPLES) -> dict[str, Any]:
    """`contraction.ranks` of n samples, variance in units of the training states', and recall.

    Heun steps on EDM's grid, the same noise for every scale. recall, precision: against as many
    test states as there are, at most n; agreement: samples that the classifier gives the class.
    """
    times = sampling.times.karras(system.schedule, _STEPS)
    denoise, start = system.denoiser(label, scale), system.start(n, label)
    parts = start.split(_BATCH)
    x = torch.cat([sampling.heun(denoise, part, system.schedule, times) for part in parts])
    images, truth = (system.data(split, label)[0] for split in ("train", "test"))
    total = float(images.flatten(1).double().var(0).sum())
    seen = system.seen(x)
    real = system.seen(truth[:n]).features.double()
    near = metrics.precision_recall(seen.features.double(), real)
    share = (seen.logits.argmax(1) == label).double().mean()
    return ranks(x.flatten(1), total) | {
        "precision": near.precision,
        "recall": near.recall,
        "agreement": float(share),
    }


def _text(label: int, plan: Plan) -> str:
    space = plan.spaces[-1]
    system, n = plan.system(space), plan.size(SAMPLES)
    found = [
        {"space": space, "label": label, "name": "samples", "scale": scale}
        | measure(system, label, scale, n)
        for scale in SCALES
    ]
    return "".join(json.dumps(line) + "\n" for line in found)


def tasks(work: Path, plan: Plan) -> dict[Path, Callable[[], str]]:
    """The files of the work folder, one a class that is counted, and what makes them."""
    return {work / f"samples-{label}.json": partial(_text, label, plan) for label in plan.counted}
