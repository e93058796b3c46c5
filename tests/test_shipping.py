"""The wheel works without the book's packages, and the workflows and pages name what exists."""

import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import torch
import yaml
from diffusers import DDPMScheduler, UNet2DModel
from diffusers.training_utils import compute_snr

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "book" / "contributing.md").read_text(encoding="utf-8")

# what only the book needs: modules that execute notebooks and build pages
BOOK_ONLY = {
    "erdpaper.claims.coverage_nodes",
    "erdpaper.claims.ledger_nodes",
    "erdpaper.claims.sphinx_ext",
    "erdpaper.effort",
    "erdpaper.execution",
    "erdpaper.gallery",
    "erdpaper.notation",
    "erdpaper.players.sphinx_ext",
    "erdpaper.pool",
    "erdpaper.runner",
    "erdpaper.trim",
}
IMPORT_ALL = """
import importlib, pkgutil, sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {absent}:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Absent())
sys.path.insert(0, {wheel!r})
import erdpaper
assert erdpaper.__file__.startswith({wheel!r}), erdpaper.__file__
for found in pkgutil.walk_packages(erdpaper.__path__, "erdpaper."):
    if found.name == "erdpaper.__main__":
        continue
    try:
        importlib.import_module(found.name)
    except ModuleNotFoundError:
        print(found.name)
"""
ABSENT = {"docutils", "IPython", "jupyter_book", "jupytext", "myst_nb", "nbclient", "nbformat"}
ABSENT |= {"papermill", "sphinx"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    build = ["-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", folder]
    subprocess.run([sys.executable, *build, ROOT], check=True)
    (found,) = folder.glob("erdpaper-*.whl")
    return found


def test_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0].split("-")[0] for name in names} == {"erdpaper"}
    assert "erdpaper/py.typed" in names and "erdpaper/claims/ledger.css" in names


def test_wheel_imports_without_the_books_packages(wheel: Path, tmp_path: Path) -> None:
    zipfile.ZipFile(wheel).extractall(tmp_path)
    script = IMPORT_ALL.format(absent=ABSENT, wheel=str(tmp_path))
    run = [sys.executable, "-I", "-c", script]
    done = subprocess.run(run, capture_output=True, text=True, check=True, cwd=tmp_path)
    failed = set(done.stdout.split())
    assert failed <= BOOK_ONLY, failed - BOOK_ONLY


def layers() -> set[str]:
    """The modules that import-linter orders, as pyproject.toml lists them."""
    config = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    lines = config["contracts"][0]["layers"]
    return {name.strip(" ()") for line in lines for name in line.split("|")} - {"__main__"}


def test_page_for_contributors_names_every_layer() -> None:
    table = PAGE.split("## What may import what")[1].split("## ")[0]
    assert set(re.findall(r"`(\w+)`", table)) - {"lint"} == layers()


def test_example_of_a_weight_runs_as_it_stands() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, flags=re.S)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("tensor([")


def test_example_of_a_claim_is_an_entry_that_the_ledger_takes(tmp_path: Path) -> None:
    from erdpaper import claims

    (entry,) = re.findall(r"```yaml\n(.*?)```", PAGE, flags=re.S)
    (tmp_path / "claims.yml").write_text(entry, encoding="utf-8")
    scales = (ROOT / "data" / "scales.yml").read_text(encoding="utf-8")
    (tmp_path / "scales.yml").write_text("".join(re.findall(r"05_.*\n", scales)), encoding="utf-8")
    (claim,) = claims.load(tmp_path).values()
    assert (ROOT / "notebooks" / f"{claim.notebook}.md").exists()


def test_patch_of_the_diffusers_example_is_the_weighted_loss() -> None:
    page = (ROOT / "book" / "rerun.md").read_text(encoding="utf-8")
    (patch,) = re.findall(r"```diff\n(.*?)```", page, flags=re.S)
    lines = [line[1:].strip() for line in patch.splitlines() if line.startswith("+")]
    torch.manual_seed(0)
    scheduler = DDPMScheduler(beta_schedule="squaredcos_cap_v2")
    model = UNet2DModel(
        8,
        1,
        1,
        block_out_channels=(8, 8),
        layers_per_block=1,
        norm_num_groups=4,
        down_block_types=("DownBlock2D",) * 2,
        up_block_types=("UpBlock2D",) * 2,
    )
    clean, noise = torch.randn(2, 5, 1, 8, 8)
    timesteps = torch.randint(0, 1000, (5,))
    output = model(scheduler.add_noise(clean, noise, timesteps), timesteps).sample
    names = {"F": torch.nn.functional, "noise_scheduler": scheduler, "timesteps": timesteps}
    names |= {"model_output": output, "noise": noise}
    exec("\n".join(lines), names)
    # ERD for eps is sigma = (1 + SNR)^(-1/2), here from diffusers' own signal-to-noise ratios
    root = (1 + compute_snr(scheduler, torch.arange(1000))).rsqrt()
    error = (output - noise).square().mean((1, 2, 3))
    expected = (root[timesteps] / root.mean() * error).mean()
    torch.testing.assert_close(names["loss"], expected)


@pytest.mark.parametrize("path", sorted((ROOT / ".github" / "workflows").glob("*.yml")))
def test_workflow_runs_commands_that_exist(path: Path) -> None:
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), flags=re.M)
    jobs = yaml.safe_load(path.read_text())["jobs"].values()
    commands = [step["run"] for job in jobs for step in job["steps"] if "run" in step]
    assert commands
    for command in commands:
        program, argument = command.split()
        assert (program == "make" and argument in targets) or (ROOT / argument).exists(), command
