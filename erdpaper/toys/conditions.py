"""What the assumptions of the paper's theorems come to for one toy network [P 5, Prop 3.7].

Measured at nine noise levels, before and after training: the population's contraction rate, how
often a batch's coupling is negative, from how far away coupling and forcing come, and the two
parts of the representation's gradient.
"""

from typing import Any

import torch

from erdpaper.dynamics import couplings, representation
from erdpaper.dynamics.law import Law, Samples
from erdpaper.dynamics.terms import residual
from erdpaper.models.mlp import MLP
from erdpaper.toys.spec import LAW, SCHEDULES

LEVELS = tuple(float(level) for level in range(-8, 9, 2))
BATCHES = (1, 8, 64, 512)
_POINTS, _SAMPLES, _GRADIENTS, _BATCH = 1_024, 8_192, 512, 512
_SEED = 20_261_122


def of(network: MLP, target: str, schedule: str) -> dict[str, Any]:
    """All of it, by name: one entry per noise level, over `BATCHES` where it is about batches."""
    generator = torch.Generator().manual_seed(_SEED)
    law = Law(LAW, SCHEDULES[schedule], target)
    like = next(network.parameters())
    samples = law.draw(_SAMPLES, generator)
    distance = SCHEDULES[schedule].logsnr(samples.t)
    samples = samples.to(like)
    rows = []
    for level in LEVELS:
        points = law.at(level, _POINTS, generator).to(like)
        found = couplings.contributions(network, points, samples)
        row = _row(found, distance - level, generator)
        rows.append(row | _gradients(network, Samples(*(part[:_GRADIENTS] for part in points))))
    return {name: [row[name] for row in rows] for name in rows[0]}


def _row(
    found: couplings.Contributions, distance: torch.Tensor, generator: torch.Generator
) -> dict[str, Any]:
    rate, error = found.rate
    return {
        "excess": float(found.excess),
        "rate": rate,
        "rate_error": error,
        "negative": [couplings.negative_share(found.coupling, b, generator) for b in BATCHES],
        "far_coupling": couplings.far_share(_by_distance(found.coupling, distance), _CENTRES),
        "far_forcing": couplings.far_share(found.forcing.double().square(), distance),
    }


# cells of log-SNR distance, the middle one from -1 to 1, in each of which the coupling is summed
# before its size is taken; narrower ones would count the noise of the draws
_EDGES = torch.arange(-17.0, 18, 2, dtype=torch.float64)
_CENTRES = (_EDGES[1:] + _EDGES[:-1]) / 2


def _by_distance(coupling: torch.Tensor, distance: torch.Tensor) -> torch.Tensor:
    """|sum of the coupling| of the samples in each cell of distance, (17,)."""
    cell = torch.bucketize(distance, _EDGES[1:-1])
    return (
        torch.zeros(len(_CENTRES), dtype=torch.float64).index_add_(0, cell, coupling.double()).abs()
    )


def _gradients(network: MLP, points: Samples) -> dict[str, Any]:
    norms = representation.norms(network, points)
    r = residual(network, points)
    small = r.norm(dim=-1) <= points.xi.norm(dim=-1)
    signal, noise = representation.batch_norms(network, Samples(*(p[:_BATCH] for p in points)))
    return {
        "signal": float(norms.signal.square().mean().sqrt()),
        "noise": float(norms.noise.square().mean().sqrt()),
        "batch_signal": signal,
        "batch_noise": noise,
        "residual": float(r.square().sum(-1).mean().sqrt()),
        "recoverable": float(points.bayes.square().sum(-1).mean().sqrt()),
        "xi": float(points.xi.square().sum(-1).mean().sqrt()),
        "small": float(small.double().mean()),
        "noise_longer": float((norms.noise > norms.signal)[small].double().sum()) / len(small),
    }
