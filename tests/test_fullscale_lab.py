"""A lab's own evaluations: what they decide, and which are refused."""

import json
from pathlib import Path
from typing import Any

import pytest

from erdpaper import claims
from erdpaper.datasets import DatasetError
from erdpaper.fullscale import lab
from erdpaper.fullscale.evaluation.evaluate import Report
from erdpaper.fullscale.evaluation.extractors import PROTOCOL
from erdpaper.fullscale.presets import PRESETS

ROOT = Path(__file__).resolve().parents[1]


def write(
    runs: Path,
    preset: str,
    fid: float,
    name: str = "evaluation",
    images: int = 50_000,
    protocol: str | None = PROTOCOL,
    made: dict[str, Any] | None = None,
) -> Path:
    """A report as the command writes it, with made-up numbers."""
    facts = {"samples": {"file": "s.npz", "images": images, "made": made or {"preset": preset}}}
    report = Report({"frechet": fid, "score": 100.0}, protocol, "weights.pth", facts)
    path = runs / preset / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(report.as_json())
    return path


def test_values_are_read_by_preset_and_divided_by_what_is_published(tmp_path: Path) -> None:
    write(tmp_path, "imagenet-dit-b2-erd", 33.0)
    long = "imagenet-uvit-h2-erd-long"
    guided = {"preset": long, "scale": 1.5, "interval": None}
    write(tmp_path, long, 1.8, "evaluation-guided", made=guided)
    (tmp_path / "imagenet-dit-l2-erd").mkdir()
    (tmp_path / "notes").mkdir()
    fids = lab.read(tmp_path)
    assert fids == {
        ("imagenet-dit-b2-erd", "evaluation"): 33.0,
        ("imagenet-uvit-h2-erd-long", "evaluation-guided"): 1.8,
    }
    assert lab.decided(fids) == {
        "08.run-dit-b": {"ImageNet": pytest.approx(33.0 / 32.3)},
        "08.run-guided": {"ImageNet": pytest.approx(1.8 / 1.89)},
    }


def test_a_comparison_waits_for_all_of_its_cases(tmp_path: Path) -> None:
    write(tmp_path, "celeba-dit-s-erd", 2.4)
    write(tmp_path, "celeba-dit-s", 3.0)
    assert lab.decided(lab.read(tmp_path)) == {}
    write(tmp_path, "celeba-unet-erd", 1.5)
    write(tmp_path, "celeba-unet-uniform", 2.0)
    found = lab.decided(lab.read(tmp_path))
    assert found == {"08.run-celeba": {"U-Net": 0.75, "DiT-S": pytest.approx(0.8)}}


def test_everything_measured_decides_every_claim_that_waits(tmp_path: Path) -> None:
    for preset in PRESETS:
        write(tmp_path, preset, 10.0)
        guided = {"preset": preset, "scale": 1.5, "interval": None}
        write(tmp_path, preset, 10.0, "evaluation-guided", made=guided)
        within = {"preset": preset, "scale": 2.1, "interval": [0.0, 0.8]}
        write(tmp_path, preset, 10.0, "evaluation-interval", made=within)
    found = lab.decided(lab.read(tmp_path))
    listed = claims.load(ROOT / "data")
    assert found.keys() == {id for id in listed if id.startswith("08.run-")}
    for id, values in found.items():
        assert values.keys() == set(listed[id].cases)
        published = listed[id].published
        if isinstance(published, int | float):
            assert values["ImageNet"] == pytest.approx(10.0 / published)


@pytest.mark.parametrize(
    ("facts", "sentence"),
    [
        ({"protocol": None}, "is no FID: its features are those of weights.pth"),
        ({"images": 10_000}, "is about 10,000 samples, and the paper's FIDs about 50,000"),
        (
            {"made": {"preset": "imagenet-dit-b2-erd", "at": 50_000}},
            r"snapshot, of step 50,000; name it evaluation-at-50000\.json",
        ),
        (
            {"made": {"preset": "imagenet-dit-b2-erd", "scale": 1.5, "interval": None}},
            "samples at scale 1.5 on all levels, not as its name says",
        ),
        ({"made": {"preset": "celeba-dit-s"}}, "samples of celeba-dit-s, not of imagenet-dit-b2-e"),
    ],
)
def test_what_is_not_comparable_is_refused(
    tmp_path: Path, facts: dict[str, Any], sentence: str
) -> None:
    write(tmp_path, "imagenet-dit-b2-erd", 32.0, **facts)
    with pytest.raises(DatasetError, match=sentence):
        lab.read(tmp_path)


def test_a_snapshot_under_its_own_name_decides_nothing(tmp_path: Path) -> None:
    made = {"preset": "imagenet-dit-b2-erd", "at": 50_000}
    write(tmp_path, "imagenet-dit-b2-erd", 90.0, "evaluation-at-50000", made=made)
    assert lab.decided(lab.read(tmp_path)) == {}


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    path = write(tmp_path, "imagenet-dit-b2-erd", 32.0)
    for text in ("{", "{}", json.dumps({"protocol": PROTOCOL, "samples": {"made": None}})):
        path.write_text(text)
        with pytest.raises(DatasetError, match=r"evaluation\.json is no report of erdpaper"):
            lab.read(tmp_path)
    with pytest.raises(DatasetError, match="is not a folder of runs"):
        lab.read(tmp_path / "nowhere")
