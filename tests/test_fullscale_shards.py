"""The reader of encoded data against the tensors that were written, drawn and flipped by hand."""

import hashlib
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor
from torch.utils.data import DataLoader

from erdpaper.datasets import DatasetError
from erdpaper.fullscale.data import shards
from erdpaper.fullscale.data.shards import Index, Shard, Shards

COUNTS = (5, 3, 4)
N = sum(COUNTS)
FACTOR = 0.3
SHAPE = (4, 6, 5)


def stored(kind: str, flipped: bool) -> dict[str, Tensor]:
    """The tensors of N images."""
    generator = torch.Generator().manual_seed(0)
    if kind == "pixels":
        pixels = torch.randint(0, 256, (N, *SHAPE), generator=generator, dtype=torch.uint8)
        return {"pixels": pixels}
    names = shards.names(kind, flipped)
    return {name: torch.rand(N, *SHAPE, generator=generator).half() for name in names}


def write(folder: Path, kind: str = "moments", flipped: bool = False, labelled: bool = True) -> Any:
    """A folder of three files, and what they hold."""
    folder.mkdir(exist_ok=True)
    tensors = stored(kind, flipped)
    labels = torch.arange(N) % 3 if labelled else torch.zeros(N, dtype=torch.int64)
    files = []
    parts = {name: part.split(COUNTS) for name, part in (tensors | {"labels": labels}).items()}
    for k, count in enumerate(COUNTS):
        path = folder / f"shard-{k:05d}.safetensors"
        save_file({name: part[k].contiguous() for name, part in parts.items()}, path)
        files.append(Shard(path.name, count, hashlib.sha256(path.read_bytes()).hexdigest()))
    Index(
        kind="pixels" if kind == "pixels" else "latents",
        source="images /somewhere (train)",
        encoder=None if kind == "pixels" else "somebody/vae",
        factor=None if kind == "pixels" else FACTOR,
        stored=kind,
        flipped=flipped,
        shape=SHAPE,
        classes=("a", "b", "c") if labelled else (),
        count=N,
        shards=tuple(files),
    ).write(folder)
    return tensors, labels


def seeded(seed: int = 7) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def by_hand(tensors: dict[str, Tensor], kind: str, flipped: bool, indices: Tensor) -> Tensor:
    """What `take` has to give, image by image, in double precision."""
    generator, n = seeded(), len(indices)
    flip = torch.rand(n, generator=generator) < 0.5 if flipped else torch.zeros(n, dtype=torch.bool)
    noise = torch.randn(n, *SHAPE, generator=generator).double()
    found = []
    for k, index in enumerate(indices.tolist()):
        if kind == "pixels":
            pixels = tensors["pixels"][index].double() / 127.5 - 1
            found.append(pixels.flip(-1) if flip[k] else pixels)
            continue
        suffix = "_flipped" if flip[k] else ""
        if kind == "sample":
            z = tensors["sample" + suffix][index].double()
        else:
            mean, std = (tensors[name + suffix][index].double() for name in ("mean", "std"))
            z = mean + std * noise[k]
        found.append(FACTOR * z)
    return torch.stack(found)


KINDS = [(kind, flipped) for kind in ("moments", "sample", "pixels") for flipped in (False, True)]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, bool], Any]:
    root = tmp_path_factory.mktemp("folders")
    found = {}
    for kind, flipped in KINDS:
        folder = root / f"{kind}-{flipped}"
        tensors, labels = write(folder, kind, flipped)
        found[kind, flipped] = Shards(folder), tensors, labels
    return found


@pytest.mark.parametrize(("kind", "flipped"), KINDS)
def test_examples_are_those_that_were_written(kind: str, flipped: bool, folders: Any) -> None:
    data, tensors, labels = folders[kind, flipped]
    assert len(data) == N and data.shape == SHAPE and torch.equal(data.labels, labels)

    @given(st.lists(st.integers(0, N - 1), min_size=1, max_size=30))
    def right(chosen: list[int]) -> None:
        indices = torch.tensor(chosen)
        found = data.take(indices, seeded())
        assert found.dtype == torch.float32 and found.is_contiguous()
        expected = by_hand(tensors, kind, flipped, indices)
        torch.testing.assert_close(found.double(), expected, atol=1e-6, rtol=1e-6)

    right()


