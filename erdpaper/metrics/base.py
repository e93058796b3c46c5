"""What all metrics share: the check of their samples and the size of one block of work."""

from torch import Tensor

# float64 numbers in one block of distances, kernels or projections: 64 MiB
BLOCK = 1 << 23


def check_pair(x: Tensor, y: Tensor, least: int) -> tuple[Tensor, Tensor]:
    """Both in float64 if they are finite, (N, d) and (M, d) with N and M at least `least`."""
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1] or min(len(x), len(y)) < least:
        shapes = f"{tuple(x.shape)} and {tuple(y.shape)}"
        raise ValueError(f"samples must be (N, d) and (M, d), at least {least} each, got {shapes}")
    if not bool(x.isfinite().all() and y.isfinite().all()):
        raise ValueError("samples must be finite numbers")
    return x.double(), y.double()
