"""One command makes everything that the chapters on sampling read."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from erdpaper import datasets
from erdpaper.cli import main
from erdpaper.regimes import command, contraction_runs, networks
from erdpaper.regimes.plans import FASHION

PARTS = (contraction_runs, *command._PARTS)


def test_each_part_gets_folders_of_its_own_and_networks_come_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[str, tuple[Any, ...]]] = []
    monkeypatch.setattr(networks, "train", lambda *given: calls.append(("networks", given)))
    for part in PARTS:
        monkeypatch.setattr(part, "collect", lambda *given, n=part.NAME: calls.append((n, given)))
    result = CliRunner().invoke(main, ["regimes", "--jobs", "3", "--out", str(tmp_path)])
    assert result.exit_code == 0, result.output
    work = datasets.data_dir().parent / "runs"
    trained = work / "regimes" / "networks"
    assert calls[:2] == [
        ("networks", (trained, 3)),
        (PARTS[0].NAME, (work / PARTS[0].NAME, trained, tmp_path / PARTS[0].NAME, 3, FASHION)),
    ]
    assert calls[2:] == [
        (p.NAME, (work / p.NAME, tmp_path / p.NAME, 3, FASHION)) for p in PARTS[1:]
    ]


def test_everything_that_is_kept_is_there_with_the_command_that_made_it() -> None:
    for part in PARTS:
        folder = datasets.data_dir() / "results" / part.NAME
        assert (folder / "runs.jsonl").exists(), f"{folder} lacks runs.jsonl: {FASHION.command}"
        assert (folder / "card.json").exists()
        assert json.loads((folder / "card.json").read_text())["command"] == FASHION.command
