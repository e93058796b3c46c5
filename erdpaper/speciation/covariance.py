"""The speciation time from the covariance of the data, and its conversions.

For two Gaussians N(+-m, s^2 I) with ||m|| large, the drift of the reverse process stops pulling
towards the middle, and starts pushing to one side, where alpha^2 Lambda = 1 on a path that
preserves variance, with Lambda = ||m||^2 + s^2 the top eigenvalue of Cov(x_0) = m m^T + s^2 I. As
only alpha / sigma matters, it is SNR_S = 1 / (Lambda - 1) on any path, and t_S = 1/2 log Lambda in
Ornstein-Uhlenbeck time.

Units: Lambda is the variance of x_0 as it is diffused, where the noise has unit variance. The
formula is the leading term for Lambda >> 1, where rescaling the data and moving the SNR by the same
factor is the same thing; at Lambda near 1 it is not, and at or below 1 there is no such time.
"""

import math
from typing import NamedTuple

import torch
from scipy.linalg.blas import dsyrk
from scipy.optimize import brentq
from torch import Tensor

from erdpaper.posterior import Gaussian
from erdpaper.schedules import Discrete, Schedule, ou_time

# beyond these log-SNRs nothing is decided
_FAR = 60.0


class Speciation(NamedTuple):
    """The variance Lambda that decides, and the log-SNR of speciation that follows."""

    eigenvalue: float
    logsnr: float


def time_from_covariance(source: Tensor | float, labels: Tensor | None = None) -> Speciation:
    """SNR_S = 1 / (Lambda - 1), natural logarithm [T 3.1; Biroli et al. 2024].

    source: Lambda itself, or clean data (N, ...) in the units in which they are diffused, of which
    Lambda is the top eigenvalue of the covariance. With labels (N,) it is instead the variance of
    the data along the top eigenvector of the covariance of the class means, classes weighted by
    their share: what separates the classes, and the spread within them in the same direction. For
    the symmetric pair of Gaussians both are ||m||^2 + s^2. A pair of classes: the rows of the two.
    Raises ValueError unless Lambda > 1.
    """
    if not isinstance(source, Tensor) or source.ndim == 0:
        value = float(source)
    elif labels is None:
        value = float(torch.linalg.eigvalsh(_smaller(_rows(source)))[-1])
    else:
        value = _between(_rows(source), labels)
    if not 1 < value < float("inf"):
        raise ValueError(
            f"a speciation time needs a finite eigenvalue above 1, the noise's, got {value:.4g}"
        )
    return Speciation(value, -float(torch.tensor(value - 1, dtype=torch.float64).log()))


def takeover_level(data: Tensor, labels: Tensor) -> float:
    """The log-SNR up to which the denoiser of one of two classes turns a state of the other.

    With both classes Gaussian of covariance W and means 2 m apart, a state of the first that is
    continued by the denoiser of the second ends, on average, the share u^T R u of the way back to
    the first along u = m / ||m||, R = SNR W (1 + SNR W)^-1 what a state remembers within its class.
    The level is where the share is 1/2; for W = s^2 I it is -log s^2, whatever m. data (N, ...) of
    two classes, labels (N,); W is pooled over the two. Infinite where more than half of the way
    between the means has no variance, as it may of fewer points than coordinates.
    """
    rows = _rows(data)
    classes = labels.unique() if labels.shape == rows.shape[:1] else labels.new_zeros(0)
    if len(classes) != 2:
        raise ValueError("a takeover needs points (N, ...) of two classes and a label for each")
    parts = [rows[labels == each] for each in classes]
    means = [part.mean(0) for part in parts]
    law = Gaussian.fitted(torch.cat([p - m for p, m in zip(parts, means, strict=True)]))
    way = means[1] - means[0]
    shares, total = (way @ law.basis).square(), way.square().sum()
    # what is within rounding is no variance
    rounding = rows.shape[1] * torch.finfo(rows.dtype).eps * law.variances.max()
    variances = torch.where(law.variances > rounding, law.variances, 0.0)
    if not float(total) > 0 or not float(shares @ variances) > 0:
        raise ValueError("a takeover needs two means apart and a spread along the way between them")
    shares = shares / total

    def above_half(logsnr: float) -> float:
        remembered = math.exp(logsnr) * variances
        return float((shares * remembered / (1 + remembered)).sum()) - 0.5

    return float(brentq(above_half, -_FAR, _FAR)) if above_half(_FAR) > 0 else math.inf


def _rows(data: Tensor) -> Tensor:
    if data.ndim < 2 or len(data) < 2 or not data.is_floating_point():
        raise ValueError("data must be a floating tensor of shape (N, ...) with N >= 2")
    if not bool(data.isfinite().all()):
        raise ValueError("data must be finite numbers")
    return data.flatten(1).double()


def _smaller(rows: Tensor) -> Tensor:
    """The covariance (D, D), or of fewer points (N, N) with the same eigenvalues above 0.

    On and below its diagonal, all that eigenvalues are made from.
    """
    centred = (rows - rows.mean(0)).cpu().numpy()
    # half the work of a product
    lower = dsyrk(1 / len(centred), min(centred, centred.T, key=len), lower=1)
    return torch.from_numpy(lower).to(rows.device)


def _between(rows: Tensor, labels: Tensor) -> float:
    if labels.shape != rows.shape[:1]:
        raise ValueError(f"labels must be one class for each of {len(rows)} points")
    classes, counts = labels.unique(return_counts=True)
    if len(classes) < 2:
        raise ValueError("a speciation time between classes needs points of two classes or more")
    means = torch.stack([rows[labels == each].mean(0) for each in classes])
    spread = (means - rows.mean(0)) * (counts / len(rows)).sqrt()[:, None]
    # the top right-singular vector is the top eigenvector of the means' covariance
    direction = torch.linalg.svd(spread, full_matrices=False).Vh[0]
    return float(((rows - rows.mean(0)) @ direction).square().mean())


def in_ou(logsnr: float) -> float:
    """Ornstein-Uhlenbeck time -1/2 log(abar) of a log-SNR; 1/2 log Lambda at speciation."""
    return float(ou_time(torch.tensor(logsnr, dtype=torch.float64)))


def in_time(schedule: Schedule, logsnr: float) -> float:
    """The time t in [0, 1] of a log-SNR; below that of t = 1 ValueError."""
    return float(schedule.time(torch.tensor(logsnr, dtype=torch.float64)))


def in_index(schedule: Discrete, logsnr: float) -> float:
    """The index 0..T-1 of a log-SNR on a table, with its fraction between two nodes."""
    return in_time(schedule, logsnr) * schedule.T - 1
