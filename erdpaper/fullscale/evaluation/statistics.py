"""What is measured of a set of images in the features of an extractor, in one pass.

The statistics of a reference are kept beside it, with the sha256 of the reference and of the
extractor's weights; where either is another, they are measured anew.
"""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor
from tqdm import tqdm

from erdpaper import metrics
from erdpaper.datasets import DatasetError
from erdpaper.files import write_atomically
from erdpaper.fullscale.data import adm
from erdpaper.fullscale.evaluation import extractors
from erdpaper.fullscale.evaluation.extractors import PROTOCOL, Extractor
from erdpaper.fullscale.evaluation.inception import Features

# images over which ADM takes one Inception score, to average those
SPLIT = 5_000
_FORMAT = "1"
# what ADM's reference files hold of all training images: means and covariances
_ADM = ("mu", "sigma", "mu_s", "sigma_s")


class Law(NamedTuple):
    """A mean (d,) and a covariance (d, d), float64, on the CPU."""

    mean: Tensor
    covariance: Tensor


class Statistics(NamedTuple):
    """Of a set of images.

    pool and spatial: laws of these features; features: `pool` itself (N, d), float32, on the CPU,
    None where no images are there; score: as `Score`, None where nothing told classes.
    """

    pool: Law
    spatial: Law | None
    features: Tensor | None
    score: float | None


class Score:
    """exp E KL(p(class | image) || p(class)), the mean over splits of images in their order.

    The Inception score where the classes are Inception's (Salimans et al. 2016); as in ADM's
    protocol a split has 5,000 images and an incomplete last one counts as much as the others.
    """

    def __init__(self, split: int = SPLIT) -> None:
        self.split = split
        self._scores: list[float] = []
        self._start()

    def _start(self) -> None:
        self._n, self._negentropy, self._sum = 0, 0.0, torch.zeros(())

    def update(self, probabilities: Tensor) -> None:
        """Add a batch (n, K); every row sums to 1."""
        while len(probabilities):
            part = probabilities[: self.split - self._n].double().cpu()
            self._n += len(part)
            self._negentropy += float(torch.xlogy(part, part).sum())
            self._sum = self._sum + part.sum(0)
            probabilities = probabilities[len(part) :]
            if self._n == self.split:
                self._scores.append(self._current())
                self._start()

    def _current(self) -> float:
        mean = self._sum / self._n
        return math.exp(self._negentropy / self._n - float(torch.xlogy(mean, mean).sum()))

    @property
    def value(self) -> float:
        """From 1 to K."""
        scores = [*self._scores, self._current()] if self._n else self._scores
        if not scores:
            raise ValueError("a score needs at least one image")
        return sum(scores) / len(scores)


def measure(extractor: Extractor, images: adm.Images, batch: int, label: str) -> Statistics:
    """The statistics of images, at least 2, `batch` at a time, with a progress bar."""
    pool: metrics.Moments | None = None
    spatial: metrics.Moments | None = None
    score: Score | None = None
    found: list[Tensor] = []
    for seen in _seen(extractor, images, batch, label):
        pool = _updated(pool, seen.pool)
        found.append(seen.pool.float().cpu())
        if seen.spatial is not None:
            spatial = _updated(spatial, seen.spatial)
        if seen.probabilities is not None:
            score = score or Score()
            score.update(seen.probabilities)
    if pool is None:
        raise DatasetError(f"{images.path} holds no images")
    return Statistics(
        _law(pool),
        None if spatial is None else _law(spatial),
        torch.cat(found),
        None if score is None else score.value,
    )


def _seen(extractor: Extractor, images: adm.Images, batch: int, label: str) -> Iterator[Features]:
    with tqdm(desc=label, total=images.shape.number, unit=" images", disable=None) as bar:
        for part in images.batches(batch):
            yield extractor(part)
            bar.update(len(part))


def _updated(moments: metrics.Moments | None, features: Tensor) -> metrics.Moments:
    return (moments or metrics.Moments(features.shape[1])).update(features)


def _law(moments: metrics.Moments) -> Law:
    return Law(moments.mean, moments.covariance)


def reference(extractor: Extractor, path: Path, batch: int) -> Statistics:
    """The statistics of a reference: images `arr_0`, or ADM's file, which also has laws.

    ADM's laws are of all training images, and features of the few that are there; they count only
    for an extractor of ADM's protocol. Raises DatasetError for a file with neither.
    """
    laws = published(path) if extractor.protocol == PROTOCOL else None
    if not adm.holds_images(path):
        if laws is None:
            raise DatasetError(
                f"{path} holds no images arr_0, nor laws (mu, sigma, mu_s, sigma_s) that "
                f"the features of {extractor.name} could be compared with"
            )
        return Statistics(*laws, None, None)
    kept = _kept(extractor, path, batch)
    return kept if laws is None else kept._replace(pool=laws[0], spatial=laws[1])


def published(path: Path) -> tuple[Law, Law] | None:
    """The laws of `pool` and `spatial` in a reference of ADM, None in another file."""
    found = adm.arrays(path, _ADM)
    if len(found) < len(_ADM):
        return None
    mean, covariance, mean_s, covariance_s = (torch.from_numpy(found[n]).double() for n in _ADM)
    return Law(mean, covariance), Law(mean_s, covariance_s)


def _kept(extractor: Extractor, path: Path, batch: int) -> Statistics:
    """Those of the file beside the reference if it is of this reference and these weights."""
    facts = {"format": _FORMAT, "reference": extractors.sha256(path), "weights": extractor.sha256}
    cache = path.with_name(f"{path.name}.{extractor.sha256[:12]}.safetensors")
    found = _read(cache, facts)
    if found is None:
        found = measure(extractor, adm.Images(path), batch, path.name)
        _write(cache, found, facts)
    return found


def _read(cache: Path, facts: dict[str, str]) -> Statistics | None:
    try:
        with safe_open(cache, "pt") as file:
            kept: dict[str, str] = file.metadata() or {}
        if {name: kept.get(name) for name in facts} != facts:
            return None
        state = load_file(cache)
    except (FileNotFoundError, SafetensorError):
        return None
    spatial = Law(state["mean_s"], state["covariance_s"]) if "mean_s" in state else None
    pool = Law(state["mean"], state["covariance"])
    return Statistics(pool, spatial, state["features"], json.loads(kept["score"]))


def _write(cache: Path, found: Statistics, facts: dict[str, str]) -> None:
    state = {"mean": found.pool.mean, "covariance": found.pool.covariance}
    if found.spatial is not None:
        state |= {"mean_s": found.spatial.mean, "covariance_s": found.spatial.covariance}
    if found.features is not None:
        state["features"] = found.features
    try:
        write_atomically(cache, save(state, facts | {"score": json.dumps(found.score)}))
    except OSError as error:
        # a reference may lie where nobody may write: it is then measured anew every time
        tqdm.write(f"the statistics of {cache.name} are not kept: {error.strerror}")
