"""What a classifier says of generated images: the right class, and all classes in their share."""

import math
from statistics import NormalDist
from typing import NamedTuple

import torch
from torch import Tensor

# of a two-sided interval of 95 %
_Z = NormalDist().inv_cdf(0.975)


class ClassAgreement(NamedTuple):
    """Share of samples classified as requested, and its 95 % Wilson interval; all from 0 to 1."""

    share: float
    low: float
    high: float


class ClassBalance(NamedTuple):
    """How samples spread over K classes.

    shares: share of samples classified as each class, (K,), float64, sum 1.
    total_variation: share of samples that must change class to reach the reference, 0 to 1.
    kl: sum of shares log(shares / reference) in nats; inf if a class has samples and no reference.
    """

    shares: Tensor
    total_variation: float
    kl: float


def class_agreement(logits: Tensor, labels: Tensor) -> ClassAgreement:
    """How often the largest of a sample's logits (N, K) is that of its requested class (N,).

    The interval is that of Wilson (1927), which stays in [0, 1] and is right near both ends.
    """
    _check_logits(logits)
    N, K = logits.shape
    if labels.shape != (N,) or labels.is_floating_point() or labels.is_complex():
        found = f"{tuple(labels.shape)}, {labels.dtype}"
        raise ValueError(f"labels must be {N} whole numbers, one for each sample, got {found}")
    if bool(((labels < 0) | (labels >= K)).any()):
        raise ValueError(f"labels must lie in 0..{K - 1}")
    return share(logits.argmax(1) == labels.to(logits.device))


def share(flags: Tensor) -> ClassAgreement:
    """The share of flags (N,), boolean, that are set, with its interval as in `class_agreement`."""
    if flags.dtype != torch.bool or flags.ndim != 1 or not len(flags):
        raise ValueError(f"flags must be (N,) booleans, got {flags.dtype} {tuple(flags.shape)}")
    found, N = float(flags.double().mean()), len(flags)
    return ClassAgreement(found, _lowest(found, N), 1 - _lowest(1 - found, N))


def _lowest(share: float, N: int) -> float:
    """The lower end of the Wilson interval; the ends multiply to share^2 / (1 + z^2 / N)."""
    spread = _Z * math.sqrt(share * (1 - share) / N + (_Z / (2 * N)) ** 2)
    return share**2 / (share + _Z**2 / (2 * N) + spread)


def class_balance(logits: Tensor, reference: Tensor | None = None) -> ClassBalance:
    """Shares of the classes by the largest of each sample's logits (N, K), against a reference.

    `reference` (K,) are the shares, or the counts, that the classes should have; equal by default.
    """
    _check_logits(logits)
    K = logits.shape[1]
    due = logits.new_ones(K) if reference is None else reference.to(logits.device)
    due = due.double()
    if due.shape != (K,) or not (bool((due >= 0).all()) and 0 < float(due.sum()) < math.inf):
        raise ValueError(f"the reference must be {K} shares or counts, none negative, not all 0")
    due = due / due.sum()
    shares = torch.bincount(logits.argmax(1), minlength=K).double() / len(logits)
    some = shares > 0
    return ClassBalance(
        shares=shares,
        total_variation=float((shares - due).abs().sum() / 2),
        kl=float((shares[some] * (shares[some] / due[some]).log()).sum()),
    )


def _check_logits(logits: Tensor) -> None:
    if logits.ndim != 2 or logits.numel() == 0:
        raise ValueError(f"logits must be (N, K), N and K at least 1, got {tuple(logits.shape)}")
    if not bool(logits.isfinite().all()):
        raise ValueError("logits must be finite numbers")
