"""Exact expectations over a Gaussian vector z that is cut into blocks.

The terms of an evidence lower bound of a linear-Gaussian model are quadratic functions

    h(z) = z' A z + b' z + c

of the latent variables, because log N(y; F x + m, S) is one. `Quadratic` adds them, averages out a
block given others, and has exact mean and variance under a Gaussian `Law`. All is float64.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

Block = Tensor  # positions (n,) in z, int64
NOWHERE = torch.arange(0)


@dataclass(frozen=True)
class Conditional:
    """y | x ~ N(slope x + offset, covariance): slope (m, n), offset (m,), covariance (m, m)."""

    slope: Tensor
    offset: Tensor
    covariance: Tensor

    def __post_init__(self) -> None:
        m = len(self.offset)
        if self.slope.ndim != 2 or len(self.slope) != m or self.covariance.shape != (m, m):
            raise ValueError("a conditional needs slope (m, n), offset (m,) and covariance (m, m)")

    @classmethod
    def isotropic(cls, slope: float, variance: float, dim: int) -> "Conditional":
        """N(slope x, variance I) in `dim` dimensions."""
        eye = torch.eye(dim, dtype=torch.float64)
        return cls(slope * eye, eye.new_zeros(dim), variance * eye)

    def given(self, x: Tensor) -> "Conditional":
        """The law of y at one x (n,), as a conditional without a condition."""
        return Conditional(self.slope[:, :0], self.slope @ x + self.offset, self.covariance)


@dataclass(frozen=True)
class Law:
    """z ~ N(mean, covariance), mean (D,), covariance (D, D)."""

    mean: Tensor
    covariance: Tensor

    def marginal(self, at: Block) -> "Law":
        """The law of some positions."""
        return Law(self.mean[at], self.covariance[at][:, at])

    def conditional(self, y: Block, x: Block) -> Conditional:
        """The law of the positions y given those of x, by Gaussian conditioning."""
        of_x, cross = self.covariance[x][:, x], self.covariance[y][:, x]
        slope = torch.linalg.solve(of_x, cross.T).T if len(x) else cross
        offset = self.mean[y] - slope @ self.mean[x]
        return Conditional(slope, offset, self.covariance[y][:, y] - slope @ cross.T)

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """n draws, (n, D)."""
        noise = torch.randn(n, len(self.mean), generator=generator, dtype=torch.float64)
        root: Tensor = torch.linalg.cholesky(self.covariance)
        return torch.add(self.mean, noise @ root.T)

    def log_density(self, z: Tensor) -> Tensor:
        """log N(z; mean, covariance) of one point (D,), a scalar."""
        nothing = Conditional(self.covariance[:, :0], self.mean, self.covariance)
        return log_normal(nothing, torch.arange(len(z)), NOWHERE).at_point(z)


def chain_law(steps: Iterable[Conditional]) -> Law:
    """The joint law of a Markov chain, the first of whose conditionals has no condition."""
    first, *rest = steps
    mean, covariance = first.offset, first.covariance
    last = len(mean)
    for step in rest:
        before, size = len(mean), len(step.offset)
        cross = covariance[:, before - last :] @ step.slope.T
        own = step.slope @ cross[before - last :] + step.covariance
        mean = torch.cat([mean, step.slope @ mean[before - last :] + step.offset])
        covariance = torch.cat([torch.cat([covariance, cross], 1), torch.cat([cross.T, own], 1)])
        last = size
    return Law(mean, covariance)


@dataclass(frozen=True)
class Quadratic:
    """h(z) = u' matrix u + vector' u + constant of the positions u = z[at]; matrix symmetric."""

    at: Block
    matrix: Tensor
    vector: Tensor
    constant: Tensor

    def at_point(self, z: Tensor) -> Tensor:
        """h at points z (..., D), shape (...)."""
        u = z[..., self.at]
        squares: Tensor = ((u @ self.matrix) * u).sum(-1)
        return squares + u @ self.vector + self.constant

    def mean(self, law: Law) -> Tensor:
        """E h(z)."""
        part = law.marginal(self.at)
        return (self.matrix * part.covariance).sum() + self.at_point(law.mean)

    def variance(self, law: Law) -> Tensor:
        """Var h(z) = 2 tr (A C)^2 + g' C g, g the gradient of h at the mean."""
        part = law.marginal(self.at)
        gradient = 2 * self.matrix @ part.mean + self.vector
        spread = self.matrix @ part.covariance
        return 2 * (spread * spread.T).sum() + gradient @ part.covariance @ gradient

    def averaged(self, y: Block, x: Block, conditional: Conditional) -> "Quadratic":
        """E[h | all but y] where y given the positions x has this law: a function of the rest."""
        kept = torch.tensor(
            sorted(({*self.at.tolist()} | {*x.tolist()}) - {*y.tolist()}), dtype=torch.int64
        )
        place = {position: row for row, position in enumerate(kept.tolist())}
        # u = lift (rest) + shift + noise, the noise in the rows of y only
        lift = self.matrix.new_zeros(len(self.at), len(kept))
        shift, noise = self.matrix.new_zeros(len(self.at)), torch.zeros_like(self.matrix)
        rows_of_y = {position: row for row, position in enumerate(y.tolist())}
        columns = [place[position] for position in x.tolist()]
        for row, position in enumerate(self.at.tolist()):
            if position in place:
                lift[row, place[position]] = 1
                continue
            lift[row, columns] = conditional.slope[rows_of_y[position]]
            shift[row] = conditional.offset[rows_of_y[position]]
        inside = [k for k, position in enumerate(self.at.tolist()) if position in rows_of_y]
        order = [rows_of_y[int(self.at[k])] for k in inside]
        noise[torch.tensor(inside)[:, None], inside] = conditional.covariance[order][:, order]
        matrix = lift.T @ self.matrix @ lift
        vector = lift.T @ (2 * self.matrix @ shift + self.vector)
        constant = self.constant + shift @ self.matrix @ shift + self.vector @ shift
        return Quadratic(kept, matrix, vector, constant + (self.matrix * noise).sum())


