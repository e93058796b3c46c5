"""Chapters 10 to 13 run with the models of full scale, on tiny copies in their real formats.

One chapter for each model goes the whole way that a reader goes, by `erdpaper run`. The code cells
of the others are executed here, in one process, so that the libraries are imported once.
"""

import ast
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pytest
import tiny_pipelines as tiny
from PIL import Image

from erdpaper import execution
from erdpaper.claims import Unjudged
from erdpaper.fullscale.data import cifar10
from erdpaper.fullscale.pretrained import stable_diffusion
from erdpaper.regimes import (
    command,
    contraction_runs,
    course,
    crossings,
    decided,
    endpoint_arms,
    endpoint_kept,
    injection_effects,
    injection_runs,
    plans,
    pushes,
    shortcut_runs,
    windows,
)

NOTEBOOKS = Path(__file__).resolve().parents[1] / "notebooks"
FOLDERS = ("banana", "goldfish", "race_car")
CLASSES = {"cifar10": cifar10.CLASSES, "stable-diffusion": FOLDERS}
MODELS = tuple(CLASSES)
RECORDS, PER_FOLDER = 200, 40


@dataclass
class Figure:
    """What is written on a figure: the titles of its panels, and the names on their axes."""

    titles: list[str]
    columns: list[str]
    rows: list[str]


@dataclass
class Ran:
    """A chapter after its last cell."""

    names: dict[str, Any]
    figures: list[Figure] = field(default_factory=list)
    shown: list[object] = field(default_factory=list)
    asked_for: int = 0
    kept: int = 0


