"""Samples in ADM's format, read by numpy and by hand."""

import weakref
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from erdpaper.datasets import DatasetError
from erdpaper.fullscale.data import adm
from erdpaper.fullscale.data.adm import Images, Shape

Array = np.ndarray[Any, Any]


def pictures(n: int, height: int = 5, width: int = 4, channels: int = 3, seed: int = 0) -> Array:
    generator = np.random.default_rng(seed)
    return generator.integers(0, 256, (n, height, width, channels), dtype=np.uint8)


def test_numpy_reads_what_is_written(tmp_path: Path) -> None:
    images, labels = pictures(7), np.arange(7)[::-1]
    path = tmp_path / "samples.npz"
    adm.write(path, Shape(*images.shape), np.split(images, [3, 4]), labels, {"seed": 1})
    with np.load(path) as file:
        assert file.files == ["arr_0", "arr_1"]
        assert file["arr_0"].dtype == np.uint8 and np.array_equal(file["arr_0"], images)
        assert file["arr_1"].dtype == np.int64 and np.array_equal(file["arr_1"], labels)
    assert adm.facts(path) == {"seed": 1}
    # what numpy itself would have put there
    np.savez(tmp_path / "numpy.npz", images, labels)
    with zipfile.ZipFile(path) as mine, zipfile.ZipFile(tmp_path / "numpy.npz") as theirs:
        for name in ("arr_0.npy", "arr_1.npy"):
            assert mine.read(name) == theirs.read(name)


def test_equal_samples_are_equal_files(tmp_path: Path) -> None:
    images = pictures(6)
    for name, cuts in (("a", [1, 2]), ("b", [5])):
        parts = np.split(images, cuts)
        adm.write(tmp_path / name, Shape(*images.shape), parts, np.zeros(6), {"x": 1})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_only_one_part_is_in_memory(tmp_path: Path) -> None:
    alive: list[weakref.ref[Array]] = []
    most = 0

    def parts() -> Iterator[Array]:
        nonlocal most
        for seed in range(8):
            most = max(most, sum(ref() is not None for ref in alive))
            part = pictures(2, seed=seed)
            alive.append(weakref.ref(part))
            yield part
            del part

    adm.write(tmp_path / "a.npz", Shape(16, 5, 4, 3), parts(), None, {})
    # the one before is let go of while the next is made
    assert most <= 1
    with np.load(tmp_path / "a.npz") as file:
        assert file.files == ["arr_0"]
        assert np.array_equal(file["arr_0"][14:], pictures(2, seed=7))


def test_batches_are_the_images_in_order(tmp_path: Path) -> None:
    images = pictures(7, channels=1)
    np.savez(tmp_path / "plain.npz", images)
    np.savez_compressed(tmp_path / "packed.npz", images)
    for name in ("plain.npz", "packed.npz"):
        found = Images(tmp_path / name)
        assert found.shape == (7, 5, 4, 1)
        batches = list(found.batches(3))
        assert [len(batch) for batch in batches] == [3, 3, 1]
        assert torch.equal(torch.cat(batches), torch.from_numpy(images))
        assert adm.facts(tmp_path / name) is None
    # as numpy writes a header that is too long for the first version of the format
    with (
        zipfile.ZipFile(tmp_path / "second.npz", "w") as archive,
        archive.open("arr_0.npy", "w") as f,
    ):
        np.lib.format.write_array(f, images, (2, 0))
    assert torch.equal(next(Images(tmp_path / "second.npz").batches(9)), torch.from_numpy(images))


def test_other_arrays_are_found_by_name(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", mu=np.arange(3.0), other=np.zeros(2))
    found = adm.arrays(tmp_path / "a.npz", ("mu", "sigma"))
    assert list(found) == ["mu"] and np.array_equal(found["mu"], np.arange(3.0))
    assert not adm.holds_images(tmp_path / "a.npz")


def test_a_file_appears_as_a_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    with pytest.raises(ValueError, match="the parts hold 2 images, not 3"):
        adm.write(path, Shape(3, 5, 4, 3), [pictures(2)], None, {})
    with pytest.raises(ValueError, match=r"a part must be bytes \(n, \*\(5, 4, 3\)\), got uint8"):
        adm.write(path, Shape(2, 5, 4, 3), [pictures(2, channels=1)], None, {})
    with pytest.raises(ValueError, match="a part must be bytes"):
        adm.write(path, Shape(2, 5, 4, 3), [pictures(2).astype(np.float32)], None, {})
    with pytest.raises(ValueError, match="the facts take 70,012 bytes, more than 65,535"):
        adm.write(path, Shape(2, 5, 4, 3), [pictures(2)], None, {"much": "x" * 70_000})
    assert list(tmp_path.iterdir()) == []


def test_what_holds_no_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"none.npz is missing"):
        Images(tmp_path / "none.npz")
    (tmp_path / "text.npz").write_text("text")
    with pytest.raises(DatasetError, match=r"text.npz is no npz, or a damaged one"):
        Images(tmp_path / "text.npz")
    np.savez(tmp_path / "other.npz", x=np.zeros(3))
    with pytest.raises(DatasetError, match=r"other.npz holds no images: an array arr_0 is missing"):
        Images(tmp_path / "other.npz")
    for array in (np.zeros((2, 4, 4, 3)), np.zeros((2, 4, 4), np.uint8), pictures(2, channels=2)):
        np.savez(tmp_path / "wrong.npz", array)
        with pytest.raises(DatasetError, match=r"arr_0 must be bytes \(N, H, W, 1 or 3\), got"):
            Images(tmp_path / "wrong.npz")
    np.savez(tmp_path / "fortran.npz", np.asfortranarray(pictures(2)))
    with pytest.raises(DatasetError, match="arr_0 must be bytes"):
        Images(tmp_path / "fortran.npz")
    np.savez(tmp_path / "pickled.npz", np.array([{}], dtype=object))
    with pytest.raises(DatasetError, match="arr_0 must be bytes"):
        Images(tmp_path / "pickled.npz")


def test_damage_is_found(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, pictures(50))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DatasetError, match=r"a.npz is no npz, or a damaged one"):
        Images(path)
    changed = bytearray(whole)
    changed[len(whole) // 2] ^= 1
    path.write_bytes(changed)
    with pytest.raises(DatasetError, match=r"a.npz is no npz, or a damaged one \(Bad CRC-32"):
        list(Images(path).batches(7))
    np.savez_compressed(path, pictures(50))
    changed = bytearray(path.read_bytes())
    # behind the header, its name and its extra field the first block has a kind that there is not
    changed[30 + sum(changed[26:30])] = 0xFF
    path.write_bytes(changed)
    with pytest.raises(DatasetError, match=r"a.npz is no npz, or a damaged one \(Error -3"):
        list(Images(path).batches(7))
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("arr_0.npy", b"junk")
    with pytest.raises(DatasetError, match=r"a.npz: arr_0 is no array of numpy"):
        Images(path)
    with pytest.raises(DatasetError, match=r"cannot be read \(Is a directory\)"):
        Images(tmp_path)
