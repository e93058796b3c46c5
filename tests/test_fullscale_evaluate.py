"""Evaluation: closed forms, the protocol's arithmetic by hand, names, and what is kept."""

import json
import math
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from scipy import linalg
from torch import Tensor

from erdpaper.cli import main
from erdpaper.datasets import DatasetError
from erdpaper.fullscale.data import adm
from erdpaper.fullscale.evaluation import evaluate, extractors, fidelity, statistics
from erdpaper.fullscale.evaluation.evaluate import Report, Request
from erdpaper.fullscale.evaluation.extractors import Extractor
from erdpaper.fullscale.evaluation.inception import Features

CPU = torch.device("cpu")
F64 = torch.float64
Array = np.ndarray[Any, Any]


def pictures(n: int, seed: int = 0, low: int = 0, side: int = 6, channels: int = 3) -> Array:
    generator = np.random.default_rng(seed)
    return generator.integers(low, 256, (n, side, side, channels), dtype=np.uint8)


def save(path: Path, *args: Any, **named: Any) -> Path:
    np.savez(path, *args, **named)
    return path


class Linear:
    """Features that are fixed sums of pixels, and probabilities from them."""

    def __init__(self, d: int = 4, classes: int | None = 3, spatial: int | None = 5) -> None:
        generator = torch.Generator().manual_seed(1)
        self.pool = torch.randn(108, d, generator=generator)
        self.spatial = None if spatial is None else torch.randn(108, spatial, generator=generator)
        self.classes = None if classes is None else torch.randn(d, classes, generator=generator)
        self.asked = 0
        self.exact = True

    def __call__(self, images: Tensor) -> Features:
        self.asked += len(images)
        self.exact &= not torch.backends.cudnn.allow_tf32
        x = images.float().flatten(1) / 255
        pool = x @ self.pool
        return Features(
            pool,
            None if self.spatial is None else x @ self.spatial,
            None if self.classes is None else (pool @ self.classes).softmax(1),
        )


def extractor(
    network: Any = None, protocol: str | None = None, sha256: str = "f" * 64
) -> Extractor:
    return Extractor(network or Linear(), protocol, "weights.file", sha256, CPU)


def rows(network: Linear, images: Array) -> tuple[Array, Array]:
    found = network(torch.from_numpy(images).permute(0, 3, 1, 2))
    assert found.spatial is not None
    return found.pool.double().numpy(), found.spatial.double().numpy()


