"""What `erdpaper train` does: build a run, follow it with a progress bar, keep what it made."""

import platform
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tqdm import tqdm

from erdpaper.images import build
from erdpaper.training import Precision, Record, RunFolder, engine

# what an interruption can cost, in steps: of short runs, and of the longest
_EVERY, _LONGEST = 200, 5_000


class Request(NamedTuple):
    """A preset and how to run it; `out` is the folder of the run.

    every: steps between checkpoints, by default as `period` has it.  snapshots: steps after which
    the averaged network is kept.  shard: spread the network over the processes.  recompute: keep
    no activations.
    """

    preset: str
    out: Path
    seed: int = 0
    steps: int | None = None
    every: int | None = None
    snapshots: tuple[int, ...] = ()
    accumulate: int = 1
    precision: Precision = "no"
    cpu: bool = False
    compiled: bool = False
    recompute: bool = False
    shard: bool = False


def train(request: Request, found: build.Found | None = None) -> Path:
    """Run to the end, or go on with what is in the folder; the path of the finished network.

    A run that is finished is left as it is. found: what the preset names, where it is no row of
    `images.presets`.

    Raises ValueError for a wrong request and TrainingError where training cannot go on.
    """
    folder, run = _prepared(request, found)
    finished = folder.path / "model.safetensors"
    trainer = run.trainer
    done = finished.exists()
    # all look before one of them can write it
    trainer.engine.wait_for_everyone()
    if done:
        folder.check()
        return finished
    main = trainer.engine.is_main_process
    bar = tqdm(
        desc=request.preset,
        total=trainer.recipe.steps * run.batch,
        unit=" images",
        unit_scale=True,
        mininterval=1,
        disable=None if main else True,
    )
    with bar:
        for record in folder.run(trainer):
            _show(bar, record, run.batch)
    return finished


def _prepared(request: Request, found: build.Found | None) -> tuple[RunFolder, build.Run]:
    run = build.build(
        request.preset,
        request.seed,
        request.steps,
        engine(request.precision, request.cpu, request.shard),
        request.accumulate,
        request.compiled,
        request.recompute,
        found,
    )
    config = run.config | {"precision": request.precision}
    every = request.every
    if every is None:
        every = period(run.trainer.recipe.steps)
    return RunFolder(request.out, config, every, request.snapshots), run


def period(steps: int) -> int:
    """Steps between checkpoints: a hundredth of a run, not under 200 nor over 5,000.

    Of runs below 1,000 steps a fifth. A checkpoint of DiT-XL/2 has 11 GB, and a long run writes a
    hundred of them or a few more.
    """
    return max(1, min(steps // 5, max(_EVERY, min(steps // 100, _LONGEST))))


def _show(bar: "tqdm[Any]", record: Record, batch: int) -> None:
    # a resumed run starts where it was, without counting that as speed
    if bar.n == 0 and record.step > 1:
        bar.initial = bar.n = bar.last_print_n = (record.step - 1) * batch
    bar.update(batch)
    if record.step % 10 == 0:
        bar.set_postfix(step=record.step, loss=f"{float(record.loss):.4f}", refresh=False)


def machine() -> dict[str, Any]:
    """Device, versions and date, for the card of what was made."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    return {
        "device": f"{device}, {platform.machine()}, {torch.get_num_threads()} thread(s)",
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "date": datetime.now(UTC).date().isoformat(),
    }
