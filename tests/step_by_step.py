"""Training processes that wait for a line after every step, so that a kill comes in its place."""

import os
import signal
import subprocess
import sys
from pathlib import Path


def start(script: Path, source: str, *arguments: str) -> "subprocess.Popen[str]":
    """Start a script, which is written first, with what the tests import at hand."""
    script.write_text(source)
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent)}
    command = [sys.executable, str(script), *arguments]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment)


def kill_after(steps: int, process: "subprocess.Popen[str]") -> None:
    """Let a process that prints its steps go so far, and kill it."""
    with process:
        assert process.stdin is not None and process.stdout is not None
        for step in range(1, steps + 1):
            assert process.stdout.readline() == f"{step}\n"
            if step < steps:
                process.stdin.write("\n")
                process.stdin.flush()
        process.kill()
        assert process.wait() == -signal.SIGKILL
