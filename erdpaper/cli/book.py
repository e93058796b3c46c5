"""Commands of the book: execute notebooks, print the ledger."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from erdpaper.cli.base import Refusal

if TYPE_CHECKING:
    from erdpaper.execution import Outcome


@click.command()
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
        raise Refusal(str(error)) from error
    _end(outcomes)


@click.command()
def reference() -> None:
    """Measure the GPU, execute all notebooks at the gpu profile, and keep their records."""
    from erdpaper import runner
    from erdpaper.datasets import DatasetError

    try:
        outcomes = runner.run_reference()
    except (ValueError, DatasetError) as error:
        raise Refusal(str(error)) from error
    _end(outcomes)


def _end(outcomes: Sequence[Outcome]) -> NoReturn:
    """Name the notebooks that failed; exit status 1 if there are any."""
    failed = [outcome for outcome in outcomes if outcome.error is not None]
    for outcome in failed:
        click.echo(f"{outcome.name} failed in {outcome.error}", err=True)
        click.echo(f"  kept as runs/failed/{outcome.name}.ipynb", err=True)
    sys.exit(1 if failed else 0)


@click.command()
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
        raise Refusal(str(error)) from error
    if path is None:
        click.echo(ledger.as_text(rows))
    else:
        write_atomically(path, ledger.as_json(rows))