def picture(rng: np.random.Generator, label: int, height: int, width: int) -> np.ndarray:
    """Stripes of the class, with noise, (height, width, 3), bytes."""
    y, x = np.mgrid[:height, :width]
    stripes = np.sin(2 * np.pi * ((label % 3 + 1) * x / width + label // 3 * y / height))
    noise = 0.15 * rng.standard_normal((height, width, 3))
    colours = 0.5 + stripes[..., None] * np.array([0.3, 0.2 * (label % 2), -0.2]) + noise
    return (np.clip(colours, 0, 1) * 255).astype(np.uint8)


def write_cifar(folder: Path) -> None:
    """Files of CIFAR-10's binary version, of RECORDS images each."""
    rng = np.random.default_rng(0)
    for name in ("test_batch", *(f"data_batch_{n}" for n in range(1, 6))):
        labels = rng.permutation(np.arange(RECORDS) % 10).astype(np.uint8)
        planes = [picture(rng, k, 32, 32).transpose(2, 0, 1).ravel() for k in labels]
        records = np.concatenate([labels[:, None], np.stack(planes)], axis=1)
        (folder / f"{name}.bin").write_bytes(records.tobytes())


def write_blank_cifar(folder: Path) -> None:
    """Files of the real size, all zeros, which take no room on a disk."""
    for name in ("test_batch", *(f"data_batch_{n}" for n in range(1, 6))):
        with (folder / f"{name}.bin").open("wb") as file:
            file.truncate(10_000 * 3073)


def write_folders(root: Path) -> None:
    """A folder of images for each class, wider than they are high."""
    rng = np.random.default_rng(1)
    for label, name in enumerate(FOLDERS):
        (root / name).mkdir()
        for number in range(PER_FOLDER):
            made = Image.fromarray(picture(rng, label, 34, 50))
            made.save(root / name / f"{number:03}.png")


@pytest.fixture(scope="module")
def copies(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment variables of `regimes.opened` for tiny models and data."""
    made = {
        name: tmp_path_factory.mktemp(name)
        for name in ("cifar10", "cifar10_model", "stable_diffusion", "imagenet", "clip")
    }
    write_cifar(made["cifar10"])
    write_folders(made["imagenet"])
    tiny.save_clip(made["clip"], side=32)
    # few channels and no attention at 16 x 16: hundreds of calls on the CPU
    small = {"block_out_channels": (4, 4), "norm_num_groups": 2, "add_attention": False}
    tiny.save_ddpm(made["cifar10_model"], tiny.class_conditional(**small))
    # images of 32 pixels: smaller ones lack the spatial frequencies that are looked at
    # and latents of about the size of the noise, as the real ones are; the text is heard in the
    # middle alone, for speed
    plain = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2}
    tiny.save_stable_diffusion(made["stable_diffusion"], side=16, scaling=4.0, **plain)
    return {f"ERDPAPER_{name.upper()}": str(folder) for name, folder in made.items()}


@pytest.fixture
def at_hand(
    copies: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    """A reader's environment; the folder of the records."""
    for name, value in copies.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("ERDPAPER_CLAIMS_DIR", str(tmp_path / "claims"))
    monkeypatch.chdir(NOTEBOOKS)
    monkeypatch.setattr(cifar10, "RECORDS", RECORDS)
    # all samples of a trajectory at once, in half as many calls
    monkeypatch.setattr(stable_diffusion, "_BATCH", 20)
    yield tmp_path / "claims"
    plt.close("all")


def source(number: int) -> Path:
    (found,) = NOTEBOOKS.glob(f"{number}_*.md")
    return found


def written(figure: Any) -> Figure:
    def texts(labels: Any) -> list[str]:
        return [label.get_text() for label in labels]

    axes = figure.axes
    return Figure(
        [ax.get_title() for ax in axes],
        [text for ax in axes for text in texts(ax.get_xticklabels())],
        [text for ax in axes for text in texts(ax.get_yticklabels())],
    )


def ran(number: int, model: str, monkeypatch: pytest.MonkeyPatch) -> Ran:
    """Execute all code cells of a chapter at the smoke profile, in one namespace."""
    done = Ran({"__name__": "chapter"})
    done.names["display"] = done.shown.append

    def show() -> None:
        done.figures += [written(plt.figure(number)) for number in plt.get_fignums()]
        plt.close("all")

    monkeypatch.setattr(plt, "show", show)
    cells = [c for c in execution.load(source(number)).cells if c.cell_type == "code"]
    live = ("plt.show()", "showing.show_counts(")
    done.asked_for = sum(any(text in cell.source for text in live) for cell in cells)
    done.kept = sum("page.show(" in cell.source for cell in cells)
    for place, cell in enumerate(cells, 1):
        execute(cell.source, f"chapter {number}, cell {place}", done)
        if "parameters" in cell.metadata.get("tags", []):
            done.names |= {"profile": "smoke", "model": model}
    return done


def execute(source: str, name: str, done: Ran) -> None:
    """Execute a cell, and keep the value of its last line as a notebook shows it."""
    tree = ast.parse(source)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, name, "exec"), done.names)
    if isinstance(last, ast.Expr):
        done.shown.append(eval(compile(ast.Expression(last.value), name, "eval"), done.names))


def checked(done: Ran, model: str, claims: Path) -> None:
    """What every chapter has to have done: its own system, all live figures, and no record."""
    opened = done.names.get("opened") or done.names["latents"]
    assert (opened.name, opened.classes) == (model, CLASSES[model])
    assert len(done.figures) == done.asked_for > 0
    assert not list(claims.rglob("*"))


@pytest.mark.parametrize("model", MODELS)
def test_endpoint_estimates(
    model: str,
    at_hand: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    # 10 calls of a run instead of 50: it has 44 runs
    for name, value in {"CALLS": 10, "_KEPT": range(0, 10, 2), "FIFTH": 1}.items():
        monkeypatch.setattr(endpoint_arms, name, value)
    done = ran(10, model, monkeypatch)
    checked(done, model, at_hand)
    out = capsys.readouterr().out
    assert f"{model} has one space, shown under both names" in out
    assert ("need a model in pixels" in out) == (model == "stable-diffusion")
    # a column for each class by its own name, a row for each guidance
    firsts = next(figure for figure in done.figures if "guidance 7.5" in figure.rows)
    assert firsts.columns == list(CLASSES[model])
    lines = done.names["kept"].lines
    assert {line["known"][0] for line in lines.values() if "known" in line} == {model}
    # by no label the network gives what it gives by the class for none, so guidance must matter
    plain, guided = (done.names["kept"].arm("pixels", guidance=w) for w in (1.0, 7.5))
    assert plain["distance"]["pixels"] != guided["distance"]["pixels"]
    # the schedule of Stable Diffusion begins later than the levels that are asked for
    first = float(done.names["opened"].schedule.logsnr(1.0))
    assert done.names["kept"].known("pixels")["logsnr"][0] == pytest.approx(max(first, -9), abs=0.1)


@pytest.mark.parametrize("model", MODELS)
def test_spectra_and_speciation(
    model: str,
    at_hand: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    done = ran(11, model, monkeypatch)
    checked(done, model, at_hand)
    out = capsys.readouterr().out
    assert out.count(f"of Fashion-MNIST, and is left out for {model}.") == done.kept == 7
    asked = "bird" if model == "cifar10" else CLASSES[model][0]
    (counts,) = (f for f in done.figures if f.titles[0].startswith(f"{model}, {asked}, "))
    assert len(counts.titles) == 1
    assert f"What is drawn or measured here and now is of {model};" in out
    assert f"\n{model}: Lambda " in out
    assert f"{asked}, network: " in out and f"{asked}, exact, own image in: " in out
    assert "there are no kept runs to compare it with" in out
    # estimates that are means of n images vary in n - 1 directions at most
    counted = re.findall(r"exact, own image in: (\d+) at .*?, (\d+) at", out)
    assert all(0 < int(k) < len(done.names["bags"]) for k in counted[0])


def test_injection_with_prompts(
    at_hand: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    done = ran(12, "stable-diffusion", monkeypatch)
    checked(done, "stable-diffusion", at_hand)
    out = capsys.readouterr().out
    assert "is of stable-diffusion;" in out
    assert out.count("is left out for stable-diffusion.") == done.kept == 4
    titles = [title for figure in done.figures for title in figure.titles]
    assert "goldfish, injected race_car" in titles
    assert done.names["live"].result["labels"] == [1, 2]
    # the words of the two classes make different images of the same noise, but at full strength
    # throughout a run is that of the other class
    untouched, injected = done.names["shown"][[0, -1]]
    apart = float((untouched - injected).abs().max())
    assert apart > 1e-3
    assert all(float(other) < apart / 100 for other in done.names["alone"].values())


def test_steering_in_pixels(
    at_hand: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    done = ran(13, "cifar10", monkeypatch)
    checked(done, "cifar10", at_hand)
    out = capsys.readouterr().out
    assert out.count("is left out for cifar10.") == done.kept == 5
    assert "is of cifar10;" in out and "\nairplane    to automobile   weighted sum " in out
    titles = [title for figure in done.figures for title in figure.titles]
    assert "airplane to automobile" in titles and "ship to truck" in titles
    # stripes of two classes differ more in their means than noise does
    own = done.names["own"]
    x, labels = own.system.data("train", None)
    means = [x[labels == k].mean(0).flatten().double() for k in own.pair]
    assert float((own.difference - (means[1] - means[0])).abs().max()) < 1e-5


# parts that are measured, chapters that show them, and how many figures are of Fashion-MNIST alone
OWN = {
    "cifar10": ((endpoint_kept, pushes), (10, 13), 0),
    "stable-diffusion": ((crossings, shortcut_runs, windows), (11, 12), 1),
}


TRAININGS = {"11.contraction-stays", "11.same-for-all-targets"}


def in_turn(tasks: Mapping[Path, Callable[[], str]], *_: object, **__: object) -> None:
    """In the place of `tasks.fill`: in this process, where constants are smaller."""
    for path, task in tasks.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(task())


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer levels, windows, vectors and steps than a reader's command has."""
    levels = tuple(float(at) for at in range(-8, 9, 2))
    smaller: dict[Any, dict[str, Any]] = {
        endpoint_arms: {"CALLS": 10, "_KEPT": range(0, 10, 2), "FIFTH": 1},
        plans: {"_PAIRS": 1},
        contraction_runs: {"LEVELS": {"pixels": levels, "latents": levels}},
        crossings: {"WIDE": (-3.0, 0.0), "CONTROL": (-3.0, 0.0)},
        decided: {"INJECTED": (-3.0, 0.0), "_TRIES": 1},
        shortcut_runs: {"SEEDS": range(2), "LONG": 50},
        course: {"STEP": 1.5},
        injection_effects: {"LOOKS": (-5.0, -1.0, 3.0)},
        injection_runs: {
            "ENDS": (-7.0, -3.25, -1.75),
            "STARTS": (-5.0, -4.0, -3.0, -2.0, -1.0, 0.0),
        },
        pushes: {"PUSHES": (0.5, 1.0), "STRENGTHS": (0.5, 1.0), "RANDOM": 2, "SIGNS": 1},
    }
    for module, values in smaller.items():
        for name, value in values.items():
            monkeypatch.setattr(module, name, value)
    for part in (contraction_runs, *command._PARTS):
        monkeypatch.setattr(part, "fill", in_turn)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("model", MODELS)
def test_results_of_its_own_are_measured_and_shown(
    model: str,
    at_hand: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    parts, chapters, of_fashion = OWN[model]
    monkeypatch.setattr(command, "_PARTS", parts)
    if model == "cifar10":
        monkeypatch.setattr(contraction_runs, "collect", lambda *_: None)
    plan = plans.made(model, 20)
    # what is kept of Fashion-MNIST, and beside it what is measured here
    kept = tmp_path / "kept"
    kept.mkdir()
    for folder in plans.results().iterdir():
        (kept / folder.name).symlink_to(folder)
    monkeypatch.setattr(plans, "results", lambda: kept)
    command.everything(tmp_path / "work", kept, 1, plan)
    for number in chapters:
        done = ran(number, model, monkeypatch)
        out = capsys.readouterr().out
        assert f"is of {model}, here and now or by\n`{plan.command}`" in out
        assert out.count("is left out for") == (of_fashion if number == 11 else 0)
        # every figure is shown, of kept results as of live ones
        shown = len(done.figures) + out.count("is left out for")
        counts = number == 11
        assert shown == done.asked_for + done.kept - counts
        assert not list(at_hand.rglob("*"))
        said = [each for each in done.shown if isinstance(each, Unjudged)]
        # but for those on networks of several lengths of training
        of_others = {each.claim.id for each in said if each.values is None}
        assert of_others == (TRAININGS if number == 11 else set()) and len(said) > 20
    own = " to ".join(plan.far[-1])
    assert done.names["kept"].plan == plan
    if model == "cifar10":
        assert own in [title for figure in done.figures for title in figure.titles]
    else:
        arms = done.names["kept"].arms
        assert arms[own].result["arm"]["guidance"] == 7.5 and set(arms) > {"guidance 1", "DDIM"}
        # windows that begin before the schedule does are not run
        assert min(arms[own].ends) > float(done.names["opened"].schedule.logsnr(1.0))


def by_command(number: int, model: str, copies: dict[str, str], folder: Path) -> Any:
    """The notebook that `erdpaper run` makes."""
    environment = os.environ | copies | {"ERDPAPER_CLAIMS_DIR": str(folder / "claims")}
    command = [sys.executable, "-c", "from erdpaper.cli import main; main()", "run", str(number)]
    command += ["--profile", "smoke", "-p", "model", model, "--out", str(folder / "out")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not list((folder / "claims").rglob("*"))
    (twin,) = (folder / "out").glob("*.ipynb")
    return nbformat.read(twin, as_version=4)


def outputs(notebook: Any, kind: str) -> list[str]:
    """All outputs of a kind: "text/plain", "image/png", or "stream"."""
    made = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    if kind == "stream":
        return [o.text for o in made if o.output_type == "stream" and o.name == "stdout"]
    return [output.data[kind] for output in made if kind in output.get("data", {})]


def test_injection_with_classes_by_the_command(copies: dict[str, str], tmp_path: Path) -> None:
    blank = tmp_path / "cifar"
    blank.mkdir()
    write_blank_cifar(blank)
    made = by_command(12, "cifar10", copies | {"ERDPAPER_CIFAR10": str(blank)}, tmp_path)
    said = "".join(outputs(made, "stream"))
    assert "is of cifar10;" in said
    assert len(outputs(made, "image/png")) == sum("plt.show()" in c.source for c in made.cells)
    judged = [text for text in outputs(made, "text/plain") if text.startswith("12.")]
    assert len(judged) > 20 and all("needs model fashion" in text for text in judged)
    # the live cases are pairs of the model's own classes
    (half,) = (text for text in judged if text.startswith("12.half-symmetric"))
    assert "ship and truck" in half and "airplane and automobile" in half
    # of what is kept, which is of clothes, no number is shown
    assert not any("Trouser" in text for text in (said, *judged))


def test_steering_with_prompts_by_the_command(copies: dict[str, str], tmp_path: Path) -> None:
    made = by_command(13, "stable-diffusion", copies, tmp_path)
    said = "".join(outputs(made, "stream"))
    assert "is of stable-diffusion;" in said and "banana      to goldfish " in said
    assert len(outputs(made, "image/png")) == sum("plt.show()" in c.source for c in made.cells)
    judged = [text for text in outputs(made, "text/plain") if text.startswith("13.")]
    assert judged and all("needs model fashion" in text for text in judged)
    assert not any("Sneaker" in text for text in (said, *judged))
    (coarse,) = (text for text in judged if text.startswith("13.svd-coarse"))
    assert "banana to goldfish" in coarse