def test_statistics_are_numpys(tmp_path: Path) -> None:
    network, images = Linear(), pictures(23)
    pool, spatial = rows(network, images)
    path = save(tmp_path / "a.npz", images)
    found = statistics.measure(extractor(network), adm.Images(path), 5, "a")
    assert found.spatial is not None and found.features is not None
    for law, x in ((found.pool, pool), (found.spatial, spatial)):
        np.testing.assert_allclose(law.mean, x.mean(0), rtol=1e-6)
        np.testing.assert_allclose(law.covariance, np.cov(x, rowvar=False), rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(found.features, pool, rtol=1e-6)


@pytest.mark.parametrize(("n", "split", "batch"), [(12, 12, 5), (12, 4, 5), (14, 4, 20), (3, 9, 1)])
def test_the_score_is_the_mean_over_splits(n: int, split: int, batch: int) -> None:
    p = torch.rand(n, 6, generator=torch.Generator().manual_seed(n), dtype=F64).softmax(1)
    score = statistics.Score(split)
    for part in p.split(batch):
        score.update(part)
    expected = []
    for first in range(0, n, split):
        part = p[first : first + split].numpy()
        kl = (part * (np.log(part) - np.log(part.mean(0, keepdims=True)))).sum(1)
        expected.append(np.exp(kl.mean()))
    assert score.value == pytest.approx(np.mean(expected), rel=1e-12)


def test_scores_that_are_known() -> None:
    # certain and in equal shares: as many as there are classes, though a logarithm is infinite
    sure, score = torch.eye(7, dtype=F64).repeat(3, 1), statistics.Score()
    score.update(sure)
    assert score.value == pytest.approx(7)
    # the same for all images: nothing is told
    same = statistics.Score(10)
    same.update(torch.tensor([[0.2, 0.3, 0.5]], dtype=F64).repeat(25, 1))
    assert same.value == pytest.approx(1)
    with pytest.raises(ValueError, match="a score needs at least one image"):
        _ = statistics.Score().value


def test_the_split_is_adms() -> None:
    assert statistics.SPLIT == statistics.Score().split == 5_000


def gaussian(n: int, mean: float, scale: Tensor, seed: int) -> Array:
    """Bytes whose values are nearly normal."""
    z = torch.randn(n, 4, generator=torch.Generator().manual_seed(seed), dtype=F64)
    x = (mean + z * scale).round().clamp(0, 255).to(torch.uint8)
    return x.reshape(n, 2, 2, 1).numpy()


class Pixels:
    """The bytes themselves, and half of each."""

    def __call__(self, images: Tensor) -> Features:
        x = images[:, 0].flatten(1).float()
        return Features(x, x / 2, None)


def test_gaussians_have_their_closed_form(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extractors, "load", lambda *_: extractor(Pixels()))
    first, second = torch.tensor([8.0, 12, 16, 20]), torch.tensor([16.0, 12, 8, 10])
    n = 20_000
    samples = save(tmp_path / "a.npz", gaussian(n, 120, first, 0))
    reference = save(tmp_path / "b.npz", gaussian(n, 126, second, 1))
    images = [adm.Images(path) for path in (samples, reference)]
    found, other = (statistics.measure(extractor(Pixels()), each, 5_000, "") for each in images)
    values = evaluate.compared(found._replace(features=None), other, CPU)
    # between N(m, S) and N(m', S') with diagonal S: |m - m'|^2 + |s - s'|^2; bytes change little
    expected = 4 * 6**2 + float((first - second).square().sum())
    assert values["frechet"] == pytest.approx(expected, rel=0.03)
    assert values["spatial_frechet"] == pytest.approx(values["frechet"] / 4, rel=1e-6)
    assert set(values) == {"frechet", "spatial_frechet"}


def matrix_root_distance(x: Array, y: Array) -> float:
    """As ADM's program writes it."""
    a, b = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    root = linalg.sqrtm(a @ b).real
    return float(((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(a + b - 2 * root))


def precision_by_hand(x: Array, y: Array) -> float:
    """The share of x in a ball of y that reaches its third neighbour."""
    within = np.sort(np.linalg.norm(y[:, None] - y, axis=2), axis=1)[:, 3]
    return float((np.linalg.norm(x[:, None] - y, axis=2) <= within).any(1).mean())


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    samples = save(tmp_path / "samples.npz", pictures(31, seed=1, low=40))
    return samples, save(tmp_path / "reference.npz", pictures(40, seed=2))


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> Linear:
    """A small network in the role of the published one, by its protocol."""
    found = Linear()
    loaded = extractor(found, extractors.PROTOCOL)
    monkeypatch.setattr(extractors, "load", lambda path, device: loaded)
    return found


def test_the_protocol_by_hand(files: tuple[Path, Path], network: Linear, tmp_path: Path) -> None:
    report = evaluate.evaluate(Request(*files, out=tmp_path / "report.json", batch=7, cpu=True))
    exact = network.exact
    x, y = (rows(network, np.load(path)["arr_0"]) for path in files)
    p = torch.from_numpy(x[0]).float() @ network.classes  # type: ignore[operator]
    p = p.softmax(1).double()
    score = math.exp(float((p * (p / p.mean(0)).log()).sum(1).mean()))
    expected = {
        "FID": matrix_root_distance(x[0], y[0]),
        "sFID": matrix_root_distance(x[1], y[1]),
        "IS": score,
        "precision": precision_by_hand(x[0], y[0]),
        "recall": precision_by_hand(y[0], x[0]),
    }
    assert report.named() == pytest.approx(expected, rel=1e-6)
    assert 0 < expected["precision"] != expected["recall"] > 0
    # no convolution was to round its inputs
    assert exact
    kept = json.loads((tmp_path / "report.json").read_text())
    assert kept["values"] == report.named() and kept["protocol"] == "ADM Inception"
    assert kept["samples"] == {"file": "samples.npz", "images": 31, "made": None}
    assert report.as_text().splitlines()[0] == f"FID        {expected['FID']:.4f}"


def test_what_other_features_give_has_another_name() -> None:
    values = {
        "frechet": 1.0,
        "spatial_frechet": 2.0,
        "score": 3.0,
        "precision": 0.5,
        "recall": 0.25,
    }
    report = Report(values, None, "tiny.safetensors", {})
    assert list(report.named()) == [
        "Fréchet distance (features of tiny.safetensors)",
        "spatial Fréchet distance (features of tiny.safetensors)",
        "class score (features of tiny.safetensors)",
        "precision (features of tiny.safetensors)",
        "recall (features of tiny.safetensors)",
    ]
    assert "tiny.safetensors is none of the published Inception files: no FID." in report.as_text()
    assert "FID" not in report.as_json() and "IS" not in report.as_json()
    assert list(Report(values, "ADM Inception", "x.pth", {}).named()) == [
        *("FID", "sFID", "IS", "precision", "recall")
    ]


def test_a_narrow_network_goes_all_the_way(tmp_path: Path) -> None:
    weights, out = tmp_path / "tiny.safetensors", tmp_path / "report.json"
    extractors.stand_in(weights)
    files = save(tmp_path / "a.npz", pictures(5, low=40)), save(tmp_path / "b.npz", pictures(6, 1))
    asked = ["evaluate", str(files[0]), "--reference", str(files[1]), "--inception", str(weights)]
    result = CliRunner().invoke(main, [*asked, "--out", str(out), "--cpu"])
    assert result.exit_code == 0, result.output
    name = "Fréchet distance (features of tiny.safetensors)"
    assert name in result.stdout and "FID " not in result.stdout
    loaded = extractors.load(weights, CPU)
    x, y = (loaded(torch.from_numpy(np.load(path)["arr_0"])).pool.double() for path in files)
    # fewer images than features: the trace of the root is a sum of few singular values
    rows = [(a - a.mean(0)) / math.sqrt(len(a) - 1) for a in (x, y)]
    expected = (x.mean(0) - y.mean(0)).square().sum() + sum(a.square().sum() for a in rows)
    expected -= 2 * torch.linalg.svdvals(rows[0] @ rows[1].T).sum()
    assert json.loads(out.read_text())["values"][name] == pytest.approx(float(expected), rel=1e-5)


def test_statistics_are_kept_beside_the_reference(
    files: tuple[Path, Path], network: Linear, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = evaluate.evaluate(Request(*files, cpu=True))
    kept = list(files[1].parent.glob("reference.npz.*.safetensors"))
    assert [path.name for path in kept] == ["reference.npz.ffffffffffff.safetensors"]
    network.asked = 0
    assert evaluate.evaluate(Request(*files, cpu=True)).values == first.values
    assert network.asked == 31
    # another reference under the same name, other weights, or a damaged file: measured anew
    save(files[1], pictures(40, seed=3))
    network.asked = 0
    changed = evaluate.evaluate(Request(*files, cpu=True))
    assert network.asked == 71 and changed.values["frechet"] != first.values["frechet"]
    kept[0].write_bytes(b"damaged")
    assert evaluate.evaluate(Request(*files, cpu=True)).values == changed.values
    other = extractor(Linear(d=3), extractors.PROTOCOL, "e" * 64)
    monkeypatch.setattr(extractors, "load", lambda *_: other)
    evaluate.evaluate(Request(*files, cpu=True))
    assert len(list(files[1].parent.glob("reference.npz.*.safetensors"))) == 2


def test_a_reference_that_cannot_be_written_beside_is_no_obstacle(
    files: tuple[Path, Path],
    network: Linear,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def refuse(path: Path, contents: bytes) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(statistics, "write_atomically", refuse)
    assert "frechet" in evaluate.evaluate(Request(*files, cpu=True)).values
    assert "are not kept: Permission denied" in capsys.readouterr().out


def laws(seed: int = 0) -> dict[str, Array]:
    """Means and covariances as in ADM's reference files, of other images than those there."""
    generator = np.random.default_rng(seed)
    x, s = generator.normal(2, 1, (99, 4)), generator.normal(1, 2, (99, 5))
    found = {"mu": x.mean(0), "sigma": np.cov(x, rowvar=False)}
    return found | {"mu_s": s.mean(0), "sigma_s": np.cov(s, rowvar=False)}


def test_a_reference_of_adm_gives_laws_of_all_and_images_of_some(
    files: tuple[Path, Path], network: Linear, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = evaluate.evaluate(Request(*files, cpu=True)).values
    published, few = laws(), np.load(files[1])["arr_0"]
    save(files[1], few, **published)
    values = evaluate.evaluate(Request(*files, cpu=True)).values
    x, s = rows(network, np.load(files[0])["arr_0"])
    for name, (mean, covariance), y in (
        ("frechet", ("mu", "sigma"), x),
        ("spatial_frechet", ("mu_s", "sigma_s"), s),
    ):
        own = np.cov(y, rowvar=False)
        root = linalg.sqrtm(own @ published[covariance]).real
        expected = ((y.mean(0) - published[mean]) ** 2).sum()
        expected += np.trace(own + published[covariance] - 2 * root)
        assert values[name] == pytest.approx(expected, rel=1e-6)
    assert values["precision"] == plain["precision"] and values["recall"] == plain["recall"]
    # laws alone
    save(files[1], **published)
    alone = evaluate.evaluate(Request(*files, cpu=True)).values
    assert alone == {name: values[name] for name in ("frechet", "spatial_frechet", "score")}
    # the laws are of Inception's features, and of no others
    save(files[1], few, **published)
    own = extractor(network)
    monkeypatch.setattr(extractors, "load", lambda *_: own)
    assert evaluate.evaluate(Request(*files, cpu=True)).values == plain
    save(files[1], **published)
    with pytest.raises(
        DatasetError, match=r"no images arr_0, nor laws .* features of weights.file"
    ):
        evaluate.evaluate(Request(*files, cpu=True))


def test_laws_of_other_features_are_refused(files: tuple[Path, Path], network: Linear) -> None:
    save(files[1], **(laws() | {"mu": np.zeros(3), "sigma": np.eye(3)}))
    with pytest.raises(ValueError, match="have features of different length, 4 and 3"):
        evaluate.evaluate(Request(*files, cpu=True))


def test_grey_and_colour_can_be_compared(tmp_path: Path, network: Linear) -> None:
    grey = pictures(9, channels=1)
    one = save(tmp_path / "grey.npz", grey)
    three = save(tmp_path / "colour.npz", grey.repeat(3, 3))
    values = evaluate.evaluate(Request(one, three, cpu=True)).values
    assert values["frechet"] == pytest.approx(0, abs=1e-6)
    assert values["precision"] == values["recall"] == 1


def test_wrong_requests_are_refused_before_any_work(
    files: tuple[Path, Path], network: Linear, tmp_path: Path
) -> None:
    def refused(sentence: str, **changes: Any) -> None:
        with pytest.raises((ValueError, DatasetError), match=sentence):
            evaluate.evaluate(Request(*files, cpu=True)._replace(**changes))

    refused(r"none.npz is missing", samples=tmp_path / "none.npz")
    refused(r"none.npz is missing", reference=tmp_path / "none.npz")
    refused(r"the folder .*nowhere of --out does not exist", out=tmp_path / "nowhere" / "a.json")
    refused("batch must be at least 1, got 0", batch=0)
    few = save(tmp_path / "few.npz", pictures(3))
    refused(r"few.npz must hold more than 3 images", samples=few)
    large = save(tmp_path / "large.npz", pictures(9, side=8))
    refused("samples and reference must be of one size, got 6x6 and 8x8", reference=large)
    assert network.asked == 0


def test_without_weights_one_sentence_says_what_to_fetch(files: tuple[Path, Path]) -> None:
    result = CliRunner().invoke(main, ["evaluate", str(files[0]), "--reference", str(files[1])])
    assert result.exit_code == 2 and result.stderr.count("\n") == 1
    assert "there are no Inception weights to compare images with: fetch pt_incep" in result.stderr
    assert "and name it with --inception" in result.stderr


class Fidelity(ModuleType):
    """The interface of torch-fidelity that is used, noting what it was called with."""

    __version__ = "0.4.0"

    def __init__(self) -> None:
        super().__init__("torch_fidelity")
        self.called: dict[str, Any] = {}

    def calculate_metrics(self, **arguments: Any) -> dict[str, float]:
        self.called = arguments
        found = {"inception_score_mean": 2.0, "inception_score_std": 0.1}
        if arguments["fid"]:
            found["frechet_inception_distance"] = 1.0
        return found | {"precision": 0.75, "recall": 0.5, "f_score": 0.6}


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Fidelity:
    found = Fidelity()
    monkeypatch.setitem(sys.modules, "torch_fidelity", found)
    return found


def test_torch_fidelity_is_called_for_the_protocol(
    files: tuple[Path, Path], network: Linear, engine: Fidelity, tmp_path: Path
) -> None:
    request = Request(*files, tmp_path / "port.pth", engine="torch-fidelity", batch=9, cpu=True)
    report = evaluate.evaluate(request)
    assert report.named() == {"FID": 1.0, "IS": 2.0, "precision": 0.75, "recall": 0.5}
    called = dict(engine.called)
    # generated first: which of the two is whose precision depends on it
    for name, path in (("input1", files[0]), ("input2", files[1])):
        held = called.pop(name)
        images = torch.from_numpy(np.load(path)["arr_0"]).permute(0, 3, 1, 2)
        assert len(held) == len(images) and held[0].dtype == torch.uint8
        assert torch.equal(torch.stack([held[i] for i in range(len(held))]), images)
    assert called == {
        "feature_extractor": "inception-v3-compat",
        "feature_layer_prc": "2048",
        "feature_extractor_weights_path": str(tmp_path / "port.pth"),
        "isc": True,
        "fid": True,
        "prc": True,
        "isc_splits": 1,
        "prc_neighborhood": 3,
        "samples_shuffle": False,
        "batch_size": 9,
        "cuda": False,
        "cache": False,
    }
    save(files[1], np.load(files[1])["arr_0"], **laws())
    assert "FID" not in evaluate.evaluate(request).named()
    assert engine.called["fid"] is False


def test_torch_fidelity_takes_adms_splits(tmp_path: Path, engine: Fidelity) -> None:
    reference = save(tmp_path / "b.npz", pictures(5))
    for n, splits in ((5_000, 1), (10_000, 2), (4_999, 1)):
        images = adm.Images(save(tmp_path / "a.npz", np.zeros((n, 1, 1, 1), np.uint8)))
        fidelity.values(fidelity.Run(images, reference, tmp_path / "port.pth", 9, True))
        assert engine.called["isc_splits"] == splits
    images = adm.Images(save(tmp_path / "a.npz", np.zeros((5_001, 1, 1, 1), np.uint8)))
    with pytest.raises(ValueError, match="needs a multiple of 5,000 samples, got 5,001"):
        fidelity.values(fidelity.Run(images, reference, tmp_path / "port.pth", 9, True))


def test_what_torch_fidelity_cannot_do_is_refused(
    files: tuple[Path, Path], engine: Fidelity, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = fidelity.Run(adm.Images(files[0]), files[1], tmp_path / "port.pth", 9, True)
    with pytest.raises(ValueError, match=r"takes the port's weights only, a .pth"):
        fidelity.values(run._replace(weights=tmp_path / "script.pt"))
    alone = save(tmp_path / "laws.npz", **laws())
    with pytest.raises(ValueError, match=r"compares images, and .*laws.npz holds none"):
        fidelity.values(run._replace(reference=alone))
    engine.__version__ = "0.3.0"
    with pytest.raises(ValueError, match=r"must be 0.4 or later, got 0.3.0"):
        fidelity.values(run)
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    with pytest.raises(ValueError, match=r"cannot be loaded .*; pip install 'torch-fidelity>=0.4'"):
        fidelity.values(run)

    def unfit(name: str) -> None:
        raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.setattr(fidelity, "import_module", unfit)
    with pytest.raises(ValueError, match=r"cannot be loaded \(operator torchvision::nms does not"):
        fidelity.values(run)


def test_a_full_disk_is_one_sentence(
    files: tuple[Path, Path], network: Linear, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, contents: str) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(evaluate, "write_atomically", full)
    asked = ["evaluate", str(files[0]), "--reference", str(files[1])]
    result = CliRunner().invoke(main, [*asked, "--cpu", "--out", str(tmp_path / "a.json")])
    assert result.exit_code == 2
    assert result.stderr.endswith("a.json cannot be written: No space left on device\n")
