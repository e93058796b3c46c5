"""Distances between two sets of samples, and how well samples cover what they should.

Of points (N, d) themselves: `sliced_wasserstein`, `energy_distance` and `modes`. Of images by their
features (N, d) in a classifier: `frechet_distance` between `Moments`, `kernel_distance`,
`precision_recall` and `nearest_distances`; of its logits (N, K): `class_agreement` and
`class_balance`. All sums are kept in float64, whatever the dtype of the samples.
"""

from erdpaper.metrics.classes import (
    ClassAgreement,
    ClassBalance,
    class_agreement,
    class_balance,
    share,
)
from erdpaper.metrics.frechet import frechet_distance, frechet_of
from erdpaper.metrics.kernel import KernelSpread, kernel_distance, kernel_distance_spread
from erdpaper.metrics.manifold import PrecisionRecall, nearest_distances, precision_recall
from erdpaper.metrics.moments import Moments
from erdpaper.metrics.samples import ModeReport, energy_distance, modes, sliced_wasserstein

__all__ = [
    "ClassAgreement",
    "ClassBalance",
    "KernelSpread",
    "ModeReport",
    "Moments",
    "PrecisionRecall",
    "class_agreement",
    "class_balance",
    "energy_distance",
    "frechet_distance",
    "frechet_of",
    "kernel_distance",
    "kernel_distance_spread",
    "modes",
    "nearest_distances",
    "precision_recall",
    "share",
    "sliced_wasserstein",
]
