"""Long work in pieces: what stays of it when the command is killed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

PIECES = """
import os, sys, time
from functools import partial
from pathlib import Path
from erdpaper.tasks import fill

def piece(path, seconds):
    path.with_suffix(".pid").write_text(str(os.getpid()))
    time.sleep(seconds)
    return "made"

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    files = [folder / f"{k}.txt" for k in (0, 1)]
    fill({path: partial(piece, path, 100 * k) for k, path in enumerate(files)}, 1, "pieces")
"""


def alive(pid: int) -> bool:
    """Whether a process is there and is no zombie."""
    status = Path(f"/proc/{pid}/stat")
    return status.exists() and status.read_text().rpartition(")")[2].split()[0] != "Z"


def test_workers_end_with_a_command_that_is_killed(tmp_path: Path) -> None:
    script = tmp_path / "pieces.py"
    script.write_text(PIECES)
    command = subprocess.Popen([sys.executable, str(script), str(tmp_path)])
    started, deadline = tmp_path / "1.pid", time.monotonic() + 120
    while not (started.exists() and started.read_text()):
        assert command.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    worker = int(started.read_text())
    assert alive(worker)
    os.kill(command.pid, signal.SIGKILL)
    command.wait()
    while alive(worker):
        assert time.monotonic() < deadline, "the worker outlived its command"
        time.sleep(0.1)
    # what was made before is kept, and the piece that was not is made by the next command
    assert (tmp_path / "0.txt").read_text() == "made" and not (tmp_path / "1.txt").exists()
