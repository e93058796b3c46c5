"""How many directions a sample fills around each of its points, which a linear count cannot see."""

import torch
from torch import Tensor

from erdpaper.spectral.gram import rows


def two_neighbour_dimension(x: Tensor) -> float:
    """Intrinsic dimension of samples x (N, ...), from distances r_1 <= r_2 to two neighbours.

    (N - 1) / sum log(r_2 / r_1), without bias where density and curvature change little over r_2
    (Facco et al. 2017: r_2 / r_1 is then Pareto with the dimension as exponent). ValueError for
    fewer than 3 samples, or for two that coincide.
    """
    # here, because scikit-learn is slow to import
    from sklearn.neighbors import NearestNeighbors

    points = rows(x)
    if len(points) < 3:
        raise ValueError(
            f"a dimension by two neighbours needs 3 or more samples, got {len(points)}"
        )
    found, _ = NearestNeighbors(n_neighbors=2).fit(points.cpu().numpy()).kneighbors()
    near = torch.from_numpy(found)
    if bool((near[:, 0] == 0).any()):
        raise ValueError("two samples coincide, so a ratio of distances has no value")
    return (len(points) - 1) / float((near[:, 1] / near[:, 0]).log().sum())
