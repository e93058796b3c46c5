"""Long work in pieces: a piece is a file, so that an interrupted run goes on where it was.

What is kept of it has a card, and a reader who misses a file is told the command that makes it.
"""

import json
import math
import multiprocessing
import os
import platform
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from erdpaper.datasets import DatasetError
from erdpaper.files import write_atomically

Task = Callable[[], str | bytes]


def fill(tasks: Mapping[Path, Task], jobs: int, label: str, unit: str = "training") -> None:
    """Write the files that are missing, `jobs` at a time, each by a process of one thread.

    A task must be picklable and return what its file is to hold; an error in one stops the rest.
    """
    missing = {path: task for path, task in tasks.items() if not path.exists()}
    context = multiprocessing.get_context("spawn")
    bar = tqdm(total=len(tasks), initial=len(tasks) - len(missing), desc=label, unit=unit)
    with bar, ProcessPoolExecutor(jobs, context, initializer=_one_thread) as pool:
        waiting = [pool.submit(_write, *item) for item in missing.items()]
        try:
            for done in as_completed(waiting):
                done.result()
                bar.update()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _one_thread() -> None:
    torch.set_num_threads(1)
    # a worker waits for its next piece for good if the command was killed
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _write(path: Path, task: Task) -> None:
    write_atomically(path, task())


def write_card(
    folder: Path, command: str, unit: str, device: str | None = None, **facts: Any
) -> None:
    """card.json: the command, the given facts, device, versions and date.

    device: where the unit was made, by default one thread of the CPU.
    """
    card = {
        "command": command,
        **facts,
        "device": device or f"cpu, {platform.machine()}, one thread a {unit}",
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "date": datetime.now(UTC).date().isoformat(),
    }
    write_atomically(folder / "card.json", json.dumps(card, indent=1) + "\n")


def rounded(value: Any) -> Any:
    """Six significant digits of a number, an array, or all that lists and dictionaries hold.

    Texts, whole numbers and None stay. Strict JSON has no infinity: what is not finite becomes
    None.
    """
    if value is None or isinstance(value, str | int):
        return value
    if isinstance(value, torch.Tensor | np.ndarray | np.generic):
        return rounded(value.tolist())
    if isinstance(value, dict):
        return {name: rounded(part) for name, part in value.items()}
    if isinstance(value, list):
        return [rounded(part) for part in value]
    return float(f"{value:.6g}") if math.isfinite(value) else None


def missing(path: Path | str, command: str) -> DatasetError:
    """The error for a kept file that is not there."""
    return DatasetError(
        f"{path} is missing; restore it with git checkout or make it anew with `{command}`"
    )


def read_kept(folder: Path, command: str) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The lines of runs.jsonl and the card of a folder that the command wrote."""
    try:
        lines = (folder / "runs.jsonl").read_text().splitlines()
        card = json.loads((folder / "card.json").read_text())
    except FileNotFoundError as error:
        raise missing(error.filename, command) from None
    return [json.loads(line) for line in lines], card
