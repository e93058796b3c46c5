"""How variation is spread over directions and over frequencies [T 3].

Samples x (N, ...) are flattened to rows (N, D); sums are kept in float64, whatever their dtype.
With l_1 >= l_2 >= ... the eigenvalues of their covariance (divisor N - 1) [T 3.3],

    R_k = (l_1 + ... + l_k) / (l_1 + l_2 + ...),        k_share = the smallest k with R_k >= share.

Images (N, C, H, H) have the power ``|F|^2 / H^2`` at each frequency of their Fourier transform F,
so that white noise of variance s^2 has the power s^2 everywhere, and x_t has alpha^2 S + sigma^2
where x_0 has S.
"""

from erdpaper.spectral.frequencies import Radial, radial_power, slope
from erdpaper.spectral.intrinsic import two_neighbour_dimension
from erdpaper.spectral.principal import Principal, principal
from erdpaper.spectral.spectrum import (
    components_for,
    count,
    entropy_rank,
    explained,
    participation_ratio,
    spectrum,
    variance_ratio,
)

__all__ = [
    "Principal",
    "Radial",
    "components_for",
    "count",
    "entropy_rank",
    "explained",
    "participation_ratio",
    "principal",
    "radial_power",
    "slope",
    "spectrum",
    "two_neighbour_dimension",
    "variance_ratio",
]
