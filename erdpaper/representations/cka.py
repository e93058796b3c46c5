"""Centred kernel alignment: how alike two sets of features of the same N points are.

With centred features X (N, F1) and Y (N, F2) and their Gram matrices K and L, linear CKA is the
cosine between the two (Kornblith et al. 2019),

    CKA = HSIC(X, Y) / sqrt(HSIC(X, X) HSIC(Y, Y)),    HSIC = tr K L = ||X^T Y||_F^2,

up to a factor of HSIC that cancels. Its HSIC is biased: the N diagonal terms k_i l_i are positive
whatever X and Y have in common, and for F >> N they are nearly all there is, so that unrelated
features reach a CKA near 1. The estimate of Song et al. (2012) leaves them out and is unbiased; of
centred features it is, over N (N - 3),

    ||X^T Y||_F^2 - N / (N - 2) sum_i k_i l_i + tr K tr L / ((N - 1) (N - 2)),    k_i = ||x_i||^2.

It too is an inner product (of U-centred Gram matrices), so the debiased CKA lies in [-1, 1]; it is
near 0 for unrelated features, and tends to the same limit as N grows.
"""

import math

from torch import Tensor

from erdpaper.representations.rows import centred

# relative to (tr K)^2, which no term of an HSIC exceeds: what passes for 0
_ROUNDING = 1e-12


def cka(first: Tensor, second: Tensor, debiased: bool = True) -> float:
    """Linear CKA of features (N, F1) and (N, F2) of the same points.

    Debiased by default, because N is rarely large against F, and the biased one then tells of N and
    F more than of the features (see above); `debiased=False` is Kornblith's, in [0, 1]. Both are 1
    for features that differ by an orthogonal map, a shift and a factor. ValueError unless both have
    the same N, at least 4 (2 where biased), or if one has no structure to compare: all rows equal,
    or, debiased, all equally far from each other.
    """
    least = 4 if debiased else 2
    x, y = centred(first, least), centred(second, least)
    if len(x) != len(y):
        raise ValueError(f"features must be of the same points, got {len(x)} and {len(y)}")
    norms = [_norm(z, debiased) for z in (x, y)]
    return float(_hsic(x, y, debiased)) / math.prod(norms)


def _norm(x: Tensor, debiased: bool) -> float:
    """sqrt(HSIC(X, X))."""
    found = float(_hsic(x, x, debiased))
    if not found > _ROUNDING * float(x.square().sum()) ** 2:
        raise ValueError("features equally far from each other have no structure to compare")
    return math.sqrt(found)


def _hsic(x: Tensor, y: Tensor, debiased: bool) -> Tensor:
    """HSIC of centred features up to the factor that cancels."""
    overlap = _overlap(x, y)
    if not debiased:
        return overlap
    n = len(x)
    k, m = x.square().sum(1), y.square().sum(1)  # (N,)
    return overlap - n / (n - 2) * (k @ m) + k.sum() * m.sum() / ((n - 1) * (n - 2))


def _overlap(x: Tensor, y: Tensor) -> Tensor:
    """||X^T Y||_F^2 = tr K L, through whichever of X^T Y and the two Gram matrices costs less."""
    n, (f, g) = len(x), (x.shape[1], y.shape[1])
    if n * (f + g) < f * g:
        return ((x @ x.T) * (y @ y.T)).sum()
    return (x.T @ y).square().sum()
