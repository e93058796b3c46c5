"""The phase portrait of the toy: its density and E[y | x_t] at any noise level [P F.1].

Everything is a closed form that the script evaluates, so its data are the law and the schedules.
"""

from typing import Any

from erdpaper.posterior import GaussianMixture
from erdpaper.schedules import VP


def data() -> dict[str, Any]:
    """The law, the betas of VP, and the targets and schedules to choose from."""
    return {"law": law(), "betas": betas()}


def law() -> dict[str, Any]:
    """The toy as plain numbers: means (4, 2), the std that all share, equal weights."""
    toy = GaussianMixture.square()
    (std,) = set(toy.stds.tolist())
    return {"means": toy.means.tolist(), "std": std}


def betas() -> list[float]:
    """beta_min and beta_max of VP, from which the script finds t at a log-SNR."""
    path = VP()
    return [path.beta_min, path.beta_max]
