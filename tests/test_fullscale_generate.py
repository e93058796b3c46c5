"""Sampling: the time table by brute force, samples by hand, and that nothing else changes them."""

import hashlib
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_runs
import torch
from accelerate.state import AcceleratorState
from click.testing import CliRunner
from fresh_process import fresh_process
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from erdpaper import sampling
from erdpaper.cli import main
from erdpaper.fullscale.data import adm
from erdpaper.fullscale.sampling import generate, parts, runs, timetable
from erdpaper.fullscale.sampling.generate import Request
from erdpaper.images import data
from erdpaper.schedules import DDPM, VP, Cosine, Discrete, Linear, StableDiffusion
from erdpaper.training.stream import generator_for

F64 = torch.float64


def fine() -> Discrete:
    """A table that goes beyond EDM's range on both sides."""
    k = torch.logspace(-4, 3, 400, dtype=F64)
    return Discrete(1 / torch.sqrt(1 + k**2), k / torch.sqrt(1 + k**2), "vp", "fine")


def edm_levels(low: float, high: float, steps: int) -> list[float]:
    """The formula of EDM, in plain floats."""
    a, b = high ** (1 / 7), low ** (1 / 7)
    return [(a + i / (steps - 1) * (b - a)) ** 7 for i in range(steps)]


@pytest.mark.parametrize("table", [Cosine(), DDPM(), StableDiffusion(), fine(), Cosine(4000)])
@pytest.mark.parametrize("steps", [10, 50])
def test_the_time_table_is_the_nearest_of_all_indices(table: Discrete, steps: int) -> None:
    own = [float(sigma / alpha) for alpha, sigma in zip(table.alpha, table.sigma, strict=True)]
    levels = edm_levels(max(0.002, own[0]), min(80.0, own[-1]), steps)
    nearest = [min((abs(k - level), i) for i, k in enumerate(own))[1] for level in levels]
    # a step from a level to itself does not move, so it is left out
    expected = [k for k, before in zip(nearest, [None, *nearest], strict=False) if k != before]
    times = timetable.edm(table, steps)
    assert times.dtype == F64 and len(times) == len(expected) + 1 and times[-1] == 0
    assert steps - len(expected) == (1 if (steps, table.name) == (50, "StableDiffusion") else 0)
    assert table.index(times[:-1]).tolist() == expected
    # a network is asked at its own levels, not near them
    assert torch.equal(times[:-1], table.time_at(torch.tensor(expected)))
    alpha, sigma = table(times[:-1])
    for found, kept in ((alpha, table.alpha), (sigma, table.sigma)):
        torch.testing.assert_close(found, kept[expected], rtol=1e-9, atol=0)


def test_both_ends_are_the_schedules_own() -> None:
    cosine = Cosine()
    k = cosine.sigma / cosine.alpha
    # the first index is noisier than 0.002, and the last beyond any that is sampled
    assert float(k[0]) > 0.002 and float(k[-1]) == pytest.approx(20_291, rel=1e-3)
    times = timetable.edm(cosine, 50)
    first = int(cosine.index(times[0]))
    assert abs(float(k[first]) - 80) < min(abs(float(k[first + i]) - 80) for i in (-1, 1))
    assert times[-2] == cosine.time_at(0) == 0.001
    # these end before 80
    short = StableDiffusion()
    assert float(short.sigma[-1] / short.alpha[-1]) < 80
    assert timetable.edm(short, 50)[0] == 1
    # and this begins below 0.002
    table = fine()
    last = int(table.index(timetable.edm(table, 50)[-2]))
    assert float(table.sigma[last]) == pytest.approx(0.002, rel=0.02) and last > 0


def test_a_schedule_without_a_table_is_not_rounded() -> None:
    for schedule, most in ((Linear(), 80.0), (VP(), 80.0)):
        alpha, sigma = schedule(timetable.edm(schedule, 9)[:-1])
        torch.testing.assert_close(
            sigma / alpha, torch.tensor(edm_levels(0.002, most, 9), dtype=F64), rtol=1e-6, atol=0
        )


