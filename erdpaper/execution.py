"""One notebook: from its MyST source to an executed .ipynb that a second run reproduces.

jupytext converts, papermill injects and executes, and what differs from run to run (times, random
cell ids, versions of the interpreter) is scrubbed before the file is put in place: two runs give
the same bytes.
"""

from __future__ import annotations

import ast
import base64
import hashlib
import os
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from erdpaper import palette
from erdpaper.files import write_atomically

# Set for every kernel unless the caller's environment says otherwise: one thread each, because
# notebooks run side by side, and no progress bars, whose rates would be kept in the output.
KERNEL_ENVIRONMENT: Mapping[str, str] = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "PYTHONHASHSEED": "0",
    "TQDM_DISABLE": "1",
    "PYDEVD_DISABLE_FILE_VALIDATION": "1",
}

_VOLATILE_NOTEBOOK = ("papermill", "jupytext", "widgets")
_VOLATILE_CELL = ("papermill", "execution")

Report = Callable[[int, int], None]


@dataclass(frozen=True)
class Job:
    """One notebook to execute: where it comes from, where it goes, and with which parameters.

    A failed run is written to ``failed``, so that ``target`` keeps the last good one.
    ``claims`` is the folder of the records, which only a run without an error reaches.
    """

    name: str
    source: Path
    target: Path
    failed: Path
    parameters: Mapping[str, object]
    claims: Path


@dataclass(frozen=True)
class Outcome:
    """What came of a job; ``error`` is one line, or None where every cell ran."""

    name: str
    seconds: float
    error: str | None = None


def load(source: Path) -> Any:
    """Return the notebook of a MyST source, not executed, with deterministic cell ids."""
    import jupytext

    notebook = jupytext.read(source)
    scrub(notebook)
    return notebook


def defaults(source: Path) -> dict[str, object]:
    """Return the names and default values in the source's cell tagged ``parameters``."""
    for cell in load(source).cells:
        if "parameters" in cell.metadata.get("tags", []):
            return _assignments(cell.source)
    return {}


def _assignments(code: str) -> dict[str, object]:
    found: dict[str, object] = {}
    for statement in ast.parse(code).body:
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            name, value = statement.target.id, statement.value
        elif isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
            name, value = statement.targets[0].id, statement.value
        else:
            continue
        if value is not None:
            found[name] = ast.literal_eval(value)
    return found


def scrub(notebook: Any) -> None:
    """Remove in place what two runs of a notebook need not share, and reduce its pictures."""
    for key in _VOLATILE_NOTEBOOK:
        notebook.metadata.pop(key, None)
    notebook.metadata["kernelspec"] = {
        "display_name": "Python 3",
        "language": "python",
        "name": "python3",
    }
    notebook.metadata["language_info"] = {"name": "python", "pygments_lexer": "ipython3"}
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    seen: dict[str, int] = {}
    for cell in notebook.cells:
        for key in _VOLATILE_CELL:
            cell.metadata.pop(key, None)
        if not cell.metadata.get("tags", True):
            del cell.metadata["tags"]
        if cell.cell_type == "code":
            cell.outputs = _joined_streams(cell.outputs)
            for output in cell.outputs:
                _reduce_picture(output)
        cell.id = _cell_id(cell, seen)


def _cell_id(cell: Any, seen: dict[str, int]) -> str:
    """Name a cell by its text, so that an edit elsewhere does not rename it."""
    digest = hashlib.sha256(f"{cell.cell_type}\n{cell.source}".encode()).hexdigest()[:12]
    seen[digest] = seen.get(digest, 0) + 1
    return digest if seen[digest] == 1 else f"{digest}-{seen[digest]}"


def _reduce_picture(output: Any) -> None:
    """Give a PNG output few colours: it is kept three times, in notebook, page and download."""
    data = output.get("data", {})
    if "image/png" in data:
        png = palette.reduced(base64.b64decode(data["image/png"]))
        data["image/png"] = base64.b64encode(png).decode("ascii")


def _joined_streams(outputs: list[Any]) -> list[Any]:
    """Join neighbouring pieces of one stream: where they were cut is a matter of timing."""
    joined: list[Any] = []
    for output in outputs:
        last = joined[-1] if joined else None
        if last and output.output_type == last.output_type == "stream" and output.name == last.name:
            last.text += output.text
        else:
            joined.append(output)
    return joined


def execute(job: Job, report: Report) -> Outcome:
    """Execute one job and put its notebook in place.

    ``report`` is called with (code cells executed so far, code cells in all). A notebook that
    fails is an Outcome with an error, not an exception.
    """
    import nbformat
    from papermill.exceptions import PapermillExecutionError

    started = time.perf_counter()
    error = None
    with tempfile.TemporaryDirectory(prefix="erdpaper-") as folder:
        executed = Path(folder) / "executed.ipynb"
        try:
            _run(job, Path(folder) / "source.ipynb", executed, report)
        except PapermillExecutionError as failure:
            error = _one_line(failure.exec_count, failure.ename, failure.evalue)
        except Exception as failure:
            # a dead kernel or a missing one: reported like a failing cell, the others go on
            error = f"{type(failure).__name__}: {_first_line(str(failure))}"
        if executed.exists():
            notebook = nbformat.read(executed, as_version=4)
            scrub(notebook)
            write_atomically(job.failed if error else job.target, nbformat.writes(notebook) + "\n")
        if error is None:
            _keep_records(executed.with_name("claims"), job.claims)
    if error is None:
        job.failed.unlink(missing_ok=True)
    return Outcome(job.name, time.perf_counter() - started, error)


def _keep_records(made: Path, folder: Path) -> None:
    for path in made.rglob("*.json"):
        write_atomically(folder / path.relative_to(made), path.read_text(encoding="utf-8"))


def _run(job: Job, source: Path, executed: Path, report: Report) -> None:
    import nbformat
    import papermill

    notebook = load(job.source)
    nbformat.write(notebook, source)
    total = sum(cell.cell_type == "code" for cell in notebook.cells) + bool(job.parameters)
    done = 0

    def count(**_: object) -> None:
        nonlocal done
        done += 1
        report(done, total)

    for name, value in KERNEL_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    # a notebook that fails half-way must not leave half of its records
    os.environ["ERDPAPER_CLAIMS_DIR"] = str(executed.with_name("claims"))
    report(0, total)
    papermill.execute_notebook(
        str(source),
        str(executed),
        parameters=dict(job.parameters),
        cwd=str(job.source.parent),
        kernel_name="python3",
        progress_bar=False,
        on_cell_executed=count,
        # the kernel's own log would be drawn across the progress bars
        extra_arguments=["--IPKernelApp.log_level=50"],
    )


def _one_line(cell: int | None, name: str, message: str) -> str:
    return f"cell {cell}: {name}: {_first_line(message)}"


def _first_line(message: str) -> str:
    return message.strip().split("\n", 1)[0]
