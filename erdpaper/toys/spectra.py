"""What the kernel and the features of a toy network look like at each noise level [P F.3, F.4].

At 13 times: the spectrum of the fixed-noise kernel, the cosines of its Gram matrix, the joint
kernel between the times, how fast the kernel contracts the residual, and the geometry of the
features; for every network that the book keeps.
"""

import hashlib
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from erdpaper import ntk
from erdpaper.files import write_atomically
from erdpaper.models.mlp import MLP
from erdpaper.tasks import fill, rounded, write_card
from erdpaper.toys import clusters, kernels, networks
from erdpaper.toys.points import FEATURE_POINTS, POINTS, TIMES, Cloud, cloud
from erdpaper.toys.spec import Toy


def _kernel_row(blocks: Tensor, points: Cloud, residual: Tensor) -> dict[str, Any]:
    values = ntk.spectrum(blocks).values
    return {
        "eigenvalues": values[:3].tolist(),
        "trace": float(values.sum()),
        "rank": ntk.effective_rank(values),
        **kernels.cosines(ntk.normalised(blocks), points.cluster)._asdict(),
        "rate": kernels.rate(blocks, residual),
        "excess": float(residual.square().sum(-1).mean()),
    }


def _feature_row(network: MLP, schedule: str, t: float, at: clusters.Plane) -> dict[str, Any]:
    first, fresh = (cloud(schedule, t, FEATURE_POINTS, draw) for draw in (0, 1))
    h, new = (clusters.features(network, schedule, t, draw=draw) for draw in (0, 1))
    middle = clusters.centres(h, first.cluster)
    parts = clusters.scatter(h, first.cluster)
    return {
        "scatter_within": parts.within,
        "scatter_between": parts.between,
        "from_mean": float(at.project(middle).norm(dim=-1).mean()),
        "from_zero": float((middle @ at.axes.T).norm(dim=-1).mean()),
        "probe": clusters.accuracy(clusters.probe(h, first.probabilities, new), fresh),
        "probe_labels": clusters.labels_read(h, new, first, fresh),
    }


def look(network: MLP, target: str, schedule: str, blocks: Sequence[Tensor]) -> dict[str, Any]:
    """Every number of one network, by name, as lists over `TIMES`; `joint` is a matrix over them.

    blocks: its fixed-noise kernels at these times. The probe is fitted to exact probabilities
    (`probe`) and to the drawn clusters (`probe_labels`).
    """
    network, rows = kernels.double(network), []
    fig9 = clusters.plane(clusters.features(network, schedule, clusters.PLANE_TIME))
    for t, theta in zip(TIMES, blocks, strict=True):
        points = cloud(schedule, t)
        with torch.no_grad():
            f = network(points.x, torch.full((len(points.x),), t, dtype=points.x.dtype))
        row = _kernel_row(theta, points, f - points.bayes(target))
        rows.append(row | _feature_row(network, schedule, t, fig9))
    joint = ntk.cross_noise(network, [(cloud(schedule, t).x, t) for t in TIMES])
    return {name: [row[name] for row in rows] for name in rows[0]} | {"joint": joint.tolist()}


def compare(toy: Toy, trained: MLP) -> dict[str, Any]:
    """A trained network, its untrained twin, and how far the kernel moved between the two."""
    pair = {"untrained": toy.network(), "trained": trained}
    blocks = {
        name: [kernels.kernel(net, toy.schedule, t) for t in TIMES] for name, net in pair.items()
    }
    found: dict[str, Any] = {
        name: look(net, toy.target, toy.schedule, blocks[name]) for name, net in pair.items()
    }
    moved = zip(blocks["untrained"], blocks["trained"], strict=True)
    return found | {"drift": [ntk.drift(*both) for both in moved]}


def _line(toy: Toy, folder: Path) -> str:
    numbers = rounded(compare(toy, networks.load(toy, folder)))
    return json.dumps(toy.as_dict() | numbers, allow_nan=False) + "\n"


def collect(work: Path, out: Path, jobs: int) -> None:
    """Train and measure what the work folder lacks and collect it in `out`.

    `out` gets runs.jsonl, a network and its twin a line, card.json, and in networks/ the weights of
    the networks that the book draws from.
    """
    toys, folder = networks.wanted(), work / "networks"
    networks.train_all(toys, folder, jobs)
    files = {work / f"{toy.key}.json": partial(_line, toy, folder) for toy in toys}
    fill(files, jobs, "kernels", "network")
    write_atomically(out / "runs.jsonl", "".join(path.read_text() for path in files))
    sums = {}
    for toy in kept_networks():
        weights = networks.file_of(toy, folder).read_bytes()
        path = networks.file_of(toy, out / "networks")
        write_atomically(path, weights)
        sums[path.name] = hashlib.sha256(weights).hexdigest()
    facts: dict[str, Any] = {
        "points": POINTS,
        "feature points": FEATURE_POINTS,
        "times": TIMES,
        "sha256": sums,
    }
    write_card(out, "erdpaper kernels", "network", networks=len(toys), **facts)


def kept_networks() -> list[Toy]:
    """The toys whose weights come with the book: the first seed with t as it is."""
    return [toy for toy in networks.wanted() if toy.seed == 0 and toy.time_scale == 1.0]