@given(st.floats(1e-6, 1e5))
def test_the_nearest_index_is_nearest(k: float) -> None:
    own = (Cosine().sigma / Cosine().alpha - k).abs()
    index = int(timetable.nearest(Cosine(), torch.tensor([k], dtype=F64)))
    assert own[index] == own.min()


def test_a_repeated_level_changes_nothing() -> None:
    class Told(nn.Module):
        def forward(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
            return torch.sin(3 * x + t.view(-1, 1))

    table = StableDiffusion()
    denoise = sampling.from_model(Told(), table, "eps")
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(0), dtype=F64)
    found = sampling.heun(denoise, x, table, timetable.edm(table, 50))
    # EDM's own walk, which stands still where two of its 50 levels are rounded to one
    levels = torch.tensor(
        edm_levels(float(table.sigma[0] / table.alpha[0]), 14.6146, 50), dtype=F64
    )
    index = timetable.nearest(table, levels)
    k = [*(table.sigma / table.alpha)[index].tolist(), 0.0]
    alpha, t = [*table.alpha[index].tolist(), 1.0], [*table.time_at(index).tolist(), 0.0]
    X = x / alpha[0]
    for i in range(50):
        slope = denoise(alpha[i] * X, t[i]).eps
        ahead = X + (k[i + 1] - k[i]) * slope
        if i < 49:
            again = denoise(alpha[i + 1] * ahead, t[i + 1]).eps
            ahead = X + (k[i + 1] - k[i]) * (slope + again) / 2
        X = ahead
    torch.testing.assert_close(found, X, rtol=1e-9, atol=1e-9)


def test_more_steps_than_levels_are_refused() -> None:
    with pytest.raises(
        ValueError, match=r"Cosine\(T=1000\) has 1000 levels, too few for 1001 steps"
    ):
        timetable.edm(Cosine(), 1001)


@pytest.fixture(autouse=True)
def fresh_accelerator() -> Iterator[None]:
    """What one test set up for an accelerator is nothing to the next."""
    with fresh_process():
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    small_runs.run(folder / "run", encoder=str(folder / "vae"))
    small_runs.autoencoder(folder / "vae")
    return folder


@pytest.fixture
def request_(folder: Path, tmp_path: Path) -> Request:
    return Request(folder / "run", tmp_path / "a.npz", 9, steps=5, batch=4, cpu=True)


def arrays(path: Path) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    with np.load(path) as file:
        return file["arr_0"], file["arr_1"]


def by_hand(
    network: nn.Module, noise: Tensor, label: int, steps: int, scale: float, interval: Any
) -> Tensor:
    """One latent by Heun's method on dX/dk = eps, X = x / alpha, in float64."""
    network = network.double()
    table, times = Cosine(), timetable.edm(Cosine(), steps).tolist()

    def level(t: float) -> tuple[float, float]:
        if t == 0:
            return 1.0, 0.0
        k = round(t * 1000) - 1
        return float(table.alpha[k]), float(table.sigma[k])

    def eps(X: Tensor, t: float) -> Tensor:
        x, when = (level(t)[0] * X)[None], torch.tensor([t], dtype=F64)
        known, none = (network(x, when, torch.tensor([c]))[0] for c in (label, 10))
        low, high = interval or (0, 1)
        w = scale if low <= t <= high else 1.0
        return none + w * (known - none)

    alpha, sigma = level(times[0])
    X = sigma * noise.double() / alpha
    for t, after in pairwise(times):
        k, k_after = (level(u)[1] / level(u)[0] for u in (t, after))
        slope = eps(X, t)
        ahead = X + (k_after - k) * slope
        if after > 0:
            ahead = X + (k_after - k) * (slope + eps(ahead, after)) / 2
        X = ahead
    return X


