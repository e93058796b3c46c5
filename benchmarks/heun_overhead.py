"""What the Heun sampler costs beside the calls of the model that it makes.

Two ways to make the same calls of the same network, timed in turn so that both see the same
machine, after one turn that is not counted (in it, `from_model` works out its conversions):

    model      the calls alone, model(x, t) on the inputs that a run of heun gave it
    heun       sampling.heun with from_model: conversions, hooks and state updates included

A step of heun is two calls, the last one. The overhead is the median over the turns of the ratio
of a turn's two times, minus 1, because a machine's speed changes more between turns than in one.

    python benchmarks/heun_overhead.py [--batch 64 ...] [--steps 50] [--repeats 7] [--width 256]
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from erdpaper import sampling, schedules
from erdpaper.models.mlp import MLP


def seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def alone(model: MLP, inputs: list[tuple[Tensor, Tensor]]) -> None:
    with torch.no_grad():
        for x, t in inputs:
            model(x, t)


def shown(model: MLP, run: Callable[[], object]) -> list[tuple[Tensor, Tensor]]:
    """The inputs of the model in a run."""
    inputs: list[tuple[Tensor, Tensor]] = []
    handle = model.register_forward_pre_hook(lambda _, args: inputs.append(args[:2]))
    run()
    handle.remove()
    return inputs


def main() -> None:
    parser = argparse.ArgumentParser(description="time heun against its model calls")
    parser.add_argument("--batch", type=int, nargs="+", default=[64, 512, 4096])
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--target", default="eps", help="what the network is taken to predict")
    options = parser.parse_args()

    torch.manual_seed(0)
    model = MLP(width=options.width).eval()
    schedule = schedules.VP()
    denoise = sampling.from_model(model, schedule, options.target)
    times = sampling.times.uniform(options.steps)
    print(
        f"MLP of width {options.width}, {options.target}, {options.steps} steps, "
        f"{torch.get_num_threads()} thread(s), torch {torch.__version__}, "
        f"median of {options.repeats}"
    )
    for batch in options.batch:
        x = torch.randn(batch, 2)

        def run(x: Tensor = x) -> Tensor:
            return sampling.heun(denoise, x, schedule, times)

        inputs = shown(model, run)
        turns = []
        for _ in range(options.repeats + 1):
            bare = seconds(lambda inputs=inputs: alone(model, inputs))
            turns.append((bare, seconds(run)))
        bare, whole = (statistics.median(column) for column in zip(*turns[1:], strict=True))
        ratio = statistics.median(whole / bare for bare, whole in turns[1:])
        print(
            f"  batch {batch:6d}  model {1e3 * bare / len(inputs):8.3f} ms a call  "
            f"heun {1e3 * whole / len(inputs):8.3f} ms a call  overhead {100 * (ratio - 1):6.1f} %"
        )


if __name__ == "__main__":
    main()
