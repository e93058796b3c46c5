"""How far training moves the kernel: the paper's network step by step, and over width [P 53]."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from erdpaper import ntk
from erdpaper.dynamics import tangent
from erdpaper.dynamics.terms import residual
from erdpaper.models.mlp import MLP
from erdpaper.toys import kernels
from erdpaper.toys.modes import law_of, stream
from erdpaper.toys.spec import Toy
from erdpaper.training import train


def drifting(
    toy: Toy, steps: Sequence[int], times: Sequence[float], points: int = 64
) -> tuple[MLP, Tensor]:
    """Train a toy on the spot; its network, and the kernel's drift after these steps, (S, T)."""
    network = toy.network()
    before = [kernels.kernel(network, toy.schedule, t, points) for t in times]

    def drifts() -> list[float]:
        after = (kernels.kernel(network, toy.schedule, t, points) for t in times)
        return [ntk.drift(*pair) for pair in zip(before, after, strict=True)]

    rows = {0: drifts()}
    records = train(network, toy.draw(), toy.steps, toy.lr, toy.decay)
    for record in tqdm(records, desc=toy.key, total=toy.steps, mininterval=1, leave=False):
        if record.step in steps:
            rows[record.step] = drifts()
    return network, torch.tensor([rows[step] for step in steps], dtype=torch.float64)


class Moved(NamedTuple):
    """How far the kernel and the parameters went, relatively, and the loss over its start."""

    kernel: float
    parameters: float
    loss: float


def drift_of_width(
    width: int, seed: int, points: int = 96, time: float = 2.0, step: float = 0.1
) -> Moved:
    """Gradient descent of a network in NTK parameterisation on E[y | x_t] for eps on VP.

    Full batch of points at all noise levels, for a fixed time, float32; all points judge.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = MLP(width=width, parameterisation="ntk").requires_grad_(False)
    data = law_of("eps").draw(points, stream(seed, 10)).to(network.readout.weight)
    before, start = ntk.layerwise(network, data[:2]), _flat(network)
    first = residual(network, data).norm()
    for _ in range(round(time / step)):
        f, back = tangent.pullback(network, data.x, data.t)
        tangent.move(network, back((f - data.bayes) / points), -step)
    return Moved(
        ntk.drift(before, ntk.layerwise(network, data[:2])),
        float((_flat(network) - start).norm() / start.norm()),
        float(residual(network, data).norm() / first) ** 2,
    )


def _flat(network: MLP) -> Tensor:
    return torch.cat([p.flatten() for p in network.parameters()])
