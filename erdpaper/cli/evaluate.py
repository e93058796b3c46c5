"""`erdpaper evaluate`: samples against a reference, in the protocol of ADM."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from erdpaper.cli.base import Refusal, cpu

_FILE = click.Path(path_type=Path, dir_okay=False)


@click.command()
@click.argument("samples", type=_FILE)
@click.option("--reference", required=True, type=_FILE, help="npz of images, or one of ADM's.")
@click.option(
    "--inception",
    type=_FILE,
    help="Inception weights, the port's or TorchScript; our engine needs them.",
)
@click.option("--out", type=_FILE, help="Write the values to this JSON file as well.")
@click.option(
    "--engine",
    default="own",
    show_default=True,
    type=click.Choice(["own", "torch-fidelity"]),
    help="What computes; torch-fidelity must be installed.",
)
@click.option("--batch", default=128, show_default=True, help="Images at a time.")
@cpu
def evaluate(**options: Any) -> None:
    """Measure FID, sFID, IS, precision and recall of the npz SAMPLES."""
    from erdpaper.datasets import DatasetError
    from erdpaper.fullscale.evaluation import evaluate as evaluation

    try:
        report = evaluation.evaluate(evaluation.Request(**options))
    except (ValueError, DatasetError) as error:
        raise Refusal(str(error)) from error
    except OSError as error:
        raise Refusal(f"{options['out']} cannot be written: {error.strerror}") from error
    click.echo(report.as_text())
