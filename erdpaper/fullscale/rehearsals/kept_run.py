"""The run whose samples chapter 8 shows: the rehearsal's commands, for as long as learning takes.

data/results/08_full_scale holds its run folder and a card. This makes both anew, in a quarter of an
hour of one core, and goes on where it was interrupted:

    python -m erdpaper.fullscale.rehearsals.kept_run
"""

import json
import platform
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from erdpaper import datasets
from erdpaper.files import write_atomically
from erdpaper.fullscale.rehearsals import rehearsal, small_vae
from erdpaper.fullscale.rehearsals.terminal import Terminal
from erdpaper.tasks import missing

NAME = "08_full_scale"
COMMAND = "python -m erdpaper.fullscale.rehearsals.kept_run"
PER_CLASS, STEPS = 1_000, 2_000
RUN = "rehearsal-erd"
COMMANDS = (
    "erdpaper encode --images imagenet --size 28 --encoder vae --out latents --cpu",
    f"erdpaper train --preset {RUN} --data latents --out {RUN} --cpu",
)


def folder() -> Path:
    """Where the run and its card are kept."""
    return datasets.data_dir() / "results" / NAME


def load_card() -> dict[str, Any]:
    """The card; DatasetError with the command that makes it where it is missing."""
    path = folder() / "card.json"
    try:
        card: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise missing(path, COMMAND) from None
    return card


def main() -> None:
    """Do what the card says, in runs/ beside the data folder, and keep the run."""
    work = datasets.data_dir().parent / "runs" / NAME
    if not (work / "imagenet").is_dir():
        rehearsal.write_images(work / "part", PER_CLASS)
        (work / "part").rename(work / "imagenet")
    rehearsal.link_autoencoder(work / "vae")
    terminal = Terminal(work)
    for command in COMMANDS:
        print(f"$ {command}\n{terminal.run(command)}", end="")
    keep(work / RUN, folder())


def keep(run: Path, target: Path) -> None:
    """Copy a finished run, without its checkpoints and the places of autoencoder and images."""
    config = json.loads((run / "config.json").read_text())
    config |= {"encoder": small_vae.NAME, "source": "images imagenet (train)"}
    write_atomically(target / run.name / "config.json", json.dumps(config, indent=1) + "\n")
    for name in ("losses.csv", "model.safetensors"):
        shutil.copyfile(run / name, target / run.name / name)
    card = {
        "command": COMMAND,
        "commands": list(COMMANDS),
        "images": f"{PER_CLASS:,} of each class",
        "device": f"cpu, {platform.machine()}, {torch.get_num_threads()} thread(s)",
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "date": datetime.now(UTC).date().isoformat(),
    }
    write_atomically(target / "card.json", json.dumps(card, indent=1) + "\n")


if __name__ == "__main__":
    main()