@pytest.mark.parametrize(("scale", "interval"), [(1.0, None), (2.0, None), (2.0, (0.0, 0.8))])
def test_samples_are_those_by_hand(
    folder: Path, request_: Request, scale: float, interval: tuple[float, float] | None
) -> None:
    images, labels = arrays(
        generate.sample(replace(request_, scale=scale, interval=interval, count=3))
    )
    assert images.shape == (3, 14, 14, 3) and images.dtype == np.uint8
    assert labels.tolist() == [0, 1, 2]
    network = runs.load(folder / "run").network
    vae = small_runs.AutoencoderKL.from_pretrained(folder / "vae").double()
    for i, image in enumerate(images):
        noise = torch.randn(4, 7, 7, generator=generator_for(0, 20, i))
        z = by_hand(network, noise, i, 5, scale, interval)
        with torch.no_grad():
            seen = vae.decode(z[None] / small_runs.FACTOR).sample[0].clamp(-1, 1)
        expected = (seen.permute(1, 2, 0) + 1) * 127.5
        # rounded to the nearest byte, and off by float32 here and there
        assert float((torch.from_numpy(image) - expected).abs().max()) < 0.51
        assert float(expected.std()) > 1


def test_guidance_and_its_interval_matter(request_: Request) -> None:
    found = []
    for name, scale, interval in (("a", 1.0, None), ("b", 2.0, None), ("c", 2.0, (0.0, 0.8))):
        out = request_.out.with_name(f"{name}.npz")
        found.append(
            arrays(generate.sample(replace(request_, out=out, scale=scale, interval=interval)))[0]
        )
    assert not any(np.array_equal(found[i], found[j]) for i, j in ((0, 1), (1, 2), (0, 2)))


DIT: Any = runs.build.network("DiT-fashion-latent")


class Pointwise(nn.Module):
    """A network without sums over samples or coordinates: no batch can change its rounding."""

    def __init__(self) -> None:
        super().__init__()
        self.config, self.rate = DIT.config, nn.Parameter(torch.tensor(0.7))

    def forward(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        assert label is not None
        shift = (label.to(x) + 3 * t).view(-1, 1, 1, 1)
        return self.rate * x + 0.05 * shift


def test_no_batch_changes_a_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs.build, "network", lambda name: Pointwise())
    (tmp_path / "run").mkdir()
    save_file({"rate": torch.tensor(0.7)}, tmp_path / "run" / "model.safetensors")
    config = small_runs.CONFIG | {"model": "x", "data": "pixels", "stored": "pixels"}
    (tmp_path / "run" / "config.json").write_text(json.dumps(config))
    wanted = Request(tmp_path / "run", tmp_path / "a", 9, 5, 2.0, labels="drawn", cpu=True)
    files = []
    for batch in (1, 7, 9):
        out = tmp_path / f"{batch}.npz"
        files.append(generate.sample(replace(wanted, out=out, batch=batch)).read_bytes())
    assert files[0] == files[1] == files[2]


def test_batches_change_rounding_at_most(request_: Request) -> None:
    trained = runs.load(request_.run)
    engine = generate.Accelerator(cpu=True)
    draw = generate.sampler(replace(request_, scale=2.0), trained, engine)
    labels = torch.arange(7)
    whole = draw(range(7), labels)
    assert float(whole.std()) > 0.1
    alone = torch.cat([draw(range(i, i + 1), labels[i : i + 1]) for i in range(7)])
    assert float((alone - whole).abs().max()) < 1e-5 * float(whole.abs().max())


def test_seeds_give_other_images_and_rows_do_not_repeat(request_: Request) -> None:
    one = arrays(generate.sample(request_))[0]
    two = arrays(generate.sample(replace(request_, seed=1, out=request_.out.with_name("b.npz"))))[0]
    rows = [row.tobytes() for row in (*one, *two)]
    assert len(set(rows)) == len(rows) == 18


def test_labels_in_turn_or_drawn() -> None:
    wanted = Request(Path(), Path())

    def labels(images: range, **changes: Any) -> list[int]:
        found = generate.labels_of(images, replace(wanted, **changes), 10)
        assert found is not None and found.dtype == torch.int64
        return found.tolist()

    assert labels(range(8, 13)) == [8, 9, 0, 1, 2]
    assert labels(range(5), classes=(207, 33)) == [207, 33, 207, 33, 207]
    drawn = labels(range(2000), labels="drawn")
    assert drawn[700:730] == labels(range(700, 730), labels="drawn")
    assert labels(range(2000), labels="drawn", seed=1) != drawn
    # 200 of each, give or take 5 standard deviations of 13.4
    assert all(abs(drawn.count(c) - 200) < 67 for c in range(10))
    assert set(labels(range(50), labels="drawn", classes=(4, 7))) == {4, 7}
    assert generate.labels_of(range(5), wanted, 0) is None


