"""Crops against resampling written out as matrices, and each set of images against its files."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_encoding as small
import torch
from PIL import Image

from erdpaper.datasets import DatasetError
from erdpaper.fullscale.data import cifar10, crops, hub, sources
from erdpaper.fullscale.data.sources import Where

Filter = Callable[[np.ndarray], np.ndarray]


def box(x: np.ndarray) -> np.ndarray:
    return ((x > -0.5) & (x <= 0.5)).astype(float)


def triangle(x: np.ndarray) -> np.ndarray:
    return np.clip(1 - np.abs(x), 0, None)


def cubic(x: np.ndarray, a: float = -0.5) -> np.ndarray:
    """Keys' kernel."""
    x = np.abs(x)
    near = (a + 2) * x**3 - (a + 3) * x**2 + 1
    far = a * (x**3 - 5 * x**2 + 8 * x - 4)
    return np.where(x < 1, near, np.where(x < 2, far, 0))


def matrix(old: int, new: int, kernel: Filter) -> np.ndarray:
    """Resampling of a line, (new, old); the kernel is stretched where the line shrinks."""
    scale = old / new
    middle = (np.arange(new)[:, None] + 0.5) * scale - 0.5
    weights = kernel((np.arange(old) - middle) / max(scale, 1))
    return weights / weights.sum(1, keepdims=True)


def resized(image: np.ndarray, height: int, width: int, kernel: Filter) -> np.ndarray:
    down = matrix(image.shape[0], height, kernel)
    across = matrix(image.shape[1], width, kernel)
    # Pillow makes bytes after each of the two
    lines = whole(np.einsum("xw,hwc->hxc", across, image))
    return whole(np.einsum("yh,hxc->yxc", down, lines))


def whole(x: np.ndarray) -> np.ndarray:
    return np.floor(x.clip(0, 255) + 0.5)


