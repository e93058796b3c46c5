"""Class-conditional networks of diffusers for CIFAR-10."""

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffusers import DDPMScheduler, UNet2DModel
from torch import Tensor

from erdpaper import guidance, sampling
from erdpaper.fullscale.data.cifar10 import CLASSES
from erdpaper.fullscale.pretrained import loading
from erdpaper.fullscale.pretrained.networks import Adapter
from erdpaper.schedules import DDPM, Discrete, from_diffusers

# samples that the network sees at once
_BATCH = 250


@dataclass(frozen=True)
class Model:
    """A class-conditional network, its table, its target, and whether it knows a class for none."""

    network: Adapter
    schedule: Discrete
    target: str
    has_null: bool

    def denoiser(self, label: Tensor | int | None, scale: float = 1.0) -> sampling.Denoiser:
        """The denoiser of a class for all, of (N,) classes or, where it knows it, of none (None).

        Without a class for none there is plain conditional sampling only, as in the thesis' DDPM
        [T 3.2]: another scale, or no label, raises ValueError.
        """
        if not self.has_null and (label is None or scale != 1):
            raise ValueError(
                "this network knows no class for none: give a label, and a guidance scale of 1"
            )
        label, scale = (len(CLASSES), 1.0) if label is None else (label, scale)
        return guidance.cfg(self.network, self.schedule, self.target, label, scale, len(CLASSES))


def load(name: str | Path) -> Model:
    """A diffusers `UNet2DModel` with 10 class embeddings, or 11, the last for no class.

    name: a folder or hub name of the network alone, or of a pipeline that holds it as `unet`. Table
    and target are those of the scheduler that lies with it; without one, DDPM's and eps. Raises
    ValueError for a network that is not class-conditional or not for 3 x 32 x 32 pixels.
    """
    unet = _network(name)
    _check_network(name, unet.config)
    scheduler = _scheduler(name)
    schedule = DDPM() if scheduler is None else from_diffusers(scheduler)
    target = "eps" if scheduler is None else loading.target(scheduler)
    unet = unet.to(loading.device()).eval().requires_grad_(False)

    def answer(x: Tensor, index: Tensor, label: Tensor) -> Tensor:
        y: Tensor = unet(x, index, class_labels=label, return_dict=False)[0]  # (N, 3, 32, 32)
        return y

    adapter = Adapter(unet, answer, schedule.T, _BATCH)
    return Model(adapter, schedule, target, unet.config.num_class_embeds > len(CLASSES))


def _network(name: str | Path) -> Any:
    try:
        return UNet2DModel.from_pretrained(str(name), subfolder="unet", use_safetensors=True)
    except OSError:
        what = "UNet2DModel for CIFAR-10"
        return loading.pretrained(UNet2DModel, name, what, use_safetensors=True)


def _scheduler(name: str | Path) -> Any:
    """The scheduler of a pipeline or beside a network, None if there is none."""
    for folder in ("scheduler", None):
        with suppress(OSError):
            return DDPMScheduler.from_pretrained(str(name), subfolder=folder)
    return None


def _check_network(name: str | Path, config: Any) -> None:
    shape = (config.in_channels, config.sample_size, config.out_channels)
    if shape != (3, 32, 3):
        raise ValueError(f"{str(name)!r} is not for 3 x 32 x 32 pixels, which CIFAR-10 has")
    known = len(CLASSES)
    if config.class_embed_type is not None or config.num_class_embeds not in (known, known + 1):
        raise ValueError(
            f"{str(name)!r} must have {known} class embeddings, or {known + 1} with one for no "
            f"class, not {config.num_class_embeds}"
        )