def test_noise_is_normal_and_per_image() -> None:
    wanted = Request(Path(), Path())
    noise = generate.noise_of(range(500), wanted, (4, 7, 7))
    assert float(noise.mean()) == pytest.approx(0, abs=0.02)
    assert float(noise.std()) == pytest.approx(1, abs=0.02)
    assert torch.equal(generate.noise_of(range(77, 80), wanted, (4, 7, 7)), noise[77:80])
    # whether labels are drawn is nothing to the noise
    drawn = replace(wanted, labels="drawn")
    assert torch.equal(generate.noise_of(range(3), drawn, (4, 7, 7)), noise[:3])


def test_the_latents_of_fashion_have_their_own_decoder(tmp_path: Path) -> None:
    small_runs.run(tmp_path / "run", "MLP-latent-S", data="fashion-latents", target="v")
    wanted = Request(tmp_path / "run", tmp_path / "a.npz", 4, 5, batch=3, cpu=True)
    images, _ = arrays(generate.sample(wanted))
    assert images.shape == (4, 28, 28, 1)
    draw = generate.sampler(wanted, runs.load(wanted.run), generate.Accelerator(cpu=True))
    decoded = data.autoencoder().decode(draw(range(4), torch.arange(4)))
    expected = (decoded[:, 0].clamp(-1, 1) + 1) * 127.5
    assert float((torch.from_numpy(images[..., 0]) - expected).abs().max()) < 0.51
    with pytest.raises(ValueError, match="have their own decoder: leave --decoder out"):
        generate.sample(replace(wanted, out=tmp_path / "b.npz", decoder="x"))


def test_mixed_precision_stays_close(request_: Request) -> None:
    exact = arrays(generate.sample(request_))[0].astype(float)
    AcceleratorState._reset_state(True)
    out = request_.out.with_name("b.npz")
    rough = arrays(generate.sample(replace(request_, precision="bf16", out=out)))[0].astype(float)
    assert 0 < np.abs(rough - exact).mean() < 4 < exact.std()


def test_what_made_a_file_is_kept_in_it(request_: Request) -> None:
    path = generate.sample(replace(request_, interval=(0.0, 0.8), scale=2.1))
    found = adm.facts(path)
    assert found is not None and found["interval"] == [0.0, 0.8] and found["scale"] == 2.1
    assert found["network"] == runs.load(request_.run).sha256
    assert found["steps"] == 5 and "batch" not in found and "vae" in found["decoder"]
    assert not path.with_name("a.npz.parts").exists()
    # again: nothing is done, whatever the batch; another configuration is refused
    before = path.stat().st_mtime_ns
    generate.sample(replace(request_, interval=(0.0, 0.8), scale=2.1, batch=2))
    assert path.stat().st_mtime_ns == before
    with pytest.raises(ValueError, match=r"a.npz holds samples with scale 2.1, not 2.0: name anot"):
        generate.sample(replace(request_, interval=(0.0, 0.8), scale=2.0))


class Stopped(Exception):
    pass


