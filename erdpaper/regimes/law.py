"""A mixture of Gaussians as a system: every experiment of the chapters with exact denoisers."""

import torch
from torch import Tensor

from erdpaper import sampling
from erdpaper.images.measure import Features
from erdpaper.posterior import GaussianMixture
from erdpaper.regimes.system import Label, System
from erdpaper.schedules import Schedule


def of_law(law: GaussianMixture, schedule: Schedule, n: int = 500) -> System:
    """Each component is a class; the judge takes a state for that of the nearest mean.

    data gives n draws of each component, others for every split. Guidance is not offered: a scale
    other than 1 raises ValueError.
    """
    classes = len(law.means)

    def denoiser(label: Label, scale: float) -> sampling.Denoiser:
        if scale != 1:
            raise ValueError(f"an exact law is sampled at guidance scale 1, not {scale}")
        return sampling.exact(law, schedule) if label is None else _component(law, schedule, label)

    def data(split: str, label: int | None) -> tuple[Tensor, Tensor]:
        labels = torch.arange(classes).repeat_interleave(n)
        generator = torch.Generator().manual_seed(sum(split.encode()))
        noise = torch.randn(len(labels), law.dim, generator=generator).to(law.means)
        x = law.means[labels] + law.stds[labels, None] * noise
        wanted = torch.ones_like(labels, dtype=torch.bool) if label is None else labels == label
        return x[wanted], labels[wanted]

    def look(x: Tensor) -> Features:
        return Features(x, -torch.cdist(x, law.means.to(x)))

    names = tuple(str(k) for k in range(classes))
    return System("law", schedule, (law.dim,), names, denoiser, data, lambda x: x, look)


def _component(law: GaussianMixture, schedule: Schedule, label: Tensor | int) -> sampling.Denoiser:
    def denoise(x: Tensor, t: float) -> sampling.Prediction:
        alpha, sigma = (float(part) for part in schedule(t))
        k = torch.as_tensor(label).expand(len(x))  # (N,)
        mean, variance = law.means[k].to(x), law.stds[k, None].to(x).square()
        pulled = (x - alpha * mean) / (alpha**2 * variance + sigma**2)
        return sampling.Prediction(mean + alpha * variance * pulled, sigma * pulled)

    return denoise
