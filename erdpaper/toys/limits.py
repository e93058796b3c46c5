"""What becomes of small-step SGD as the step goes to 0 [P C.3].

Networks of width 32, float64, x0 on VP. "Held" batches stay for a fixed time while the step
shrinks, which is the paper's surrogate; "fresh" ones are drawn at every step, as SGD draws them.
Fresh samples come from a pool of points with their Bayes noise in both signs, so that its mean
given x is exactly 0 and the population flow of the pool is free of noise.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.func import functional_call, jvp, stack_module_state, vjp, vmap

from erdpaper.dynamics import flow, tangent, terms
from erdpaper.dynamics.bounds import Path
from erdpaper.dynamics.law import Law, Samples
from erdpaper.models.mlp import MLP
from erdpaper.toys.spec import LAW, SCHEDULES

WIDTH, LEVELS, POINTS = 32, (-4.0, 0.0, 4.0), 32
BATCH, POOL = 8, 1_024
_SEED = 7

State = dict[str, Tensor]


def task(target: str = "x0") -> Law:
    """A target on VP, lambda uniform on [-8, 8]."""
    return Law(LAW, SCHEDULES["VP"], target)


def network() -> MLP:
    """The network that every run starts from."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        return MLP(width=WIDTH).double()


def levels(generator: torch.Generator, target: str = "x0") -> Samples:
    """Points of the three noise levels, joined."""
    return terms.joined([task(target).at(level, POINTS, generator) for level in LEVELS])


class Held(NamedTuple):
    """Per step: the distance of the parameters from the limit, and how far the terms add up."""

    distance: list[float]
    unexplained: list[float]


def surrogate(target: str, count: int, generator: torch.Generator) -> Path:
    """A path of the surrogate: eight batches, each held for 0.1 in so many steps."""
    batches = [task(target).draw(BATCH, generator) for _ in range(8)]
    points, model = levels(generator, target), network()
    signal, step = flow.held(batches, count), 0.1 / count
    found = list(flow.sgd(model, signal, step, 8 * count, points, len(LEVELS)))
    weight = points.weight.view(len(LEVELS), -1)[:, 0]
    return Path.of(step, weight, found, terms.excess(model, points, len(LEVELS)))


def held(counts: Sequence[int], generator: torch.Generator, duration: float = 0.1) -> Held:
    """Eight batches, each held for `duration` in counts[k] steps; limit: 16 times the most."""
    batches = [task().draw(BATCH, generator) for _ in range(8)]
    points = levels(generator)
    limit = network()
    finest = 16 * max(counts)
    flow.descend(limit, flow.held(batches, finest), duration / finest, 8 * finest)
    found = Held([], [])
    for count in counts:
        model, step = network(), duration / count
        signal = flow.held(batches, count)
        run = list(flow.sgd(model, signal, step, 8 * count, points, len(LEVELS)))
        change = terms.excess(model, points, len(LEVELS)) - run[0].excess
        told = step * torch.stack([now.slope for now in run]).sum(0)
        found.distance.append(_distance(model, limit))
        found.unexplained.append(float((told - change).abs().max()))
    return found


def _distance(first: MLP, second: MLP) -> float:
    pairs = zip(first.parameters(), second.parameters(), strict=True)
    return math.sqrt(sum(float((p - q).detach().square().sum()) for p, q in pairs))


def pool(generator: torch.Generator) -> Samples:
    """1,024 points, each with its Bayes noise in both signs."""
    one = task().draw(POOL, generator)
    return Samples(*(torch.cat(parts) for parts in zip(one, one._replace(xi=-one.xi), strict=True)))


class Fresh(NamedTuple):
    """Per step, over runs: distance from the population flow, and three forcing integrals.

    The distance and the signed integral are root mean squares, the integrals of |forcing| and of
    E ||F||^2 means; integrals also average over the three noise levels.
    """

    distance: list[float]
    signed: list[float]
    absolute: list[float]
    squared: list[float]


