"""The neural tangent kernel of a diffusion network, measured on a sample of points [P 2, 14-17].

Points are pairs (x, t): x (N, d) and t a scalar or (N,), a noise level as the network is given it.
With J(x, t) = d f(x, t) / d parameters, (d, P), the joint kernel is

    Theta((x, t), (x', t')) = J(x, t) J(x', t')^T    in R^(d x d)     [P 2, 14]

and the fixed-noise kernel is its restriction to t = t' [P 15]. A kernel on a sample is a tensor of
blocks, blocks[i, j] = Theta(point i, point j), of shape (N, M, d, d).
"""

from erdpaper.ntk.general import empirical
from erdpaper.ntk.lanczos import TopSpectrum, top_spectrum
from erdpaper.ntk.layerwise import diagonal, feature_norms, layerwise
from erdpaper.ntk.levels import alignment, coupling, cross_noise, drift
from erdpaper.ntk.operator import Spectrum, effective_rank, normalised, spectrum
from erdpaper.ntk.points import Points

__all__ = [
    "Points",
    "Spectrum",
    "TopSpectrum",
    "alignment",
    "coupling",
    "cross_noise",
    "diagonal",
    "drift",
    "effective_rank",
    "empirical",
    "feature_norms",
    "layerwise",
    "normalised",
    "spectrum",
    "top_spectrum",
]
