"""Commands that compute what the notebooks keep, each going on where it was interrupted."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from erdpaper.cli.base import Refusal, data_dir

_OWN_MODEL = "fashion"
F = TypeVar("F", bound=Callable[..., Any])

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


@click.command()
@_jobs
@_out("06_gmm_toys")
def toys(jobs: int, out: Path | None) -> None:
    """Train the toy networks that notebook 06 keeps; an interrupted run goes on where it was."""
    from erdpaper.toys import grid

    data = data_dir()
    grid.everything(data.parent / "runs" / grid.NAME, out or data / "results" / grid.NAME, jobs)


@click.command()
def models() -> None:
    """Train the networks of data/fashion-models; an interrupted command goes on where it was."""
    from erdpaper.datasets import DatasetError
    from erdpaper.images import keep
    from erdpaper.training import TrainingError

    try:
        keep.everything(data_dir().parent / "runs" / "train")
    except (DatasetError, TrainingError) as error:
        raise Refusal(str(error)) from error


@click.command()
@_jobs
@_out("07_weighting_on_images")
def weighting(jobs: int, out: Path | None) -> None:
    """Train the networks that notebook 07 keeps; an interrupted run goes on where it was."""
    from erdpaper.datasets import DatasetError
    from erdpaper.images import grid

    data = data_dir()
    try:
        folder = out or data / "results" / grid.NAME
        grid.everything(data.parent / "runs" / grid.NAME, folder, jobs)
    except DatasetError as error:
        raise Refusal(str(error)) from error


@click.command()
@_jobs
@_out("03_ntk_bounds")
def theorems(jobs: int, out: Path | None) -> None:
    """Make the runs that notebook 03 keeps; an interrupted command goes on where it was."""
    from erdpaper.toys import networks, theorems

    data = data_dir()
    work = data.parent / "runs"
    weights = work / networks.NAME / "networks"
    folder = out or data / "results" / theorems.NAME
    theorems.everything(work / theorems.NAME, folder, weights, jobs)


@click.command()
@_jobs
@_out("04_ntk_spectrum")
def kernels(jobs: int, out: Path | None) -> None:
    """Measure the kernels that notebook 04 keeps; an interrupted command goes on where it was."""
    from erdpaper.toys import networks, spectra

    data = data_dir()
    work, folder = data.parent / "runs" / networks.NAME, out or data / "results" / networks.NAME
    spectra.collect(work, folder, jobs)


@click.command()
@click.option(
    "--jobs",
    type=click.IntRange(min=1),
    help="Pieces at a time, one thread each [default: one a core, or one on a GPU].",
)
@click.option(
    "--model",
    default=_OWN_MODEL,
    show_default=True,
    type=click.Choice([_OWN_MODEL, "cifar10", "stable-diffusion"]),
    help="Whose sampling is measured; for the other two name models and data in ERDPAPER_CIFAR10, "
    "_CIFAR10_MODEL and _CLIP, or in ERDPAPER_STABLE_DIFFUSION, _IMAGENET and _CLIP.",
)
@click.option(
    "--samples",
    type=click.IntRange(min=20),
    help="Draw no more samples of anything, and show a denoiser no more images, than these "
    "[default: 50 for stable-diffusion; for cifar10 as of fashion, 200 to 5,000].",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for the results, one folder a chapter [default: data/results, where the "
    "notebooks look for them].",
)
def regimes(jobs: int | None, model: str, samples: int | None, out: Path | None) -> None:
    """Measure what notebooks 10 to 13 keep; an interrupted command goes on where it was.

    Results of another model than fashion go to a folder of its name, where the notebooks find them.
    """
    from erdpaper.datasets import DatasetError
    from erdpaper.regimes import command, plans

    if model == _OWN_MODEL and samples is not None:
        raise Refusal(f"--samples is for other models; the samples of {_OWN_MODEL} are fixed")
    data = data_dir()
    try:
        plan = plans.FASHION if model == _OWN_MODEL else plans.made(model, samples)
    except (DatasetError, ValueError) as error:
        raise Refusal(str(error)) from error
    jobs = jobs or (1 if plan.device else os.cpu_count() or 1)
    try:
        command.everything(data.parent / "runs", out or data / "results", jobs, plan)
    except (DatasetError, plans.PlanError) as error:
        raise Refusal(str(error)) from error
    if model != _OWN_MODEL and out is None:
        click.echo(f"`erdpaper run 10 11 12 13 -p model {model}` shows what was measured")
