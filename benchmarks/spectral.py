"""How many components hold 99 % of the variance: `spectral.components_for` against scikit-learn.

The same N x D numbers, made with the decaying spectrum of natural images, in turn:

    ours             spectral.components_for: float64 sums, eigenvalues only
    covariance_eigh  PCA(n_components=0.99, svd_solver="covariance_eigh")
    full             PCA(n_components=0.99, svd_solver="full")

scikit-learn works in the precision that it is given, ours in float64 always; so the numbers are
given in float64 and in float32 as well. That all find one k is checked.

    python benchmarks/spectral.py [--samples 5000] [--side 32] [--repeats 1] [--clock wall]
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from sklearn.decomposition import PCA
from torch import Tensor

from erdpaper import spectral

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def images(n: int, side: int, seed: int = 0) -> Tensor:
    """Three correlated channels of fields whose power falls like frequency^-2, (n, 3 side^2)."""
    generator = torch.Generator().manual_seed(seed)
    along = torch.fft.fftfreq(side, 1 / side)
    amplitude = 1 / torch.hypot(along[:, None], along).clamp(min=1)
    white = torch.fft.fft2(torch.randn(n, 3, side, side, generator=generator))
    fields = torch.fft.ifft2(white * amplitude).real
    mixed = torch.einsum("cd,ndhw->nchw", 0.1 * torch.eye(3) + 0.9, fields)
    return mixed.flatten(1)


def scikit(x: Tensor, solver: str) -> int:
    return int(PCA(n_components=0.99, svd_solver=solver).fit(x.numpy()).n_components_)


def ways(x: Tensor) -> dict[str, Callable[[], int]]:
    return {
        "ours": lambda: spectral.components_for(x, 0.99),
        "covariance_eigh": lambda: scikit(x, "covariance_eigh"),
        "full": lambda: scikit(x, "full"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="time the count of principal components")
    parser.add_argument("--samples", type=int, default=5_000)
    parser.add_argument("--side", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    options = parser.parse_args()
    clock = CLOCKS[options.clock]

    print(f"{torch.get_num_threads()} thread(s), torch {torch.__version__}, {options.clock} time")
    single = images(options.samples, options.side)
    for x in (single.double(), single):
        times: dict[str, list[float]] = {name: [] for name in ways(x)}
        counts = {}
        for _ in range(options.repeats):
            for name, count in ways(x).items():
                start = clock()
                counts[name] = count()
                times[name].append(clock() - start)
        if len(set(counts.values())) != 1:
            raise SystemExit(f"the counts differ: {counts}")
        medians = {name: statistics.median(taken) for name, taken in times.items()}
        print(f"{tuple(x.shape)} {x.dtype}, k = {counts['ours']}")
        for name, taken in medians.items():
            print(f"  {name:16s} {taken:8.2f} s   {taken / medians['ours']:6.2f} x ours")


if __name__ == "__main__":
    main()
