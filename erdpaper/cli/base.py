"""What the commands share: a refusal in one sentence, the data folder, options of several."""

from __future__ import annotations

import os
from pathlib import Path

import click

cpu = click.option("--cpu", is_flag=True, help="Stay on the CPU.")
precision = click.option(
    "--precision",
    default="no",
    show_default=True,
    type=click.Choice(["no", "fp16", "bf16"]),
    help="Mixed precision of the network.",
)


class Refusal(click.ClickException):
    """A wrong request: one sentence on stderr, exit status 2."""

    exit_code = 2


def say(text: str) -> None:
    """Print once, however many processes a launcher started."""
    if os.environ.get("RANK", "0") == "0":
        click.echo(text)


def data_dir() -> Path:
    """The data folder, or a refusal that says how to name it."""
    from erdpaper import datasets
    from erdpaper.datasets import DatasetError

    try:
        return datasets.data_dir()
    except DatasetError as error:
        raise Refusal(str(error)) from error
