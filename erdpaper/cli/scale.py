"""Commands that serve every scale, from Fashion-MNIST to ImageNet."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from erdpaper.cli.base import Refusal, cpu, data_dir, precision, say


def _steps(_context: click.Context, _option: click.Parameter, text: str) -> tuple[int, ...]:
    """Whole numbers with commas between them."""
    try:
        return tuple(int(part) for part in text.split(",")) if text else ()
    except ValueError:
        raise Refusal(
            f"--snapshots takes steps with commas between them, such as 50000,100000, got {text!r}"
        ) from None


@click.command()
@click.option(
    "--preset",
    required=True,
    help="What to train, a row of erdpaper/images/presets.py or erdpaper/fullscale/presets.py.",
)
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    help="Folder that `erdpaper encode` wrote, for a full-scale preset.",
)
@click.option("--steps", type=click.IntRange(min=1), help="Steps, if not the preset's.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(min=0), help="Seed.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder of the run [default: runs/train/PRESET beside the data folder].",
)
@click.option(
    "--every",
    type=int,
    help="Steps between checkpoints [default: a hundredth of the run, within 200 and 5,000; "
    "a fifth below 1,000 steps].",
)
@click.option(
    "--snapshots",
    default="",
    metavar="STEP,STEP...",
    callback=_steps,
    help="Steps after which the averaged network is kept, for `erdpaper sample --at STEP`.",
)
@click.option("--accumulate", default=1, show_default=True, help="Parts of a batch, one at a time.")
@precision
@click.option("--compile", "compiled", is_flag=True, help="Compile the network first.")
@click.option(
    "--checkpoint-activations",
    "recompute",
    is_flag=True,
    help="Compute activations again for the gradients: less memory, a third more work.",
)
@click.option("--shard", is_flag=True, help="Spread the network over the GPUs (FSDP).")
@cpu
@click.option("--dry-run", is_flag=True, help="Print settings, size, costs and length; do no work.")
def train(preset: str, out: Path | None, data: Path | None, dry_run: bool, **options: Any) -> None:
    """Train a network; a run that was interrupted goes on where its last checkpoint is.

    On several GPUs: `accelerate launch -m erdpaper train --preset PRESET ...`.
    """
    from erdpaper.datasets import DatasetError
    from erdpaper.fullscale import plan, train
    from erdpaper.images import command
    from erdpaper.training import TrainingError

    try:
        if dry_run:
            planned = plan.plan(command.Request(preset, out or Path(), **options))
            say("\n".join(plan.lines(planned)))
            return
        train.row(preset)
        folder = out or data_dir().parent / "runs" / "train" / preset
        path = train.train(command.Request(preset, folder, **options), data)
    except (ValueError, DatasetError, TrainingError) as error:
        raise Refusal(str(error)) from error
    say(f"the network: {path}")


@click.command()
@click.option(
    "--preset",
    "names",
    multiple=True,
    help="What to measure; may be repeated [default: DiT-B/2, L/2, XL/2 and U-ViT-H/2].",
)
@click.option("--batch", default=32, show_default=True, help="Images at a time.")
@click.option("--steps", default=50, show_default=True, help="Training steps that are timed.")
@click.option("--heun", default=50, show_default=True, help="Steps of the sampler.")
@click.option(
    "--encoder", help="AutoencoderKL, folder or hub name [default: untrained, same shape]."
)
@precision
@click.option("--compile", "compiled", is_flag=True, help="Compile the network first.")
@click.option(
    "--checkpoint-activations", "recompute", is_flag=True, help="Compute activations again."
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The file of speeds [default: throughput.json in data/results/].",
)
@cpu
def throughput(names: tuple[str, ...], out: Path | None, **options: Any) -> None:
    """Measure how fast this device trains, samples and encodes; one device, no data."""
    import torch

    from erdpaper.datasets import DatasetError
    from erdpaper.fullscale import speeds, throughput

    gpu = torch.cuda.is_available() and not options["cpu"]
    try:
        requests = [throughput.Request(name, **options) for name in names or throughput.PRESETS]
        for request in requests:
            throughput.checked(request)
        file = out or speeds.path(data_dir(), gpu)
        speeds.load(file)
        for request in requests:
            speeds.keep(file, request.preset, throughput.measure(request))
    except (ValueError, DatasetError) as error:
        raise Refusal(str(error)) from error
    except OSError as error:
        raise Refusal(f"{file} cannot be written: {error.strerror}") from error
    for name, entry in speeds.load(file).items():
        say(speeds.line(name, entry))
