"""Sphinx extension: tidy what Sphinx and its theme bring into the built book.

What no page asks for is left out: maps to the sources of scripts and styles, the translations of
the theme's words, which are in the pages already, fonts for browsers from before woff2, Fraktur,
the script that draws again the icons which a font shows already, and the white space of the
notebooks and of the claims that can be downloaded.
Entries of a bibliography get the role that replaced `doc-biblioentry`, an item of the list, and the
bodies of theorems ids of their own instead of the one that sphinx-proof gives to all; their titles
lose the id that they share with the whole.  Without the address of a repository there is no button
that opens a notebook elsewhere, where the theme would stop.
"""

import json
import re
import shutil
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.config import Config

_PATTERNS = (
    "**/*.map",
    "vendor/fontawesome/*/webfonts/*.ttf",
    "vendor/fontawesome/*/js/all.min.js*",
    "mathjax/**/MathJax_Fraktur-*.woff",
)
_ICON_SCRIPT = re.compile(r'<script src="[^"]*/fontawesome/[^"]*\.js[^"]*"></script>\n?')


def trim(static: Path) -> None:
    """Delete these files from a folder of static files."""
    for path in [path for pattern in _PATTERNS for path in static.glob(pattern)]:
        path.unlink()
    shutil.rmtree(static / "locales", ignore_errors=True)


def shorten(pages: Path) -> None:
    """Write the notebooks and claims.json of a folder without white space between their parts."""
    for path in [*pages.rglob("*.ipynb"), *pages.glob("claims.json")]:
        content = json.loads(path.read_text(encoding="utf-8"))
        text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
        path.write_text(text + "\n", encoding="utf-8")


def without_icon_script(pages: Path) -> None:
    """Take the script of the icons, 1.5 MB, out of every page of a folder."""
    for path in pages.rglob("*.html"):
        text = path.read_text(encoding="utf-8")
        shorter = _ICON_SCRIPT.sub("", text)
        if shorter != text:
            path.write_text(shorter, encoding="utf-8")


def _trim_build(app: Sphinx, error: Exception | None) -> None:
    if error is None and app.builder.format == "html":
        trim(Path(app.outdir) / "_static")
        shorten(Path(app.outdir))
        without_icon_script(Path(app.outdir))


def corrected(body: str) -> str:
    """The HTML of a page whose bibliography is a list of items and whose theorems have one id."""
    body = re.sub(r'<p class="admonition-title" id="[^"]*">', '<p class="admonition-title">', body)
    return body.replace('role="doc-biblioentry"', 'role="listitem"')


def _correct(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    if "body" in context:
        context["body"] = corrected(context["body"])


def _distinct_bodies(app: Sphinx, doctree: nodes.document) -> None:
    for section in doctree.findall(nodes.section):
        if section["ids"] == ["proof-content"]:
            section["ids"] = [f"{section.parent['ids'][0]}-content"]


def _without_address(app: Sphinx, config: Config) -> None:
    if not config.html_theme_options.get("repository_url"):
        for option in ("launch_buttons", "repository_url", "repository_branch", "path_to_docs"):
            config.html_theme_options.pop(option, None)


def setup(app: Sphinx) -> dict[str, Any]:
    """Correct each page and trim after every build; called by Sphinx."""
    app.connect("config-inited", _without_address)
    app.connect("doctree-read", _distinct_bodies)
    app.connect("html-page-context", _correct)
    # after the claims are written, which is at 500
    app.connect("build-finished", _trim_build, priority=600)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
