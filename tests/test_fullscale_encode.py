"""`erdpaper encode` against diffusers asked image by image, and what interrupts it."""

import hashlib
import multiprocessing
import os
import resource
import shutil
import signal
import socket
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_encoding as small
import torch
from accelerate import PartialState
from accelerate.state import AcceleratorState
from click.testing import CliRunner, Result
from diffusers import AutoencoderKL
from fresh_process import fresh_process
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from erdpaper.cli import main
from erdpaper.datasets import DatasetError
from erdpaper.fullscale.data import crops, sources
from erdpaper.fullscale.data.shards import Shards
from erdpaper.fullscale.data.sources import Where
from erdpaper.fullscale.encoding import encode
from erdpaper.fullscale.encoding.encode import Encoded, Request
from erdpaper.fullscale.pretrained import encoder
from erdpaper.training import generator_for

COUNTS = {"n01": 9, "n02": 4, "n03": 6}
N = sum(COUNTS.values())


@pytest.fixture(autouse=True)
def alone() -> Iterator[None]:
    """A process without what others have started in it."""
    with fresh_process():
        yield


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small.class_folders(tmp_path_factory.mktemp("data") / "images", COUNTS)


@pytest.fixture(scope="module")
def vae(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small.autoencoder(tmp_path_factory.mktemp("vae"))


def request(images: Path, out: Path, **options: Any) -> Request:
    usual = {"side": small.SIDE, "per_shard": 4, "batch": 3, "workers": 0, "cpu": True}
    return Request(Where("images", str(images)), out, **usual | options)


@pytest.fixture(scope="module")
def whole(images: Path, vae: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that nobody interrupted."""
    out = tmp_path_factory.mktemp("whole") / "out"
    return encode.run(request(images, out, encoder=str(vae), flip=True)).folder


def paths(images: Path) -> list[Path]:
    return [path for name in COUNTS for path in sorted((images / name).iterdir())]


def bytes_of(images: Path) -> Tensor:
    """All images, (N, 3, side, side), by nothing but Pillow and the crop, tested elsewhere."""
    squares = [crops.centre(Image.open(path), small.SIDE) for path in paths(images)]
    return torch.from_numpy(np.stack(squares)).permute(0, 3, 1, 2)


def posterior(vae: Path, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and std by diffusers in double precision, one image at a time."""
    network = AutoencoderKL.from_pretrained(vae).double().eval()
    with torch.no_grad():
        found = [network.encode(x[None].double() / 127.5 - 1).latent_dist for x in pixels]
    return torch.cat([each.mean for each in found]), torch.cat([each.std for each in found])


def kept(folder: Path, name: str) -> Tensor:
    files = [shard["file"] for shard in small.index(folder)["shards"]]
    return torch.cat([load_file(folder / file)[name] for file in files])


def close(found: Tensor, expected: Tensor) -> None:
    assert found.dtype == torch.float16
    torch.testing.assert_close(found.double(), expected, rtol=2**-10, atol=1e-4)


def test_latents_are_those_of_diffusers(images: Path, vae: Path, whole: Path) -> None:
    pixels = bytes_of(images)
    for suffix, x in (("", pixels), ("_flipped", pixels.flip(-1))):
        for name, expected in zip(("mean", "std"), posterior(vae, x), strict=True):
            close(kept(whole, name + suffix), expected)
    labels = [k for k, count in enumerate(COUNTS.values()) for _ in range(count)]
    assert kept(whole, "labels").tolist() == labels


def test_index_says_what_is_there(images: Path, vae: Path, whole: Path) -> None:
    found = small.index(whole)
    files = found.pop("shards")
    assert found == {
        "format": 1,
        "kind": "latents",
        "source": f"images {images} (train)",
        "encoder": str(vae),
        "factor": small.SCALING,
        "stored": "moments",
        "flipped": True,
        "shape": [4, 8, 8],
        "classes": list(COUNTS),
        "count": N,
    }
    assert [shard["count"] for shard in files] == [4, 4, 4, 4, 3]
    for shard in files:
        raw = (whole / shard["file"]).read_bytes()
        assert hashlib.sha256(raw).hexdigest() == shard["sha256"]


def test_the_reader_gives_what_the_model_is_trained_on(
    images: Path, vae: Path, whole: Path
) -> None:
    data = Shards(whole)
    data.verify()
    pixels, indices = bytes_of(images), torch.arange(N).flip(0)
    generator = torch.Generator().manual_seed(3)
    found = data.take(indices, torch.Generator().manual_seed(3))
    flip = torch.rand(N, generator=generator) < 0.5
    assert flip.any() and not flip.all()
    seen = torch.where(flip[:, None, None, None], pixels[indices].flip(-1), pixels[indices])
    mean, std = posterior(vae, seen)
    noise = torch.randn(N, *data.shape, generator=generator)
    torch.testing.assert_close(
        found.double(), small.SCALING * (mean + std * noise), rtol=2e-3, atol=1e-3
    )


def test_samples_are_draws_of_the_posterior_by_seed_and_image(
    images: Path, vae: Path, tmp_path: Path
) -> None:
    mean, std = posterior(vae, bytes_of(images))
    found = {}
    for seed, per_shard, batch in ((5, 4, 3), (5, 7, 2), (6, 4, 3)):
        out = tmp_path / f"{seed}-{per_shard}"
        options = {"sample": True, "seed": seed, "per_shard": per_shard, "batch": batch}
        encode.run(request(images, out, encoder=str(vae), **options))
        found[seed, per_shard] = kept(out, "sample")
        noise = [torch.randn(mean.shape[1:], generator=generator_for(seed, k)) for k in range(N)]
        torch.testing.assert_close(
            found[seed, per_shard].double(), mean + std * torch.stack(noise), rtol=2e-3, atol=1e-3
        )
    torch.testing.assert_close(found[5, 4], found[5, 7], rtol=2e-3, atol=1e-3)


def test_without_an_encoder_bytes_are_kept(images: Path, tmp_path: Path) -> None:
    out = encode.run(request(images, tmp_path / "out", flip=True, workers=2)).folder
    expected = bytes_of(images)
    assert torch.equal(kept(out, "pixels"), expected)
    index = small.index(out)
    assert index["kind"] == index["stored"] == "pixels" and index["factor"] is None
    data = Shards(out)
    found = data.take(torch.arange(N), torch.Generator().manual_seed(0))
    flip = torch.rand(N, generator=torch.Generator().manual_seed(0)) < 0.5
    seen = torch.where(flip[:, None, None, None], expected.flip(-1), expected)
    torch.testing.assert_close(found, seen / 127.5 - 1)


def test_every_source_has_its_usual_size() -> None:
    for kind, side in (("images", 256), ("dataset", 256), ("celeba", 64), ("cifar10", 32)):
        assert Request(Where(kind, "x"), Path("y")).pixels == side  # type: ignore[arg-type]


def forbid(patch: pytest.MonkeyPatch) -> None:
    """Make loading, listing and decoding impossible."""

    def never(*_: Any, **__: Any) -> Any:
        raise AssertionError("this is work")

    for place, name in ((encoder, "load"), (sources, "find"), (encode.decoding, "batches")):
        patch.setattr(place, name, never)


def stamps(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_a_finished_folder_is_left_as_it_is(
    images: Path, vae: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = stamps(whole)
    forbid(monkeypatch)
    done = encode.run(request(images, whole, encoder=str(vae), flip=True))
    assert done == (whole, True, ()) and stamps(whole) == before


def damage(path: Path) -> None:
    """Change one bit of a file."""
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)


def test_a_damaged_file_is_made_anew(images: Path, vae: Path, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(whole, out)
    damage(out / "shard-00002.safetensors")
    (out / "shard-00004.safetensors").unlink()
    before = stamps(out)
    done = encode.run(request(images, out, encoder=str(vae), flip=True))
    assert done == (out, False, ("shard-00002.safetensors", "shard-00004.safetensors"))
    assert small.contents(out) == small.contents(whole)
    changed = {name for name, stamp in stamps(out).items() if before.get(name) != stamp}
    assert {name for name in changed if name.endswith(".safetensors")} == {
        "shard-00002.safetensors",
        "shard-00004.safetensors",
    }


@pytest.mark.parametrize("broken", ["index.json", "work/shard-00004.json", "work/shard-00001.json"])
@pytest.mark.parametrize("raw", ["", "[]", '{"format": 1}'])
def test_damaged_facts_are_found_and_made_anew(
    broken: str, raw: str, images: Path, vae: Path, whole: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    shutil.copytree(whole, out)
    (out / broken).write_text(raw)
    # nobody would notice if only what is noted were looked at
    (out / "shard-00004.safetensors").write_bytes(b"damaged")
    done = encode.run(request(images, out, encoder=str(vae), flip=True))
    assert "shard-00004.safetensors" in done.anew
    assert small.contents(out) == small.contents(whole)
    assert small.contents(out / "work") == small.contents(whole / "work")


def test_a_damaged_index_alone_is_written_anew(
    images: Path, vae: Path, whole: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    shutil.copytree(whole, out)
    text = (out / "index.json").read_text()
    noted = small.index(out)["shards"][3]["sha256"]
    (out / "index.json").write_text(text.replace(noted, noted[::-1]))
    before = stamps(out)
    done = encode.run(request(images, out, encoder=str(vae), flip=True))
    assert done == (out, False, ("index.json",)) and small.contents(out) == small.contents(whole)
    files = [name for name in before if name.startswith("shard") and name.endswith("safetensors")]
    assert [stamps(out)[name] for name in files] == [before[name] for name in files]


def test_a_damaged_plan_is_named(images: Path, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(whole, out)
    (out / "work" / "plan.json").write_text("{")
    with pytest.raises(DatasetError, match=r"plan.json is damaged; delete .*out to encode anew"):
        encode.run(request(images, out))


@pytest.fixture
def copied(images: Path, tmp_path: Path) -> Path:
    shutil.copytree(images, tmp_path / "images")
    return tmp_path / "images"


def files(out: Path) -> list[str]:
    return sorted(path.name for path in out.glob("*.*"))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_truncated_image_stops_it_with_what_is_finished(
    workers: int, copied: Path, vae: Path, whole: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    broken = paths(copied)[10]
    intact = broken.read_bytes()
    for later in (10, 15):
        path = paths(copied)[later]
        path.write_bytes(path.read_bytes()[:400])
    asked = request(copied, out, encoder=str(vae), flip=True, workers=workers)
    with pytest.raises(DatasetError) as caught:
        encode.run(asked)
    said = str(caught.value)
    assert said.startswith(f"{broken} cannot be read as an image") and "\n" not in said
    # the third file would have held images 8 to 11
    assert files(out) == ["shard-00000.safetensors", "shard-00001.safetensors"]
    before = stamps(out)
    with pytest.raises(DatasetError, match="is not finished; give its `erdpaper encode` command"):
        Shards(out)
    broken.write_bytes(intact)
    shutil.copy(paths(Path(small.index(whole)["source"].split()[1]))[15], paths(copied)[15])
    encode.run(asked)
    expected = small.contents(whole)
    found = small.contents(out)
    assert {k: v for k, v in found.items() if k != "index.json"} == {
        k: v for k, v in expected.items() if k != "index.json"
    }
    assert all(stamps(out)[name] == stamp for name, stamp in before.items() if "shard" in name)


class Deadly:
    """Images that kill the process which decodes the fifth."""

    name, classes, labels = "deadly", (), torch.zeros(8, dtype=torch.int64)

    def __len__(self) -> int:
        return 8

    def pixels(self, index: int, side: int) -> np.ndarray:
        if index == 4:
            os.kill(os.getpid(), signal.SIGKILL)
        return np.zeros((side, side, 3), dtype=np.uint8)


def what_deadly_images_raise(answer: Connection) -> None:
    try:
        list(encode.decoding.batches(Deadly(), 4, encode.cut(range(8), 2), 1))
    except DatasetError as error:
        answer.send(str(error))


def test_a_killed_worker_is_one_sentence() -> None:
    # in a process of its own: torch may tell of the death again, wherever its parent then is
    context = multiprocessing.get_context("spawn")
    heard, told = context.Pipe(duplex=False)
    process = context.Process(target=what_deadly_images_raise, args=(told,))
    process.start()
    told.close()
    assert heard.recv().startswith("a process that decodes images was killed, perhaps for want of")
    process.join()


def test_new_files_do_not_move_those_that_are_encoded(copied: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    expected = bytes_of(copied)
    path = paths(copied)[17]
    intact = path.read_bytes()
    path.write_bytes(b"")
    with pytest.raises(DatasetError, match="cannot be read as an image"):
        encode.run(request(copied, out))
    path.write_bytes(intact)
    small.picture(99).save(copied / "n01" / "n00.png")
    encode.run(request(copied, out))
    assert torch.equal(kept(out, "pixels"), expected)


def test_a_write_that_fails_leaves_no_half_file(images: Path, tmp_path: Path) -> None:
    """The operating system refuses to write a file to its end, as where a disk is full."""
    out = tmp_path / "out"
    asked = request(images, out, side=64, per_shard=8)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    # files of 8 images have 98,304 bytes of pixels, that of the last 3 has 36,864
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
    try:
        with pytest.raises(DatasetError) as caught:
            encode.run(asked)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    said = str(caught.value)
    assert said.startswith(f"{out / 'shard-00000.safetensors'} cannot be written (File too large)")
    assert said.endswith("what is finished is kept, and the same command goes on from there")
    assert sorted(path.name for path in out.rglob("*") if path.is_file()) == [
        "images.safetensors",
        "plan.json",
    ]
    encode.run(asked)
    Shards(out).verify()


def test_a_disk_without_room_is_told_before_work(
    images: Path, vae: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # 19 images x 2 tensors x 2 (flipped) x 256 numbers x 2 bytes
    needed = 19 * 2 * 2 * 4 * 8 * 8 * 2
    usage = type(shutil.disk_usage("/"))
    asked = request(images, tmp_path / "out", encoder=str(vae), flip=True)
    monkeypatch.setattr(encode.shutil, "disk_usage", lambda _: usage(1, 1, needed - 1))
    with pytest.raises(DatasetError, match=r"out has room for 0\.0 GB, but 0\.0 GB are needed"):
        encode.run(asked)
    assert not list((tmp_path / "out").glob("shard*"))
    monkeypatch.setattr(encode.shutil, "disk_usage", lambda _: usage(1, 1, needed))
    encode.run(asked)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"side": 8}, "holds an encoding with side 16, not 8; name another folder or delete that"),
        ({"flip": False}, "holds an encoding with flipped True, not False"),
        ({"sample": True}, "holds an encoding with stored 'moments', not 'sample'"),
        ({"encoder": None}, "holds an encoding with encoder '.*', not None"),
        ({"per_shard": 5}, "holds an encoding with per_shard 4, not 5"),
        ({"where": Where("images", "elsewhere")}, "holds an encoding with source 'images .*els"),
    ],
)
def test_a_folder_of_another_encoding_is_refused(
    change: dict[str, Any], message: str, images: Path, vae: Path, whole: Path
) -> None:
    asked = request(images, whole, encoder=str(vae), flip=True)._replace(**change)
    before = stamps(whole)
    with pytest.raises(DatasetError, match=message):
        encode.run(asked)
    assert stamps(whole) == before


def test_a_folder_of_something_else_is_refused(images: Path, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="images holds n01 and no encoding begun by this comm"):
        encode.run(request(images, images))
    (tmp_path / "file").write_text("")
    with pytest.raises(DatasetError, match="file is not a folder"):
        encode.run(request(images, tmp_path / "file"))


def test_another_encoder_by_the_same_name_is_refused(copied: Path, tmp_path: Path) -> None:
    vae, out = small.autoencoder(tmp_path / "vae"), tmp_path / "out"
    paths(copied)[10].write_bytes(b"")
    asked = request(copied, out, encoder=str(vae))
    with pytest.raises(DatasetError, match="cannot be read as an image"):
        encode.run(asked)
    small.autoencoder(vae, seed=1)
    with pytest.raises(DatasetError, match=r"holds an encoding with weights '.*', not '"):
        encode.run(asked)


def test_bad_encoders_are_refused(images: Path, vae: Path, tmp_path: Path) -> None:
    def refused(
        message: str, name: Path, kind: type[Exception] = ValueError, **options: Any
    ) -> None:
        with pytest.raises(kind, match=message):
            encode.run(request(images, tmp_path / "out", encoder=str(name), **options))

    refused("no AutoencoderKL can be loaded from '.*images'", images)
    refused(r"the size must be a multiple of 2 for '.*': 15", vae, side=15)
    shifting = small.autoencoder(tmp_path / "shifting", shift_factor=0.1)
    refused("shifts its latents; use an autoencoder with a factor only", shifting)
    assert not (tmp_path / "out").exists()
    network = AutoencoderKL.from_pretrained(vae)
    with torch.no_grad():
        network.quant_conv.bias.fill_(1e5)
    network.save_pretrained(tmp_path / "loud")
    refused(
        r"gives latents beyond half precision for an image of 0\.\.2",
        tmp_path / "loud",
        DatasetError,
    )


def test_the_autoencoder_of_a_pipeline_is_found(images: Path, vae: Path, tmp_path: Path) -> None:
    shutil.copytree(vae, tmp_path / "pipeline" / "vae")
    found = encoder.load(str(tmp_path / "pipeline"), torch.device("cpu"))
    alone = encoder.load(str(vae), torch.device("cpu"))
    assert found.digest == alone.digest and found.factor == small.SCALING


def many(root: Path) -> Path:
    return small.class_folders(root, {"a": 100, "b": 100})


def test_a_kill_loses_nothing_but_the_file_in_work(vae: Path, tmp_path: Path) -> None:
    images, out = many(tmp_path / "images"), tmp_path / "out"
    options = ["--size", small.SIDE, "--per-shard", 2, "--workers", 1, "--encoder", vae]
    process = small.start("--images", images, "--out", out, *options)
    notes = out / "work"
    while len(list(notes.glob("shard-*.json"))) < 5 and process.poll() is None:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL and not (out / "index.json").exists()
    finished = sorted(path.stem for path in notes.glob("shard-*.json"))
    assert 5 <= len(finished) < 100
    before = {name: stamp for name, stamp in stamps(out).items() if name[:-12] in finished}
    # at most one file more than those that are noted
    assert len(list(out.glob("shard-*.safetensors"))) <= len(finished) + 1
    # what a kill in the middle of writing leaves
    (out / ".shard-00077.safetensors.abc.tmp").write_bytes(b"half")

    usual = {"encoder": str(vae), "per_shard": 2, "batch": 32}
    assert encode.run(request(images, out, **usual)) == (out, False, ())
    after = stamps(out)
    assert before and all(after[name] == stamp for name, stamp in before.items())
    assert not list(out.rglob("*.tmp"))
    encode.run(request(images, tmp_path / "again", **usual))
    assert small.contents(out) == small.contents(tmp_path / "again")


def one_of_two(rank: int, port: int, asked: Request, expected: tuple[str, ...]) -> None:
    """What a launcher starts where there are several GPUs, without loading all libraries anew."""
    AcceleratorState._reset_state(True)
    processes = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2}
    os.environ |= {name: str(value) for name, value in processes.items()}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    assert encode.run(asked).anew == expected
    state = PartialState()
    assert state.num_processes == 2 and state.backend == "gloo" and state.process_index == rank


def in_two_processes(asked: Request, expected: tuple[str, ...] = ()) -> list[int | None]:
    """The exit codes of both, each of which must be told that these files are made anew."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("fork")
    both = [
        context.Process(target=one_of_two, args=(rank, port, asked, expected)) for rank in (0, 1)
    ]
    for process in both:
        process.start()
    for process in both:
        process.join(120)
    return [process.exitcode for process in both]


def test_two_processes_write_the_bytes_of_one(
    images: Path, vae: Path, whole: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    asked = request(images, out, encoder=str(vae), flip=True, workers=1)
    assert in_two_processes(asked) == [0, 0]
    assert small.contents(out) == small.contents(whole)
    # one file of each process
    names = ("shard-00001.safetensors", "shard-00002.safetensors")
    for name in names:
        damage(out / name)
    assert in_two_processes(asked, names) == [0, 0]
    assert small.contents(out) == small.contents(whole)


Invoke = Callable[..., Result]


@pytest.fixture
def invoke() -> Invoke:
    return lambda *arguments: CliRunner().invoke(main, ["encode", *map(str, arguments)])


def test_the_command_passes_all_on(
    invoke: Invoke, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen: list[Request] = []
    done = Encoded(tmp_path, False, ())
    monkeypatch.setattr(encode, "run", lambda asked: seen.append(asked) or done)
    options = ["--size", 512, "--encoder", "some/vae", "--sample", "--flip", "--per-shard", 7]
    options += ["--batch", 5, "--workers", 3, "--seed", 4, "--cpu", "--classes", 10]
    result = invoke("--dataset", "cats", "--split", "all", "--out", tmp_path, *options)
    assert result.exit_code == 0, result.output
    where = Where("dataset", "cats", "all", 10)
    assert seen == [Request(where, tmp_path, 512, "some/vae", True, True, 7, 5, 3, 4, True)]
    invoke("--celeba", "faces", "--out", tmp_path)
    assert seen[1] == Request(Where("celeba", "faces"), tmp_path)


def test_the_command_given_again_says_what_it_found(
    invoke: Invoke, images: Path, tmp_path: Path
) -> None:
    asked = ["--images", images, "--size", small.SIDE, "--per-shard", 4, "--workers", 0, "--cpu"]
    out = tmp_path / "out"
    first = invoke(*asked, "--out", out)
    assert (first.exit_code, first.stdout) == (0, f"encoded: {out}\n")
    again = invoke(*asked, "--out", out)
    assert again.stdout == f"encoded: {out} (finished before; every file has its checksum)\n"
    path = out / "shard-00003.safetensors"
    before = hashlib.sha256(path.read_bytes()).hexdigest()
    damage(path)
    assert hashlib.sha256(path.read_bytes()).hexdigest() != before
    third = invoke(*asked, "--out", out)
    said = "damaged, and made anew: shard-00003.safetensors"
    assert (third.exit_code, third.stdout) == (0, f"{said}\nencoded: {out}\n")
    assert hashlib.sha256(path.read_bytes()).hexdigest() == before
    Shards(out).verify()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--out", "x"], "name the images by one of --images, --dataset, --cifar10 and --celeba"),
        (["--images", "a", "--celeba", "b", "--out", "x"], "name the images by one of --images"),
        (["--images", "a"], "name the folder of the result with --out, or only look with --check"),
        (["--images", "a", "--out", "x", "--sample"], "--sample needs an --encoder"),
        (["--images", "nowhere", "--out", "{}"], "nowhere is not a folder; it must hold a folder"),
        (["--cifar10", "nowhere", "--check"], "nowhere/data_batch_1.bin is missing; unpack cifar"),
        (["--images", "a" * 300, "--check"], f"{'a' * 300}: File name too long"),
    ],
)
def test_a_wrong_request_is_one_sentence(
    arguments: list[str], sentence: str, invoke: Invoke, tmp_path: Path
) -> None:
    result = invoke(*(each.format(tmp_path / "out") for each in arguments), "--cpu")
    assert result.exit_code == 2
    assert result.stderr.startswith(f"Error: {sentence}") and result.stderr.count("\n") == 1


def test_a_check_names_the_first_broken_image_and_writes_nothing(
    invoke: Invoke, copied: Path, tmp_path: Path
) -> None:
    asked = ["--images", copied, "--size", small.SIDE, "--check", "--workers", 2]
    result = invoke(*asked)
    assert result.exit_code == 0 and result.stdout == f"{N} images, none of them broken\n"
    for number in (12, 7):
        path = paths(copied)[number]
        path.write_bytes(path.read_bytes()[:400])
    result = invoke(*asked)
    assert result.exit_code == 2
    assert result.stderr.startswith(f"Error: {paths(copied)[7]} cannot be read as an image")
    assert result.stderr.count("\n") == 1 and sorted(tmp_path.iterdir()) == [copied]


def test_processes_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 16)
    workers = encode.decoding.workers
    assert [workers(None, n) for n in (1, 8, 32)] == [16, 2, 1] and workers(0, 8) == 0
    assert PartialState(cpu=True).num_processes == 1
