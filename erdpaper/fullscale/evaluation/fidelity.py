"""torch-fidelity as the engine of an evaluation, where it is installed.

It is an extra because it needs torchvision. Its `inception-v3-compat` is the same network with the
same weights, resized as TensorFlow 1 did; it knows no sFID and takes no laws of training images.
"""

from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from erdpaper.fullscale.data import adm
from erdpaper.fullscale.evaluation.statistics import SPLIT, published

# before, precision and recall of the two inputs were the other way round
_LEAST = (0, 4)
_KEYS = {
    "frechet": "frechet_inception_distance",
    "score": "inception_score_mean",
    "precision": "precision",
    "recall": "recall",
}


class _Held(Dataset[Tensor]):
    """All images of a file in memory, (3, H, W), bytes each."""

    def __init__(self, images: adm.Images) -> None:
        parts = [part.permute(0, 3, 1, 2).expand(-1, 3, -1, -1) for part in images.batches(1_000)]
        self.images = torch.cat(parts)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        return self.images[index]


class Run(NamedTuple):
    """What is compared, by which weights (a .pth), how many images at a time, and where."""

    samples: adm.Images
    reference: Path
    weights: Path | None
    batch: int
    cpu: bool


def values(run: Run) -> dict[str, float]:
    """Fréchet distance, score, precision and recall by torch-fidelity, by the keys of `evaluate`.

    Of a reference that has ADM's laws of all training images there is no Fréchet distance, since
    torch-fidelity would take that to the few images instead. Raises ValueError without
    torch-fidelity 0.4 or later, for a reference without images, and for more than 5,000 samples
    that are no multiple of it, which it would cut into other splits than ADM.
    """
    engine = _engine()
    if run.weights is None or run.weights.suffix != ".pth":
        raise ValueError("torch-fidelity takes the port's weights only, a .pth")
    if not adm.holds_images(run.reference):
        raise ValueError(f"torch-fidelity compares images, and {run.reference} holds none")
    number = run.samples.shape.number
    if number > SPLIT and number % SPLIT:
        raise ValueError(f"torch-fidelity needs a multiple of {SPLIT:,} samples, got {number:,}")
    found = engine.calculate_metrics(
        input1=_Held(run.samples),
        input2=_Held(adm.Images(run.reference)),
        # said for all, because it would measure precision and recall in another network
        feature_extractor="inception-v3-compat",
        feature_layer_prc="2048",
        feature_extractor_weights_path=str(run.weights),
        isc=True,
        fid=published(run.reference) is None,
        prc=True,
        isc_splits=max(1, number // SPLIT),
        prc_neighborhood=3,
        samples_shuffle=False,
        batch_size=run.batch,
        cuda=not run.cpu and torch.cuda.is_available(),
        cache=False,
    )
    return {key: float(found[name]) for key, name in _KEYS.items() if name in found}


def _engine() -> Any:
    try:
        engine = import_module("torch_fidelity")
    # a torchvision that does not fit torch raises RuntimeError
    except (ImportError, RuntimeError) as error:
        raise ValueError(
            f"--engine torch-fidelity cannot be loaded ({error}); "
            "pip install 'torch-fidelity>=0.4' with a torchvision that fits torch"
        ) from None
    version = tuple(int(part) for part in engine.__version__.split(".")[:2])
    if version < _LEAST:
        raise ValueError(f"torch-fidelity must be 0.4 or later, got {engine.__version__}")
    return engine
