"""The networks of data/fashion-models: trained by their presets, then kept in half precision.

The autoencoder is kept with centre and scale of its latents, and with the latents themselves. A
card says of each network how it was made and how good it is.
"""

import json
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor

from erdpaper import datasets, guidance, metrics, sampling
from erdpaper.files import write_atomically
from erdpaper.images import build, command, data, measure
from erdpaper.images.presets import PRESETS
from erdpaper.images.spec import SCHEDULE
from erdpaper.models.autoencoder import Autoencoder
from erdpaper.training.stream import generator_for

CARD = "card.json"
# how the cards' samples are drawn
GUIDANCE, STEPS, SAMPLES = 2.0, 18, 2_000
# the streams of random numbers beside those of the training
_SAMPLES = 12


def everything(work: Path) -> None:
    """Train what the work folder lacks and keep all of it, the autoencoder and classifier first."""
    card = {}
    for preset, keep in KEEPERS.items():
        finished = command.train(command.Request(preset, work / preset, cpu=True))
        card[preset] = _described(work / preset) | keep(load_file(finished))
    write_atomically(data.folder() / CARD, json.dumps(card, indent=1) + "\n")
    files = sorted(data.folder().glob("*.safetensors"))
    sums = "".join(f"{sha256(f.read_bytes()).hexdigest()}  {f.name}\n" for f in files)
    write_atomically(data.folder() / "SHA256SUMS", sums)


def half(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Floating-point tensors in half precision, others as they are."""
    return {n: part.half() if part.is_floating_point() else part for n, part in state.items()}


def _write(name: str, state: dict[str, Tensor]) -> None:
    write_atomically(data.folder() / name, save(half(state)))


def _described(folder: Path) -> dict[str, Any]:
    """The command and what it made of the preset."""
    config = json.loads((folder / "config.json").read_text())
    losses = (folder / "losses.csv").read_text().splitlines()[1:]
    last = [float(line.split(",")[1]) for line in losses[-100:]]
    # from the configuration, written first, to the network, written last
    ends = [(folder / name).stat().st_mtime for name in ("config.json", "model.safetensors")]
    return {
        "command": f"erdpaper train --preset {config['preset']}",
        "config": config,
        "seconds": round(ends[1] - ends[0]),
        "loss": round(sum(last) / len(last), 5),
        **command.machine(),
    }


def _keep_classifier(state: dict[str, Tensor]) -> dict[str, Any]:
    _write("classifier.safetensors", state)
    data.classifier.cache_clear()
    test = datasets.fashion_mnist("test")
    logits = measure.look(test.images).logits
    return {"accuracy": metrics.class_agreement(logits, test.labels).share}


def _keep_autoencoder(state: dict[str, Tensor]) -> dict[str, Any]:
    model = Autoencoder.from_name("KL-fashion")
    model.load_state_dict(state)
    model.eval().requires_grad_(False)
    train, test = (datasets.fashion_mnist(split) for split in ("train", "test"))
    model.fit_scale(train.images)
    _write("autoencoder.safetensors", model.state_dict())
    data.autoencoder.cache_clear()
    kept = data.autoencoder()
    for split, images in (("train", train), ("test", test)):
        data.write_latents(data.folder() / f"latents-{split}.safetensors", kept, images)
    data.latents.cache_clear()
    return {"latents": len(data.latents("train")[0])}


def _keep_decoder(state: dict[str, Tensor]) -> dict[str, Any]:
    state = {name.removeprefix("autoencoder."): part for name, part in state.items()}
    _write("autoencoder.safetensors", state)
    data.autoencoder.cache_clear()
    kept, test = data.autoencoder(), datasets.fashion_mnist("test")
    z, labels = data.latents("test")
    restored = torch.cat([kept.decode(part) for part in z.split(500)]).clamp(-1, 1)
    seen = measure.look(restored)
    moments = metrics.Moments(seen.features.shape[1]).update(seen.features)
    return {
        "rmse": float((restored - test.images).square().mean().sqrt()),
        "accuracy": metrics.class_agreement(seen.logits, labels).share,
        "fd": metrics.frechet_distance(moments, measure.reference_moments()),
    }


def _keep_diffusion(preset: str, name: str) -> Callable[[dict[str, Tensor]], dict[str, Any]]:
    def keep(state: dict[str, Tensor]) -> dict[str, Any]:
        _write(name, state)
        images, labels = samples(preset, SAMPLES, GUIDANCE)
        seen = measure.look(images)
        moments = metrics.Moments(seen.features.shape[1]).update(seen.features)
        reference = measure.reference()[: len(images)]
        near = metrics.precision_recall(seen.features.double(), reference)
        return {
            "guidance": GUIDANCE,
            "agreement": metrics.class_agreement(seen.logits, labels).share,
            "fd": metrics.frechet_distance(moments, measure.reference_moments()),
            "precision": near.precision,
            "recall": near.recall,
        }

    return keep


def model(preset: str) -> torch.nn.Module:
    """The kept network of a preset, for evaluation."""
    network = build.network(PRESETS[preset].model)
    network.load_state_dict(data.read(data.folder() / NAMES[preset], preset))
    return network.eval().requires_grad_(False)


def samples(
    preset: str, n: int, scale: float, seed: int = 0, device: torch.device | str = "cpu"
) -> tuple[Tensor, Tensor]:
    """n images (n, 1, 28, 28) of a kept network, equally many of a class, and their labels (n,).

    The network works on `device`; what is returned is on the CPU.
    """
    network, row = model(preset).to(device), PRESETS[preset]
    shape = (1, 28, 28) if row.data == "fashion" else data.SHAPE
    labels = measure.balanced(n)
    start = torch.randn(n, *shape, generator=generator_for(seed, _SAMPLES))
    times = sampling.times.karras(SCHEDULE, STEPS)
    found = []
    for x, classes in zip(start.split(500), labels.split(500), strict=True):
        asked = classes.to(device)
        denoise = guidance.cfg(network, SCHEDULE, row.target, asked, scale, data.CLASSES)
        found.append(sampling.heun(denoise, x.to(device), SCHEDULE, times).cpu())
    x = torch.cat(found)
    if row.data != "fashion":
        x = torch.cat([data.autoencoder().decode(part) for part in x.split(500)])
    return x.clamp(-1, 1), labels


NAMES = {"fashion-pixels": "pixels.safetensors", "fashion-latents": "latents.safetensors"}
KEEPERS: dict[str, Callable[[dict[str, Tensor]], dict[str, Any]]] = {
    "fashion-classifier": _keep_classifier,
    "fashion-autoencoder": _keep_autoencoder,
    "fashion-decoder": _keep_decoder,
} | {preset: _keep_diffusion(preset, name) for preset, name in NAMES.items()}
