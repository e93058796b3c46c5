"""Sphinx extension: tidy what Sphinx and its theme bring into the built book.

What no page asks for is left out: maps to the sources of scripts and styles, the translations of
the theme's words, which are in the pages already, fonts for browsers from before woff2, Fraktur,
and the white space of the notebooks that can be downloaded.
Entries of a bibliography get the role that replaced `doc-biblioentry`, an item of the list, and the
bodies of theorems lose the id that sphinx-proof gives to each of them.
"""

import json
import shutil
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx

_PATTERNS = (
    "**/*.map",
    "vendor/fontawesome/*/webfonts/*.ttf",
    "mathjax/**/MathJax_Fraktur-*.woff",
)


def trim(static: Path) -> None:
    """Delete these files from a folder of static files."""
    for path in [path for pattern in _PATTERNS for path in static.glob(pattern)]:
        path.unlink()
    shutil.rmtree(static / "locales", ignore_errors=True)


def shorten(sources: Path) -> None:
    """Write the notebooks of a folder without white space between their parts."""
    for path in sources.rglob("*.ipynb"):
        content = json.loads(path.read_text(encoding="utf-8"))
        text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
        path.write_text(text + "\n", encoding="utf-8")


def _trim_build(app: Sphinx, error: Exception | None) -> None:
    if error is None and app.builder.format == "html":
        trim(Path(app.outdir) / "_static")
        shorten(Path(app.outdir) / "_sources")


def with_list_items(body: str) -> str:
    """The HTML of a page whose bibliography is a list of items."""
    return body.replace('role="doc-biblioentry"', 'role="listitem"')


def _correct_roles(
    app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: Any
) -> None:
    if "body" in context:
        context["body"] = with_list_items(context["body"])


def _unnamed_bodies(app: Sphinx, doctree: nodes.document) -> None:
    for section in doctree.findall(nodes.section):
        if section["ids"] == ["proof-content"]:
            section["ids"] = []


def setup(app: Sphinx) -> dict[str, Any]:
    """Correct each page and trim after every build; called by Sphinx."""
    app.connect("doctree-read", _unnamed_bodies)
    app.connect("html-page-context", _correct_roles)
    app.connect("build-finished", _trim_build)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
