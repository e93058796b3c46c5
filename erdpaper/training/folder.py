"""A training run in a folder of its own, which may be killed at any time and goes on where it was.

- `config.json`, the resolved configuration, written first and compared on every return, except
  for the parts into which a batch is cut;
- `step-00000400.safetensors`, the last two checkpoints;
- `average-00050000.safetensors`, what `model.safetensors` would be after a step that was asked for;
- `losses.csv`, step and loss of every step up to the last checkpoint, and what came after;
- `model.safetensors`, the averaged network (or the network itself), when all steps are done.
"""

import json
import math
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_file

from erdpaper.files import replacing, write_atomically
from erdpaper.training import checkpoints, sharding
from erdpaper.training.loop import Record, Trainer, TrainingError

_KEPT = 2
_HEADER = "step,loss\n"
# how a batch is cut follows from the devices at hand, which may change from one start to the next
_FREE = ("accumulate",)


def check_snapshots(steps: Collection[int], last: int) -> None:
    """TrainingError for a snapshot of a step that a run of `last` steps does not have."""
    wrong = [step for step in sorted(steps) if not 1 <= step <= last]
    if wrong:
        raise TrainingError(f"snapshots must be of steps 1..{last:,}, got {wrong[0]:,}")


class RunFolder:
    """The folder of one run.

    every: steps from one checkpoint to the next.  snapshots: steps after which the averaged
    network is kept for good, as `snapshot(path, step)`.
    """

    def __init__(
        self,
        path: Path,
        config: Mapping[str, Any],
        every: int = 200,
        snapshots: Collection[int] = (),
    ) -> None:
        if every < 1:
            raise ValueError(f"checkpoints need at least one step between them, got {every}")
        self.path, self.config, self.every = path, dict(config), every
        self.snapshots = frozenset(snapshots)

    def open(self, trainer: Trainer) -> None:
        """Write the configuration, or compare it and put the trainer where the run was.

        Raises TrainingError where the folder holds a run of another configuration, or one that is
        past a snapshot without having kept it.
        """
        self.check()
        self._check_snapshots(trainer.recipe.steps)
        config = self.path / "config.json"
        if trainer.engine.is_main_process and not config.exists():
            write_atomically(config, self._text())
        found = self.checkpoints()
        if found:
            checkpoints.load(found[-1], trainer)
        if trainer.engine.is_main_process:
            self._cut_log(trainer.step)
            # what a kill in the middle of writing left behind
            for part in self.path.glob(".*.tmp"):
                part.unlink()

    def check(self) -> None:
        """Compare the configuration with the folder's, if it has one.

        Raises TrainingError where they differ, or where the folder's is damaged.
        """
        config = self.path / "config.json"
        if not config.exists():
            return
        try:
            there = json.loads(config.read_text())
        except ValueError:
            there = None
        if not isinstance(there, dict):
            raise TrainingError(f"{config} is damaged; delete {self.path} to start anew")
        self._compare(there, json.loads(self._text()))

    def run(self, trainer: Trainer) -> Iterator[Record]:
        """Train to the end, keeping the loss of every step and a checkpoint every few."""
        with _writing(self.path):
            self.open(trainer)
        try:
            yield from self._run(trainer)
            self._finish(trainer)
        except TrainingError as error:
            found = self.checkpoints()
            kept = f"the last good checkpoint is {found[-1]}" if found else "no checkpoint is kept"
            raise TrainingError(f"{error}; {kept}") from None

    def checkpoints(self) -> list[Path]:
        """Those that are there, oldest first."""
        return sorted(self.path.glob("step-*.safetensors"))

    def losses(self) -> list[float]:
        """The loss of every step so far."""
        lines = (self.path / "losses.csv").read_text().splitlines()[1:]
        return [float(line.split(",")[1]) for line in lines]

    def _run(self, trainer: Trainer) -> Iterator[Record]:
        main = trainer.engine.is_main_process
        # read all at once, since a loss on a GPU has to be waited for
        unread: list[Record] = []
        try:
            for record in trainer.run():
                unread.append(record)
                if self._is_kept(record.step, trainer.recipe.steps):
                    _check(trainer, unread)
                    # losses first: a checkpoint without its losses would leave a gap
                    self._log(unread, main)
                    # a snapshot too: no kill may come between it and the checkpoint after it
                    if record.step in self.snapshots:
                        self._write(snapshot(self.path, record.step), trainer)
                    self._keep(trainer)
                yield record
        finally:
            self._log(unread, main)

    def _log(self, unread: list[Record], main: bool) -> None:
        if main:
            with _writing(self.path), (self.path / "losses.csv").open("a") as log:
                log.writelines(f"{step},{float(loss)!r}\n" for step, loss, _ in unread)
        unread.clear()

    def _keep(self, trainer: Trainer) -> None:
        with _writing(self.path):
            checkpoints.save(self.path / f"step-{trainer.step:08d}.safetensors", trainer)
        if trainer.engine.is_main_process:
            for old in self.checkpoints()[:-_KEPT]:
                old.unlink()

    def _is_kept(self, step: int, last: int) -> bool:
        return step % self.every == 0 or step in self.snapshots or step == last

    def _check_snapshots(self, last: int) -> None:
        check_snapshots(self.snapshots, last)
        found = self.checkpoints()
        reached = int(found[-1].stem.removeprefix("step-")) if found else 0
        for step in sorted(self.snapshots):
            if step <= reached and not snapshot(self.path, step).exists():
                raise TrainingError(
                    f"the run in {self.path} is at step {reached:,}, past the snapshot of step "
                    f"{step:,}; leave that out or name another folder"
                )

    def _finish(self, trainer: Trainer) -> None:
        self._write(self.path / "model.safetensors", trainer)

    def _write(self, path: Path, trainer: Trainer) -> None:
        """The averaged network, or the network itself where none is averaged."""
        network = trainer.model if trainer.average is None else trainer.average.module
        state = checkpoints.gathered(network.state_dict(), trainer)
        if trainer.engine.is_main_process:
            with _writing(self.path), replacing(path) as temporary:
                save_file(state, temporary, {"config": json.dumps(self.config)})

    def _cut_log(self, step: int) -> None:
        """Forget the losses after a step: they will come again."""
        log = self.path / "losses.csv"
        lines = log.read_text().splitlines(keepends=True) if log.exists() else [_HEADER]
        if len(lines) < step + 1:
            raise TrainingError(f"{log} ends before step {step}; delete {self.path} to start anew")
        write_atomically(log, "".join(lines[: step + 1]))

    def _text(self) -> str:
        return json.dumps(self.config, indent=1) + "\n"

    def _compare(self, there: dict[str, Any], here: dict[str, Any]) -> None:
        for name in sorted(there.keys() | here.keys()):
            if name not in _FREE and there.get(name) != here.get(name):
                raise TrainingError(
                    f"{self.path} holds a run with {name} {there.get(name)!r}, "
                    f"not {here.get(name)!r}; name another folder or delete that one"
                )


def snapshot(folder: Path, step: int) -> Path:
    """Where a run keeps its averaged network of a step."""
    return folder / f"average-{step:08d}.safetensors"


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Say in one sentence that a disk is full, or what else is wrong with it."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise TrainingError(f"{path} cannot be written to ({error})") from None


def _check(trainer: Trainer, records: list[Record]) -> None:
    """Refuse to keep a state from which no training can go on."""
    for record in records:
        if not math.isfinite(float(record.loss)):
            raise TrainingError(f"the loss is not finite at step {record.step}")
    # every process must come to the same answer, or the others would wait for it
    if float(trainer.engine.reduce(sharding.finite(trainer.model), "mean")) < 1:
        raise TrainingError(f"the weights are not finite after step {trainer.step}")
