"""Notebooks side by side: a process and a progress bar for each, all bars drawn by this process."""

from __future__ import annotations

import multiprocessing
import shutil
import signal
import sys
from collections.abc import Sequence
from multiprocessing.connection import Connection, wait
from typing import Any

from tqdm import tqdm

from erdpaper import execution
from erdpaper.execution import Job, Outcome


def execute_all(jobs: Sequence[Job], workers: int) -> list[Outcome]:
    """Execute the jobs, each in a process of its own; return their outcomes in their order."""
    bars = _Bars()
    waiting = list(reversed(jobs))
    running: dict[Connection, _Worker] = {}
    outcomes: dict[str, Outcome] = {}
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                worker = _Worker(waiting.pop())
                running[worker.events] = worker
            for ready in wait(list(running), timeout=0.5):
                worker = running[ready]  # type: ignore[index]
                worker.receive()
                if worker.outcome is None:
                    bars.update(worker)
                else:
                    outcomes[worker.job.name] = worker.outcome
                    bars.finish(worker)
                    del running[worker.events]
            bars.refresh()
    finally:
        # empty unless this is an interrupt: then no kernel may stay behind
        for worker in running.values():
            worker.stop()
    return [outcomes[job.name] for job in jobs]


class _Worker:
    """A process that executes one job; ``receive`` takes its next message."""

    def __init__(self, job: Job) -> None:
        context = multiprocessing.get_context("spawn")
        self.job = job
        self.done = self.total = 0
        self.outcome: Outcome | None = None
        self.events, theirs = context.Pipe(duplex=False)
        self._process = context.Process(target=_work, args=(job, theirs))
        self._process.start()
        theirs.close()

    def receive(self) -> None:
        try:
            message = self.events.recv()
        except EOFError:
            # the process died without a word, for want of memory for instance
            self._process.join()
            message = Outcome(self.job.name, 0.0, f"exit status {self._process.exitcode}")
        if isinstance(message, Outcome):
            self.outcome = message
        else:
            self.done, self.total = message

    def stop(self) -> None:
        self._process.terminate()
        self._process.join(20)
        self._process.kill()


def _work(job: Job, events: Connection) -> None:
    # the parent alone decides what an interrupt means; asked to end, unwind and end the kernel too
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    events.send(execution.execute(job, lambda done, total: events.send((done, total))))


class _Bars:
    """A progress bar per running notebook, all drawn by this process so that none garbles another.

    A finished bar moves above the running ones; where stderr is no terminal only those are printed.
    """

    def __init__(self) -> None:
        self._running: dict[str, tqdm[Any]] = {}
        self._slots: dict[str, int] = {}
        self._width = min(100, shutil.get_terminal_size((100, 24)).columns - 1)

    def update(self, worker: _Worker) -> None:
        name = worker.job.name
        if name not in self._running:
            slot = min(set(range(len(self._slots) + 1)) - set(self._slots.values()))
            self._slots[name] = slot
            self._running[name] = tqdm(
                desc=name,
                total=worker.total,
                unit="cell",
                ncols=self._width,
                position=slot,
                leave=False,
                disable=None,
            )
        self._running[name].n = worker.done

    def refresh(self) -> None:
        for bar in self._running.values():
            bar.refresh()

    def finish(self, worker: _Worker) -> None:
        name, outcome = worker.job.name, worker.outcome
        if name in self._running:
            self._running.pop(name).close()
            del self._slots[name]
        if outcome is not None:
            line = tqdm.format_meter(
                worker.done,
                worker.total,
                outcome.seconds,
                ncols=self._width,
                prefix=name,
                unit="cell",
                postfix=None if outcome.error is None else "failed",
            )
            # a closed bar leaves the cursor where its line ended
            start = "\r" if sys.stderr.isatty() else ""
            tqdm.write(start + line, file=sys.stderr)
