"""Fashion-MNIST against an independent reading of the same files, and every way a file can fail."""

import gzip
import hashlib
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from erdpaper import datasets
from erdpaper.datasets import DatasetError, fashion_mnist

DATA = Path(__file__).resolve().parents[1] / "data"
FASHION = DATA / "fashion-mnist"
SHARED = "t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz", "SHA256SUMS"
# computed once with numpy alone; the card prints the same
CLASS_MEANS = {
    "train": [
        *(-0.3488, -0.5542, -0.2466, -0.4822, -0.2293),
        *(-0.7265, -0.3364, -0.6646, -0.2929, -0.3976),
    ],
    "test": [
        *(-0.3441, -0.5531, -0.2521, -0.4793, -0.2177),
        *(-0.7274, -0.3344, -0.6626, -0.2930, -0.3993),
    ],
}
MOMENTS = {"train": (-0.42792, 0.70605, 0.50205), "test": (-0.42630, 0.70489, 0.49990)}
COUNT = {"train": 60_000, "test": 10_000}


@pytest.fixture(autouse=True)
def _real_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ERDPAPER_DATA", str(DATA))


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder of its own, holding the test split, that a test may damage."""
    folder = tmp_path / "fashion-mnist"
    folder.mkdir()
    for name in SHARED:
        shutil.copy(FASHION / name, folder / name)
    monkeypatch.setenv("ERDPAPER_DATA", str(tmp_path))
    return folder


def failure() -> str:
    """The one sentence with which the test split fails to load."""
    with pytest.raises(DatasetError) as caught:
        fashion_mnist("test")
    message = str(caught.value)
    assert "\n" not in message and ". " not in message
    assert "git checkout" in message and "dataset-fashion-mnist" in message
    return message


def by_hand(split: str) -> tuple[np.ndarray, np.ndarray]:
    """Bytes and labels read with numpy from fixed offsets, without the module's parser."""
    prefix = {"train": "train", "test": "t10k"}[split]
    pixels = gzip.decompress((FASHION / f"{prefix}-images-idx3-ubyte.gz").read_bytes())
    labels = gzip.decompress((FASHION / f"{prefix}-labels-idx1-ubyte.gz").read_bytes())
    assert np.frombuffer(pixels, ">u4", 4).tolist() == [2051, COUNT[split], 28, 28]
    assert np.frombuffer(labels, ">u4", 2).tolist() == [2049, COUNT[split]]
    return (
        np.frombuffer(pixels, np.uint8, offset=16).reshape(-1, 28, 28),
        np.frombuffer(labels, np.uint8, offset=8),
    )


@pytest.mark.parametrize("split", ["train", "test"])
def test_split_equals_a_reading_by_hand(split: str) -> None:
    read = fashion_mnist(split)
    pixels, labels = by_hand(split)
    assert read.images.shape == (COUNT[split], 1, 28, 28) and read.images.dtype == torch.float32
    assert read.labels.dtype == torch.int64 and len(read) == COUNT[split]
    assert np.array_equal(read.labels.numpy(), labels)
    # the scaling is undone exactly, for every pixel
    assert np.array_equal(np.rint((read.images[:, 0].numpy() + 1) * 127.5), pixels)


