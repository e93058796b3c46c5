"""Long work in pieces: a piece is a file, so that an interrupted run goes on where it was."""

import multiprocessing
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

import torch
from tqdm import tqdm

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


def _write(path: Path, task: Task) -> None:
    write_atomically(path, task())
