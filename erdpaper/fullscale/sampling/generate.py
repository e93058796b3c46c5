"""What `erdpaper sample` does: images of a trained network, by EDM's Heun sampler [P 4.1, G.1].

Image i starts from noise of a generator of its own, seeded by (seed, i), as does its label where
labels are drawn. What it looks like depends on neither the batch it is in nor the number of
processes, but for the rounding of sums, which a device may do in another order for another batch.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import Accelerator, InitProcessGroupKwargs
from torch import Tensor, nn
from tqdm import tqdm

from erdpaper import guidance, sampling
from erdpaper.fullscale.data import adm
from erdpaper.fullscale.sampling import runs, timetable
from erdpaper.fullscale.sampling.parts import Parts
from erdpaper.fullscale.sampling.pictures import Pictures, pictures
from erdpaper.fullscale.sampling.runs import Trained
from erdpaper.training.stream import generator_for

Labels = Literal["balanced", "drawn"]
Precision = Literal["no", "fp16", "bf16"]

# images and their labels -> x (n, C, h, w)
Generate = Callable[[range, Tensor | None], Tensor]

# the streams of random numbers
_NOISE, _LABEL = 20, 21


@dataclass(frozen=True)
class Request:
    """What is sampled and how; `run` is the folder of a run, `out` the npz that is written.

    at: the step of a snapshot of the run, by default its end.

    scale and interval: classifier-free guidance as in `guidance.cfg` [P Tables 8, 9]; labels: equal
    shares of the classes in turn, or drawn, from all classes or those given; batch: images at a
    time and process, which changes nothing but speed.
    """

    run: Path
    out: Path
    count: int = 50_000
    steps: int = 50
    scale: float = 1.0
    interval: tuple[float, float] | None = None
    labels: Labels = "balanced"
    classes: tuple[int, ...] = ()
    seed: int = 0
    batch: int = 64
    decoder: str | None = None
    precision: Precision = "no"
    cpu: bool = False
    at: int | None = None


class _Cast(nn.Module):
    """A network in mixed precision whose answers have the dtype of the states."""

    def __init__(self, network: nn.Module, engine: Accelerator) -> None:
        super().__init__()
        self.network, self.engine = network, engine

    def forward(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        with self.engine.autocast():
            y: Tensor = self.network(x, t, label)  # (N, ...)
        return y.to(x.dtype)


def sample(request: Request) -> Path:
    """Generate what is not there yet; the path of the finished file.

    A file that is finished is left as it is. Several processes of `accelerate launch` share the
    work. Raises ValueError for a wrong request, before any work.
    """
    trained = _checked(request)
    # the first to finish waits for the last, on many GPUs longer than is usual
    patience = InitProcessGroupKwargs(timeout=timedelta(days=1))
    engine = Accelerator(
        mixed_precision=request.precision, cpu=request.cpu, kwargs_handlers=[patience]
    )
    shown = pictures(trained, request.decoder, engine.device)
    parts = Parts(request.out, request.count, _facts(request, trained, shown))
    if not parts.finished():
        _fill(request, trained, shown, parts, engine)
        if engine.is_main_process:
            channels, height, width = shown.shape
            parts.join(adm.Shape(request.count, height, width, channels))
    elif engine.is_main_process:
        parts.clear()
    engine.end_training()
    return request.out


def _checked(request: Request) -> Trained:
    """The trained network, if the request makes sense for it."""
    if request.out.suffix != ".npz":
        raise ValueError(f"--out must name a file that ends in .npz, got {request.out}")
    if not request.out.parent.is_dir():
        raise ValueError(f"the folder {request.out.parent} of --out does not exist")
    for name in ("count", "batch"):
        if getattr(request, name) < 1:
            raise ValueError(f"{name} must be at least 1, got {getattr(request, name)}")
    if not 0 <= request.seed < 2**32:
        raise ValueError(f"the seed must lie in 0..2^32 - 1, got {request.seed}")
    trained = runs.load(request.run, request.at)
    timetable.edm(trained.schedule, request.steps)
    _check_guidance(request, trained)
    return trained


def _check_guidance(request: Request, trained: Trained) -> None:
    if not math.isfinite(request.scale):
        raise ValueError(f"the guidance scale must be a finite number, got {request.scale}")
    if request.interval is not None:
        low, high = request.interval
        if request.scale == 1:
            raise ValueError(
                "an interval needs guidance: give a scale other than 1, or leave it out"
            )
        if not 0 <= low < high <= 1:
            raise ValueError(
                f"the guidance interval must satisfy 0 <= LOW < HIGH <= 1, got {low} and {high}"
            )
    if trained.classes == 0 and (request.scale != 1 or request.classes):
        raise ValueError("this network knows no classes: it takes no label and no guidance")
    if request.scale != 1 and not trained.config.get("dropout", 0):
        raise ValueError("this network was trained without dropped labels: it takes no guidance")
    wrong = [label for label in request.classes if not 0 <= label < trained.classes]
    if wrong:
        raise ValueError(f"classes must lie in 0..{trained.classes - 1}, got {wrong[0]}")


def _facts(request: Request, trained: Trained, shown: Pictures) -> dict[str, Any]:
    """All that decides what the images look like."""
    own = {
        name: getattr(request, name)
        for name in (
            *("count", "steps", "scale", "interval", "labels", "classes"),
            *("seed", "precision"),
        )
    }
    described = {
        "preset": trained.config.get("preset"),
        "network": trained.sha256,
        "decoder": shown.name,
        "decoder_sha256": shown.sha256,
    }
    if request.at is not None:
        described["at"] = request.at
    return {"format": 1, "sampler": "heun", **described, **own}


def labels_of(images: range, request: Request, classes: int) -> Tensor | None:
    """The labels (n,) of some images, None for a network without classes."""
    if classes == 0:
        return None
    known = torch.tensor(request.classes or range(classes))
    if request.labels == "balanced":
        return known[torch.tensor(images) % len(known)]
    drawn = [
        torch.randint(len(known), (), generator=generator_for(request.seed, _LABEL, image))
        for image in images
    ]
    return known[torch.stack(drawn)]


def noise_of(images: range, request: Request, shape: tuple[int, ...]) -> Tensor:
    """Standard normal noise (n, shape...) of some images, float32, on the CPU."""
    rows = [
        torch.randn(shape, generator=generator_for(request.seed, _NOISE, image)) for image in images
    ]
    return torch.stack(rows)


def sampler(request: Request, trained: Trained, engine: Accelerator) -> Generate:
    """What images and their labels become, on the device."""
    network = _Cast(trained.network.to(engine.device), engine)
    schedule, times = trained.schedule, timetable.edm(trained.schedule, request.steps)
    sigma = float(schedule(times[0])[1])

    def generate(images: range, labels: Tensor | None) -> Tensor:
        if labels is None:
            denoise = sampling.from_model(network, schedule, trained.target)
        else:
            denoise = guidance.cfg(
                network,
                schedule,
                trained.target,
                labels,
                request.scale,
                trained.classes,
                request.interval,
            )
        # next to this noise the data, alpha x0, count for nothing
        x = sigma * noise_of(images, request, trained.shape)
        return sampling.heun(denoise, x.to(engine.device), schedule, times)

    return generate


def _fill(
    request: Request, trained: Trained, shown: Pictures, parts: Parts, engine: Accelerator
) -> None:
    """Make the parts that are missing, each process its share, with a bar of all images."""
    if engine.is_main_process:
        parts.open()
    # nobody may write a part before everybody has seen which are missing
    engine.wait_for_everyone()
    missing = parts.missing(request.batch)
    engine.wait_for_everyone()
    generate = sampler(request, trained, engine)
    left = sum(map(len, missing))
    bar = tqdm(
        desc=request.out.name,
        total=request.count,
        initial=request.count - left,
        unit=" images",
        mininterval=1,
        disable=None if engine.is_main_process else True,
    )
    with bar:
        for turn in range(0, len(missing), engine.num_processes):
            together = missing[turn : turn + engine.num_processes]
            if engine.process_index < len(together):
                images = together[engine.process_index]
                labels = labels_of(images, request, trained.classes)
                parts.keep(images, _seen(generate, shown, images, labels), labels)
            bar.update(sum(map(len, together)))
    engine.wait_for_everyone()


@torch.no_grad()
def _seen(generate: Generate, shown: Pictures, images: range, labels: Tensor | None) -> Tensor:
    try:
        return shown.as_bytes(generate(images, labels))
    except ValueError as error:
        raise ValueError(f"images {images[0]}..{images[-1]}: {error}") from error