def test_nothing_but_the_generator_is_left_to_chance(folders: Any) -> None:
    data, _, _ = folders["moments", True]
    indices = torch.arange(N)
    first = data.take(indices, seeded(1))
    torch.manual_seed(0)
    assert torch.equal(data.take(indices, seeded(1)), first)
    assert not torch.equal(data.take(indices, seeded(2)), first)
    data.take(indices, seeded(2)).zero_()
    assert torch.equal(data.take(indices, seeded(1)), first)


def test_no_images_are_none(folders: Any) -> None:
    data, _, _ = folders["pixels", True]
    nothing = torch.empty(0, dtype=torch.int64)
    assert data.take(nothing, seeded()).shape == (0, *SHAPE)


def test_indices_beyond_the_images_are_refused(folders: Any) -> None:
    data, _, _ = folders["sample", False]
    for index in (-1, N):
        with pytest.raises(ValueError, match=rf"indices must lie in 0\.\.{N - 1}, the images"):
            data.take(torch.tensor([0, index]), seeded())


def test_data_without_classes_have_no_labels(tmp_path: Path) -> None:
    write(tmp_path, labelled=False)
    assert Shards(tmp_path).labels is None


def test_files_are_mapped_and_not_read(tmp_path: Path) -> None:
    tensors, _ = write(tmp_path, "sample")
    data = Shards(tmp_path)
    path = tmp_path / "shard-00001.safetensors"
    raw = bytearray(path.read_bytes())
    old, new = (part.numpy().tobytes() for part in (tensors["sample"][6], tensors["sample"][0]))
    first = raw.index(old)
    with path.open("r+b") as file:
        file.seek(first)
        file.write(new)
    found = data.take(torch.tensor([6]), seeded())
    torch.testing.assert_close(found[0], FACTOR * tensors["sample"][0].float())


class Examples:
    """As the data of a loader."""

    def __init__(self, data: Shards) -> None:
        self.data = data

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> Tensor:
        return self.data.take(torch.tensor([index]), seeded(index))[0]


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_other_processes_read_the_same(context: str, folders: Any) -> None:
    data, _, _ = folders["moments", True]
    there = pickle.loads(pickle.dumps(data))
    assert torch.equal(there.take(torch.arange(N), seeded()), data.take(torch.arange(N), seeded()))
    examples = Examples(data)
    loader = DataLoader(examples, 4, num_workers=1, multiprocessing_context=context)  # type: ignore[arg-type]
    expected = torch.stack([examples[index] for index in range(N)])
    assert torch.equal(torch.cat(list(loader)), expected)


def test_a_changed_byte_is_found(tmp_path: Path) -> None:
    write(tmp_path)
    Shards(tmp_path).verify()
    path = tmp_path / "shard-00002.safetensors"
    raw = bytearray(path.read_bytes())
    raw[-100] ^= 1
    path.write_bytes(raw)
    with pytest.raises(DatasetError, match=rf"{path} is damaged \(its sha256 is not that of index"):
        Shards(tmp_path).verify()


def refused(folder: Path, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        Shards(folder)


def test_folders_without_an_index_are_told_apart(tmp_path: Path) -> None:
    refused(tmp_path / "nowhere", "nowhere is not a folder; it must be one that `erdpaper encode`")
    refused(tmp_path, r"holds no index\.json; it must be a folder that `erdpaper encode` wrote")
    write(tmp_path)
    (tmp_path / "index.json").unlink()
    refused(tmp_path, "is not finished; give its `erdpaper encode` command again")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 2}, "is no index of encoded data of format 1"),
        ({"shape": None}, "is no index of encoded data"),
        ({"shape": [4, 5, 6]}, "shard-00000.safetensors does not hold what index.json says"),
        ({"flipped": True}, "shard-00000.safetensors does not hold what index.json says"),
        ({"count": N + 1}, "contradicts itself"),
        ({"stored": "means"}, "contradicts itself"),
        ({"shards": [{"file": "a", "count": "3", "sha256": ""}]}, "is no index of encoded data"),
        ({"color": "red"}, "is no index of encoded data .*color"),
    ],
)
def test_an_index_that_does_not_fit_is_refused(
    change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    write(tmp_path)
    path = tmp_path / "index.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    refused(tmp_path, message)


def test_files_that_are_gone_or_cut_are_named(tmp_path: Path) -> None:
    write(tmp_path)
    path = tmp_path / "shard-00001.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    refused(tmp_path, rf"{path} cannot be read .*; encode it anew")
    path.unlink()
    refused(tmp_path, rf"{path} cannot be read .*; encode it anew")
    (tmp_path / "index.json").write_text("{")
    refused(tmp_path, r"index\.json cannot be read")
