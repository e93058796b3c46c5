"""What the kernel and the features of a toy network look like at each noise level [P F.3, F.4].

At 13 times, on points x_t whose cluster (the component of x_0) is known: the spectrum of the
fixed-noise kernel, the cosines of its Gram matrix, the joint kernel between the times, how fast the
kernel contracts the residual r = f - E[y | x_t], and the geometry of the 256 features h. Points
are fixed, so that kept and live numbers speak of the same ones; kernels are float64.
"""

import hashlib
import json
import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from erdpaper import ntk
from erdpaper.files import write_atomically
from erdpaper.models.mlp import MLP
from erdpaper.toys import networks
from erdpaper.toys.spec import LAW, Toy, noisy
from erdpaper.toys.tasks import fill
from erdpaper.training import train

TIMES = (0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98)
POINTS = 256
# features cost little, and scatter between clusters is biased by 3 / FEATURE_POINTS of that within
FEATURE_POINTS = 1_024
PLANE_TIME = 0.1
# of the probe, in units of the mean eigenvalue of the features' second moment
_RIDGE = 1e-8
_SEED = 20_261_122


class Cloud(NamedTuple):
    """Points x_t (N, 2), the component of each x_0 (N,), and P(component | x_t), (N, 4)."""

    x: Tensor
    cluster: Tensor
    probabilities: Tensor
    alpha: Tensor
    sigma: Tensor

    def bayes(self, target: str) -> Tensor:
        """E[y | x_t], (N, 2)."""
        return LAW.posterior_mean(self.x, self.alpha, self.sigma, target)


@cache
def cloud(schedule: str, t: float, n: int = POINTS, draw: int = 0) -> Cloud:
    """n points of the toy at time t, float64; the same ones whenever they are asked for."""
    seed = int(np.random.SeedSequence([_SEED, round(1e6 * t), draw]).generate_state(1)[0])
    at = noisy(schedule, t, n, torch.Generator().manual_seed(seed))
    # components of x_0 are 13 standard deviations apart
    cluster = LAW.class_probabilities(at.x0, 1.0, 0.0).argmax(-1)
    shares = LAW.class_probabilities(at.x, at.alpha, at.sigma)
    return Cloud(at.x, cluster, shares, at.alpha, at.sigma)


# ---------------------------------------------------------------- kernels


def kernel(network: MLP, schedule: str, t: float, n: int = POINTS) -> Tensor:
    """The fixed-noise kernel on the points of a time, (n, n, 2, 2), float64 [P 15]."""
    return ntk.layerwise(double(network), (cloud(schedule, t, n).x, t))


def double(network: MLP) -> MLP:
    """The same weights in float64; the network that is given stays as it was."""
    if next(network.parameters()).dtype == torch.float64:
        return network
    copy = MLP(
        dim=network.readout.out_features,
        width=network.readout.in_features,
        depth=len(network.hidden),
    )
    copy.load_state_dict(network.state_dict())
    copy.embed = network.embed
    return copy.double().requires_grad_(False)


class Cosines(NamedTuple):
    """Of a Gram matrix of cosines: means over pairs of points, and the top eigenvalue's share."""

    within: float
    between: float
    overall: float
    share: float


def cosines(gram: Tensor, cluster: Tensor) -> Cosines:
    """Mean cosine of two points of one cluster, of two clusters, of any two; share of lambda_1.

    gram (N, N) with a unit diagonal, which counts for the share only.
    """
    same = cluster[:, None] == cluster
    other = ~torch.eye(len(gram), dtype=torch.bool)
    share = torch.linalg.eigvalsh(gram)[-1] / len(gram)
    parts = gram[same & other].mean(), gram[~same].mean(), gram[other].mean(), share
    return Cosines(*map(float, parts))


def directions(vectors: Tensor) -> Tensor:
    """Cosines between vectors (N, D), (N, N): the Gram matrix of anything that is not a kernel."""
    unit: Tensor = vectors / vectors.norm(dim=-1, keepdim=True)
    return unit @ unit.T


def rate(blocks: Tensor, residual: Tensor) -> float:
    """<r, Theta r> / ||r||^2 in L2(q): how fast the frozen kernel contracts r (N, d) now."""
    pulled = torch.einsum("nmij,mj->ni", blocks, residual) / len(blocks)
    return float((residual * pulled).sum() / residual.square().sum())


# ---------------------------------------------------------------- features


@torch.no_grad()
def features(
    network: MLP, schedule: str, t: float, n: int = FEATURE_POINTS, draw: int = 0
) -> Tensor:
    """h at the points of a time, (n, width), float64."""
    x = cloud(schedule, t, n, draw).x
    h: Tensor = double(network).features(x, torch.full((n,), t, dtype=x.dtype))
    return h


class Plane(NamedTuple):
    """The plane of Fig 9: its origin (D,) and its two directions (2, D)."""

    origin: Tensor
    axes: Tensor

    def project(self, h: Tensor) -> Tensor:
        """Coordinates in the plane, (N, 2)."""
        return (h - self.origin) @ self.axes.T


def plane(h: Tensor) -> Plane:
    """The first two principal directions of features h (N, D), with their mean as origin.

    A direction has no sign; its largest entry is made positive.
    """
    origin = h.mean(0)
    axes = torch.linalg.eigh(torch.cov(h.T)).eigenvectors[:, [-1, -2]].T
    largest = axes.gather(1, axes.abs().argmax(1, keepdim=True))
    return Plane(origin, axes * largest.sign())


def centres(h: Tensor, cluster: Tensor) -> Tensor:
    """The mean of each cluster, (4, D)."""
    return torch.stack([h[cluster == k].mean(0) for k in range(len(LAW.means))])


