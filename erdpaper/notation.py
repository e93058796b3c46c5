"""Sphinx extension: the first use of a symbol in a chapter leads to the notation page.

The symbols are the rows of the first table of book/notation.md.  In every chapter the first formula
in running text that is nothing but such a symbol becomes a link to its row, with the row's meaning
as its title, which a browser shows on hovering and a screen reader reads out.
"""

import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from docutils import nodes
from sphinx.application import Sphinx

PAGE = "book/notation"
_CHAPTER = re.compile(r"notebooks/(\d\d)_")
_SIGNS = {"mid": "|", "lvert": "|", "rvert": "|", "lVert": "‖", "rVert": "‖", "partial": "∂"}
# TeX and Unicode spell two letters differently
_LETTERS = {"varepsilon": "EPSILON", "lambda": "LAMDA", "Lambda": "LAMDA"}
_GROUP = r"\{((?:[^{}]|\{[^{}]*\})*)\}"
# where a link would be lost or be read out of its context
_ELSEWHERE = (nodes.title, nodes.reference, nodes.caption, nodes.table)


class Symbol(NamedTuple):
    """A symbol of the notation page: its TeX, its meaning, its row, and the chapters it is for.

    chapters: None for all of them.
    """

    tex: str
    meaning: str
    anchor: str
    chapters: frozenset[int] | None = None


def symbols(text: str) -> list[Symbol]:
    """The symbols of the first table in the text of the notation page."""
    rows = re.findall(r"^\|(.*)\|$", text.split("\n## ")[0], re.M)[2:]
    found: list[Symbol] = []
    for row in rows:
        first, meaning, *_ = (cell.strip() for cell in row.split(" | "))
        for tex in _parts(first):
            found.append(Symbol(tex, _plain(meaning), _anchor(first), _chapters(first)))
    return found


def _parts(cell: str) -> Iterator[str]:
    """The symbols that a first cell explains, without spaces; of an equation, its left side."""
    for formula in re.findall(r"\$([^$]+)\$", cell):
        for part in re.split(r",(?![^{(]*[)}])", formula.split("=")[0]):
            yield part.replace(" ", "")


def _chapters(cell: str) -> frozenset[int] | None:
    named = re.search(r"\(chapters? ([\d, ]+)\)", cell)
    return None if named is None else frozenset(map(int, named[1].split(",")))


def _anchor(cell: str) -> str:
    anchor: str = nodes.make_id("symbol " + re.sub(r"[^\w]+", " ", cell))
    return anchor


def _plain(meaning: str) -> str:
    """A meaning as a title, which has no formulas: TeX as the signs it stands for."""
    words = re.sub(r"\\t?frac" + _GROUP + "?" + _GROUP + "?", r"\1/\2", meaning)
    words = re.sub(r"\\sqrt" + _GROUP, r"√(\1)", words).replace(r"^\top", "ᵀ")
    words = re.sub(r"\\(?:mathbb|operatorname|left|right|[,\s])", "", words)
    words = re.sub(r"\\([a-zA-Z]+) ?", lambda name: _sign(name[1]), words)
    words = words.replace("^2", "²").replace("^*", "*")
    return " ".join(re.sub(r"[$\\{}`]", "", words).split())


def _sign(name: str) -> str:
    """The character of a TeX name; the name where there is none."""
    case, letter = "SMALL" if name.islower() else "CAPITAL", _LETTERS.get(name, name.upper())
    try:
        return unicodedata.lookup(f"GREEK {case} LETTER {letter}")
    except KeyError:
        return _SIGNS.get(name, f"{name} ")


def _read(app: Sphinx, doctree: nodes.document) -> None:
    """Give the rows of the table their anchors; remember that chapters depend on the page."""
    page = Path(app.env.doc2path(PAGE))
    if app.env.docname == PAGE:
        rows = next(doctree.findall(nodes.tbody)).findall(nodes.row)
        text = page.read_text(encoding="utf-8").split("\n## ")[0]
        cells = [row.split(" | ")[0] for row in re.findall(r"^\|(.*)\|$", text, re.M)[2:]]
        for row, cell in zip(rows, cells, strict=True):
            row["ids"].append(_anchor(cell))
    elif _CHAPTER.match(app.env.docname):
        app.env.note_dependency(str(page))


def _resolved(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    chapter = _CHAPTER.match(docname)
    if chapter is None or PAGE not in app.env.found_docs:
        return
    text = Path(app.env.doc2path(PAGE)).read_text(encoding="utf-8")
    link_first(doctree, symbols(text), int(chapter[1]), app.builder.get_relative_uri(docname, PAGE))


def link_first(doctree: nodes.document, known: list[Symbol], chapter: int, page: str) -> None:
    """Link the first use of each symbol that is for this chapter to its row of the page."""
    left = {s.tex: s for s in known if s.chapters is None or chapter in s.chapters}
    for formula in list(doctree.findall(nodes.math)):
        symbol = left.get(formula.astext().replace(" ", ""))
        if symbol is None or _inside(formula):
            continue
        del left[symbol.tex]
        target = f"{page}#{symbol.anchor}"
        link = nodes.reference("", "", formula.deepcopy(), internal=True, refuri=target)
        link["reftitle"] = symbol.meaning
        link["classes"].append("symbol-link")
        formula.replace_self(link)


def _inside(node: nodes.Node) -> bool:
    parent = node.parent
    while parent is not None and not isinstance(parent, _ELSEWHERE):
        parent = parent.parent
    return parent is not None


def setup(app: Sphinx) -> dict[str, Any]:
    """Connect to the reading and the writing of pages; called by Sphinx."""
    app.connect("doctree-read", _read)
    app.connect("doctree-resolved", _resolved)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
