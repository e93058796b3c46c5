"""What a reference run on a GPU was made with: data/results/gpu/card.json beside its records.

The verdicts themselves are records like any others, in data/results/claims/gpu.
"""

import json
import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from erdpaper.claims.entries import ClaimError
from erdpaper.files import write_atomically

COMMAND = "make gpu-reference"


def path(data_dir: Path) -> Path:
    """The card of a data folder."""
    return data_dir / "results" / "gpu" / "card.json"


def keep(data_dir: Path, seconds: Mapping[str, float]) -> None:
    """Write the card of a run on this machine's first GPU.  seconds: by notebook."""
    import torch

    card = {
        "command": COMMAND,
        "device": torch.cuda.get_device_name(0),
        "memory_gb": round(torch.cuda.get_device_properties(0).total_memory / 1e9),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "cuda": torch.version.cuda,
        },
        "date": datetime.now(UTC).date().isoformat(),
        "seconds": {name: round(spent, 1) for name, spent in sorted(seconds.items())},
    }
    write_atomically(path(data_dir), json.dumps(card, indent=1) + "\n")


def sentence(data_dir: Path) -> str | None:
    """What the rows of the profile `gpu` were made with; None where no such run was kept.

    Raises ClaimError for a card that cannot be read.
    """
    file = path(data_dir)
    if not file.exists():
        return None
    try:
        card: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        versions, seconds = card["versions"], card["seconds"].values()
        return (
            f"Rows of the profile gpu: {card['device']} with {card['memory_gb']} GB, "
            f"torch {versions['torch']}, CUDA {versions['cuda']}, {card['date']}; "
            f"{len(seconds)} notebooks in {sum(seconds) / 60:.0f} minutes, by {card['command']}."
        )
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise ClaimError(f"{file} is not the card of a reference run ({error})") from None
