"""Commands as a lab would type them, each in processes of its own, for a rehearsal at small scale.

`erdpaper ...` runs as `python -m erdpaper ...` does, and `torchrun --standalone --nproc_per_node 2
-m -- erdpaper ...` as two processes that find each other as under that launcher. What differs is
speed: they are forked from one process that has the libraries in memory, since importing them anew
would cost ten seconds a command.
"""

import multiprocessing
import os
import runpy
import shlex
import socket
import sys
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import psutil

T = TypeVar("T")

_COUNT = "--nproc_per_node"
# without the dashes torchrun would take --run for one of its own
_MODULE = ["-m", "--", "erdpaper"]
# the commands' own modules, what they import when they need it, and what torch does when it trains
_PRELOADED = [
    *("erdpaper.fullscale.encoding.encode", "erdpaper.fullscale.plan", "erdpaper.fullscale.train"),
    *("erdpaper.fullscale.sampling.generate", "erdpaper.fullscale.evaluation.evaluate"),
    *("diffusers.models.autoencoders.autoencoder_kl", "torch._dynamo"),
]
_POLL = 0.005  # seconds
# what process N of a command printed
_OUT, _ERR = ".printed-{}", ".errors-{}"


class CommandError(RuntimeError):
    """A command ended otherwise than it should have; the message says what it printed."""


class _Line(NamedTuple):
    """A command's arguments after `erdpaper`, and over how many processes it runs."""

    arguments: list[str]
    processes: int


class Terminal:
    """A folder in which commands are typed.  Their paths are taken from there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(_PRELOADED)

    def warm(self) -> None:
        """Let the libraries be imported while something else is done."""
        self._context.Process(target=_nothing).start()

    def run(self, line: str) -> str:
        """Run a command to its end; what it printed. CommandError if it fails."""
        started = self._start(line)
        for process in started:
            process.join()
        if any(process.exitcode for process in started):
            raise CommandError(f"`{line}` failed: {self._errors()}")
        return (self.folder / _OUT.format(0)).read_text()

    def ask(self, function: Callable[..., T], *arguments: Any) -> T:
        """What a module's function gives, asked where the commands' libraries are in memory.

        CommandError with the reason if it fails.
        """
        ours, theirs = self._context.Pipe(duplex=False)
        process = self._context.Process(target=_answer, args=(theirs, function, arguments))
        process.start()
        theirs.close()
        found: T
        try:
            found, wrong = ours.recv()
        except EOFError:
            wrong = "its process ended without a word"
        process.join()
        if wrong:
            raise CommandError(f"{function.__name__} failed: {wrong}")
        return found

    def seconds(self) -> float:
        """Processor time of this process and of all commands so far, their libraries included.

        Where the system does not say what ended processes took (macOS), theirs is missing.
        """
        # all commands are children of the server, which is the parent of what is asked
        server = psutil.Process(self.ask(os.getppid)).cpu_times()
        own = time.process_time()
        ended = server.children_user + server.children_system
        return own + float(server.user + server.system + ended)

    def refused(self, line: str) -> str:
        """Run a command that has to be refused; its one sentence. CommandError if it is not."""
        started = self._start(line)
        for process in started:
            process.join()
        said = self._errors()
        codes = {process.exitcode for process in started}
        if codes != {2} or said.count("\n") != 1:
            raise CommandError(f"`{line}` was not refused in one sentence: {said}")
        return said

    def kill(self, line: str, once: str) -> None:
        """Run a command and end it by SIGKILL as soon as a file is there.

        once: a pattern of that file, from the folder. CommandError if it ends before.
        """
        started = self._start(line)
        while not any(self.folder.glob(once)):
            if not all(process.is_alive() for process in started):
                raise CommandError(f"`{line}` ended before {once} was there: {self._errors()}")
            time.sleep(_POLL)
        for process in started:
            process.kill()
        for process in started:
            process.join()
        if any(process.exitcode != -9 for process in started):
            raise CommandError(f"`{line}` ended before it could be killed: {self._errors()}")

    def _start(self, line: str) -> list[BaseProcess]:
        arguments, processes = _parsed(line)
        environments = _environments(processes)
        started: list[BaseProcess] = []
        for rank, environment in enumerate(environments):
            given = (arguments, str(self.folder), environment, rank)
            started.append(self._context.Process(target=_typed, args=given))
            started[-1].start()
        return started

    def _errors(self) -> str:
        """What the first process printed to stderr."""
        log = self.folder / _ERR.format(0)
        return log.read_text() if log.exists() else ""


def _parsed(line: str) -> _Line:
    words = shlex.split(line)
    if words[:1] == ["erdpaper"]:
        return _Line(words[1:], 1)
    if words[:1] != ["torchrun"] or words[4:7] != _MODULE or words[2] != _COUNT:
        raise ValueError(
            f"a command begins with erdpaper or torchrun --standalone {_COUNT} N -m -- erdpaper, "
            f"not {line!r}"
        )
    return _Line(words[7:], int(words[3]))


def _environments(processes: int) -> Iterator[dict[str, str]]:
    """The variables by which processes of one launch find each other."""
    if processes == 1:
        yield {}
        return
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    size = {"WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes)}
    for rank in range(processes):
        yield {**shared, **size, "RANK": str(rank), "LOCAL_RANK": str(rank)}


def _nothing() -> None:
    """The first process of a context starts the server."""


def _answer(answers: Connection, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    try:
        answers.send((function(*arguments), ""))
    except Exception as error:
        answers.send((None, f"{type(error).__name__}: {error}"))


def _typed(arguments: list[str], folder: str, environment: dict[str, str], rank: int) -> None:
    """The life of one process: `python -m erdpaper` with its output in files."""
    os.environ.update(environment)
    os.chdir(folder)
    for stream, name in ((1, _OUT), (2, _ERR)):
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        os.dup2(os.open(name.format(rank), flags, 0o644), stream)
    sys.argv = ["erdpaper", *arguments]
    runpy.run_module("erdpaper", run_name="__main__", alter_sys=False)
