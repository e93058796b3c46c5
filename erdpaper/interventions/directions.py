"""Steering vectors from the principal directions of two classes [T 3.4.4].

A (k_A, D) holds orthonormal principal directions a_i of a source class, lam (k_A,) the variances
along them, B (k_B, D) orthonormal principal directions of a target class. With p_i = B^T B a_i, the
projection of a_i on the span of B, the thesis makes Delta (D,) in three ways:

    weighted_sum   std raw / ||raw||, raw = sum_i ||p_i|| p_i, std^2 = sum_i ||p_i||^2 lam_i (1)
    dominant       v_1, or s_1 v_1, of the SVD p = U S V^T                                   (2)
    disentangled   sum_{j <= m} w_j v_j, w_j = s_j / ||(s_1 .. s_m)||, of the same SVD       (3)

and (3) also with the residuals a_i - p_i in place of the p_i.

The factor k that the thesis puts before (1) and (2) is left to the caller; that the weights of (3)
have a sum of squares of 1 is this module's reading of "normalised", so that (3) with m = 1 is (2).

A principal direction has no sign: -a_i is as good as a_i. (1) depends on the k_A signs of its
terms, (2) on one and (3) on m, and none of the formulas fixes them. Each function therefore asks
for an `Orientation`: `given` signs, or `towards` a reference such as mean_B - mean_A. What the
signs are given to is named there; directions of an SVD are first turned so that their largest
coordinate is positive, and do not depend on the signs of the rows of A.
"""

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor

# from directions (k, D) to their signs (k,)
Orientation = Callable[[Tensor], Tensor]
Part = Literal["shared", "residual"]


def given(signs: Sequence[float] | Tensor) -> Orientation:
    """The signs themselves, +1 or -1, one for each direction."""
    wanted = torch.as_tensor(signs, dtype=torch.float64)
    if wanted.ndim != 1 or not bool((wanted.abs() == 1).all()):
        raise ValueError("signs must be a sequence of +1 and -1")

    def orientation(directions: Tensor) -> Tensor:
        if len(directions) != len(wanted):
            raise ValueError(f"{len(directions)} directions need as many signs, not {len(wanted)}")
        return wanted.to(directions)

    return orientation


def towards(reference: Tensor) -> Orientation:
    """The signs that give every direction a scalar product >= 0 with the reference (D,)."""
    if not bool(reference.isfinite().all()):
        raise ValueError("the reference must be of finite numbers")

    def orientation(directions: Tensor) -> Tensor:
        if reference.shape != directions.shape[1:]:
            found = f"{tuple(reference.shape)} for {directions.shape[1]} coordinates"
            raise ValueError(f"the reference must have the shape (D,) of a direction, got {found}")
        product = directions @ reference.to(directions)
        return torch.where(product < 0, -1.0, 1.0).to(directions)

    return orientation


def projections(source: Tensor, target: Tensor) -> Tensor:
    """p_i = B^T B a_i (k_A, D), float64, of the rows of A = source on the span of B = target."""
    source, target = _checked("source", source), _checked("target", target)
    if source.shape[1] != target.shape[1]:
        found = f"{source.shape[1]} and {target.shape[1]}"
        raise ValueError(f"both classes must have directions of one dimension, got {found}")
    return torch.matmul(source @ target.T, target)


def weighted_sum(
    source: Tensor, variances: Tensor, target: Tensor, orientation: Orientation
) -> Tensor:
    """(1): std raw / ||raw|| (D,), in the unit of the data; the signs are those of the p_i."""
    found = projections(source, target)
    if variances.shape != source.shape[:1] or not bool((variances >= 0).all()):
        raise ValueError(f"variances must be {len(source)} numbers of at least 0, one a direction")
    weights = found.norm(dim=1)  # (k_A,)
    raw = (weights * orientation(found)) @ found  # (D,)
    std = torch.sqrt(weights.square() @ variances.double())
    return torch.mul(std, _unit(raw)).to(source.dtype)


def dominant(
    source: Tensor, target: Tensor, orientation: Orientation, *, by_strength: bool = False
) -> Tensor:
    """(2): v_1 (D,), of length 1, or of length s_1 <= 1 if `by_strength`; its one sign is asked."""
    strengths, directions = _svd(projections(source, target))
    sign = orientation(directions[:1])[0]
    scale = strengths[0] * sign if by_strength else sign
    return (scale * directions[0]).to(source.dtype)


def disentangled(
    source: Tensor, target: Tensor, m: int, orientation: Orientation, part: Part = "shared"
) -> Tensor:
    """(3): the first m directions of a part, weighted by strength; length 1, (D,).

    The "shared" parts are the p_i, the "residual" ones a_i - p_i, which are orthogonal to B. The
    signs are those of v_1 .. v_m.
    """
    if part not in ("shared", "residual"):
        raise ValueError(f"part must be shared or residual, not {part!r}")
    if not 1 <= m <= len(source):
        raise ValueError(f"m must lie in 1..{len(source)}, the directions of the source, got {m}")
    shared = projections(source, target)
    strengths, directions = _svd(shared if part == "shared" else source.double() - shared)
    weights = strengths[:m] / strengths[:m].norm()
    signed = weights * orientation(directions[:m])
    return torch.matmul(signed, directions[:m]).to(source.dtype)


def _checked(name: str, directions: Tensor) -> Tensor:
    """The rows in float64 if they are orthonormal."""
    if directions.ndim != 2 or not directions.is_floating_point():
        raise ValueError(f"{name} directions must be rows (k, D), got {tuple(directions.shape)}")
    rows = directions.double()
    error = (rows @ rows.T - torch.eye(len(rows)).to(rows)).abs()
    if not len(rows) or not bool(error.max() < 1e-4):
        raise ValueError(f"{name} directions must be one or more orthonormal rows")
    return rows


def _svd(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Singular values and right singular vectors in rows, their largest coordinate positive."""
    _, strengths, directions = torch.linalg.svd(rows, full_matrices=False)
    _check_nonzero(strengths[0])
    largest = directions.gather(1, directions.abs().argmax(1, keepdim=True))
    return strengths, directions * largest.sign()


def _unit(vector: Tensor) -> Tensor:
    _check_nonzero(vector.norm())
    return torch.div(vector, vector.norm())


def _check_nonzero(length: Tensor) -> None:
    # the rows have length 1: what is left below this is rounding of single precision
    if not bool(length > 1e-5):
        raise ValueError("nothing is left of the source's directions: the vector would be rounding")
