"""The wheel works without the book's packages, and the workflows and pages name what exists."""

import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from diffusers import UNet2DModel
from diffusers.training_utils import compute_snr
from torch.func import jvp

from erdpaper import weights
from erdpaper.schedules import Cosine
from erdpaper.weights.densities import training_times

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


def test_installed_wheel_imports_without_the_books_packages(wheel: Path, tmp_path: Path) -> None:
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*pip, "--target", tmp_path, wheel], check=True)
    command = [sys.executable, tmp_path / "bin" / "erdpaper", "--version"]
    said = subprocess.run(
        command, env={"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True, check=True
    )
    assert said.stdout.split()[-1] == wheel.name.split("-")[1]
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


def example(heading: str) -> str:
    """The code that the page shows under this heading."""
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.split(f"## {heading}\n")[1], flags=re.S)[:1]
    return code


def test_example_of_a_weight_runs_as_it_stands() -> None:
    names: dict[str, Any] = {}
    exec(example("Add a weight"), names)
    t = training_times(Cosine())
    torch.testing.assert_close(names["weight"](t).mean(), torch.tensor(1.0, dtype=t.dtype))


def test_example_of_a_schedule_is_one() -> None:
    names: dict[str, Any] = {}
    exec(example("Add a schedule"), names)
    schedule = names["schedule"]
    t = torch.linspace(0.05, 0.95, 19, dtype=torch.float64)
    alpha, sigma = schedule(t)
    torch.testing.assert_close(alpha.square() + sigma.square(), torch.ones_like(t))
    assert [float(c) for end in (0.0, 1.0) for c in schedule(end)] == [1, 0, 0, 1]
    # slope and inverse against the pair itself
    slope = jvp(schedule.logsnr, (t,), (torch.ones_like(t),))[1]
    torch.testing.assert_close(schedule.logsnr_rate(t), slope)
    torch.testing.assert_close(schedule.time(2 * (alpha / sigma).log()), t)
    # and the rest of the package takes it
    weight = weights.normalised(weights.erd, schedule, "eps")
    grid = (torch.arange(4000, dtype=torch.float64) + 0.5) / 4000
    assert float(weight(grid).mean()) == pytest.approx(1, rel=1e-6)


def test_example_of_a_claim_is_an_entry_that_the_ledger_takes(tmp_path: Path) -> None:
    from erdpaper import claims

    (entry,) = re.findall(r"```yaml\n(.*?)```", PAGE, flags=re.S)
    (tmp_path / "claims.yml").write_text(entry, encoding="utf-8")
    scales = (ROOT / "data" / "scales.yml").read_text(encoding="utf-8")
    (tmp_path / "scales.yml").write_text("".join(re.findall(r"05_.*\n", scales)), encoding="utf-8")
    (claim,) = claims.load(tmp_path).values()
    assert (ROOT / "notebooks" / f"{claim.notebook}.md").exists()


# A training loop as the example has it, with the lines that the patch looks for.
EXAMPLE = """
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from diffusers import DDPMScheduler, UNet2DModel
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel


def train(args, model, data, watch):
    accelerator = Accelerator(cpu=True)
    noise_scheduler = DDPMScheduler(beta_schedule="squaredcos_cap_v2")
    ema_model = EMAModel(model.parameters())
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    lr_scheduler = get_scheduler("constant", optimizer=optimizer)
    model, optimizer, lr_scheduler = accelerator.prepare(model, optimizer, lr_scheduler)
    for clean_images in data:
        noise = torch.randn_like(clean_images)
        timesteps = torch.randint(0, 1000, (len(clean_images),))
        noisy_images = noise_scheduler.add_noise(clean_images, noise, timesteps)
        if True:
            with accelerator.accumulate(model):
                model_output = model(noisy_images, timesteps).sample

                if args.prediction_type == "epsilon":
                    loss = F.mse_loss(model_output.float(), noise.float())  # this could have different weights!
                elif args.prediction_type == "sample":
                    raise NotImplementedError
                accelerator.backward(loss)
                optimizer.step()
                lr_scheduler.step()
                optimizer.zero_grad()
        ema_model.step(model.parameters())
        watch(noise_scheduler, model_output, noise, timesteps, loss)
"""  # noqa: E501


def losses(source: str) -> list[tuple[Any, ...]]:
    """Three steps of the loop: what the network said, what was asked, and the loss it was given."""
    torch.manual_seed(0)
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
    names: dict[str, Any] = {}
    seen: list[tuple[Any, ...]] = []
    exec(source, names)
    data = torch.randn(3, 5, 1, 8, 8)
    names["train"](
        SimpleNamespace(prediction_type="epsilon"), model, data, lambda *a: seen.append(a)
    )
    return seen


def test_patch_of_the_diffusers_example_is_the_weighted_loss(tmp_path: Path) -> None:
    page = (ROOT / "book" / "rerun.md").read_text(encoding="utf-8")
    (patch,) = re.findall(r"```diff\n(.*?)```", page, flags=re.S)
    changed = [line for line in patch.splitlines() if re.match(r"\+(?!\+)", line)]
    assert len(changed) == 2, "a patch of two lines"
    path = tmp_path / re.findall(r"^\+\+\+ b/(.*)$", patch, flags=re.M)[0]
    path.parent.mkdir(parents=True)
    path.write_text(EXAMPLE)
    subprocess.run(["git", "apply", "-"], cwd=tmp_path, input=patch, text=True, check=True)
    plain, patched = losses(EXAMPLE), losses(path.read_text())
    for scheduler, output, noise, timesteps, loss in patched:
        # ERD for eps is sigma = (1 + SNR)^(-1/2), here from diffusers' own signal-to-noise ratios
        root = (1 + compute_snr(scheduler, torch.arange(1000))).rsqrt()
        error = (output - noise).square().mean((1, 2, 3))
        torch.testing.assert_close(loss, (root[timesteps] / root.mean() * error).mean())
    # both start from the same network, which the other loss then moves elsewhere
    torch.testing.assert_close(plain[0][1], patched[0][1])
    assert not torch.allclose(plain[1][1], patched[1][1])


@pytest.mark.parametrize("path", sorted((ROOT / ".github" / "workflows").glob("*.yml")))
def test_workflow_runs_commands_that_exist(path: Path) -> None:
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), flags=re.M)
    jobs = yaml.safe_load(path.read_text())["jobs"].values()
    commands = [step["run"] for job in jobs for step in job["steps"] if "run" in step]
    assert commands
    for command in commands:
        program, argument = command.split()
        assert (program == "make" and argument in targets) or (ROOT / argument).exists(), command
