"""Recording: what is written, where, atomically, and what is refused."""

import json
import math
import os
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from claim_examples import SINGLE, data_folder, open_02, refusal, write_claims

from erdpaper import claims


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return data_folder(tmp_path / "data", monkeypatch)


def test_record_writes_what_it_measured(data: Path) -> None:
    open_02(steps=10)
    verdict = claims.record(
        "02.floor",
        {"vp": torch.tensor(0.2), "gvp": np.float32(0.05), "linear": 0.012345678},
        spread={"linear": 0.001, "vp": 0.002, "gvp": 0.003},
    )
    assert verdict.name == "holds in part"
    path = data / "results" / "claims" / "cpu" / "02_elbo.json"
    assert json.loads(path.read_text()) == {
        "notebook": "02_elbo",
        "profile": "cpu",
        "seed": 0,
        "device": "cpu",
        "parameters": {"steps": 10},
        "claims": {
            "02.floor": {
                "values": {"linear": 0.0123457, "vp": 0.2, "gvp": 0.05},
                "spread": {"linear": 0.001, "vp": 0.002, "gvp": 0.003},
                "verdict": "holds in part",
                "passed": {"linear": True, "vp": False, "gvp": True},
            }
        },
    }
    assert oct(path.stat().st_mode)[-3:] == "644"


def test_another_model_than_the_claims_is_neither_judged_nor_recorded(data: Path) -> None:
    open_02(model="cifar10")
    found = claims.record(
        "02.floor", {"ship and truck": torch.tensor(0.25), "linear": 0.02}, live=True
    )
    assert repr(found) == (
        "02.floor needs model fashion and is not judged with cifar10: ship and truck 0.25, "
        "linear 0.02 (asked for is at most 0.1, which 1 of 2 known meet)"
    )
    assert "with cifar10: 0.5 (asked for" in repr(claims.record("02.single", 0.5, live=True))
    # a level that is never crossed is not a number, and meets nothing
    never = repr(claims.record("02.floor", {"linear": float("nan")}, live=True))
    assert never.endswith("linear nan (asked for is at most 0.1, which 0 of 0 known meet)")
    # what may be of kept results is not shown as if it were of the other model
    assert repr(claims.record("02.single", 0.5)).endswith("is not judged with cifar10")
    assert not (data / "results").exists()
    assert "not listed" in refusal(lambda: claims.record("02.none", 1.0))
    open_02(model="fashion")
    assert claims.record("02.single", 0.7).name in ("holds", "does not hold")
    assert (data / "results" / "claims" / "cpu" / "02_elbo.json").exists()


def test_records_are_the_same_bytes_in_any_order(data: Path) -> None:
    values = {"linear": 1 / 3, "vp": 2e-17, "gvp": math.pi}
    path = data / "results" / "claims" / "cpu" / "02_elbo.json"
    texts = set()
    for _ in range(4):
        open_02()
        shuffled = dict(random.sample(list(values.items()), 3))
        for id, measured in random.sample([("02.floor", shuffled), ("02.single", 0.7)], 2):
            claims.record(id, measured)
        texts.add(path.read_bytes())
    assert len(texts) == 1
    text = texts.pop()
    assert text.endswith(b"}\n") and b"0.333333" in text and b"3.14159" in text


def test_a_session_starts_a_fresh_file_with_its_first_record(data: Path) -> None:
    path = data / "results" / "claims" / "cpu" / "02_elbo.json"
    open_02()
    claims.record("02.floor", {"linear": 0, "vp": 0, "gvp": 0})
    before = path.read_bytes()
    open_02()
    assert path.read_bytes() == before
    claims.record("02.single", 1)
    assert list(json.loads(path.read_text())["claims"]) == ["02.single"]
    # a cell that runs again replaces its own record only
    claims.record("02.floor", {"linear": 0, "vp": 0, "gvp": 0})
    claims.record("02.single", 2)
    recorded = json.loads(path.read_text())["claims"]
    assert recorded["02.single"]["values"] == {"all": 2} and set(recorded) == {
        "02.floor",
        "02.single",
    }


