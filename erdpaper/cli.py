"""The ``erdpaper`` command: thin, its sentences come from the modules that do the work."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])


class _Refusal(click.ClickException):
    """A wrong request: one sentence on stderr, exit status 2."""

    exit_code = 2


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="erdpaper")
def main() -> None:
    """Re-run the book and read its verdicts."""


@main.command()
@click.argument("names", nargs=-1)
@click.option("--profile", default="cpu", show_default=True, help="smoke, cpu, gpu or full.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(min=0), help="Base seed.")
@click.option(
    "-p",
    "--parameter",
    "extra",
    nargs=2,
    multiple=True,
    metavar="NAME VALUE",
    help="Any parameter of the notebooks, as papermill takes it; may be repeated.",
)
@click.option("--jobs", default=2, show_default=True, help="Notebooks at a time.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for the results [default: notebooks/ for a default run, else runs/PROFILE/].",
)
@click.option("--timings", is_flag=True, help="Measure anew the seconds kept in data/results/.")
def run(
    names: tuple[str, ...],
    profile: str,
    seed: int,
    extra: tuple[tuple[str, str], ...],
    jobs: int,
    out: Path | None,
    timings: bool,
) -> None:
    """Execute notebooks: NAMES are names or numbers (05), none means all."""
    from erdpaper import runner
    from erdpaper.datasets import DatasetError

    parameters: dict[str, object] = {"profile": profile, "seed": seed}
    parameters |= {name: runner.parse_value(value) for name, value in extra}
    try:
        outcomes = runner.run(runner.Request(names, parameters, jobs, out, timings))
    except (ValueError, DatasetError) as error:
        raise _Refusal(str(error)) from error
    failed = [outcome for outcome in outcomes if outcome.error is not None]
    for outcome in failed:
        click.echo(f"{outcome.name} failed in {outcome.error}", err=True)
        click.echo(f"  kept as runs/failed/{outcome.name}.ipynb", err=True)
    sys.exit(1 if failed else 0)


@main.command()
@click.option(
    "--json",
    "path",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write the machine-readable ledger to this file instead.",
)
def claims(path: Path | None) -> None:
    """Print every claim with its verdict and worst measured value."""
    from erdpaper import datasets
    from erdpaper.claims import ledger
    from erdpaper.datasets import DatasetError
    from erdpaper.files import write_atomically

    try:
        rows = ledger.rows(datasets.data_dir())
    except (ValueError, DatasetError) as error:
        raise _Refusal(str(error)) from error
    if path is None:
        click.echo(ledger.as_text(rows))
    else:
        write_atomically(path, ledger.as_json(rows))


@main.command()
@click.option("--preset", required=True, help="What to train, a row of erdpaper/images/presets.py.")
@click.option("--steps", type=click.IntRange(min=1), help="Steps, if not the preset's.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(min=0), help="Seed.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder of the run [default: runs/train/PRESET beside the data folder].",
)
@click.option("--every", default=200, show_default=True, help="Steps between checkpoints.")
@click.option("--accumulate", default=1, show_default=True, help="Parts of a batch, one at a time.")
@click.option(
    "--precision",
    default="no",
    show_default=True,
    type=click.Choice(["no", "fp16", "bf16"]),
    help="Mixed precision.",
)
@click.option("--compile", "compiled", is_flag=True, help="Compile the network first.")
@click.option("--cpu", is_flag=True, help="Stay on the CPU.")
def train(preset: str, out: Path | None, **options: Any) -> None:
    """Train a network; a run that was interrupted goes on where its last checkpoint is."""
    from erdpaper.datasets import DatasetError
    from erdpaper.images import command
    from erdpaper.training import TrainingError

    folder = out or _data_dir().parent / "runs" / "train" / preset
    try:
        path = command.train(command.Request(preset, folder, **options))
    except (ValueError, DatasetError, TrainingError) as error:
        raise _Refusal(str(error)) from error
    click.echo(f"the network: {path}")


_jobs = click.option(
    "--jobs",
    default=os.cpu_count() or 1,
    show_default="one a core",
    type=click.IntRange(min=1),
    help="Pieces at a time, one thread each.",
)


def _out(name: str) -> Callable[[F], F]:
    return click.option(
        "--out",
        type=click.Path(path_type=Path, file_okay=False),
        help=f"Folder for the results [default: data/results/{name}].",
    )


def _data_dir() -> Path:
    from erdpaper import datasets
    from erdpaper.datasets import DatasetError

    try:
        return datasets.data_dir()
    except DatasetError as error:
        raise _Refusal(str(error)) from error


@main.command()
@_jobs
@_out("06_gmm_toys")
def toys(jobs: int, out: Path | None) -> None:
    """Train the toy networks that notebook 06 keeps; an interrupted run goes on where it was."""
    from erdpaper.toys import grid

    data = _data_dir()
    grid.everything(data.parent / "runs" / grid.NAME, out or data / "results" / grid.NAME, jobs)


@main.command()
def models() -> None:
    """Train the networks of data/fashion-models; an interrupted command goes on where it was."""
    from erdpaper.datasets import DatasetError
    from erdpaper.images import keep
    from erdpaper.training import TrainingError

    try:
        keep.everything(_data_dir().parent / "runs" / "train")
    except (DatasetError, TrainingError) as error:
        raise _Refusal(str(error)) from error


@main.command()
@_jobs
@_out("07_weighting_on_images")
@click.option("--architectures", is_flag=True, help="Also a DiT and a U-Net: as long again.")
def weighting(jobs: int, out: Path | None, architectures: bool) -> None:
    """Train the networks that notebook 07 keeps; an interrupted run goes on where it was."""
    from erdpaper.datasets import DatasetError
    from erdpaper.images import grid

    data = _data_dir()
    try:
        folder = out or data / "results" / grid.NAME
        grid.everything(data.parent / "runs" / grid.NAME, folder, jobs, architectures)
    except DatasetError as error:
        raise _Refusal(str(error)) from error


@main.command()
@_jobs
@_out("03_ntk_bounds")
def theorems(jobs: int, out: Path | None) -> None:
    """Make the runs that notebook 03 keeps; an interrupted command goes on where it was."""
    from erdpaper.toys import networks, theorems

    data = _data_dir()
    work = data.parent / "runs"
    weights = work / networks.NAME / "networks"
    folder = out or data / "results" / theorems.NAME
    theorems.everything(work / theorems.NAME, folder, weights, jobs)


@main.command()
@_jobs
@_out("04_ntk_spectrum")
def kernels(jobs: int, out: Path | None) -> None:
    """Measure the kernels that notebook 04 keeps; an interrupted command goes on where it was."""
    from erdpaper.toys import networks, spectra

    data = _data_dir()
    work, folder = data.parent / "runs" / networks.NAME, out or data / "results" / networks.NAME
    spectra.collect(work, folder, jobs)


@main.command()
@_jobs
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for the results, one folder a chapter [default: data/results].",
)
def regimes(jobs: int, out: Path | None) -> None:
    """Measure what notebooks 10 to 13 keep; an interrupted command goes on where it was."""
    from erdpaper.datasets import DatasetError
    from erdpaper.regimes import command

    data = _data_dir()
    try:
        command.everything(data.parent / "runs", out or data / "results", jobs)
    except DatasetError as error:
        raise _Refusal(str(error)) from error
