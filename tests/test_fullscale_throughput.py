"""Speeds: against a clock of our own, torch's count of operations, and wrong requests."""

import json
import time
from math import ceil
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from fresh_process import fresh_process
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from erdpaper.cli import main
from erdpaper.datasets import DatasetError
from erdpaper.fullscale import speeds, throughput
from erdpaper.fullscale.pretrained import encoder
from erdpaper.fullscale.throughput import Request
from erdpaper.images import weighting
from erdpaper.training import Trainer

ROOT = Path(__file__).resolve().parents[1]
VAE = str(ROOT / "data" / "small-vae")
PRESET, BATCH, STEPS, DELAY = "rehearsal-erd", 4, 5, 0.05


@pytest.fixture(scope="module")
def measured() -> tuple[dict[str, Any], dict[str, float]]:
    """A measurement whose steps take at least DELAY, with clocks of our own and torch's count."""
    clocks: dict[str, float] = {}
    with pytest.MonkeyPatch.context() as patch, fresh_process():
        real_loss, real_run = weighting.loss, Trainer.run

        def slow(*given: Any) -> Any:
            loss = real_loss(*given)

            def delayed(model: nn.Module, batch: Any) -> Any:
                time.sleep(DELAY)
                return loss(model, batch)

            return delayed

        def timed(trainer: Trainer, until: int | None = None) -> Any:
            begun = time.monotonic()
            with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
                yield from real_run(trainer, trainer.recipe.steps - 1)
                clocks["training"] = time.monotonic() - begun
                clocks["operations"] = counter.get_total_flops() / (trainer.recipe.steps - 1)
                yield from real_run(trainer)

        patch.setattr(weighting, "loss", slow)
        patch.setattr(Trainer, "run", timed)
        begun = time.monotonic()
        request = Request(PRESET, batch=BATCH, steps=STEPS, heun=2, encoder=VAE, cpu=True)
        found = throughput.measure(request)
        clocks["all"] = time.monotonic() - begun
    return found, clocks


def test_a_rate_is_what_another_clock_allows(
    measured: tuple[dict[str, Any], dict[str, float]],
) -> None:
    found, clocks = measured
    training = found["training"]
    assert training["images_per_s"] == pytest.approx(BATCH / training["seconds"])
    # at least half of the steps took the median, and each slept
    assert DELAY <= training["seconds"] <= clocks["all"] / ceil(STEPS / 2)
    for part in ("sampling", "encoding"):
        assert 0 < found[part]["seconds"] <= clocks["all"] / 2
        assert found[part]["images_per_s"] == pytest.approx(BATCH / found[part]["seconds"])
    assert found["sampling"]["decoded"] and 0 < found["core_share"] < 1.5
    assert found["device"].startswith("cpu") and found["training"]["peak_share"] is None


def test_operations_are_those_torch_counts(
    measured: tuple[dict[str, Any], dict[str, float]],
) -> None:
    found, clocks = measured
    operations = found["training"]["flop_per_s"] * found["training"]["seconds"]
    # torch leaves out the gradient of the first layer's input, and counts attention's sums
    assert operations == pytest.approx(clocks["operations"], rel=0.05)


def test_the_untrained_autoencoder_has_the_published_size() -> None:
    with torch.device("meta"):
        coder = encoder.untrained()
    assert sum(p.numel() for p in coder.parameters()) == 83_653_863
    assert encoder.Encoder.shape(_Shape(coder), 256) == (4, 32, 32)  # type: ignore[arg-type]


class _Shape:
    """What `Encoder.shape` looks at, without a device."""

    def __init__(self, network: Any) -> None:
        self.name, self._network = "untrained", network


@pytest.mark.parametrize(
    ("name", "tera"),
    [
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA H200", 989),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("Some Card", None),
    ],
)
def test_peaks_are_found_by_name(name: str, tera: float | None) -> None:
    assert speeds.peak(name) == (None if tera is None else tera * 1e12)


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("--preset x", "unknown full-scale preset 'x'; use one of imagenet-dit-b2-erd, "),
        (f"--preset {PRESET} --batch 0", "batch must be at least 1, got 0"),
        (f"--preset {PRESET} --steps 0", "steps must be at least 1, got 0"),
        (f"--preset {PRESET} --heun 0", "heun must be at least 1, got 0"),
        (f"--preset {PRESET} --encoder /nowhere", "'/nowhere'"),
        (f"--preset {PRESET} --preset x", "unknown full-scale preset 'x'"),
    ],
)
def test_wrong_requests(
    line: str, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(throughput, "_trainer", _never)
    out = tmp_path / "t.json"
    result = CliRunner().invoke(main, ["throughput", "--cpu", "--out", str(out), *line.split()])
    assert result.exit_code == 2
    assert sentence in result.stderr and result.stderr.count("\n") == 1
    assert not out.exists()


def _never(*given: Any) -> Any:
    raise AssertionError("work began")


def test_one_device_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match=r"^throughput is measured on one device"):
        throughput.checked(Request(PRESET))


def test_the_file_keeps_other_presets_and_refuses_other_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates = {"images_per_s": 2.0, "flop_per_s": 3e12, "peak_share": 0.25}
    entry = {"training": rates, "batch": 4, "device": "cpu", "core_share": 0.25, "encoder": "vae"}
    file = tmp_path / "new" / "throughput.json"
    assert speeds.load(file) == {}
    speeds.keep(file, "one", entry)
    monkeypatch.setattr(throughput, "measure", lambda request: entry)
    line = ["throughput", "--cpu", "--preset", PRESET, "--out", str(file)]
    result = CliRunner().invoke(main, line)
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[0] == (
        "one: 2 images/s trained, 3 TFLOP/s (25% of the peak); batch 4, cpu, "
        "of which it had 25%, autoencoder vae"
    )
    assert speeds.load(file) == {"one": entry, PRESET: entry}
    file.write_text(json.dumps({"one": {"training": {}}}))
    with pytest.raises(DatasetError, match="holds no speeds that `erdpaper throughput` measured"):
        speeds.load(file)
