"""What class labels the hidden layers of a latent network carry, noise level by noise level."""

import torch
from torch import Tensor, nn

from erdpaper import representations
from erdpaper.images import data
from erdpaper.images.spec import SCHEDULE
from erdpaper.schedules import signal_and_noise
from erdpaper.training.stream import generator_for

LEVELS = (-6.0, -4.0, -2.0, 0.0, 4.0)
_POINTS = 1_500
# a stream of random numbers beside those of the training
_NOISE = 13


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


def accuracies(network: nn.Module) -> dict[str, list[float]]:
    """Test accuracy of a linear probe on every block at LEVELS, no label shown to the network."""
    network.eval()
    names = layers(network)
    found: dict[str, list[float]] = {name: [] for name in names}
    for logsnr in LEVELS:
        states, labels = [], []
        for split in ("train", "test"):
            x, t, classes = noisy(split, logsnr, _POINTS)
            states.append(representations.hidden_states(network, x, t, layers=names))
            labels.append(classes)
        for name in names:
            probe = representations.linear_probe(
                states[0][name], labels[0], states[1][name], labels[1]
            )
            found[name].append(probe.accuracy)
    return found


def input_accuracies() -> list[float]:
    """The same of the noisy latents themselves."""
    found = []
    for logsnr in LEVELS:
        (x, _, labels), (y, _, others) = (noisy(s, logsnr, _POINTS) for s in ("train", "test"))
        probe = representations.linear_probe(x.flatten(1), labels, y.flatten(1), others)
        found.append(probe.accuracy)
    return found
