"""The tangent kernel of the paper's network: the closed form against general tools.

All make the kernel of the same network between all pairs of N points, (N, N, 2, 2), and take turns:

    layerwise   ntk.layerwise, which knows the network, on one set of points
    two sets    the same without the symmetry
    empirical   ntk.empirical: any network, chunked, one set of points
    jacrev      torch.func as one would write it down: all Jacobians by vmap(jacrev), then einsum
    structured  neural_tangents.empirical_ntk_fn, structured derivatives, jitted, if installed
    products    neural_tangents.empirical_ntk_fn, NTK-vector products, jitted, if installed

Each call has one warm-up; the best of the repeats is kept, as other work on a machine only adds
time. `--clock cpu` counts processor time over all threads instead, which a crowded machine disturbs
less. Growth is the exponent p of time ~ N^p from one N to the next. The process is kept on as many
cores as it has threads, for JAX takes every core that it may.

    python benchmarks/ntk.py [--points 32 128 512] [--threads 1] [--dtype float32] [--repeats 5]
                            [--clock wall]
"""

import argparse
import importlib
import math
import os
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.func import functional_call, jacrev, vmap

from erdpaper import ntk
from erdpaper.models.mlp import MLP

Calls = dict[str, Callable[[], object]]
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def jacobian_products(model: MLP, x: Tensor, t: Tensor) -> Tensor:
    state = {name: p.detach() for name, p in model.named_parameters()}

    def answer(state: dict[str, Tensor], point: Tensor, time: Tensor) -> Tensor:
        prediction: Tensor = functional_call(model, state, (point[None], time[None]))[0]
        return prediction

    found = vmap(jacrev(answer), (None, 0, 0))(state, x, t)
    parts = [torch.einsum("naf,mbf->nmab", j.flatten(2), j.flatten(2)) for j in found.values()]
    return torch.stack(parts).sum(0)


def neural_tangents_calls(model: MLP, x: Tensor, t: Tensor, threads: int) -> tuple[str, Calls]:
    """Which versions there are, and jitted calls; no call where the peer is not installed."""
    flags = f"--xla_cpu_multi_thread_eigen={'true' if threads > 1 else 'false'}"
    os.environ.setdefault("XLA_FLAGS", flags)
    try:
        jax = importlib.import_module("jax")
        peer = importlib.import_module("neural_tangents")
    except ImportError as error:
        return f"neural-tangents is absent here ({error})", {}
    jax.config.update("jax_enable_x64", x.dtype == torch.float64)
    layers = [*model.hidden, model.readout]
    weights = [tuple(jax.numpy.array(p.detach().numpy()) for p in z.parameters()) for z in layers]
    inputs = jax.numpy.array(model.inputs(x, t).numpy())

    def f(parameters, h):  # type: ignore[no-untyped-def]
        for weight, bias in parameters[:-1]:
            h = jax.nn.silu(h @ weight.T + bias)
        weight, bias = parameters[-1]
        return h @ weight.T + bias

    kinds = peer.NtkImplementation
    calls: Calls = {}
    for name, kind in (
        ("structured", kinds.STRUCTURED_DERIVATIVES),
        ("products", kinds.NTK_VECTOR_PRODUCTS),
    ):
        kernel = peer.empirical_ntk_fn(f, trace_axes=(), vmap_axes=0, implementation=kind)
        jitted = jax.jit(lambda h, w, kernel=kernel: kernel(h, None, w))
        calls[name] = lambda jitted=jitted: jitted(inputs, weights).block_until_ready()
    return f"neural-tangents {peer.__version__}, jax {jax.__version__}", calls


def seconds(calls: Calls, repeats: int, clock: Callable[[], float]) -> dict[str, float]:
    """The best of each call's times; the calls take turns, and the first turn is not counted."""
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats + 1):
        for name, call in calls.items():
            start = clock()
            call()
            taken[name].append(clock() - start)
    return {name: min(times[1:]) for name, times in taken.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description="time the neural tangent kernel")
    parser.add_argument("--points", type=int, nargs="+", default=[32, 128, 512])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--dtype", choices=["float32", "float64"], default="float32")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--clock", choices=list(CLOCKS), default="wall")
    options = parser.parse_args()

    torch.set_num_threads(options.threads)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-options.threads :])
    torch.manual_seed(0)
    model = MLP().to(getattr(torch, options.dtype)).requires_grad_(False)
    print(
        f"{sum(p.numel() for p in model.parameters())} parameters, {options.dtype}, "
        f"{options.threads} thread(s), torch {torch.__version__}, {options.clock} time, "
        f"best of {options.repeats}"
    )
    earlier: dict[str, float] = {}
    for k, n in enumerate(options.points):
        x = 2 * torch.randn(n, 2, dtype=model.readout.weight.dtype)
        t = torch.rand(n, dtype=x.dtype)
        versions, peers = neural_tangents_calls(model, x, t, options.threads)
        calls: Calls = {
            "layerwise": lambda x=x, t=t: ntk.layerwise(model, (x, t)),
            "two sets": lambda x=x, t=t: ntk.layerwise(model, (x, t), (x, t)),
            "empirical": lambda x=x, t=t: ntk.empirical(model, (x, t)),
            "jacrev": lambda x=x, t=t: jacobian_products(model, x, t),
            **peers,
        }
        if k == 0:
            print(versions)
        mine = ntk.layerwise(model, (x, t))
        apart = [torch.tensor(np.asarray(call())) - mine for call in calls.values()]
        worst = max(float(part.norm() / mine.norm()) for part in apart)
        print(f"N = {n}, largest relative difference from layerwise {worst:.1e}")
        taken = seconds(calls, options.repeats, CLOCKS[options.clock])
        for name, value in taken.items():
            line = f"  {name:11} {1e3 * value:10.2f} ms  {value / taken['layerwise']:8.1f} x"
            if k:
                step = math.log(n / options.points[k - 1])
                line += f"  growth {math.log(value / earlier[name]) / step:5.2f}"
            print(line)
        earlier = taken


if __name__ == "__main__":
    main()