def test_another_decoder_of_the_same_name_is_refused(
    request_: Request, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vae = tmp_path / "vae"
    small_runs.autoencoder(vae)
    asked = replace(request_, decoder=str(vae))
    with monkeypatch.context() as patch:
        patch.setattr(parts.Parts, "join", lambda *_: None)
        generate.sample(asked)
    assert not asked.out.exists()
    weights = vae / "diffusion_pytorch_model.safetensors"
    intact = weights.read_bytes()
    changed = load_file(weights)
    changed["post_quant_conv.bias"] += 0.5
    save_file(changed, weights, {"format": "pt"})
    said = r"^\S+a.npz.parts holds samples with decoder_sha256 '\w{64}', not '\w{64}': name anothe"
    with pytest.raises(ValueError, match=said):
        generate.sample(asked)
    weights.write_bytes(intact)
    found = adm.facts(generate.sample(asked))
    assert found is not None and found["decoder"] == str(vae)
    expected = hashlib.sha256()
    for name, part in sorted(load_file(weights).items()):
        expected.update(name.encode() + part.numpy().tobytes())
    assert found["decoder_sha256"] == expected.hexdigest()


def test_an_interrupted_run_goes_on(request_: Request, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = generate.sample(replace(request_, out=request_.out.with_name("whole.npz"), batch=3))
    kept, keep = [], parts.Parts.keep

    def stop(self: parts.Parts, span: range, images: Tensor, labels: Tensor | None) -> None:
        if kept:
            raise Stopped
        kept.append(span)
        keep(self, span, images, labels)

    with monkeypatch.context() as patch:
        patch.setattr(parts.Parts, "keep", stop)
        with pytest.raises(Stopped):
            generate.sample(replace(request_, batch=3))
    work = request_.out.with_name("a.npz.parts")
    assert not request_.out.exists() and len(list(work.glob("part-*"))) == 1
    # as a kill in the middle of writing would leave them
    (work / ".part-00000003-3.safetensors.x.tmp").write_text("half")
    request_.out.with_name(".a.npz.x.tmp").write_text("half")
    with pytest.raises(ValueError, match=r"a.npz.parts holds samples with seed 0, not 1"):
        generate.sample(replace(request_, seed=1))
    asked = []
    labels_of = generate.labels_of

    def noted(images: range, *rest: Any) -> Any:
        asked.append(images)
        return labels_of(images, *rest)

    monkeypatch.setattr(generate, "labels_of", noted)
    generate.sample(replace(request_, batch=4))
    assert asked == [range(3, 7), range(7, 9)]
    assert np.abs(arrays(request_.out)[0].astype(int) - arrays(whole)[0]).max() <= 1
    assert np.array_equal(arrays(request_.out)[1], arrays(whole)[1])
    assert [path.name for path in sorted(request_.out.parent.iterdir())] == ["a.npz", "whole.npz"]


def command(request: Request, *more: str) -> list[str]:
    named = ["--run", str(request.run), "--out", str(request.out), "--count", str(request.count)]
    sizes = ["--steps", str(request.steps), "--batch", str(request.batch)]
    return ["-m", "erdpaper", "sample", *named, *sizes, "--cpu", *more]


def test_two_processes_make_the_file_of_one(request_: Request) -> None:
    # of equal batches, so that the processes do the very same sums
    alone = generate.sample(replace(request_, out=request_.out.with_name("alone.npz")))
    launched = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    # "--" keeps the launcher from taking --run for one of its own
    wanted = ["-m", "--", *command(request_)[1:]]
    done = subprocess.run([*launched, *wanted], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert request_.out.read_bytes() == alone.read_bytes()


def test_a_killed_process_loses_one_batch_at_most(request_: Request) -> None:
    long = replace(request_, count=16, batch=1, steps=10)
    work = long.out.with_name("a.npz.parts")
    with subprocess.Popen([sys.executable, *command(long)], stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 120
        while len(list(work.glob("part-*"))) < 2 and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    there = {path: path.stat().st_mtime_ns for path in work.glob("part-*")}
    assert 2 <= len(there) < 16 and not long.out.exists()
    for path in there:
        assert load_file(path)["images"].shape == (1, 14, 14, 3)
    made = []
    keep = parts.Parts.keep

    def noted(self: parts.Parts, span: range, *rest: Any) -> None:
        made.append(span)
        keep(self, span, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parts.Parts, "keep", noted)
        generate.sample(long)
    assert len(made) == 16 - len(there)
    whole = generate.sample(replace(long, out=long.out.with_name("whole.npz")))
    assert long.out.read_bytes() == whole.read_bytes()


def refusals() -> list[tuple[dict[str, Any], str]]:
    return [
        ({"out": Path("a.npy")}, "--out must name a file that ends in .npz, got a.npy"),
        ({"out": Path("none/a.npz")}, "the folder none of --out does not exist"),
        ({"count": 0}, "count must be at least 1, got 0"),
        ({"batch": 0}, "batch must be at least 1, got 0"),
        ({"seed": -1}, "the seed must lie in 0..2^32 - 1, got -1"),
        ({"steps": 0}, "the number of steps must be an integer of at least 1, got 0"),
        ({"steps": 1001}, "has 1000 levels, too few for 1001 steps"),
        ({"scale": math.nan}, "the guidance scale must be a finite number, got nan"),
        ({"interval": (0.0, 0.8)}, "an interval needs guidance: give a scale other than 1"),
        (
            {"interval": (0.8, 0.2), "scale": 2.0},
            "must satisfy 0 <= LOW < HIGH <= 1, got 0.8 and 0.2",
        ),
        (
            {"interval": (0.0, 1.5), "scale": 2.0},
            "must satisfy 0 <= LOW < HIGH <= 1, got 0.0 and 1.5",
        ),
        ({"classes": (3, 10)}, "classes must lie in 0..9, got 10"),
        ({"decoder": "/"}, "no AutoencoderKL can be loaded from '/'"),
        ({"run": Path("none")}, "none is no run of erdpaper train: it holds no config.json"),
    ]


@pytest.mark.parametrize(("changes", "sentence"), refusals())
def test_a_wrong_request_is_refused_before_any_work(
    request_: Request, changes: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ValueError) as caught:
        generate.sample(replace(request_, **changes))
    assert sentence in str(caught.value)
    assert list(request_.out.parent.iterdir()) == []


def test_a_run_that_cannot_be_sampled_is_refused(tmp_path: Path) -> None:
    def refused(sentence: str, model: str = "DiT-fashion-latent", **changes: Any) -> None:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        options = {name: changes.pop(name) for name in ("scale", "decoder") if name in changes}
        small_runs.run(folder, model, **changes)
        with pytest.raises(ValueError, match=sentence):
            wanted = Request(folder, tmp_path / "a.npz", 2, 5, cpu=True)
            generate.sample(replace(wanted, **options))

    refused("generates latents of 4 channels: name their decoder, for instance --decoder stab")
    small_runs.autoencoder(tmp_path / "other", scaling_factor=0.5)
    refused(
        r"scales its latents by 0.5 and shifts them by 0; .* with a factor of 0.4",
        decoder=str(tmp_path / "other"),
    )
    # a pipeline holds its autoencoder inside
    small_runs.autoencoder(tmp_path / "pipeline" / "vae", scaling_factor=0.6)
    refused(r"scales its latents by 0.6", decoder=str(tmp_path / "pipeline"))
    small_runs.autoencoder(tmp_path / "wide", latent_channels=8)
    refused(
        "decodes latents of 8 channels, and this network generates 4",
        decoder=str(tmp_path / "wide"),
    )
    refused("generates pixels: leave --decoder out", "DiT-fashion", data="fashion", decoder="x")
    refused("trained without dropped labels: it takes no guidance", scale=2.0, dropout=0.0)
    unfinished = tmp_path / "unfinished"
    small_runs.run(unfinished)
    (unfinished / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"is not finished: it holds no model.safetensors yet"):
        runs.load(unfinished)
    with pytest.raises(ValueError, match=r"holds no snapshot of step 3; use one of none$"):
        runs.load(unfinished, at=3)
    (unfinished / "average-00000007.safetensors").write_bytes(b"damaged")
    with pytest.raises(ValueError, match=r"holds no snapshot of step 3; use one of 7$"):
        runs.load(unfinished, at=3)
    with pytest.raises(ValueError, match=r"average-00000007.safetensors does not hold the weights"):
        runs.load(unfinished, at=7)
    (unfinished / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(ValueError, match=r"model.safetensors does not hold the weights of its net"):
        runs.load(unfinished)
    (unfinished / "config.json").write_text(json.dumps({"kind": "classifier", "model": "x"}))
    with pytest.raises(ValueError, match="of no diffusion model: it has no target, schedule, data"):
        runs.load(unfinished)
    (unfinished / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config.json is not JSON"):
        runs.load(unfinished)
    for raw in ("5", "[]"):
        (unfinished / "config.json").write_text(raw)
        with pytest.raises(ValueError, match=r"config.json holds no settings of a run"):
            runs.load(unfinished)
    (unfinished / "config.json").unlink()
    (unfinished / "config.json").symlink_to("config.json")
    with pytest.raises(ValueError, match=r"it holds no config\.json"):
        runs.load(unfinished)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"schedule": "sine"}, r"config.json: unknown schedule 'sine'; use one of cosine, "),
        ({"target": "z"}, "unknown target 'z'"),
    ],
)
def test_settings_that_mean_nothing_are_refused(
    changes: dict[str, Any], sentence: str, tmp_path: Path
) -> None:
    small_runs.run(tmp_path / "run", **changes)
    with pytest.raises(ValueError, match=sentence):
        runs.load(tmp_path / "run")


def test_pixels_without_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = runs.build.dit.DiT.from_name("DiT-fashion", classes=0)
    monkeypatch.setattr(runs.build, "network", lambda name: small)
    small_runs.run(tmp_path / "run", data="celeba-64", stored="pixels", factor=None)
    wanted = Request(tmp_path / "run", tmp_path / "a.npz", 2, 5, cpu=True)
    with np.load(generate.sample(wanted)) as file:
        assert file.files == ["arr_0"] and file["arr_0"].shape == (2, 28, 28, 1)
    with pytest.raises(ValueError, match="knows no classes: it takes no label and no guidance"):
        generate.sample(replace(wanted, scale=1.5))


def test_images_that_are_not_finite_are_refused(folder: Path, tmp_path: Path) -> None:
    network = small_runs.run(tmp_path / "run", encoder=str(folder / "vae"))
    state = {name: part * torch.nan for name, part in network.state_dict().items()}
    save_file(state, tmp_path / "run" / "model.safetensors")
    wanted = Request(tmp_path / "run", tmp_path / "a.npz", 5, 5, batch=2, cpu=True)
    with pytest.raises(ValueError, match=r"images 0..1: the network generated .* not finite"):
        generate.sample(wanted)


def test_files_of_others_stay(request_: Request) -> None:
    np.savez(request_.out, np.zeros((1, 2, 2, 3), np.uint8))
    with pytest.raises(ValueError, match=r"a.npz exists and is no file of erdpaper sample"):
        generate.sample(request_)


def test_a_damaged_or_foreign_part_is_named(tmp_path: Path) -> None:
    work = parts.Parts(tmp_path / "a.npz", 4, {})
    work.open()
    images = torch.zeros(2, 3, 3, 1, dtype=torch.uint8)
    for first in (0, 2):
        work.keep(range(first, first + 2), images, None)
    assert work.missing(9) == []
    work.keep(range(1, 3), images, None)
    with pytest.raises(ValueError, match=r"the parts in .*a.npz.parts overlap: delete that folder"):
        work.join(adm.Shape(4, 3, 3, 1))
    (work.folder / "part-00000001-2.safetensors").unlink()
    (work.folder / "part-00000002-2.safetensors").write_bytes(b"damaged")
    with pytest.raises(
        ValueError, match=r"part-00000002-2.safetensors cannot be read .* delete it"
    ):
        work.join(adm.Shape(4, 3, 3, 1))
    assert not work.out.exists()


def test_the_command_says_what_it_made_or_why_not(
    request_: Request, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = command(request_, "--class", "3", "--scale", "2", "--interval", "0", "0.8")[2:]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    assert result.stdout == f"the samples: {request_.out}\n"
    assert set(arrays(request_.out)[1].tolist()) == {3}
    monkeypatch.setenv("RANK", "1")
    result = CliRunner().invoke(main, arguments)
    # all processes but the first are silent
    assert result.exit_code == 0 and result.stdout == ""
    monkeypatch.delenv("RANK")
    result = CliRunner().invoke(main, command(request_)[2:])
    assert result.exit_code == 2 and result.stderr.count("\n") == 1
    assert "holds samples with classes [3], not []" in result.stderr

    def full(*_: Any) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(parts, "write_atomically", full)
    result = CliRunner().invoke(
        main, command(replace(request_, out=request_.out.parent / "b.npz"))[2:]
    )
    assert result.exit_code == 2
    assert result.stderr.endswith("b.npz cannot be written: No space left on device\n")
