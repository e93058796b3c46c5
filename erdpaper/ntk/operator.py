"""The fixed-noise kernel as an integral operator, on a sample of its noise level [P 89, F.4].

(K phi)(x) = E_{x' ~ q} Theta(x, x') phi(x') in L2(q; R^d). On points x_1, ..., x_N of q it is the
(N d) x (N d) matrix of blocks divided by N, and its eigenfunctions are sqrt(N) times the matrix's
eigenvectors.
"""

from typing import NamedTuple

import torch
from torch import Tensor

# in units of the kernel's rounding error: what passes for one
_ROUNDING = 1e3


class Spectrum(NamedTuple):
    """Eigenvalues kappa (J,), descending, and eigenfunctions phi (J, N, d), float64, J = N d.

    mean_i <phi_j(x_i), phi_k(x_i)> = delta_jk, and mean_i' Theta(x_i, x_i') phi_j(x_i') =
    kappa_j phi_j(x_i) [P 89]. The sign of an eigenfunction is arbitrary.
    """

    values: Tensor
    functions: Tensor


def spectrum(blocks: Tensor) -> Spectrum:
    """The eigensystem of a kernel on one sample, blocks (N, N, d, d) [P 89, Thm 3.8].

    Computed in float64; negative eigenvalues that are rounding error become 0. ValueError if the
    blocks do not form a symmetric, positive semidefinite matrix up to the rounding of their dtype.
    """
    n, d = _square(blocks)
    tolerance = _ROUNDING * torch.finfo(blocks.dtype).eps
    matrix = blocks.double().permute(0, 2, 1, 3).reshape(n * d, n * d) / n
    size = float(matrix.abs().max())
    if not float((matrix - matrix.T).abs().max()) <= tolerance * size:
        raise ValueError("a kernel on one sample must be finite and symmetric, and this one is not")
    values, vectors = torch.linalg.eigh((matrix + matrix.T) / 2)
    if bool(values[0] < -tolerance * values[-1].abs()):
        raise ValueError(
            "a kernel must be positive semidefinite, and this one has the eigenvalue "
            f"{float(values[0]):.3g} beside {float(values[-1]):.3g}"
        )
    functions = n**0.5 * vectors.T.flip(0).reshape(n * d, n, d)
    return Spectrum(values.flip(0).clamp(min=0), functions)


def effective_rank(values: Tensor) -> float:
    """exp of the Shannon entropy of eigenvalues (J,) divided by their sum [P F.4].

    Between 1 and J, and J if all are equal; ValueError if one is negative or all are 0.
    """
    if values.ndim != 1 or not bool((values >= 0).all()):
        raise ValueError("eigenvalues must be one row of numbers that are at least 0")
    total = values.double().sum()
    if not 0 < float(total) < float("inf"):
        raise ValueError("the sum of the eigenvalues must be positive and finite")
    shares = values.double() / total
    return float(torch.special.entr(shares).sum().exp())


def normalised(blocks: Tensor) -> Tensor:
    """Cosines between points, tr Theta_ij / sqrt(tr Theta_ii tr Theta_jj), (N, N) [P Fig 12].

    The cosine of the angle between two points' Jacobians, so within [-1, 1]. ValueError if the
    blocks are not (N, N, d, d) or a point's own trace is not positive.
    """
    _square(blocks)
    traces = blocks.diagonal(dim1=2, dim2=3).sum(-1)
    own = traces.diagonal()
    if not bool((own > 0).all()):
        raise ValueError("the kernel of a point with itself must have a positive trace")
    return traces / (own[:, None] * own).sqrt()


def _square(blocks: Tensor) -> tuple[int, int]:
    """N and d of blocks (N, N, d, d)."""
    if blocks.ndim != 4 or 0 in blocks.shape or not blocks.is_floating_point():
        raise ValueError(f"a kernel has floating blocks (N, N, d, d), not {tuple(blocks.shape)}")
    n, m, d, e = blocks.shape
    if (n, d) != (m, e):
        raise ValueError(f"a kernel on one sample has blocks (N, N, d, d), not {(n, m, d, e)}")
    return n, d
