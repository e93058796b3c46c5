"""What `erdpaper throughput` does: how fast one device trains, samples and encodes.

It uses the training step, the sampler and the encoder of the other commands, on random data and
untrained weights, on which speed does not depend. A time is taken after the device is done with a
step, and the middle one counts:

    images/s = batch / median seconds,    FLOP/s = operations of a step / median seconds
"""

import os
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from erdpaper.fullscale import plan, presets, speeds
from erdpaper.fullscale.pretrained import encoder
from erdpaper.fullscale.pretrained.encoder import Encoder
from erdpaper.fullscale.sampling import generate, pictures
from erdpaper.fullscale.sampling.runs import Trained
from erdpaper.images import build, command
from erdpaper.images.presets import Preset
from erdpaper.training import Held, Precision, Trainer, engine

if TYPE_CHECKING:
    from accelerate import Accelerator

# what a device at full scale is measured with
PRESETS = (
    *("imagenet-dit-b2-erd", "imagenet-dit-l2-erd", "imagenet-dit-xl2-erd"),
    "imagenet-uvit-h2-erd",
)
# compilation and the choice of kernels; more of them on a GPU, whose clock has to settle
_WARM = {"cpu": 1, "cuda": 10}
# how often sampling and encoding, which are long, are timed after a first time that is not
_ROUNDS = 3
_EXAMPLES = 4  # times a batch


class Request(NamedTuple):
    """A preset and how it is measured.

    batch: images at a time, of all three.  steps: of training that are timed.  heun: steps of the
    sampler, without guidance.  encoder: folder or hub name of an AutoencoderKL; without one,
    latents of ImageNet have one of Stable Diffusion's shape, and others none.
    """

    preset: str
    batch: int = 32
    steps: int = 50
    heun: int = 50
    encoder: str | None = None
    precision: Precision = "no"
    cpu: bool = False
    compiled: bool = False
    recompute: bool = False


def checked(request: Request) -> Preset:
    """The row of a request, ValueError with one sentence for a wrong request."""
    if request.preset not in presets.PRESETS:
        known = ", ".join(presets.PRESETS)
        raise ValueError(f"unknown full-scale preset {request.preset!r}; use one of {known}")
    for name in ("batch", "steps", "heun"):
        if getattr(request, name) < 1:
            raise ValueError(f"{name} must be at least 1, got {getattr(request, name)}")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError("throughput is measured on one device: start it without a launcher")
    return presets.PRESETS[request.preset]


def measure(request: Request) -> dict[str, Any]:
    """Seconds and rates of training, sampling and encoding, with the device and the settings.

    Raises ValueError for a wrong request, and for a batch that does not fit the device.
    """
    row = checked(request)._replace(batch=request.batch)
    coder = _autoencoder(request, row)
    begun, used = time.perf_counter(), time.process_time()
    accelerator = engine(request.precision, request.cpu)
    try:
        trainer = _trainer(request, row, accelerator)
        found = {"training": _training(request, row, trainer, accelerator.device)}
        found |= _pictures(request, row, trainer, accelerator, coder)
    except torch.OutOfMemoryError:
        raise ValueError(
            f"{request.preset} does not fit the device with a batch of {request.batch}: "
            "give a smaller --batch, or --checkpoint-activations"
        ) from None
    settings = request._asdict()
    del settings["preset"], settings["cpu"]
    had = (time.process_time() - used) / (time.perf_counter() - begun) / torch.get_num_threads()
    return found | settings | _machine(accelerator.device, had)


def _trainer(request: Request, row: Preset, accelerator: "Accelerator") -> Trainer:
    wanted = presets.DATA[row.data]
    draw = torch.Generator().manual_seed(0)
    count = _EXAMPLES * request.batch
    labels = torch.randint(max(wanted.classes, 1), (count,), generator=draw)
    held = Held(torch.randn(count, *wanted.shape, generator=draw), labels)
    made = build.build(
        request.preset,
        steps=_WARM[accelerator.device.type] + request.steps,
        accelerator=accelerator,
        compiled=request.compiled,
        recompute=request.recompute,
        found=build.Found(row, held, {}),
    )
    return made.trainer


