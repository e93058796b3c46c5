"""What is measured of a trained network on latents: samples, and the error at every noise level.

Samples are drawn without guidance, equally many of every class, from starting noise that depends on
a seed alone, by Heun steps on EDM's grid [P 4.1], decoded, and compared with the test images in the
features of the kept classifier.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from erdpaper import datasets, metrics, sampling, targets
from erdpaper.images import data
from erdpaper.images.spec import SCHEDULE
from erdpaper.schedules import Schedule, signal_and_noise
from erdpaper.training.stream import generator_for

# log-SNR at which the error is measured
LEVELS = torch.linspace(-8, 8, 9, dtype=torch.float64)
_BATCH = 500
QUALITIES = ("fd", "kd", "precision", "recall", "agreement", "imbalance")
# a stream of random numbers beside those of the training
_NOISE, _LEVEL_NOISE = 10, 11


class Features(NamedTuple):
    """What a classifier says of images: its features (N, 128) and logits (N, 10)."""

    features: Tensor
    logits: Tensor


@torch.no_grad()
def look(images: Tensor) -> Features:
    """Classify images (N, 1, 28, 28), clamped to [-1, 1] as a display would."""
    model = data.classifier()
    parts = [model.features(part.clamp(-1, 1)) for part in images.split(_BATCH)]
    features = torch.cat(parts)
    return Features(features, model.readout(features))


@cache
def reference() -> Tensor:
    """Features of the 10,000 test images, (10000, 128), float64."""
    return look(datasets.fashion_mnist("test").images).features.double()


@cache
def reference_moments() -> metrics.Moments:
    """Their mean and covariance."""
    found = metrics.Moments(reference().shape[1])
    found.update(reference())
    return found


@dataclass(frozen=True)
class Sampling:
    """How samples are drawn: sampler "heun", "ddim" or "ddpm", steps, and the first noise level.

    sigma_max: k = sigma / alpha of the first level; EDM's 80, or the table's largest.
    """

    sampler: str = "heun"
    steps: int = 12
    sigma_max: float = 80.0
    seed: int = 0

    def draw(
        self,
        model: nn.Module,
        target: str,
        n: int,
        labels: Tensor,
        schedule: Schedule = SCHEDULE,
    ) -> Tensor:
        """n latents (n, 4, 7, 7) of the given classes (n,), on the CPU, wherever the model is."""
        device = next(model.parameters(), torch.empty(0)).device
        denoise_all = [(labels[part], part) for part in torch.arange(n).split(_BATCH)]
        start = torch.randn(n, *data.SHAPE, generator=generator_for(self.seed, _NOISE))
        times = sampling.times.karras(schedule, self.steps, sigma_max=self.sigma_max)
        generator = generator_for(self.seed, _NOISE, 1)
        found = []
        for classes, part in denoise_all:
            denoise = sampling.from_model(model, schedule, target, classes.to(device))
            # at the first level x = alpha x0 + sigma eps with alpha near 0: noise of unit variance
            x = start[part].to(device)
            found.append(_run(self.sampler, denoise, x, schedule, times, generator).cpu())
        return torch.cat(found)


def _run(
    name: str,
    denoise: sampling.Denoiser,
    x: Tensor,
    schedule: Schedule,
    times: Tensor,
    generator: torch.Generator,
) -> Tensor:
    if name == "heun":
        return sampling.heun(denoise, x, schedule, times)
    if name == "ddim":
        return sampling.ddim(denoise, x, schedule, times)
    if name == "ddpm":
        return sampling.ddpm(denoise, x, schedule, times, generator)
    raise ValueError(f"unknown sampler {name!r}; use heun, ddim or ddpm")


def balanced(n: int) -> Tensor:
    """n labels, equally many of every class, one after another."""
    return torch.arange(n) % data.CLASSES


def quality(z: Tensor, labels: Tensor) -> dict[str, float | None]:
    """Distances of decoded latents from the test images, and how they are classified.

    fd and kd: Fréchet and kernel distance to all test images; precision and recall: with as many
    of them as there are samples; agreement with the labels asked for; imbalance: total variation
    of the classes found from equal shares. All None where a sampler ran off to infinity.
    """
    if not bool(z.isfinite().all()):
        return dict.fromkeys(QUALITIES)
    with torch.no_grad():
        images = torch.cat([data.autoencoder().decode(part) for part in z.split(_BATCH)])
    seen = look(images)
    features = seen.features.double()
    if not bool(features.isfinite().all()):
        return dict.fromkeys(QUALITIES)
    moments = metrics.Moments(features.shape[1])
    moments.update(features)
    near = metrics.precision_recall(features, reference()[: len(features)])
    return {
        "fd": metrics.frechet_distance(moments, reference_moments()),
        "kd": metrics.kernel_distance(features, reference()),
        "precision": near.precision,
        "recall": near.recall,
        "agreement": metrics.class_agreement(seen.logits, labels).share,
        "imbalance": metrics.class_balance(seen.logits).total_variation,
    }


@torch.no_grad()
def errors(
    model: nn.Module,
    target: str,
    split: str = "test",
    n: int = 2_000,
    schedule: Schedule = SCHEDULE,
) -> Tensor:
    """Mean squared error of the implied eps at LEVELS, per coordinate, (L,), float64.

    On the first n latents of a split and noise that is the same for every network. As the error of
    eps at a given x_t is a fixed factor times that of any target, one number serves all.
    """
    wanted = targets.get(target)
    z, labels = data.latents(split)
    z, labels = z[:n], labels[:n]
    found = []
    for index, logsnr in enumerate(LEVELS):
        alpha, sigma = signal_and_noise(logsnr, "vp")
        eps = torch.randn(z.shape, generator=generator_for(_LEVEL_NOISE, index))
        x = float(alpha) * z + float(sigma) * eps
        t = torch.full((n,), float(schedule.time(logsnr)))
        y = torch.cat(
            [
                model(*parts)
                for parts in zip(
                    x.split(_BATCH), t.split(_BATCH), labels.split(_BATCH), strict=True
                )
            ]
        )
        implied = wanted.to_eps(y.double(), x.double(), alpha, sigma)
        found.append((implied - eps).square().mean())
    return torch.stack(found)


def summary(
    model: nn.Module,
    target: str,
    n: int,
    how: Sampling | None = None,
    schedule: Schedule = SCHEDULE,
) -> dict[str, Any]:
    """`quality` of n samples of a network."""
    labels = balanced(n)
    return quality((how or Sampling()).draw(model, target, n, labels, schedule), labels)