def fresh(counts: Sequence[int], runs: int, generator: torch.Generator, time: float = 0.5) -> Fresh:
    """SGD over a fixed time in counts[k] steps with a fresh batch at each, so many runs a step."""
    samples, points = pool(generator), levels(generator)
    limit = network()
    whole = flow.clean(Samples(*(part[:POOL] for part in samples)))
    # noise sets the distances from it: ten times shorter steps would move it by under 1 % of them
    finest = max(counts)
    flow.descend(limit, lambda: whole, time / finest, finest)
    goal = torch.cat([p.detach().flatten() for p in limit.parameters()])
    found = Fresh([], [], [], [])
    for count in counts:
        state, forcing, squared = _together(samples, points, count, runs, generator, time / count)
        reached = torch.cat([p.flatten(1) for p in state.values()], -1)
        found.distance.append(_rms((reached - goal).norm(dim=-1)))
        found.signed.append(_rms(forcing.sum(0) * time / count))
        found.absolute.append(float(forcing.abs().sum(0).mean() * time / count))
        found.squared.append(float(squared.sum(0).mean() * time / count))
    return found


def _rms(values: Tensor) -> float:
    return float(values.square().mean().sqrt())


def _together(
    samples: Samples,
    points: Samples,
    steps: int,
    runs: int,
    generator: torch.Generator,
    step: float,
) -> tuple[State, Tensor, Tensor]:
    """Runs side by side: their parameters, forcing and E ||F||^2, (steps, runs, levels) each."""
    model = network()
    state, _ = stack_module_state([model] * runs)
    state = {name: p.detach() for name, p in state.items()}
    forcing, squared = [], []
    for _ in range(steps):
        chosen = torch.randint(2 * POOL, (runs, BATCH), generator=generator)
        batch = Samples(*(part[chosen] for part in samples))
        state, *now = vmap(lambda s, *b: _step(model, s, Samples(*b), points, step))(state, *batch)
        forcing.append(now[0])
        squared.append(now[1])
    return state, torch.stack(forcing), torch.stack(squared)


def _step(
    model: MLP, state: State, batch: Samples, points: Samples, step: float
) -> tuple[State, Tensor, Tensor]:
    """One step of one run: parameters after it, and the forcing terms before it."""
    f, pull, *_ = vjp(lambda now: functional_call(model, now, (batch.x, batch.t)), state)
    weight = batch.weight[:, None] / len(batch.x)
    (g_r,), (g_xi,) = pull(weight * (f - batch.bayes)), pull(weight * batch.xi)
    f, F, *_ = jvp(lambda now: functional_call(model, now, (points.x, points.t)), (state,), (g_xi,))
    term = (points.weight * ((f - points.bayes) * F).sum(-1)).view(len(LEVELS), -1).mean(-1)
    norm = F.square().sum(-1).view(len(LEVELS), -1).mean(-1)
    after = {name: p - step * (g_r[name] + g_xi[name]) for name, p in state.items()}
    return after, term, norm


def noise_shares(
    sizes: Sequence[int], draws: int, generator: torch.Generator
) -> tuple[list[float], list[float]]:
    """Root mean squares, over draws of N samples, of what Bayes noise adds to means over them.

    To the kernel average E[Theta xi] of [P 18] at the points of three noise levels, and to the
    gradient E[J^T xi]; for every N.
    """
    model, points = network(), levels(generator)
    average = torch.zeros(draws, len(sizes))
    gradient = torch.zeros(draws, len(sizes))
    for draw in range(draws):
        total, done = torch.zeros(sum(p.numel() for p in model.parameters())).double(), 0
        for k, size in enumerate(sizes):
            more = task().draw(size - done, generator)
            total += tangent.pull(model, more.x, more.t, more.weight[:, None] * more.xi)[0]
            done = size
            gradient[draw, k] = (total / size).norm()
            average[draw, k] = tangent.push(model, points.x, points.t, total / size).norm()
    return [_rms(part) for part in average.T], [_rms(part) for part in gradient.T]
