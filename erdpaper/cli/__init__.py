"""The ``erdpaper`` command: thin, its sentences come from the modules that do the work."""

import click

from erdpaper.cli import book, kept, scale


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="erdpaper")
def main() -> None:
    """Re-run the book and read its verdicts."""


for _command in (
    *(book.run, book.claims),
    scale.train,
    *(kept.models, kept.toys, kept.theorems, kept.kernels, kept.weighting, kept.regimes),
):
    main.add_command(_command)
