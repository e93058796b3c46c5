"""The command that turns images into what training streams from disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from erdpaper.cli.base import Refusal, cpu, say

_KINDS = ("images", "dataset", "cifar10", "celeba")
_POSITIVE, _NATURAL = click.IntRange(min=1), click.IntRange(min=0)


@click.command()
@click.option("--images", metavar="FOLDER", help="A folder of class folders, as ImageNet comes.")
@click.option("--dataset", metavar="NAME", help="A Hugging Face data set: hub name or folder.")
@click.option("--cifar10", metavar="FOLDER", help="CIFAR-10, the binary version, unpacked.")
@click.option("--celeba", metavar="FOLDER", help="CelebA: aligned images and list of partitions.")
@click.option("--split", default="train", show_default=True, help="Which part of the data set.")
@click.option("--classes", type=_POSITIVE, help="Refuse any other number of classes.")
@click.option(
    "--size",
    "side",
    type=_POSITIVE,
    help="Side of the images in pixels [default: 256; CelebA 64, CIFAR-10 32].",
)
@click.option("--encoder", metavar="NAME", help="AutoencoderKL, folder or hub name; none: pixels.")
@click.option("--sample", is_flag=True, help="Keep one sample of a latent, not its mean and std.")
@click.option("--flip", is_flag=True, help="Also what each image gives flipped left to right.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder of the result.")
@click.option(
    "--per-shard",
    default=8192,
    show_default=True,
    type=_POSITIVE,
    help="Images in a file: what an interruption can cost.",
)
@click.option(
    "--batch",
    default=32,
    show_default=True,
    type=_POSITIVE,
    help="Images encoded at once.",
)
@click.option(
    "--workers",
    type=_NATURAL,
    help="Processes that decode images, for each process that encodes [default: all cores].",
)
@click.option("--seed", default=0, show_default=True, type=_NATURAL, help="Of --sample.")
@cpu
@click.option("--check", is_flag=True, help="Decode all images, keep none, name the first broken.")
def encode(split: str, classes: int | None, out: Path | None, check: bool, **options: Any) -> None:
    """Encode images for training; an interrupted run goes on where it was.

    Given again, the command compares all files with their checksums and makes damaged ones anew.
    """
    places = {kind: options.pop(kind) for kind in _KINDS}
    named = [kind for kind, place in places.items() if place is not None]
    if len(named) != 1:
        raise Refusal("name the images by one of --images, --dataset, --cifar10 and --celeba")
    if out is None and not check:
        raise Refusal("name the folder of the result with --out, or only look with --check")
    if options["encoder"] is None and options["sample"]:
        raise Refusal("--sample needs an --encoder: pixels are kept as they are")

    from erdpaper.datasets import DatasetError
    from erdpaper.fullscale.data.sources import Where
    from erdpaper.fullscale.encoding import encode as work

    where = Where(named[0], places[named[0]], split, classes)  # type: ignore[arg-type]
    try:
        if check:
            count = work.check(where, options["side"], options["workers"])
            say(f"{count:,} images, none of them broken")
        else:
            assert out is not None
            done = work.run(work.Request(where, out, **options))
            if done.anew:
                say(f"damaged, and made anew: {', '.join(done.anew)}")
            checked = " (finished before; every file has its checksum)" if done.untouched else ""
            say(f"encoded: {done.folder}{checked}")
    except (ValueError, DatasetError) as error:
        raise Refusal(str(error)) from error
    except OSError as error:
        raise Refusal(f"{error.filename or where.place}: {error.strerror}") from error
