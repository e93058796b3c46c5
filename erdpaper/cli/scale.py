"""Commands that serve every scale, from Fashion-MNIST to ImageNet."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from erdpaper.cli.base import Refusal, data_dir


@click.command()
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

    folder = out or data_dir().parent / "runs" / "train" / preset
    try:
        path = command.train(command.Request(preset, folder, **options))
    except (ValueError, DatasetError, TrainingError) as error:
        raise Refusal(str(error)) from error
    click.echo(f"the network: {path}")
