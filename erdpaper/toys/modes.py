"""Theorem 3.8 on the toy network: what its assumptions leave out and what its bound says [P D.4].

Everything is for the paper's network, in float64, under `dynamics.Law`: log-SNR uniform on
[-8, 8], weight M(lambda) that stands for a uniform weight over t.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from erdpaper import ntk
from erdpaper.dynamics import Law, Samples, modal, tangent
from erdpaper.dynamics.terms import residual
from erdpaper.models.mlp import MLP
from erdpaper.toys.spec import LAW, SCHEDULES, Toy
from erdpaper.toys.spectra import double

LEVELS = (-4.0, 0.0, 4.0)
# in units of one over the length of the run
GAMMAS = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
_CHUNK = 3_200  # samples whose kernel with the points of a level is held at once


def law_of(target: str, schedule: str = "VP") -> Law:
    """Noise levels and weights of a run on the toy."""
    return Law(LAW, SCHEDULES[schedule], target)


def _stream(*entropy: int) -> torch.Generator:
    seed = 0
    for part in entropy:
        seed = 1_000_003 * seed + part
    return torch.Generator().manual_seed(seed)


def _network(seed: int) -> MLP:
    # the target is not part of a network's initialisation
    return double(Toy("eps", "VP", seed=seed).network())


# ---------------------------------------------------------------- the surrogate as a run


class Run(NamedTuple):
    """The surrogate of one target at one noise level: floor, excess (S + 1,), bounds (7, S + 1).

    times (S + 1,) is tau; the bounds belong to `GAMMAS`, each over the run's length.
    """

    floor: float
    excess: Tensor
    bounds: Tensor
    times: Tensor

    @property
    def worst(self) -> float:
        """The largest loss over its bound."""
        return float(((self.floor + self.excess) / (self.floor + self.bounds)).max())

    @property
    def later(self) -> float:
        """The same in the second half of the run, away from the start, where they are equal."""
        half = len(self.times) // 2
        return float(((self.floor + self.excess) / (self.floor + self.bounds))[:, half:].max())

    @property
    def informative(self) -> float:
        """The best bound on the last excess over the first excess."""
        return float(self.bounds[:, -1].min() / self.excess[0])


def surrogate(
    targets: Sequence[str],
    seed: int,
    levels: Sequence[float] = LEVELS,
    points: int = 128,
    steps: int = 200,
    step: float = 0.5,
    batch: int = 64,
) -> dict[tuple[str, float], Run]:
    """Runs of the fixed-noise surrogate with the frozen kernel of an untrained network [P 87].

    By target and log-SNR. Every step has a batch of its own, held for the length of the step; all
    targets see the same points, and so share their kernels.
    """
    network = _network(seed)
    laws = {y: law_of(y) for y in targets}
    here = {
        (y, level): law.at(level, points, _stream(seed, 1, k))
        for y, law in laws.items()
        for k, level in enumerate(levels)
    }
    there = {y: law.draw(steps * batch, _stream(seed, 2)) for y, law in laws.items()}
    places = [here[targets[0], level] for level in levels]
    spectra = [ntk.spectrum(ntk.layerwise(network, (at.x, at.t))) for at in places]
    eta = _forcing(network, spectra, places, there, batch)
    return {
        (y, level): _run(
            laws[y].floor(level),
            spectra[k],
            residual(network, here[y, level]),
            float(places[k].weight[0]),
            eta[y][k],
            step,
        )
        for k, level in enumerate(levels)
        for y in targets
    }


def _forcing(
    network: MLP,
    spectra: Sequence[ntk.Spectrum],
    places: Sequence[Samples],
    there: dict[str, Samples],
    batch: int,
) -> dict[str, list[Tensor]]:
    """eta of every step, (S, J), by target and level."""
    rows: dict[str, list[list[Tensor]]] = {y: [[] for _ in places] for y in there}
    points = next(iter(there.values()))
    rows_x, rows_t = (torch.cat([at[k] for at in places]) for k in (0, 1))
    chunk = max(1, _CHUNK // batch) * batch
    for start in range(0, len(points.x), chunk):
        part = slice(start, start + chunk)
        blocks = ntk.layerwise(network, (rows_x, rows_t), (points.x[part], points.t[part]))
        for y, samples in there.items():
            pieces = zip(
                blocks.split(batch, 1),
                samples.weight[part].split(batch),
                samples.xi[part].split(batch),
                strict=True,
            )
            for theta, weight, xi in pieces:
                for k, block in enumerate(theta.split(len(places[0].x))):
                    rows[y][k].append(modal.forcing(spectra[k], block, weight, xi))
    return {y: [torch.stack(each) for each in levels] for y, levels in rows.items()}


def _run(
    floor: float, spectrum: ntk.Spectrum, r: Tensor, weight: float, eta: Tensor, step: float
) -> Run:
    start, length = modal.coefficients(spectrum, r), len(eta) * step
    a = modal.evolve(start, spectrum.values, weight, eta, step)
    bounds = [
        modal.bound(start, spectrum.values, weight, eta, step, gamma / length) for gamma in GAMMAS
    ]
    times = step * torch.arange(len(eta) + 1, dtype=torch.float64)
    return Run(floor, modal.excess(a, weight), torch.stack(bounds), times)


# ---------------------------------------------------------------- what the surrogate assumes


class Flow(NamedTuple):
    """Relative errors over modes of da_j / dtau against -M kappa_j a_j (+ eta_j)."""

    unforced: float
    forced: float


def modal_flow(target: str, logsnr: float, seed: int, points: int = 128, by: float = 1e-3) -> Flow:
    """The network itself, trained at one level on its N points, against its modes [P 98].

    `by` is the step of the central difference in units of tau.
    """
    network, law = _network(seed), law_of(target)
    here = law.at(logsnr, points, _stream(seed, 3))
    there = law.draw(64, _stream(seed, 4))
    spectrum = ntk.spectrum(ntk.layerwise(network, (here.x, here.t)))
    r, M = residual(network, here), float(here.weight[0])
    contraction = -M * spectrum.values * modal.coefficients(spectrum, r)
    blocks = ntk.layerwise(network, (here.x, here.t), (there.x, there.t))
    eta = modal.forcing(spectrum, blocks, there.weight, there.xi)

    pulled = tangent.pull(network, here.x, here.t, r)[0]
    noise = tangent.pull(network, there.x, there.t, there.weight[:, None] * there.xi)[0]
    errors = []
    for direction, expected in (
        (-M / points * pulled, contraction),
        (-M / points * pulled - noise / len(there.x), contraction + eta),
    ):
        moved = []
        for sign in (1, -2, 1):
            tangent.move(network, direction, sign * by)
            moved.append(modal.coefficients(spectrum, residual(network, here)))
        slope = (moved[0] - moved[1]) / (2 * by)
        errors.append(float((slope - expected).norm() / expected.norm()))
    return Flow(*errors)


def parseval(network: MLP, target: str, logsnr: float, points: int = 128) -> float:
    """Relative error of M / 2 sum a_j^2 against M / 2 E ||r||^2 [P 103]."""
    network, law = double(network), law_of(target)
    here = law.at(logsnr, points, _stream(5))
    spectrum = ntk.spectrum(ntk.layerwise(network, (here.x, here.t)))
    r, M = residual(network, here), float(here.weight[0])
    exact = M / 2 * float(r.square().sum(-1).mean())
    return abs(float(modal.excess(modal.coefficients(spectrum, r), M)) / exact - 1)


class Closure(NamedTuple):
    """Relative error of the drift by one level alone, and what sampling alone would make of it."""

    error: float
    sampling: float


def closure(
    targets: Sequence[str], logsnr: float, seed: int, points: int = 128, samples: int = 4_096
) -> dict[str, Closure]:
    """The drift at a level by that level alone against that of joint training [P 53, 87].

    E_{x'}[Theta r] over the level against E[M' Theta r] over all levels, as functions at fresh
    points of the level, at initialisation; error in L2(q_lambda) after scaling to the best
    multiple. Every sample comes with its mirror image -x, which is as likely and has -E[y | x].
    `sampling` compares two halves of the joint samples in the same way, over 2.
    """
    network = _network(seed)
    laws = {y: law_of(y) for y in targets}
    drifts: dict[str, list[Tensor]] = {y: [] for y in targets}
    place = laws[targets[0]].at(logsnr, points, _stream(seed, 6))
    for k, joint in enumerate((False, True, True)):
        for y, law in laws.items():
            stream = _stream(seed, 7 + k)
            half = samples // 2
            other = mirrored(law.draw(half, stream) if joint else law.at(logsnr, half, stream))
            if y == targets[0]:
                blocks = ntk.layerwise(network, (place.x, place.t), (other.x, other.t))
            pushed = other.weight[:, None] * residual(network, other)
            drifts[y].append(torch.einsum("nbde,be->nd", blocks, pushed) / samples)
    found = {}
    for y, (alone, first, second) in drifts.items():
        error = _apart(alone, (first + second) / 2)
        found[y] = Closure(error, _apart(first, second) / 2)
    return found


def mirrored(samples: Samples) -> Samples:
    """Samples and their images under x -> -x, a symmetry of the toy's law."""
    x, t, weight, bayes, xi = samples
    both = (torch.cat([part, -part]) for part in (x, bayes, xi))
    x, bayes, xi = both
    return Samples(x, t.repeat(2), weight.repeat(2), bayes, xi)


