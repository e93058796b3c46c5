"""When a sample takes its class, and when it takes a training image: speciation and collapse.

Three regimes of the reverse process [T 3.1; Biroli, Bonnaire, de Bortoli, Mezard 2024]: at first
the state could become anything, from the speciation time t_S on it is of one class, and from the
collapse time t_C on, with the exact score of a finite training set, one training image. Both are
levels of log-SNR here, the same on every path; `in_ou`, `in_time` and `in_index` convert.

t_S can be had from the data's covariance (`time_from_covariance`), from their exact posterior
(`exact`), or from a sampler: by `clone` and by `uturn`. All but the first are levels at which the
probability of two posterior draws being of one class crosses `criterion`, found by `crossing`.
"""

from erdpaper.speciation.cloning import Judge, Sampler, agreement, clone, uturn
from erdpaper.speciation.collapse import (
    ExcessEntropy,
    collapse_time,
    excess_entropy,
    gaussian_collapse,
)
from erdpaper.speciation.covariance import (
    Speciation,
    in_index,
    in_ou,
    in_time,
    takeover_level,
    time_from_covariance,
)
from erdpaper.speciation.crossing import Crossing, crossing
from erdpaper.speciation.exact import ExactAgreement, exact
from erdpaper.speciation.pair import AT_SPECIATION, criterion, pair_agreement, separation

__all__ = [
    "AT_SPECIATION",
    "Crossing",
    "ExactAgreement",
    "ExcessEntropy",
    "Judge",
    "Sampler",
    "Speciation",
    "agreement",
    "clone",
    "collapse_time",
    "criterion",
    "crossing",
    "exact",
    "excess_entropy",
    "gaussian_collapse",
    "in_index",
    "in_ou",
    "in_time",
    "pair_agreement",
    "separation",
    "takeover_level",
    "time_from_covariance",
    "uturn",
]
