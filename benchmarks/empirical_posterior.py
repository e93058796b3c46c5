"""The empirical posterior of 60,000 x 784 against a direct version and what it cannot avoid.

Three ways to E[x_0 | x_t] for the same float32 queries, timed in turn so that all see the same
machine, each after one warm-up; a median over the repeats and its ratio to the products:

    products   the two matrix products alone, (n, d) (d, N) and (n, N) (N, d), in the same blocks
    posterior  Empirical's posterior_mean; its moments (variance too) and class_probabilities beside
    direct     torch.cdist, softmax, product, in the same blocks

Queries are noised training images of Fashion-MNIST, at several noise levels: how many weights are
worth anything differs, and with it the time of a direct softmax.

    python benchmarks/empirical_posterior.py [--queries 512] [--repeats 5] [--sigma 0.5 ...]
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from erdpaper.datasets import fashion_mnist
from erdpaper.posterior import Empirical

BLOCK_BYTES = 1 << 27


def products(data: Tensor, x_t: Tensor, rows: int) -> Tensor:
    return torch.cat([(block @ data.T) @ data for block in x_t.split(rows)])


def direct(data: Tensor, x_t: Tensor, alpha: float, sigma: float, rows: int) -> Tensor:
    means = []
    for block in x_t.split(rows):
        logits = torch.cdist(block, alpha * data).square() / (-2 * sigma**2)
        means.append(logits.softmax(-1) @ data)
    return torch.cat(means)


def seconds(calls: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median seconds of each call; the calls take turns, and the first turn is not counted."""
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats + 1):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            taken[name].append(time.perf_counter() - start)
    return {name: statistics.median(times[1:]) for name, times in taken.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description="time the empirical posterior")
    parser.add_argument("--queries", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--sigma", type=float, nargs="+", default=[0.05, 0.5, 0.95])
    options = parser.parse_args()

    generator = torch.Generator().manual_seed(0)
    train = fashion_mnist("train")
    data = train.flat
    posterior = Empirical(data, train.labels)
    rows = max(1, BLOCK_BYTES // (4 * len(data)))
    x0 = posterior.sample(options.queries, generator)
    eps = torch.randn(x0.shape, generator=generator)
    print(
        f"{len(data)} x {data.shape[1]} float32, {len(x0)} queries, {rows} a block, "
        f"{torch.get_num_threads()} thread(s), torch {torch.__version__}, "
        f"median of {options.repeats}"
    )
    for sigma in options.sigma:
        alpha = 1 - sigma
        x_t = alpha * x0 + sigma * eps
        calls: dict[str, Callable[[], object]] = {
            "products": lambda x=x_t: products(data, x, rows),
            "posterior_mean": lambda x=x_t, a=alpha, s=sigma: posterior.posterior_mean(x, a, s),
            "moments": lambda x=x_t, a=alpha, s=sigma: posterior.moments(x, a, s),
            "class_probabilities": lambda x=x_t, a=alpha, s=sigma: posterior.class_probabilities(
                x, a, s
            ),
            "direct": lambda x=x_t, a=alpha, s=sigma: direct(data, x, a, s, rows),
        }
        apart = posterior.posterior_mean(x_t, alpha, sigma) - direct(data, x_t, alpha, sigma, rows)
        print(f"sigma {sigma:g}, largest difference from direct {float(apart.abs().max()):.1e}")
        taken = seconds(calls, options.repeats)
        for name, value in taken.items():
            print(f"  {name:20} {value:8.3f} s  {value / taken['products']:6.2f} x products")


if __name__ == "__main__":
    main()
