"""A packed folder holds the bytes of the images, in their order."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import small_encoding
import small_shards
from click.testing import CliRunner
from PIL import Image

from erdpaper.cli import main
from erdpaper.datasets import DatasetError
from erdpaper.fullscale.data import adm
from erdpaper.fullscale.data.sources import Where
from erdpaper.fullscale.encoding import encode
from erdpaper.fullscale.evaluation import pack


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five pictures in two folders, which are as large as they are to be."""
    root = tmp_path_factory.mktemp("pictures") / "images"
    for name, seeds in {"a": (0, 1), "b": (2, 3, 4)}.items():
        (root / name).mkdir(parents=True)
        for seed in seeds:
            small_encoding.picture(seed, 16, 16).save(root / name / f"{seed}.png")
    return root


@pytest.fixture(scope="module")
def encoded(images: Path) -> Path:
    """The same as shards of pixels, two images a file."""
    out = images.parent / "encoded"
    request = encode.Request(
        Where("images", str(images)), out, 16, flip=True, per_shard=2, cpu=True
    )
    return encode.run(request._replace(workers=0)).folder


def test_the_images_are_those_of_the_files_and_not_flipped(
    images: Path, encoded: Path, tmp_path: Path
) -> None:
    path = pack.pack(encoded, tmp_path / "ref.npz")
    files = sorted(images.rglob("*.png"))
    wanted = np.stack([np.asarray(Image.open(file).convert("RGB")) for file in files])
    with np.load(path, allow_pickle=False) as found:
        assert np.array_equal(found["arr_0"], wanted)
        assert found["arr_1"].tolist() == [0, 0, 1, 1, 1]
    assert adm.holds_images(path)


def test_latents_and_other_folders_are_refused(tmp_path: Path) -> None:
    latents = small_shards.write(tmp_path / "latents")
    with pytest.raises(ValueError, match="holds latents; a reference needs pixels"):
        pack.pack(latents, tmp_path / "ref.npz")
    with pytest.raises(DatasetError, match="nowhere is not a folder"):
        pack.pack(tmp_path / "nowhere", tmp_path / "ref.npz")


def test_a_damaged_file_is_no_reference(encoded: Path, tmp_path: Path) -> None:
    damaged = shutil.copytree(encoded, tmp_path / "damaged")
    path = damaged / "shard-00001.safetensors"
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)
    done = CliRunner().invoke(main, ["pack", str(damaged), "--out", str(tmp_path / "ref.npz")])
    assert done.exit_code == 2 and not (tmp_path / "ref.npz").exists()
    said = done.stderr.splitlines()[-1]
    assert said.startswith(f"Error: {path} is damaged (its sha256 is not that of index.json)")


def test_the_command_says_where_the_reference_is(encoded: Path, tmp_path: Path) -> None:
    out = tmp_path / "ref.npz"
    done = CliRunner().invoke(main, ["pack", str(encoded), "--out", str(out)])
    assert (done.exit_code, done.output) == (0, f"the reference: {out}\n")
    missing = tmp_path / "no" / "ref.npz"
    done = CliRunner().invoke(main, ["pack", str(encoded), "--out", str(missing)])
    assert done.exit_code == 2
    assert f"the folder {missing.parent} of --out does not exist" in done.output