class Scatter(NamedTuple):
    """Mean squared distance of points from their cluster's centre, and of centres from the mean."""

    within: float
    between: float

    @property
    def ratio(self) -> float:
        """Between over within."""
        return self.between / self.within


def scatter(h: Tensor, cluster: Tensor) -> Scatter:
    """Traces of the scatter of h (N, D) within and between clusters; they add up to the total."""
    centre = centres(h, cluster)[cluster]
    return Scatter(
        float((h - centre).square().sum(-1).mean()),
        float((centre - h.mean(0)).square().sum(-1).mean()),
    )


def probe(h: Tensor, answers: Tensor, fresh: Tensor) -> Tensor:
    """Classes (M,) that a linear map from h (N, D) to answers (N, C) gives fresh features (M, D).

    Least squares with a constant and a ridge that is only there for its conditioning.
    """
    one, other = (torch.cat([part, part.new_ones(len(part), 1)], 1) for part in (h, fresh))
    second = one.T @ one
    ridge = _RIDGE * second.trace() / len(second) * torch.eye(len(second), dtype=h.dtype)
    fitted: Tensor = torch.linalg.solve(second + ridge, one.T @ answers)
    return (other @ fitted).argmax(-1)


def accuracy(classes: Tensor, points: Cloud) -> float:
    """The chance that classes (N,) are right: the mean of P(class | x_t), which beats counting."""
    return float(points.probabilities.gather(1, classes[:, None]).mean())


def best_accuracy(points: Cloud) -> float:
    """What the exact posterior reaches on these points, by the same mean."""
    return accuracy(points.probabilities.argmax(-1), points)


# ---------------------------------------------------------------- one network, all of them


def _kernel_row(blocks: Tensor, points: Cloud, residual: Tensor) -> dict[str, Any]:
    values = ntk.spectrum(blocks).values
    return {
        "eigenvalues": values[:3].tolist(),
        "trace": float(values.sum()),
        "rank": ntk.effective_rank(values),
        **cosines(ntk.normalised(blocks), points.cluster)._asdict(),
        "rate": rate(blocks, residual),
        "excess": float(residual.square().sum(-1).mean()),
    }


def _feature_row(network: MLP, schedule: str, t: float, at: Plane) -> dict[str, Any]:
    first, fresh = (cloud(schedule, t, FEATURE_POINTS, draw) for draw in (0, 1))
    h, new = (features(network, schedule, t, draw=draw) for draw in (0, 1))
    middle = centres(h, first.cluster)
    parts = scatter(h, first.cluster)
    labels = torch.nn.functional.one_hot(first.cluster, len(LAW.means)).to(h)
    return {
        "scatter_within": parts.within,
        "scatter_between": parts.between,
        "from_mean": float(at.project(middle).norm(dim=-1).mean()),
        "from_zero": float((middle @ at.axes.T).norm(dim=-1).mean()),
        "probe": accuracy(probe(h, first.probabilities, new), fresh),
        "probe_labels": accuracy(probe(h, labels, new), fresh),
    }


def look(network: MLP, target: str, schedule: str, blocks: Sequence[Tensor]) -> dict[str, Any]:
    """Every number of one network, by name, as lists over `TIMES`; `joint` is a matrix over them.

    blocks: its fixed-noise kernels at these times. The probe is fitted to exact probabilities
    (`probe`) and to the drawn clusters (`probe_labels`).
    """
    network, rows = double(network), []
    fig9 = plane(features(network, schedule, PLANE_TIME))
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
    kernels = {name: [kernel(net, toy.schedule, t) for t in TIMES] for name, net in pair.items()}
    found: dict[str, Any] = {
        name: look(net, toy.target, toy.schedule, kernels[name]) for name, net in pair.items()
    }
    moved = zip(kernels["untrained"], kernels["trained"], strict=True)
    return found | {"drift": [ntk.drift(*both) for both in moved]}


def drifting(
    toy: Toy, steps: Sequence[int], times: Sequence[float], points: int = 64
) -> tuple[MLP, Tensor]:
    """Train a toy on the spot; its network, and the kernel's drift after these steps, (S, T)."""
    network = toy.network()
    before = [kernel(network, toy.schedule, t, points) for t in times]

    def drifts() -> list[float]:
        after = (kernel(network, toy.schedule, t, points) for t in times)
        return [ntk.drift(*pair) for pair in zip(before, after, strict=True)]

    rows = {0: drifts()}
    records = train(network, toy.draw(), toy.steps, toy.lr, toy.decay)
    for record in tqdm(records, desc=toy.key, total=toy.steps, mininterval=1, leave=False):
        if record.step in steps:
            rows[record.step] = drifts()
    return network, torch.tensor([rows[step] for step in steps], dtype=torch.float64)


def _line(toy: Toy, folder: Path) -> str:
    numbers = toy.as_dict() | compare(toy, networks.load(toy, folder))
    rounded = json.loads(json.dumps(numbers, allow_nan=False), parse_float=_six_digits)
    return json.dumps(rounded) + "\n"


def _six_digits(text: str) -> float:
    return float(f"{float(text):.6g}")


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
    card = {
        "command": "erdpaper kernels",
        "networks": len(toys),
        "points": POINTS,
        "feature points": FEATURE_POINTS,
        "times": TIMES,
        "sha256": sums,
        "device": f"cpu, {platform.machine()}, one thread a network",
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "date": datetime.now(UTC).date().isoformat(),
    }
    write_atomically(out / "card.json", json.dumps(card, indent=1) + "\n")


def kept_networks() -> list[Toy]:
    """The toys whose weights come with the book: the first seed with t as it is."""
    return [toy for toy in networks.wanted() if toy.seed == 0 and toy.time_scale == 1.0]
