"""The command is thin: what it passes on, what it prints, and its exit status."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from throwaway import repository

from erdpaper import runner
from erdpaper.cli import main
from erdpaper.execution import Outcome
from erdpaper.runner import Request

CLAIM = """
- id: 01.example
  document: book
  number: example
  statement: One is at most two.
  notebook: 01_one
  cases: [only]
  comparator: at_most
  threshold: 2
"""


@pytest.fixture
def invoke(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    root = repository(tmp_path / "repository", n01_one="1")
    (root / "data" / "claims.yml").write_text(CLAIM)
    (root / "data" / "scales.yml").write_text("01_one: two numbers\n")
    monkeypatch.setenv("ERDPAPER_DATA", str(root / "data"))
    return lambda *arguments: CliRunner().invoke(main, list(arguments))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["99"], "no notebook is called '99'; there are 01_one"),
        (["--profile", "x"], "unknown profile 'x'; choose one of smoke, cpu, gpu, full"),
        (["-p", "sed", "3"], "notebook 01_one has no parameter 'sed'; it knows profile, seed, "),
    ],
)
def test_a_wrong_request_is_one_sentence_and_status_2(
    invoke: Callable[..., Result], arguments: list[str], sentence: str
) -> None:
    result = invoke("run", *arguments)
    assert result.exit_code == 2
    assert result.stderr.startswith(f"Error: {sentence}")
    assert result.stderr.count("\n") == 1 and result.stdout == ""


def test_a_seed_below_zero_is_refused(invoke: Callable[..., Result]) -> None:
    result = invoke("run", "--seed", "-1")
    assert result.exit_code == 2 and "-1 is not in the range x>=0" in result.stderr


def test_options_reach_the_runner(
    invoke: Callable[..., Result], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen: list[Request] = []
    monkeypatch.setattr(runner, "run", lambda request: seen.append(request) or [])
    options = ["--profile", "gpu", "--seed", "3", "-p", "scale", "2.5", "-p", "name", "false"]
    result = invoke("run", "01", "02", *options, "--jobs", "4", "--out", str(tmp_path), "--timings")
    assert result.exit_code == 0
    parameters = {"profile": "gpu", "seed": 3, "scale": 2.5, "name": "false"}
    assert seen == [Request(("01", "02"), parameters, 4, tmp_path, True)]


def test_a_failed_notebook_is_status_1_with_its_cell_and_error(
    invoke: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    outcomes = [Outcome("01_one", 1.0), Outcome("02_two", 1.0, "cell 4: ValueError: it broke")]
    monkeypatch.setattr(runner, "run", lambda request: outcomes)
    result = invoke("run")
    assert result.exit_code == 1
    assert result.stderr.startswith("02_two failed in cell 4: ValueError: it broke\n")
    assert "01_one" not in result.stderr


def test_claims_prints_id_verdict_and_value(invoke: Callable[..., Result]) -> None:
    result = invoke("claims")
    assert result.exit_code == 0
    assert "01.example" in result.stdout and "not run here" in result.stdout


def test_claims_writes_the_machine_readable_copy(
    invoke: Callable[..., Result], tmp_path: Path
) -> None:
    path = tmp_path / "claims.json"
    result = invoke("claims", "--json", str(path))
    assert result.exit_code == 0 and result.stdout == ""
    assert "01.example" in json.dumps(json.loads(path.read_text()))


def test_missing_data_is_one_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ERDPAPER_DATA", str(tmp_path / "nowhere"))
    for command in ("run", "claims"):
        result = CliRunner().invoke(main, [command])
        assert result.exit_code == 2
        assert result.stderr.startswith("Error: ") and result.stderr.count("\n") == 1