def _apart(a: Tensor, b: Tensor) -> float:
    """min_c ||c a - b|| / ||b||."""
    cosine = float((a * b).sum() / (a.norm() * b.norm()))
    return math.sqrt(max(0.0, 1 - cosine**2))


# ---------------------------------------------------------------- lazy training


class Moved(NamedTuple):
    """How far the kernel and the parameters went, relatively, and the loss over its start."""

    kernel: float
    parameters: float
    loss: float


def descend(width: int, seed: int, points: int = 96, time: float = 2.0, step: float = 0.1) -> Moved:
    """Gradient descent of a network in NTK parameterisation on E[y | x_t] for eps on VP.

    Full batch of points at all noise levels, for a fixed time, float32; all points judge.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = MLP(width=width, parameterisation="ntk").requires_grad_(False)
    data = law_of("eps").draw(points, _stream(seed, 10)).to(network.readout.weight)
    before, start = ntk.layerwise(network, data[:2]), _flat(network)
    first = residual(network, data).norm()
    for _ in range(round(time / step)):
        r = residual(network, data)
        tangent.move(network, tangent.pull(network, data.x, data.t, r / points)[0], -step)
    return Moved(
        ntk.drift(before, ntk.layerwise(network, data[:2])),
        float((_flat(network) - start).norm() / start.norm()),
        float(residual(network, data).norm() / first) ** 2,
    )


def _flat(network: MLP) -> Tensor:
    return torch.cat([p.flatten() for p in network.parameters()])
