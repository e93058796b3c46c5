"""The ``erdpaper`` command: thin, its sentences come from the modules that do the work."""

import os

import click

from erdpaper.cli import book, encode, evaluate, kept, pack, sample, scale


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="erdpaper")
def main() -> None:
    """Re-run the book and read its verdicts."""
    # said of parts that are not used here, once a process
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")


for _command in (
    *(book.run, book.reference, book.claims),
    encode.encode,
    *(scale.train, scale.throughput),
    sample.sample,
    pack.pack,
    evaluate.evaluate,
    *(kept.models, kept.toys, kept.theorems, kept.kernels, kept.weighting, kept.regimes),
):
    main.add_command(_command)
