"""The reference run on a GPU: refused without one, kept with what it was made with, shown."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from claim_examples import open_02
from click.testing import CliRunner
from test_claims_sphinx_ext import CONF, make_book, text_of
from throwaway import repository

from erdpaper import runner
from erdpaper.claims import ClaimError, record, reference
from erdpaper.cli import main

ROOT = Path(__file__).resolve().parents[1]
RECORDS = """\
import os
from pathlib import Path
record = Path(os.environ["ERDPAPER_CLAIMS_DIR"]) / profile / "01_one.json"
record.parent.mkdir(parents=True, exist_ok=True)
_ = record.write_text("a record")
"""
CARD = {
    "command": "make gpu-reference",
    "device": "NVIDIA H100 80GB HBM3",
    "memory_gb": 85,
    "versions": {"python": "3.11.7", "torch": "2.13.0+cu130", "cuda": "13.0"},
    "date": "2026-12-01",
    "seconds": {"01_one": 100.0, "02_two": 260.0},
}


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    made = repository(tmp_path / "repository", n01_one=RECORDS, n02_bad="raise ValueError('no')")
    monkeypatch.setenv("ERDPAPER_DATA", str(made / "data"))
    monkeypatch.delenv("ERDPAPER_CLAIMS_DIR")
    return made


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with a GPU, as far as torch says."""

    class Properties:
        total_memory = 85_045_149_696

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "A card")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: Properties)
    monkeypatch.setattr(torch.version, "cuda", "13.0")


def test_without_a_gpu_one_sentence_and_no_work(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    result = CliRunner().invoke(main, ["reference"])
    assert result.exit_code == 2
    assert result.stderr == (
        "Error: make gpu-reference needs a CUDA GPU, and torch finds none here\n"
    )
    assert not (root / "data" / "results").exists()


def test_make_calls_the_command() -> None:
    ran = subprocess.run(
        [
            "make",
            "--no-print-directory",
            "--dry-run",
            "--assume-old=.venv/.installed",
            "gpu-reference",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MAKELEVEL")},
    )
    assert ran.stdout.splitlines()[-1] == ".venv/bin/erdpaper reference", ran.stderr


@pytest.mark.usefixtures("card")
def test_records_seconds_and_versions_are_kept(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[bool] = []
    monkeypatch.setattr(
        runner, "measure_speeds", lambda: measured.append((root / "runs" / "gpu").exists())
    )
    outcomes = runner.run_reference()
    assert [(o.name, o.error is None) for o in outcomes] == [("01_one", True), ("02_bad", False)]
    results = root / "data" / "results"
    assert (results / "claims" / "gpu" / "01_one.json").read_text() == "a record"
    assert json.loads((results / "timings" / "gpu.json").read_text()).keys() == {"01_one"}
    assert (root / "runs" / "gpu" / "01_one.ipynb").exists()
    kept = json.loads((results / "gpu" / "card.json").read_text())
    assert kept["device"] == "A card" and kept["memory_gb"] == 85
    assert kept["versions"]["torch"] == torch.__version__ and kept["versions"]["cuda"] == "13.0"
    assert measured == [False], "the speeds are there before a notebook reads them"
    assert kept["seconds"].keys() == {"01_one"}, "a notebook that failed has no seconds"


def test_the_ledger_shows_both_profiles_and_the_card(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    book = make_book(tmp_path, monkeypatch)
    book.write("conf.py", CONF.replace("sphinx_book_theme", "basic"))
    open_02("gpu")
    record("02.floor", {"linear": 0.01, "vp": 0.02, "gvp": 0.03})
    record("02.single", 0.05, spread=0.01)
    path = reference.path(book.data)
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(CARD))
    built = book.build()
    assert built.returncode == 0, built.stderr
    page = book.page("book/ledger.html")
    text = text_of(page)
    assert (
        "Rows of the profile gpu: NVIDIA H100 80GB HBM3 with 85 GB, torch 2.13.0+cu130, "
        "CUDA 13.0, 2026-12-01; 2 notebooks in 6 minutes, by make gpu-reference." in text
    )
    assert 'id="ledger-claim-02-floor-cpu"' in page and 'id="ledger-claim-02-floor-gpu"' in page
    assert "02.floor ◐ holds in part profile cpu" in text and "✓ holds profile gpu" in text
    # the counts and the numbers in running text stay those of the cpu profile
    assert "The worst gap is 0.235" in text_of(book.page("index.html"))


def test_a_card_that_is_none_is_named(tmp_path: Path) -> None:
    assert reference.sentence(tmp_path) is None
    path = reference.path(tmp_path)
    path.parent.mkdir(parents=True)
    broken: list[Any] = ["{", "[]", json.dumps({**CARD, "versions": {}})]
    for text in broken:
        path.write_text(text)
        with pytest.raises(ClaimError, match=r"card\.json is not the card of a reference run"):
            reference.sentence(tmp_path)
