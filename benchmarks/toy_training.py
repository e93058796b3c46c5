"""Toy training steps per second: one network after another against a stack of them at once.

Both train K copies of the paper's network with batches of 512 each, and both draw their batches.
They take turns, after one warm-up; medians over the repeats, and the ratio between them.

    python benchmarks/toy_training.py [--networks 1 2 4 8] [--steps 20] [--repeats 5] [--device cpu]
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from erdpaper.models import Stack
from erdpaper.models.mlp import MLP
from erdpaper.posterior import GaussianMixture
from erdpaper.schedules import Linear
from erdpaper.training import Draw, Objective, together, train

LAW = GaussianMixture.square()


def draw(seed: int, device: str) -> Draw:
    generator = torch.Generator().manual_seed(seed)
    return Objective(Linear(), "eps").draw(LAW.sample, 512, generator, device=device)


def one_by_one(k: int, steps: int, device: str) -> Callable[[], None]:
    networks = [MLP().to(device) for _ in range(k)]

    def call() -> None:
        for seed, network in enumerate(networks):
            for _ in train(network, draw(seed, device), steps):
                pass

    return call


def at_once(k: int, steps: int, device: str) -> Callable[[], None]:
    stack = Stack([MLP().to(device) for _ in range(k)])

    def call() -> None:
        for _ in train(stack, together([draw(seed, device) for seed in range(k)]), steps):
            pass

    return call


def seconds(calls: dict[str, Callable[[], None]], repeats: int) -> dict[str, float]:
    """Median seconds of each call; the calls take turns, and the first turn is not counted."""
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats + 1):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            taken[name].append(time.perf_counter() - start)
    return {name: statistics.median(times[1:]) for name, times in taken.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description="time toy training")
    parser.add_argument("--networks", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    print(
        f"batches of 512, {torch.get_num_threads()} thread(s), torch {torch.__version__}, "
        f"{options.device}, median of {options.repeats}"
    )
    for k in options.networks:
        calls = {
            "one by one": one_by_one(k, options.steps, options.device),
            "at once": at_once(k, options.steps, options.device),
        }
        taken = seconds(calls, options.repeats)
        rates = {name: k * options.steps / value for name, value in taken.items()}
        print(
            f"{k} network(s): one by one {rates['one by one']:7.1f} steps/s, at once "
            f"{rates['at once']:7.1f}, ratio {rates['at once'] / rates['one by one']:.2f}"
        )


if __name__ == "__main__":
    main()
