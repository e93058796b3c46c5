"""`erdpaper sample`: images of a trained network, at every scale."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from erdpaper.cli.base import Refusal, cpu, precision, say

_FILE = click.Path(path_type=Path, dir_okay=False)


@click.command()
@click.option(
    "--run",
    required=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder of a run of erdpaper train.",
)
@click.option("--at", type=int, metavar="STEP", help="A snapshot of it [default: its end].")
@click.option("--out", required=True, type=_FILE, help="The npz to write, in ADM's format.")
@click.option("--count", default=50_000, show_default=True, help="Images.")
@click.option("--decoder", help="Folder or hub name of the AutoencoderKL that decodes latents.")
@click.option("--steps", default=50, show_default=True, help="Heun steps.")
@click.option("--scale", default=1.0, show_default=True, help="Guidance; 1 is none.")
@click.option(
    "--interval",
    nargs=2,
    type=float,
    metavar="LOW HIGH",
    help="Times t at which guidance acts, 0 data, 1 noise [default: all].",
)
@click.option(
    "--labels",
    default="balanced",
    show_default=True,
    type=click.Choice(["balanced", "drawn"]),
    help="Classes in turn, or each drawn.",
)
@click.option(
    "--class", "classes", multiple=True, type=int, help="Only this class; may be repeated."
)
@click.option("--seed", default=0, show_default=True, help="Each image has its own from it.")
@click.option("--batch", default=64, show_default=True, help="Images at a time in a process.")
@precision
@cpu
def sample(**options: Any) -> None:
    """Generate images; a command that was interrupted goes on where it was."""
    from erdpaper.datasets import DatasetError
    from erdpaper.fullscale.sampling import generate

    try:
        path = generate.sample(generate.Request(**options))
    except (ValueError, DatasetError) as error:
        raise Refusal(str(error)) from error
    except OSError as error:
        raise Refusal(f"{options['out']} cannot be written: {error.strerror}") from error
    say(f"the samples: {path}")
