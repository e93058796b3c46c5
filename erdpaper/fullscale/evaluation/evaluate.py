"""What `erdpaper evaluate` does: samples against a reference in the protocol of ADM [P G.2].

FID and sFID are Fréchet distances of `pool` and `spatial`, IS the mean Inception score over splits
of 5,000 images, precision and recall those with the third nearest neighbours in `pool`, of all
samples and all images of the reference. ADM's own program rounds distances between neighbours to
half precision, and here they are exact.

A value is called by these names where an extractor of that protocol made it, and after the
extractor's file where not.
"""

import json
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch

from erdpaper import metrics
from erdpaper.files import write_atomically
from erdpaper.fullscale.data import adm
from erdpaper.fullscale.evaluation import extractors, fidelity, statistics
from erdpaper.fullscale.evaluation.statistics import Law, Statistics
from erdpaper.fullscale.pretrained import loading

Engine = Literal["own", "torch-fidelity"]

_NEIGHBOUR = 3
# of each value: its name under ADM's protocol, and what it is of any other features
NAMES = {
    "frechet": ("FID", "Fréchet distance"),
    "spatial_frechet": ("sFID", "spatial Fréchet distance"),
    "score": ("IS", "class score"),
    "precision": ("precision", "precision"),
    "recall": ("recall", "recall"),
}


class Request(NamedTuple):
    """samples and reference: npz files; inception: weights; out: a JSON file for the report."""

    samples: Path
    reference: Path
    inception: Path | None = None
    out: Path | None = None
    engine: Engine = "own"
    batch: int = 128
    cpu: bool = False


class Report(NamedTuple):
    """values: by the keys of NAMES, those that could be measured; facts: what they are of.

    protocol: that of the extractor, None for one of its own; features: the extractor's file.
    """

    values: dict[str, float]
    protocol: str | None
    features: str
    facts: dict[str, Any]

    def named(self) -> dict[str, float]:
        """The values by the names they may be called."""
        return {self._name(key): value for key, value in self.values.items()}

    def _name(self, key: str) -> str:
        official, plain = NAMES[key]
        return official if self.protocol else f"{plain} (features of {self.features})"

    def as_text(self) -> str:
        """A small table, and a sentence on where these names come from."""
        named = self.named()
        width = max(map(len, named))
        rows = [f"{name:<{width}}  {value:.4f}" for name, value in named.items()]
        if self.protocol is None:
            rows.append(f"{self.features} is none of the published Inception files: no FID.")
        return "\n".join(rows)

    def as_json(self) -> str:
        """Values by name, full precision, with the facts."""
        own = {"protocol": self.protocol, "features": self.features, "values": self.named()}
        return json.dumps(own | self.facts, indent=1, ensure_ascii=False) + "\n"


def evaluate(request: Request) -> Report:
    """Compare samples with a reference, and write the report where `out` names a file.

    Raises ValueError for missing or wrong weights, DatasetError for npz files that cannot be used,
    both before any work.
    """
    device = torch.device("cpu") if request.cpu else loading.device()
    samples = _checked(request)
    extractor = extractors.load(request.inception, device)
    if request.engine == "torch-fidelity":
        values = fidelity.values(
            fidelity.Run(samples, request.reference, request.inception, request.batch, request.cpu)
        )
    else:
        # recent GPUs would round the convolutions' inputs to ten bits
        with torch.backends.cudnn.flags(allow_tf32=False):
            reference = statistics.reference(extractor, request.reference, request.batch)
            found = statistics.measure(extractor, samples, request.batch, request.samples.name)
        values = compared(found, reference, device)
    report = Report(values, extractor.protocol, extractor.name, _facts(request, extractor))
    if request.out is not None:
        write_atomically(request.out, report.as_json())
    return report


def _checked(request: Request) -> adm.Images:
    samples = adm.Images(request.samples)
    if request.out is not None and not request.out.parent.is_dir():
        raise ValueError(f"the folder {request.out.parent} of --out does not exist")
    if request.batch < 1:
        raise ValueError(f"batch must be at least 1, got {request.batch}")
    sets = [samples]
    if adm.holds_images(request.reference):
        sets.append(adm.Images(request.reference))
    for images in sets:
        if images.shape.number <= _NEIGHBOUR:
            raise ValueError(f"{images.path} must hold more than {_NEIGHBOUR} images")
        if images.shape[1:3] != samples.shape[1:3]:
            sizes = " and ".join("x".join(map(str, each.shape[1:3])) for each in sets)
            raise ValueError(f"samples and reference must be of one size, got {sizes}")
    return samples


def compared(found: Statistics, reference: Statistics, device: torch.device) -> dict[str, float]:
    """The values, by the keys of NAMES, that two sets of statistics allow."""
    values = {"frechet": _frechet(found.pool, reference.pool, device)}
    if found.spatial is not None and reference.spatial is not None:
        values["spatial_frechet"] = _frechet(found.spatial, reference.spatial, device)
    if found.score is not None:
        values["score"] = found.score
    if found.features is not None and reference.features is not None:
        near = metrics.precision_recall(
            found.features.to(device), reference.features.to(device), _NEIGHBOUR
        )
        values |= near._asdict()
    return values


def _frechet(found: Law, reference: Law, device: torch.device) -> float:
    if found.mean.shape != reference.mean.shape:
        sizes = f"{len(found.mean)} and {len(reference.mean)}"
        raise ValueError(f"samples and reference have features of different length, {sizes}")
    return metrics.frechet_of(*(part.to(device) for part in (*found, *reference)))


def _facts(request: Request, extractor: extractors.Extractor) -> dict[str, Any]:
    facts: dict[str, Any] = {"engine": request.engine, "weights": extractor.sha256}
    for name in ("samples", "reference"):
        path: Path = getattr(request, name)
        number = adm.Images(path).shape.number if adm.holds_images(path) else None
        facts[name] = {"file": path.name, "images": number, "made": adm.facts(path)}
    return facts
