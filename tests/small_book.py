"""Small books, built by Sphinx in this process, which has torch and the package already."""

import io
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import NamedTuple

from sphinx.cmd.build import build_main


class Done(NamedTuple):
    """The exit status of a build, and what it printed."""

    returncode: int
    stdout: str
    stderr: str


def build(source: Path, output: Path, *options: str) -> Done:
    """Build a book with warnings as errors; the environment says where its data are.

    All books of a process name the same parser, for Sphinx keeps the suffixes of the first.
    """
    said, complained = io.StringIO(), io.StringIO()
    with redirect_stdout(said), redirect_stderr(complained):
        status = build_main(["-W", "--keep-going", *options, str(source), str(output)])
    return Done(status, said.getvalue(), complained.getvalue())