def _training(
    request: Request, row: Preset, trainer: Trainer, device: torch.device
) -> dict[str, Any]:
    whole = plan.plan(command.Request(request.preset, Path()), 1)
    operations = whole.operations // presets.PRESETS[request.preset].batch * row.batch
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    run = trainer.run()
    seconds = _seconds(
        lambda: next(run), _WARM[device.type], request.steps, device, f"{request.preset}, training"
    )
    rate = operations / seconds
    peak = None if request.precision == "no" else speeds.peak(_name(device))
    return {
        "seconds": seconds,
        "images_per_s": row.batch / seconds,
        "flop_per_s": rate,
        "peak_share": None if peak is None else rate / peak,
    } | _memory(device)


def _pictures(
    request: Request, row: Preset, trainer: Trainer, accelerator: "Accelerator", coder: Any
) -> dict[str, Any]:
    """Sampling, with decoding where there is something to decode, and encoding."""
    device = accelerator.device
    assert trainer.average is not None, "every row of full scale has an average"
    network: Any = trainer.average.module.eval().requires_grad_(False)
    wanted = presets.DATA[row.data]
    schedule = build.SCHEDULES[row.schedule]
    trained = Trained(network, schedule, row.target, wanted.shape, wanted.classes, {}, "")
    shown = pictures.Pictures(lambda x: x, wanted.shape, None)
    if coder is not None:
        shown = pictures.decoded(coder.to(device), wanted.shape, request.encoder)
    asked = generate.Request(Path(), Path(), steps=request.heun, batch=request.batch)
    sampler = generate.sampler(asked, trained, accelerator)
    images = range(request.batch)
    labels = generate.labels_of(images, asked, wanted.classes)
    on_device = None if labels is None else labels.to(device)
    title = f"{request.preset}, sampling"
    sampling = _rate(
        lambda: shown.as_bytes(sampler(images, on_device)), request.batch, device, title
    )
    found = {"sampling": sampling | {"decoded": coder is not None}}
    if coder is None:
        return found
    return found | {"encoding": _encoding(request, shown, coder, device)}


def _encoding(
    request: Request, shown: pictures.Pictures, coder: Any, device: torch.device
) -> dict[str, Any]:
    side = shown.shape[-1]
    draw = torch.Generator().manual_seed(0)
    shape = (request.batch, 3, side, side)
    pixels = torch.randint(256, shape, dtype=torch.uint8, generator=draw)
    if device.type == "cuda":
        pixels = pixels.pin_memory()
    encode = Encoder(request.encoder or "untrained", coder, device).tensors
    return _rate(
        lambda: encode(pixels, range(request.batch)),
        request.batch,
        device,
        f"{request.preset}, encoding",
    )


def _autoencoder(request: Request, row: Preset) -> Any:
    if request.encoder is not None:
        return encoder.pretrained(request.encoder).eval().requires_grad_(False)
    if row.data != "imagenet-latents":
        return None
    return encoder.untrained().eval().requires_grad_(False)


def _rate(
    work: Callable[[], Tensor | dict[str, Tensor]], images: int, device: torch.device, title: str
) -> dict[str, Any]:
    seconds = _seconds(work, 1, _ROUNDS, device, title)
    return {"seconds": seconds, "images_per_s": images / seconds}


def _seconds(
    work: Callable[[], Any], warm: int, times: int, device: torch.device, title: str
) -> float:
    """The median time of some work, its first times left out, with a bar."""
    spent = []
    for k in tqdm(range(warm + times), desc=title, unit=" rounds", disable=None):
        before = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        if k >= warm:
            spent.append(time.perf_counter() - before)
    return median(spent)


def _memory(device: torch.device) -> dict[str, Any]:
    """The most that torch had in use on a GPU, in GB, since a training began."""
    if device.type != "cuda":
        return {}
    return {"memory_gb": round(torch.cuda.max_memory_allocated(device) / 1e9, 2)}


def _name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def _machine(device: torch.device, had: float) -> dict[str, Any]:
    """The card of a measurement: what it ran on, also where a GPU was left alone.

    had: the part of its cores that the process got, below 1 on a CPU that others use too.
    """
    card = command.machine()
    if device.type == "cpu":
        threads = card["device"].split(", ", 1)[1]
        card["device"] = f"cpu, {threads}"
        card["core_share"] = round(had, 2)
    else:
        card["versions"]["cuda"] = torch.version.cuda
    return card
