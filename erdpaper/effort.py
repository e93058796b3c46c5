"""Sphinx extension: below the title of a notebook's page, what it cost and where to get it.

The seconds are those of the kept run at the `cpu` profile (data/results/timings/cpu.json), which
gives each notebook one core.
"""

import json
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx

from erdpaper import datasets

_FOLDER = "notebooks/"


def words(seconds: float) -> str:
    """A duration as a reader says it: seconds below two minutes, minutes above."""
    if seconds < 120:
        return f"{max(1, round(seconds))} s"
    return f"{round(seconds / 60)} minutes"


def seconds_of(notebook: str, timings: Path) -> float | None:
    """How long a notebook took, None where no run of it is kept."""
    kept = json.loads(timings.read_text(encoding="utf-8")) if timings.exists() else {}
    found = kept.get(notebook)
    return None if found is None else float(found)


def _line(notebook: str, timings: Path) -> nodes.paragraph:
    seconds = seconds_of(notebook, timings)
    said = "" if seconds is None else f"Computed in {words(seconds)} on one core. "
    # the copy of the sources that the theme's own button offers too
    file = f"../_sources/{_FOLDER}{notebook}.ipynb"
    link = f'<a href="{file}" download="{notebook}.ipynb">Download the notebook</a>'
    line = nodes.paragraph("", said, classes=["page-effort"])
    line += [nodes.raw("", link, format="html"), nodes.Text(".")]
    return line


def _add_line(app: Sphinx, doctree: nodes.document) -> None:
    page = app.env.docname
    title = next(iter(doctree.findall(nodes.title)), None)
    if not page.startswith(_FOLDER) or title is None or app.builder.format != "html":
        return
    timings = datasets.data_dir() / "results" / "timings" / "cpu.json"
    app.env.note_dependency(str(timings))
    section = title.parent
    section.insert(section.index(title) + 1, _line(page.removeprefix(_FOLDER), timings))


def setup(app: Sphinx) -> dict[str, Any]:
    """Add the line as pages are read; called by Sphinx."""
    app.connect("doctree-read", _add_line)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
