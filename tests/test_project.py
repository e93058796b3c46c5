"""The project's files agree with each other, and its code passes its own linters."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from erdpaper.claims import ledger

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def declared() -> dict[str, Requirement]:
    """Every requirement of the package and of its extras, by canonical name."""
    extras = PROJECT["optional-dependencies"].values()
    texts = [*PROJECT["dependencies"], *(text for extra in extras for text in extra)]
    return {canonicalize_name(Requirement(text).name): Requirement(text) for text in texts}


def pinned() -> dict[str, str]:
    """Name -> version of constraints.txt."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    assert all(len(pair) == 2 for pair in pairs), "every line is name==version"
    return {canonicalize_name(name): version for name, version in pairs}


def test_conda_environment_is_that_of_pyproject() -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    *conda, with_pip = environment["dependencies"]
    python = next(spec for spec in conda if spec.startswith("python "))
    assert Requirement(f"python{PROJECT['requires-python']}").specifier.contains(
        python.removeprefix("python =")
    )
    options = [text for text in with_pip["pip"] if text.startswith("-")]
    assert options == ["--constraint constraints.txt", "--editable ."]
    listed = {str(Requirement(text)) for text in with_pip["pip"] if text not in options}
    assert listed == {str(requirement) for requirement in declared().values()}


def test_constraints_pin_every_requirement_within_its_range() -> None:
    versions = pinned()
    for name, requirement in declared().items():
        assert name in versions, f"{name} is not pinned"
        assert requirement.specifier.contains(versions[name]), f"{name} is pinned out of its range"


def test_constraints_suit_every_platform() -> None:
    for name, version in pinned().items():
        assert "+" not in version, f"{name} is pinned to a local build"
        assert not name.startswith(("nvidia-", "cuda-")) and name != "triton"


def test_version_is_the_same_everywhere() -> None:
    import erdpaper

    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert PROJECT["version"] == citation["version"] == erdpaper.__version__


def test_citation_names_both_documents() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    titles = [reference["title"] for reference in citation["references"]]
    assert titles == [
        "Elucidating Representation Degradation Problem in Diffusion Model Training",
        "On the Spectral Dynamics of Diffusion Models Sampling",
    ]


def test_make_installs_again_only_if_the_requirements_changed(tmp_path: Path) -> None:
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    stamp = tmp_path / ".venv" / ".installed"
    stamp.parent.mkdir()

    def commands(target: str) -> str:
        make = ["make", "--dry-run", target]
        return subprocess.run(make, cwd=tmp_path, capture_output=True, text=True, check=True).stdout

    assert "pip install" in commands("test")
    stamp.touch()
    assert "pip install" not in commands("test") and "pytest" in commands("test")
    later = stamp.stat().st_mtime + 10
    os.utime(tmp_path / "constraints.txt", (later, later))
    assert "pip install" in commands("book")


def test_make_builds_no_page_before_the_notebooks_are_executed(tmp_path: Path) -> None:
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    programs = tmp_path / ".venv" / "bin"
    programs.mkdir(parents=True)
    for name, wait in {"erdpaper": 0.5, "jupyter-book": 0}.items():
        program = programs / name
        program.write_text(f"#!/bin/sh\nsleep {wait}\necho {name} >> order\n")
        program.chmod(0o755)
    (tmp_path / ".venv" / ".installed").touch()
    subprocess.run(["make", "-j", "4", "book"], cwd=tmp_path, capture_output=True, check=True)
    assert (tmp_path / "order").read_text().split() == ["erdpaper", "jupyter-book"]


@pytest.mark.parametrize(
    "command",
    [
        ["ruff", "check", "."],
        ["ruff", "format", "--check", "."],
        ["mypy"],
        ["lint-imports"],
    ],
    ids=" ".join,
)
def test_linter_is_content(command: list[str]) -> None:
    program = Path(sys.executable).with_name(command[0])
    done = subprocess.run([program, *command[1:]], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_readmes_verdicts_are_those_of_the_ledger() -> None:
    rows = {row.claim.id: row for row in ledger.rows(ROOT / "data") if row.profile == "cpu"}
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    table = re.findall(r"^\| .* \| `(\d\d\.[\w-]+)` \| (.*) \|$", readme, re.M)
    assert len(table) == 6
    for id, said in table:
        assert said == f"{rows[id].verdict_name}, {ledger.passed_text(rows[id])}", id
