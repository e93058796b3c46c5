"""Rows of numbers, (N, F): what every measure here takes."""

import torch
from torch import Tensor


def checked(x: Tensor, least: int) -> Tensor:
    """x in float64 if it is finite and (N, F) with N at least `least`; ValueError otherwise."""
    if x.ndim != 2 or len(x) < least or x.shape[1] < 1 or not x.is_floating_point():
        got = f"{x.dtype} {tuple(x.shape)}"
        raise ValueError(
            f"features must be a floating tensor (N, F) with N at least {least}, got {got}"
        )
    if not bool(torch.isfinite(x).all()):
        raise ValueError("features must be finite numbers")
    return x.detach().double()


def centred(x: Tensor, least: int) -> Tensor:
    """Checked rows less their mean; ValueError too if all rows are equal."""
    x = checked(x, least)
    if bool((x == x[0]).all()):
        raise ValueError("the features of all points are equal, and have no spread")
    return x - x.mean(0)
