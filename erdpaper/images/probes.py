"""What the hidden layers of a latent network know of the class, and its kernel, by noise level."""

from typing import Any

import torch
from torch import Tensor, nn

from erdpaper import ntk, representations
from erdpaper.images import data
from erdpaper.images.spec import SCHEDULE
from erdpaper.schedules import signal_and_noise
from erdpaper.training.stream import generator_for

LEVELS = (-6.0, -4.0, -2.0, 0.0, 4.0)
KERNEL_LEVELS = (-4.0, 0.0, 4.0)
SPLITS = ("train", "test")
POINTS = 1_500
# streams of random numbers beside those of the training
_NOISE, _KERNEL = 13, 14


def noisy(split: str, logsnr: float, n: int) -> tuple[Tensor, Tensor, Tensor]:
    """n latents of a split with noise that is the same for every network: x_t, t and labels."""
    z, labels = data.latents(split)
    z, labels = z[:n], labels[:n]
    level = torch.tensor(logsnr, dtype=torch.float64)
    alpha, sigma = signal_and_noise(level, "vp")
    generator = generator_for(_NOISE, round(100 + logsnr), split == "test")
    x = float(alpha) * z + float(sigma) * torch.randn(z.shape, generator=generator)
    return x, torch.full((n,), float(SCHEDULE.time(level))), labels


def layers(network: nn.Module) -> list[str]:
    """The names of the residual blocks."""
    return [f"blocks.{k}" for k in range(len(network.blocks))]  # type: ignore[arg-type]


def measured(network: nn.Module, n: int = POINTS) -> dict[str, Any]:
    """What the blocks of a network, shown no label, know of the class at LEVELS.

    linear: test accuracy of a linear probe, by block.  neighbours: of the vote of the 20 nearest,
    last block.  cka: alignment of the last block with the clean latents of the test images.
    """
    network.eval()
    names = layers(network)
    linear: dict[str, list[float]] = {name: [] for name in names}
    neighbours, alignment = [], []
    for logsnr in LEVELS:
        (shown, labels), (asked, others) = (_states(network, s, logsnr, names, n) for s in SPLITS)
        for name in names:
            probe = representations.linear_probe(shown[name], labels, asked[name], others)
            linear[name].append(probe.accuracy)
        last = names[-1]
        neighbours.append(
            representations.neighbour_accuracy(shown[last], labels, asked[last], others)
        )
        clean = data.latents("test")[0][: len(others)].flatten(1)
        alignment.append(representations.cka(asked[last], clean))
    return {"linear": linear, "neighbours": neighbours, "cka": alignment}


def _states(
    network: nn.Module, split: str, logsnr: float, names: list[str], n: int
) -> tuple[dict[str, Tensor], Tensor]:
    x, t, labels = noisy(split, logsnr, n)
    return representations.hidden_states(network, x, t, layers=names), labels


def of_input(n: int = POINTS) -> dict[str, list[float]]:
    """The same of the noisy latents themselves: linear, neighbours and cka at LEVELS."""
    found: dict[str, list[float]] = {"linear": [], "neighbours": [], "cka": []}
    for logsnr in LEVELS:
        (x, _, labels), (y, _, others) = (noisy(split, logsnr, n) for split in SPLITS)
        x, y = x.flatten(1), y.flatten(1)
        found["linear"].append(representations.linear_probe(x, labels, y, others).accuracy)
        found["neighbours"].append(representations.neighbour_accuracy(x, labels, y, others))
        clean = data.latents("test")[0][:n].flatten(1)
        found["cka"].append(representations.cka(y, clean))
    return found


def kernel(network: nn.Module, n: int = 32, k: int = 6) -> dict[str, list[Any]]:
    """The k largest eigenvalues of the network's own kernel at KERNEL_LEVELS, and its trace.

    On n noisy test latents with their labels, by Lanczos on products [P Thm 3.8].
    """
    network.eval()
    found: dict[str, list[Any]] = {"values": [], "trace": [], "trace_error": []}
    for index, logsnr in enumerate(KERNEL_LEVELS):
        x, t, labels = noisy("test", logsnr, n)
        generator = generator_for(_KERNEL, index)
        top = ntk.top_spectrum(network, (x, t), k, generator, labels, probes=4)
        found["values"].append(top.values.tolist())
        found["trace"].append(float(top.trace))
        found["trace_error"].append(float(top.trace_error))
    return found
