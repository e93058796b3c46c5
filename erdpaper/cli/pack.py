"""`erdpaper pack`: a reference for `erdpaper evaluate` from an encoded folder of pixels."""

from __future__ import annotations

from pathlib import Path

import click

from erdpaper.cli.base import Refusal


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option(
    "--out",
    required=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="The npz to write, in ADM's format.",
)
def pack(folder: Path, out: Path) -> None:
    """Write the images of FOLDER, which `erdpaper encode` made without an encoder, as an npz."""
    from erdpaper.datasets import DatasetError
    from erdpaper.fullscale.evaluation import pack as packing

    try:
        path = packing.pack(folder, out)
    except (ValueError, DatasetError) as error:
        raise Refusal(str(error)) from error
    except OSError as error:
        raise Refusal(f"{out} cannot be written: {error.strerror}") from error
    click.echo(f"the reference: {path}")