def test_rounding_noise_is_not_in_the_records(data: Path) -> None:
    path = data / "results" / "claims" / "cpu" / "02_elbo.json"
    texts = set()
    for noise in (0.0, -2e-17, 9.4e-12):
        open_02()
        values = {"linear": noise, "vp": 0.3, "gvp": 0.25 + noise}
        claims.record("02.floor", values, {"linear": abs(noise), "vp": 0, "gvp": 0.1 + noise})
        texts.add(path.read_text())
    assert len(texts) == 1
    kept = json.loads(texts.pop())["claims"]["02.floor"]
    assert kept["values"] == {"linear": 0.0, "vp": 0.3, "gvp": 0.25}
    assert kept["passed"] == {"linear": True, "vp": False, "gvp": False}
    # where 0 would pass and the value does not, the value stays
    write_claims(data, [{**SINGLE, "threshold": 0}])
    open_02()
    assert claims.record("02.single", 2e-17).name == "does not hold"
    assert json.loads(path.read_text())["claims"]["02.single"]["values"] == {"all": 2e-17}


def test_the_folder_of_the_records_can_be_named(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ERDPAPER_CLAIMS_DIR", str(tmp_path / "elsewhere"))
    open_02("gpu")
    claims.record("02.single", 1)
    assert (tmp_path / "elsewhere" / "gpu" / "02_elbo.json").is_file()
    assert not (data / "results").exists()


def test_records_of_a_plain_run_are_not_the_committed_ones(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ERDPAPER_CLAIMS_DIR")
    open_02()
    claims.record("02.single", 1)
    assert (tmp_path / "runs" / "claims" / "cpu" / "02_elbo.json").is_file()
    assert not (data / "results").exists()


def test_smoke_computes_a_verdict_and_writes_nothing(data: Path) -> None:
    open_02("smoke")
    assert claims.record("02.single", 1).name == "does not hold"
    assert not (data / "results").exists()


def test_a_failed_write_leaves_the_old_file_and_no_litter(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_02()
    claims.record("02.single", 1)
    path = data / "results" / "claims" / "cpu" / "02_elbo.json"
    before = path.read_bytes()

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        claims.record("02.single", 2)
    assert path.read_bytes() == before
    assert [entry.name for entry in path.parent.iterdir()] == ["02_elbo.json"]


def test_the_verdict_is_that_of_the_stored_number(data: Path) -> None:
    open_02()
    verdict = claims.record("02.single", 0.1 * (1 + 1e-9))
    assert verdict.values == {"all": 0.1} and verdict.name == "holds"
    assert claims.record("02.single", 0.1 * (1 + 1e-5)).name == "does not hold"


def test_bad_records_are_refused_in_one_sentence(data: Path) -> None:
    assert "no run is open" in refusal(lambda: claims.record("02.single", 1))
    assert "profile must be one of" in refusal(lambda: open_02("fast"))
    open_02()
    full = {"linear": 0.0, "vp": 0.0, "gvp": 0.0}
    for id, values, spread, expected in [
        ("02.absent", 1, None, "claim '02.absent' is not listed in claims.yml"),
        ("05.range", 1, None, "claim '05.range' belongs to 05_erd, not to 02_elbo"),
        ("02.floor", 1, None, "claim '02.floor' has 3 cases, so its values must be a mapping"),
        ("02.floor", {"vp": 1}, None, "the values lack linear, gvp"),
        ("02.floor", {**full, "x": 1}, None, "the values have the unknown x"),
        ("02.floor", {"a": 1}, None, "lack linear, vp, gvp and have the unknown a"),
        ("02.floor", {**full, "vp": math.nan}, None, "case 'vp': a value must be finite, not nan"),
        ("02.single", math.inf, None, "claim '02.single': a value must be finite, not inf"),
        ("02.single", "1", None, "must be a single number, not str"),
        ("02.floor", full, 0.1, "has 3 cases, so its spreads must be a mapping"),
        ("02.floor", full, {"vp": 1}, "the spreads lack linear, gvp"),
        ("02.single", 1, -0.1, "a spread cannot be negative"),
    ]:
        assert expected in refusal(lambda i=id, v=values, s=spread: claims.record(i, v, s))
    assert not (data / "results").exists()
