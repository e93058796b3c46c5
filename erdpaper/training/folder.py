"""A training run in a folder of its own, which may be killed at any time and goes on where it was.

- `config.json`, the resolved configuration, written first and compared on every return, except
  for the parts into which a batch is cut;
- `step-00000400.safetensors`, the last two checkpoints;
- `losses.csv`, step and loss of every step up to the last checkpoint, and what came after;
- `model.safetensors`, the averaged network (or the network itself), when all steps are done.
"""

import json
import math
from collections.abc import Iterator, Mapping
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


class RunFolder:
    """The folder of one run.  every: steps from one checkpoint to the next."""

    def __init__(self, path: Path, config: Mapping[str, Any], every: int = 200) -> None:
        if every < 1:
            raise ValueError(f"checkpoints need at least one step between them, got {every}")
        self.path, self.config, self.every = path, dict(config), every

    def open(self, trainer: Trainer) -> None:
        """Write the configuration, or compare it and put the trainer where the run was.

        Raises TrainingError where the folder holds a run of another configuration.
        """
        self.check()
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
                if record.step % self.every == 0 or record.step == trainer.recipe.steps:
                    _check(trainer, unread)
                    # losses first: a checkpoint without its losses would leave a gap
                    self._log(unread, main)
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

    def _finish(self, trainer: Trainer) -> None:
        network = trainer.model if trainer.average is None else trainer.average.module
        state = checkpoints.gathered(network.state_dict(), trainer)
        if trainer.engine.is_main_process:
            with _writing(self.path), replacing(self.path / "model.safetensors") as temporary:
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
