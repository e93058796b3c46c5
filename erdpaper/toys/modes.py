"""Theorem 3.8 on the toy network: what its assumptions leave out and what its bound says [P D.4].

Everything is for the paper's network, in float64, under `dynamics.Law`: log-SNR uniform on
[-8, 8], weight M(lambda) that stands for a uniform weight over t.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from erdpaper import ntk
from erdpaper.dynamics import Law, Samples, modal, tangent
from erdpaper.dynamics.terms import residual
from erdpaper.models.mlp import MLP
from erdpaper.toys.kernels import double
from erdpaper.toys.spec import LAW, SCHEDULES, Toy

LEVELS = (-4.0, 0.0, 4.0)
# in units of one over the length of the run
GAMMAS = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
_CHUNK = 3_200  # samples whose kernel with the points of a level is held at once


def law_of(target: str, schedule: str = "VP") -> Law:
    """Noise levels and weights of a run on the toy."""
    return Law(LAW, SCHEDULES[schedule], target)


def stream(*entropy: int) -> torch.Generator:
    """A generator of its own for every sequence of integers."""
    seed = 0
    for part in entropy:
        seed = 1_000_003 * seed + part
    return torch.Generator().manual_seed(seed)


def untrained(seed: int) -> MLP:
    """The paper's network before training, float64."""
    # the target is not part of a network's initialisation
    return double(Toy("eps", "VP", seed=seed).network())


class Run(NamedTuple):
    """The surrogate of one target at one noise level: excess (S + 1,), bounds (7, S + 1).

    times (S + 1,) is tau; the bounds belong to `GAMMAS`, each over the run's length.
    """

    excess: Tensor
    bounds: Tensor
    times: Tensor

    @property
    def worst(self) -> float:
        """The largest excess over its bound after the start, where they are equal."""
        return float((self.excess / self.bounds)[:, 1:].max())

    @property
    def later(self) -> float:
        """The same in the second half of the run."""
        return float((self.excess / self.bounds)[:, len(self.times) // 2 :].max())

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
    network = untrained(seed)
    laws = {y: law_of(y) for y in targets}
    here = {
        (y, level): law.at(level, points, stream(seed, 1, k))
        for y, law in laws.items()
        for k, level in enumerate(levels)
    }
    there = {y: law.draw(steps * batch, stream(seed, 2)) for y, law in laws.items()}
    places = [here[targets[0], level] for level in levels]
    spectra = [ntk.spectrum(ntk.layerwise(network, (at.x, at.t))) for at in places]
    eta = _forcing(network, spectra, places, there, batch)
    return {
        (y, level): _run(
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
        for k, block in enumerate(blocks.split(len(places[0].x))):
            for y, samples in there.items():
                drawn = (z[part].unflatten(0, (-1, batch)) for z in (samples.weight, samples.xi))
                rows[y][k].append(modal.forcing(spectra[k], block, *drawn))
    return {y: [torch.cat(each) for each in levels] for y, levels in rows.items()}


def _run(spectrum: ntk.Spectrum, r: Tensor, weight: float, eta: Tensor, step: float) -> Run:
    start, length = modal.coefficients(spectrum, r), len(eta) * step
    a = modal.evolve(start, spectrum.values, weight, eta, step)
    bounds = [
        modal.bound(start, spectrum.values, weight, eta, step, gamma / length) for gamma in GAMMAS
    ]
    times = step * torch.arange(len(eta) + 1, dtype=torch.float64)
    return Run(modal.excess(a, weight), torch.stack(bounds), times)


class Flow(NamedTuple):
    """Relative errors over modes of da_j / dtau against -M kappa_j a_j (+ eta_j)."""

    unforced: float
    forced: float


def modal_flow(target: str, logsnr: float, seed: int, points: int = 128, by: float = 1e-3) -> Flow:
    """The network itself, trained at one level on its N points, against its modes [P 98].

    `by` is the step of the central difference in units of tau.
    """
    network, law = untrained(seed), law_of(target)
    here = law.at(logsnr, points, stream(seed, 3))
    there = law.draw(64, stream(seed, 4))
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
    here = law.at(logsnr, points, stream(5))
    spectrum = ntk.spectrum(ntk.layerwise(network, (here.x, here.t)))
    r, M = residual(network, here), float(here.weight[0])
    exact = M / 2 * float(r.square().sum(-1).mean())
    return abs(float(modal.excess(modal.coefficients(spectrum, r), M)) / exact - 1)