@pytest.mark.parametrize("split", ["train", "test"])
def test_statistics_are_those_of_the_card(split: str) -> None:
    read = fashion_mnist(split)
    flat = read.flat.double()
    mean, std, background = MOMENTS[split]
    assert flat.mean().item() == pytest.approx(mean, abs=6e-6)
    assert flat.std(correction=0).item() == pytest.approx(std, abs=6e-6)
    assert (flat == -1).double().mean().item() == pytest.approx(background, abs=6e-6)
    assert flat.max() == 1
    means = [flat[read.labels == label].mean().item() for label in range(10)]
    assert means == pytest.approx(CLASS_MEANS[split], abs=6e-5)
    assert read.labels.bincount().tolist() == [COUNT[split] // 10] * 10
    card = (FASHION / "README.md").read_text(encoding="utf-8")
    for number in (*(f"{x:.5f}" for x in MOMENTS[split]), *(f"{x:.4f}" for x in means)):
        assert number in card


def test_covariance_and_distinct_images_are_those_of_the_card() -> None:
    flat = fashion_mnist("test").flat.double().numpy()
    energy = np.linalg.eigvalsh(np.cov(flat, rowvar=False))[::-1]
    share = np.cumsum(energy) / energy.sum()
    needed = [int(np.searchsorted(share, level)) + 1 for level in (0.9, 0.95, 0.99)]
    card = (FASHION / "README.md").read_text(encoding="utf-8")
    assert f"{energy.sum():.3f}" in card and ", ".join(map(str, needed)) in card
    assert len(np.unique(flat.astype(np.float32), axis=0)) == 10_000


def test_flat_shares_memory_and_dtype_is_respected() -> None:
    read = fashion_mnist("test", torch.float64)
    assert read.images.dtype == torch.float64 and read.flat.shape == (10_000, 784)
    assert read.flat.data_ptr() == read.images.data_ptr()
    # the finer type is scaled in its own precision, not widened afterwards
    assert read.images[0, 0, 14, 14].item() in (np.arange(256) / 127.5 - 1)


def test_checksums_are_those_of_the_debian_files() -> None:
    listed = dict(
        reversed(line.split()) for line in (FASHION / "SHA256SUMS").read_text().splitlines()
    )
    assert len(listed) == 4
    for name, digest in listed.items():
        assert hashlib.sha256((FASHION / name).read_bytes()).hexdigest() == digest
    assert listed["train-labels-idx1-ubyte.gz"].startswith("0ae29f65d86684f3")


def test_classes_have_ten_names() -> None:
    assert len(set(datasets.FASHION_CLASSES)) == 10 and datasets.FASHION_CLASSES[9] == "Ankle boot"


@pytest.mark.parametrize("name", SHARED)
def test_missing_file(copy: Path, name: str) -> None:
    (copy / name).unlink()
    message = failure()
    assert name in message and "is missing" in message


@pytest.mark.parametrize("keep", [0, 10, 1000, -1, -8])
def test_truncated_file(copy: Path, keep: int) -> None:
    path = copy / SHARED[0]
    path.write_bytes(path.read_bytes()[:keep])
    message = failure()
    assert f"{SHARED[0]} is truncated" in message


@pytest.mark.parametrize("where", [0, 5000, -6])
def test_altered_byte(copy: Path, where: int) -> None:
    path = copy / SHARED[0]
    packed = bytearray(path.read_bytes())
    packed[where] ^= 1
    path.write_bytes(packed)
    assert re.search(r"t10k-images\S+ is altered", failure())


def test_one_pixel_changed_and_packed_again(copy: Path) -> None:
    path = copy / SHARED[0]
    raw = bytearray(gzip.decompress(path.read_bytes()))
    raw[5000] ^= 1
    path.write_bytes(gzip.compress(bytes(raw), 1))
    assert "is altered (it unpacks" in failure()


def test_the_other_split_in_its_place(copy: Path) -> None:
    shutil.copy(FASHION / "train-labels-idx1-ubyte.gz", copy / SHARED[1])
    assert "holds the contents of train-labels-idx1-ubyte.gz" in failure()


def test_file_without_a_checksum(copy: Path) -> None:
    sums = copy / "SHA256SUMS"
    lines = [line for line in sums.read_text().splitlines(True) if SHARED[1] not in line]
    sums.write_text("".join(lines))
    assert f"no line for {SHARED[1]}" in failure()


def test_wrong_contents_with_a_matching_checksum(copy: Path) -> None:
    path = copy / SHARED[1]
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes())[:-1], mtime=0))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    sums = copy / "SHA256SUMS"
    sums.write_text(re.sub(rf"\w+(?=  {SHARED[1]})", digest, sums.read_text()))
    assert "not an idx file of unsigned bytes of shape (10000,)" in failure()


def test_a_folder_in_its_place(copy: Path) -> None:
    (copy / SHARED[0]).unlink()
    (copy / SHARED[0]).mkdir()
    assert "cannot be read" in failure()


def test_bad_arguments_stop_before_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ERDPAPER_DATA", "/nowhere")
    with pytest.raises(ValueError, match="split must be one of train, test, not 'valid'"):
        fashion_mnist("valid")
    with pytest.raises(ValueError, match=r"floating point type, not torch\.uint8"):
        fashion_mnist("test", torch.uint8)


def test_data_dir_by_variable_and_beside_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert datasets.data_dir() == DATA
    monkeypatch.setenv("ERDPAPER_DATA", str(tmp_path / "absent"))
    with pytest.raises(DatasetError, match="which is not a folder"):
        datasets.data_dir()
    monkeypatch.delenv("ERDPAPER_DATA")
    package = tmp_path / "clone" / "erdpaper"
    monkeypatch.setattr(datasets, "__file__", str(package / "datasets.py"))
    with pytest.raises(DatasetError, match="ERDPAPER_DATA"):
        datasets.data_dir()
    (tmp_path / "clone" / "data").mkdir(parents=True)
    (tmp_path / "clone" / "data" / "claims.yml").write_text("[]")
    assert datasets.data_dir() == tmp_path / "clone" / "data"