def log_normal(conditional: Conditional, y: Block, x: Block) -> Quadratic:
    """log N(z[y]; slope z[x] + offset, covariance) as a function of z."""
    m = len(conditional.offset)
    eye = torch.eye(m, dtype=torch.float64)
    residual = torch.cat([eye, -conditional.slope], 1)  # y - slope x
    precision = torch.linalg.inv(conditional.covariance)
    weighted = residual.T @ precision
    constant = conditional.offset @ precision @ conditional.offset
    constant = constant + torch.logdet(conditional.covariance) + m * math.log(2 * math.pi)
    return Quadratic(
        torch.cat([y, x]),
        -0.5 * weighted @ residual,
        weighted @ conditional.offset,
        -0.5 * constant,
    )


def log_normal_of(conditional: Conditional, value: Tensor, x: Block) -> Quadratic:
    """log N(value; slope z[x] + offset, covariance) of a fixed value (m,)."""
    residual, precision = value - conditional.offset, torch.linalg.inv(conditional.covariance)
    pulled = conditional.slope.T @ precision
    constant = residual @ precision @ residual + torch.logdet(conditional.covariance)
    constant = constant + len(value) * math.log(2 * math.pi)
    return Quadratic(x, -0.5 * pulled @ conditional.slope, pulled @ residual, -0.5 * constant)


def total(parts: Iterable[Quadratic], size: int) -> Quadratic:
    """The sum of functions of z (size,), as one function of all of z."""
    matrix = torch.zeros(size, size, dtype=torch.float64)
    vector, constant = matrix.new_zeros(size), matrix.new_zeros(())
    for part in parts:
        matrix[part.at[:, None], part.at] += part.matrix
        vector[part.at] += part.vector
        constant = constant + part.constant
    return Quadratic(torch.arange(size), matrix, vector, constant)