@pytest.mark.parametrize(
    ("width", "height", "side"),
    [
        (32, 32, 32),  # as it is
        (50, 41, 32),  # once, bicubic
        (20, 27, 32),  # enlarged
        (64, 90, 32),  # halved once
        # halved twice and once, from odd lengths, no pixel's middle on the edge of a box
        (303, 143, 32),
        (127, 260, 32),
    ],
)
def test_crop_is_that_of_adm(width: int, height: int, side: int) -> None:
    image = small.picture(width, width, height)
    x = np.asarray(image).astype(float)
    while min(x.shape[:2]) >= 2 * side:
        x = resized(x, x.shape[0] // 2, x.shape[1] // 2, box)
    scale = side / min(x.shape[:2])
    x = resized(x, round(x.shape[0] * scale), round(x.shape[1] * scale), cubic)
    top, left = (x.shape[0] - side) // 2, (x.shape[1] - side) // 2
    expected = x[top : top + side, left : left + side]
    found = crops.centre(image, side).astype(float)
    assert found.shape == (side, side, 3)
    assert np.abs(found - expected).max() <= 1


def test_crop_of_celeba_is_that_of_the_score_sde() -> None:
    image = small.picture(3, 178, 218)
    # 218 = 39 + 140 + 39 and 178 = 19 + 140 + 19
    face = np.asarray(image).astype(float)[39:179, 19:159]
    found = crops.celeba(image, 64).astype(float)
    assert np.abs(found - resized(face, 64, 64, triangle)).max() <= 1
    moved = np.asarray(image).astype(float)[40:180, 19:159]
    assert np.abs(found - resized(moved, 64, 64, triangle)).max() > 5


def pixels_of(path: Path, side: int = small.SIDE) -> np.ndarray:
    return crops.centre(Image.open(path).convert("RGB"), side)


def test_class_folders_are_read_in_alphabetical_order(tmp_path: Path) -> None:
    root = small.class_folders(tmp_path / "all" / "train", {"n02": 3, "n01": 12})
    (root / "n01" / ".hidden.png").write_bytes(b"")
    (root / "n01" / "notes.txt").write_text("no image")
    (root / ".cache").mkdir()
    found = sources.find(Where("images", str(tmp_path / "all"), classes=2))
    assert found.classes == ("n01", "n02") and found.labels.tolist() == [0] * 12 + [1] * 3
    for label, name in enumerate(found.classes):
        paths = sorted((root / name).glob("n*.png"), key=lambda path: path.name)
        indices = torch.nonzero(found.labels == label).flatten().tolist()
        assert len(paths) == len(indices)
        for index, path in zip(indices, paths, strict=True):
            assert np.array_equal(found.pixels(index, small.SIDE), pixels_of(path))
    # the same without train/ above
    inside = sources.find(Where("images", str(root)))
    assert torch.equal(inside.labels, found.labels)
    assert np.array_equal(inside.pixels(5, small.SIDE), found.pixels(5, small.SIDE))


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    small.class_folders(tmp_path, {"boat": 2, "train": 2})
    assert sources.find(Where("images", str(tmp_path))).classes == ("boat", "train")


def test_every_kind_of_file_becomes_rgb(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    picture = small.picture(0, 16, 16)
    for mode, name in (("L", "1.png"), ("CMYK", "2.JPEG"), ("RGBA", "3.png"), ("P", "4.png")):
        picture.convert(mode).save(tmp_path / "a" / name)
    # ImageNet has a png under a jpeg's name
    picture.save(tmp_path / "a" / "5.JPEG", format="PNG")
    found = sources.find(Where("images", str(tmp_path)))
    assert len(found) == 5 and found.pixels(1, 16).shape == (16, 16, 3)
    grey = np.asarray(picture.convert("L"))
    assert np.array_equal(found.pixels(0, 16), np.stack([grey] * 3, axis=-1))
    for index in (2, 4):
        assert np.array_equal(found.pixels(index, 16), np.asarray(picture))


def refused(where: Where, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        sources.find(where)


def test_bad_folders_are_named(tmp_path: Path) -> None:
    refused(Where("images", str(tmp_path / "nowhere")), "nowhere is not a folder; it must hold a f")
    root = tmp_path / "data"
    root.mkdir()
    refused(Where("images", str(root)), "data holds no folders; it must hold a folder of images")
    small.class_folders(root, {"a": 2, "b": 1})
    refused(Where("images", str(root), classes=3), "data holds 2 classes, not 3")
    refused(Where("images", str(root), "val"), "data holds no folder 'val' with a folder of images")
    (root / "empty").mkdir()
    refused(Where("images", str(root)), r"data/empty holds no images \(\.bmp, \.jpeg")


def test_broken_images_are_named(tmp_path: Path) -> None:
    root = small.class_folders(tmp_path, {"a": 4}, "jpg")
    paths = sorted((root / "a").iterdir())
    found = sources.find(Where("images", str(tmp_path)))
    paths[0].write_bytes(paths[0].read_bytes()[:-200])
    with pytest.raises(DatasetError, match=rf"{paths[0]} cannot be read as an image \(.*trunc"):
        found.pixels(0, 16)
    paths[1].write_bytes(b"<html>")
    with pytest.raises(DatasetError, match=rf"{paths[1]} cannot be read as an image"):
        found.pixels(1, 16)
    paths[2].unlink()
    with pytest.raises(DatasetError, match=rf"{paths[2]} is missing"):
        found.pixels(2, 16)
    assert np.array_equal(found.pixels(3, 16), pixels_of(paths[3]))


def test_a_listing_outlives_new_files(tmp_path: Path) -> None:
    root = small.class_folders(tmp_path, {"a": 4, "b": 3})
    where = Where("images", str(tmp_path))
    before = sources.find(where)
    small.picture(9).save(root / "a" / "a_0_new.png")
    after = sources.find(where, sources.listing_of(before))
    assert len(after) == 7 and len(sources.find(where)) == 8
    for index in range(7):
        assert np.array_equal(after.pixels(index, 16), before.pixels(index, 16))


def faces(root: Path, *, archive: bool = False) -> Path:
    images = root / "Img" / "img_align_celeba" if archive else root / "img_align_celeba"
    lists = root / "Eval" if archive else root
    images.mkdir(parents=True)
    lists.mkdir(exist_ok=True)
    partitions = (0, 0, 1, 2, 0)
    for k, _ in enumerate(partitions, start=1):
        small.picture(k, 178, 218).save(images / f"{k:06d}.jpg")
    lines = [f"{k:06d}.jpg {number}\n" for k, number in enumerate(partitions, start=1)]
    (lists / "list_eval_partition.txt").write_text("".join(lines))
    return images


@pytest.mark.parametrize("archive", [False, True])
def test_celeba_is_its_partitions(archive: bool, tmp_path: Path) -> None:
    images = faces(tmp_path, archive=archive)
    for split, numbers in (("train", (1, 2, 5)), ("valid", (3,)), ("test", (4,)), ("all", None)):
        found = sources.find(Where("celeba", str(tmp_path), split))
        expected = numbers or (1, 2, 3, 4, 5)
        assert len(found) == len(expected) and found.classes == ()
        for index, number in enumerate(expected):
            face = crops.celeba(Image.open(images / f"{number:06d}.jpg"), 64)
            assert np.array_equal(found.pixels(index, 64), face)


def test_bad_celeba_is_named(tmp_path: Path) -> None:
    refused(Where("celeba", str(tmp_path)), r"img_align_celeba is missing; CelebA needs img_")
    images = faces(tmp_path)
    with pytest.raises(ValueError, match="must be one of train, valid, test, all, not 'val'"):
        sources.find(Where("celeba", str(tmp_path), "val"))
    small.picture(0, 64, 64).save(images / "000001.jpg")
    found = sources.find(Where("celeba", str(tmp_path)))
    with pytest.raises(DatasetError, match=r"000001\.jpg has \(64, 64\) pixels, not \(178, 218\)"):
        found.pixels(0, 64)
    (images / "000005.jpg").unlink()
    refused(Where("celeba", str(tmp_path)), r"000005\.jpg is missing, but list_eval_part")
    (tmp_path / "list_eval_partition.txt").write_text("000001.jpg 0\n000002.jpg 7\n")
    refused(Where("celeba", str(tmp_path)), r"partition\.txt has other lines than a name and 0, 1")
    (tmp_path / "list_eval_partition.txt").write_text("000001.jpg 0\n")
    refused(Where("celeba", str(tmp_path), "test"), "lists no images of the split 'test'")


def test_cifar10_is_its_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cifar10, "RECORDS", 4)
    records = np.random.default_rng(0).integers(0, 256, (6, 4, 3073), dtype=np.uint8)
    records[..., 0] %= 10
    names = [*(f"data_batch_{k}.bin" for k in range(1, 6)), "test_batch.bin"]
    for name, part in zip(names, records, strict=True):
        (tmp_path / name).write_bytes(part.tobytes())
    for split, part in (("train", records[:5]), ("test", records[5:])):
        found = sources.find(Where("cifar10", str(tmp_path), split))
        rows = part.reshape(-1, 3073)
        assert np.array_equal(found.labels, rows[:, 0]) and found.classes == cifar10.CLASSES
        for index, row in enumerate(rows):
            expected = row[1:].reshape(3, 32, 32).transpose(1, 2, 0)
            assert np.array_equal(found.pixels(index, 32), expected)


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()
    return datasets


def encoded(seed: int) -> bytes:
    stream = io.BytesIO()
    small.picture(seed).save(stream, "PNG")
    return stream.getvalue()


def rows(library: Any, images: list[bytes], labels: list[int | None] | None) -> Any:
    """A data set as it comes from the hub."""
    columns: dict[str, Any] = {"image": [{"bytes": raw, "path": None} for raw in images]}
    features = {"image": library.Image()}
    if labels is not None:
        columns["label"] = labels
        features["label"] = library.ClassLabel(names=["cat", "dog", "owl"])
    return library.Dataset.from_dict(columns, features=library.Features(features))


def test_data_sets_of_the_hub_are_their_rows(library: Any, tmp_path: Path) -> None:
    images, labels = [encoded(k) for k in range(5)], [2, 0, 1, 1, 2]
    data = rows(library, images, labels)
    (tmp_path / "hub" / "data").mkdir(parents=True)
    data.to_parquet(tmp_path / "hub" / "data" / "train-00000.parquet")
    library.DatasetDict({"train": data}).save_to_disk(tmp_path / "splits")
    data.save_to_disk(tmp_path / "one")
    for name in ("hub", "splits", "one"):
        found = sources.find(Where("dataset", str(tmp_path / name), classes=3))
        assert found.classes == ("cat", "dog", "owl") and found.labels.tolist() == labels
        for index in range(5):
            expected = crops.centre(small.picture(index), small.SIDE)
            assert np.array_equal(found.pixels(index, small.SIDE), expected)
    refused(Where("dataset", str(tmp_path / "splits"), "val"), "has no split 'val'; it has train")
    refused(Where("dataset", str(tmp_path / "hub"), "val"), r"no data set can be loaded .*val")
    listing = sources.listing_of(found)
    other = listing._replace(labels=listing.labels.flip(0)[:4])
    with pytest.raises(DatasetError, match="no longer holds the images of which some are encoded"):
        sources.find(Where("dataset", str(tmp_path / "one")), other)


def test_folders_of_files_are_data_sets_too(library: Any, tmp_path: Path) -> None:
    root = small.class_folders(tmp_path / "train", {"a": 2, "b": 3})
    found = sources.find(Where("dataset", str(tmp_path)))
    assert found.classes == ("a", "b") and found.labels.tolist() == [0, 0, 1, 1, 1]
    for index, path in enumerate(
        [*sorted((root / "a").iterdir()), *sorted((root / "b").iterdir())]
    ):
        assert np.array_equal(found.pixels(index, 16), pixels_of(path))


def test_bad_data_sets_are_named(library: Any, tmp_path: Path) -> None:
    def kept(name: str, data: Any) -> Where:
        data.save_to_disk(tmp_path / name)
        return Where("dataset", str(tmp_path / name))

    good = encoded(0)
    refused(
        Where("dataset", str(tmp_path / "nowhere")), "no data set can be loaded from '.*nowhere"
    )
    refused(kept("loose", rows(library, [good] * 3, [0, None, 1])), "image 1 of '.*' has no class")
    plain = library.Dataset.from_dict({"text": ["a"]})
    refused(kept("text", plain), "'.*text' must have one column of images, not 0")
    found = sources.find(kept("broken", rows(library, [good, good[:-60]], None)))
    assert found.classes == () and found.labels.tolist() == [0, 0]
    with pytest.raises(DatasetError, match=r"image 1 of '.*broken' cannot be read as an image"):
        found.pixels(1, 16)


def test_without_the_library_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(DatasetError, match=r"`datasets` is not installed; get it with `pip inst"):
        hub.Rows("name", "cats", "train")
