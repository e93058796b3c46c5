"""Evidence lower bounds of linear-Gaussian hierarchies, exact, in the thesis's forms [T 2.1, A].

A hierarchy has T levels of latent variables x_1..x_T above the data x_0. The generative chain runs
down, p(x_T) prod_t p(x_{t-1} | x_t) [T 2.9, 2.14], the encoder up, prod_t q(x_t | x_{t-1})
[T 2.10, 2.12]. T = 1 is a variational autoencoder. With every conditional linear and Gaussian,
evidence and bounds are closed forms, and for one x_0 every term of a bound is a `Quadratic` in
x_1..x_T, whose mean is the term and whose variance is that of its Monte Carlo estimate.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from erdpaper.background.gaussians import (
    NOWHERE,
    Block,
    Conditional,
    Law,
    Quadratic,
    chain_law,
    log_normal,
    log_normal_of,
    total,
)


@dataclass(frozen=True)
class Hierarchy:
    """up[t - 1] is q(x_t | x_{t-1}), down[t - 1] is p(x_{t-1} | x_t), prior is p(x_T)."""

    up: tuple[Conditional, ...]
    down: tuple[Conditional, ...]
    prior: Law

    def __post_init__(self) -> None:
        if not self.up or len(self.up) != len(self.down):
            raise ValueError("a hierarchy needs as many steps up as down, at least one")

    def evidence(self, x0: Tensor) -> Tensor:
        """log p(x_0) of one observation (d,), in nats [T 2.1]."""
        top = Conditional(self.prior.covariance[:, :0], self.prior.mean, self.prior.covariance)
        law = chain_law([top, *reversed(self.down)])
        return law.marginal(torch.arange(len(law.mean))[-len(x0) :]).log_density(x0)

    def at(self, x0: Tensor) -> "Bound":
        """The bound of one observation (d,)."""
        return Bound(self, x0)


@dataclass(frozen=True)
class Bound:
    """The bound of one x_0. Terms come in the order of t; their means add up to what they bound."""

    hierarchy: Hierarchy
    x0: Tensor

    @cached_property
    def law(self) -> Law:
        """q(x_1..x_T | x_0)."""
        first, *rest = self.hierarchy.up
        return chain_law([first.given(self.x0), *rest])

    @cached_property
    def blocks(self) -> list[Block]:
        """The positions of x_1..x_T; nowhere for x_0, which is fixed."""
        sizes = [len(step.offset) for step in self.hierarchy.up]
        positions = torch.arange(sum(sizes))
        return [NOWHERE, *positions.split(sizes)]

    @property
    def levels(self) -> int:
        """T."""
        return len(self.hierarchy.up)

    def log_up(self, t: int) -> Quadratic:
        """log q(x_t | x_{t-1})."""
        step = self.hierarchy.up[t - 1]
        step = step.given(self.x0) if t == 1 else step
        return log_normal(step, self.blocks[t], self.blocks[t - 1])

    def log_down(self, t: int) -> Quadratic:
        """log p(x_{t-1} | x_t)."""
        step = self.hierarchy.down[t - 1]
        if t == 1:
            return log_normal_of(step, self.x0, self.blocks[1])
        return log_normal(step, self.blocks[t - 1], self.blocks[t])

    def log_prior(self) -> Quadratic:
        """log p(x_T)."""
        prior = self.hierarchy.prior
        top = Conditional(prior.covariance[:, :0], prior.mean, prior.covariance)
        return log_normal(top, self.blocks[-1], NOWHERE)

    def log_ratio(self) -> list[Quadratic]:
        """log p(x_T), then log p(x_{t-1} | x_t) / q(x_t | x_{t-1}) for t = 1..T [T 2.11]."""
        steps = [self.together(self.log_down(t), self.log_up(t)) for t in range(1, self.levels + 1)]
        return [self.log_prior(), *steps]

    def one_variable(self) -> list[Quadratic]:
        """Reconstruction, minus prior matching, minus the denoising terms for t = 2..T [T 2.16]."""
        top = self.blocks[-1]
        given = self.law.conditional(top, NOWHERE)
        prior = self.together(self.log_prior(), log_normal(given, top, NOWHERE))
        terms = [self.log_down(1), prior.averaged(top, NOWHERE, given)]
        for t in range(2, self.levels + 1):
            below, here = self.blocks[t - 1], self.blocks[t]
            true = self.law.conditional(below, here)
            difference = self.together(self.log_down(t), log_normal(true, below, here))
            terms.append(difference.averaged(below, here, true))
        return terms

    def two_variable(self, average: str = "printed") -> list[Quadratic]:
        """Reconstruction, minus prior matching, minus the consistency terms for t = 1..T-1 [A.3.1].

        average: over which law of x_t the term -log p(x_t | x_{t+1}) / q(x_t | x_{t-1}) is taken:
        "printed": q(x_t | x_{t-1}); "neighbours": q(x_t | x_{t-1}, x_{t+1}), which is exact;
        "divergence": that law in the place of q in the ratio as well.
        """
        if average not in ("printed", "neighbours", "divergence"):
            raise ValueError(f"average must be printed, neighbours or divergence, not {average!r}")
        T, blocks = self.levels, self.blocks
        last = self.law.conditional(blocks[T], blocks[T - 1])
        prior = self.together(self.log_prior(), self.log_up(T))
        terms = [self.log_down(1), prior.averaged(blocks[T], blocks[T - 1], last)]
        for t in range(1, T):
            sides = torch.cat([blocks[t - 1], blocks[t + 1]])
            between = self.law.conditional(blocks[t], sides)
            forward = self.law.conditional(blocks[t], blocks[t - 1])
            inside = self.log_up(t)
            if average == "divergence":
                inside = log_normal(between, blocks[t], sides)
            difference = self.together(self.log_down(t + 1), inside)
            over = (forward, blocks[t - 1]) if average == "printed" else (between, sides)
            terms.append(difference.averaged(blocks[t], over[1], over[0]))
        return terms

    def three_variable(self) -> list[Quadratic]:
        """The terms of `two_variable` before x_t is averaged out [T A.3, last but one line]."""
        prior = self.together(self.log_prior(), self.log_up(self.levels))
        steps = [self.together(self.log_down(t + 1), self.log_up(t)) for t in range(1, self.levels)]
        return [self.log_down(1), prior, *steps]

    def together(self, plus: Quadratic, minus: Quadratic) -> Quadratic:
        """plus - minus, as a function of all the positions that either names."""
        at = torch.cat([plus.at, minus.at]).unique()
        place = {position: row for row, position in enumerate(at.tolist())}
        negative = Quadratic(minus.at, -minus.matrix, -minus.vector, -minus.constant)
        local = [
            Quadratic(
                torch.tensor([place[p] for p in part.at.tolist()], dtype=torch.int64),
                part.matrix,
                part.vector,
                part.constant,
            )
            for part in (plus, negative)
        ]
        summed = total(local, len(at))
        return Quadratic(at, summed.matrix, summed.vector, summed.constant)

    def value(self, terms: list[Quadratic]) -> Tensor:
        """The sum of the terms' means: the bound, in nats."""
        return torch.stack([term.mean(self.law) for term in terms]).sum()

    def shared_variance(self, terms: list[Quadratic]) -> Tensor:
        """The variance of the sum of the terms along one trajectory."""
        return total(terms, len(self.law.mean)).variance(self.law)

    def separate_variance(self, terms: list[Quadratic]) -> Tensor:
        """The variance of the sum where every term has a trajectory of its own."""
        return torch.stack([term.variance(self.law) for term in terms]).sum()

    def divergence(self) -> Tensor:
        """KL(q(x_1..x_T | x_0) || p(x_1..x_T | x_0)), evidence less bound [T 2.5, A.1.2]."""
        prior = self.hierarchy.prior
        top = Conditional(prior.covariance[:, :0], prior.mean, prior.covariance)
        down = chain_law([top, *reversed(self.hierarchy.down)])
        # the positions of x_1..x_T in this order, from a chain that starts at x_T
        sizes = [len(step.offset) for step in self.hierarchy.up]
        pieces = torch.arange(sum(sizes)).split(sizes[::-1])
        latent, seen = torch.cat(pieces[::-1]), torch.arange(sum(sizes), len(down.mean))
        posterior = down.conditional(latent, seen).given(self.x0)
        return kl(self.law, Law(posterior.offset, posterior.covariance))


def kl(p: Law, q: Law) -> Tensor:
    """KL(p || q) of two Gaussians in nats [T A.4.2]."""
    inverse, gap = torch.linalg.inv(q.covariance), q.mean - p.mean
    logs = torch.logdet(q.covariance) - torch.logdet(p.covariance)
    trace: Tensor = (inverse * p.covariance).sum()
    distance: Tensor = gap @ inverse @ gap
    return torch.add(trace - len(gap) + logs, distance) / 2
