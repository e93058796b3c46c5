"""Sphinx extension: show figures of executed notebooks on other pages of the book.

Directive `{notebook-figure} 05_erd_derivation fig-nearest` takes the image, its alt text and its
caption from the notebook's cell, so that the picture and its words exist once, and links back to
where it was computed.  Directive `{figure-gallery}` shows all of them small, chapter by chapter,
and offers the players of each beside them.
"""

import base64
import io
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import nbformat
from docutils import nodes
from docutils.nodes import Node
from PIL import Image
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from erdpaper.claims.ledger_nodes import text_nodes

# pixels; a column of the page is at most this wide
_THUMBNAIL = 320
# the directive of a player in a cell of text: its name, its options, a blank line, the caption
_PLAYER = re.compile(r"^```\{player\} (\S+)\n(?::.*\n)*\n(.*?)\n```$", re.M | re.S)


class Figure(NamedTuple):
    """A named figure of an executed notebook: its PNG and its words."""

    name: str
    png: bytes
    alt: str
    caption: str


class MovingFigure(NamedTuple):
    """A player of a notebook, which lives on the notebook's page: its name and its caption."""

    name: str
    caption: str


class _Pictures(SphinxDirective):
    """What both directives do: read a notebook, write an image beside the build, link to a cell."""

    def source(self, notebook: str) -> Path:
        """The executed notebook, on which the current page then depends."""
        path = Path(self.env.srcdir) / "notebooks" / f"{notebook}.ipynb"
        self.env.note_dependency(str(path))
        return path

    def linked(self, notebook: str, figure: Figure, file: str, png: bytes) -> nodes.reference:
        """The image under this file name, as a link to where it was computed."""
        image = Path(self.env.app.outdir).parent / "notebook_figures" / file
        image.parent.mkdir(parents=True, exist_ok=True)
        image.write_bytes(png)
        here = Path(self.env.doc2path(self.env.docname)).parent
        picture = nodes.image(uri=Path(os.path.relpath(image, here)).as_posix(), alt=figure.alt)
        page = self.env.app.builder.get_relative_uri(self.env.docname, f"notebooks/{notebook}")
        return nodes.reference("", "", picture, refuri=f"{page}#{figure.name}")


class NotebookFigure(_Pictures):
    """The directive `{notebook-figure} NOTEBOOK NAME`."""

    required_arguments = 2

    def run(self) -> list[Node]:
        """A figure that links to its notebook."""
        notebook, name = self.arguments
        try:
            figure = find(self.source(notebook), name)
        except LookupError as error:
            raise self.error(str(error)) from error
        link = self.linked(notebook, figure, f"{notebook}-{name}.png", figure.png)
        return [nodes.figure("", link, nodes.caption("", "", *text_nodes(figure.caption)))]


class FigureGallery(_Pictures):
    """The directive `{figure-gallery}`: every named figure of every notebook of the book."""

    def run(self) -> list[Node]:
        """A rubric with the chapter's title and a grid of small figures for each notebook."""
        pages = sorted(page for page in self.env.found_docs if page.startswith("notebooks/"))
        return [node for page in pages for node in self._chapter(Path(page).name)]

    def _chapter(self, notebook: str) -> list[Node]:
        grid = nodes.container(classes=["figure-gallery"])
        for figure in figures_of(self.source(notebook)):
            file = f"{notebook}-{figure.name}-small.png"
            link = self.linked(notebook, figure, file, thumbnail(figure.png))
            # no figure node: a second copy is not numbered
            words = nodes.paragraph("", "", *text_nodes(figure.caption))
            grid += nodes.container("", nodes.paragraph("", "", link), words)
        for moving in players_of(self.source(notebook)):
            play = nodes.reference("", f"▶ Play: {moving.name}", classes=["gallery-player"])
            page = self.env.app.builder.get_relative_uri(self.env.docname, f"notebooks/{notebook}")
            play["refuri"] = f"{page}#player-{moving.name}"
            words = nodes.paragraph("", "", *text_nodes(moving.caption))
            grid += nodes.container("", nodes.paragraph("", "", play), words)
        if not grid.children:
            return []
        where = {"refdomain": "std", "reftype": "doc", "refdoc": self.env.docname}
        target = {"reftarget": f"/notebooks/{notebook}", "refexplicit": False, "refwarn": True}
        title = addnodes.pending_xref("", nodes.inline(), **where, **target)
        return [nodes.rubric("", "", title), grid]


def figures_of(notebook: Path) -> Iterator[Figure]:
    """The named figures of an executed notebook, in the order of its cells."""
    for cell in nbformat.read(notebook, as_version=4).cells:
        words = cell.metadata.get("mystnb", {})
        name = words.get("figure", {}).get("name")
        pngs = (output.get("data", {}).get("image/png") for output in cell.get("outputs", []))
        png = next(filter(None, pngs), None)
        if name and png:
            caption = words["figure"]["caption"]
            yield Figure(name, base64.b64decode(png), words["image"]["alt"], caption)


def players_of(notebook: Path) -> Iterator[MovingFigure]:
    """The players of a notebook, in the order of its cells."""
    for cell in nbformat.read(notebook, as_version=4).cells:
        if cell.cell_type == "markdown":
            yield from (MovingFigure(*found) for found in _PLAYER.findall(cell.source))


def find(notebook: Path, name: str) -> Figure:
    """The figure of this name; LookupError if there is none."""
    for figure in figures_of(notebook):
        if figure.name == name:
            return figure
    raise LookupError(f"{notebook.name} has no executed figure named {name!r}")


def thumbnail(png: bytes) -> bytes:
    """The picture in 32 colours and at most 320 pixels wide."""
    with Image.open(io.BytesIO(png)) as image:
        small = image.convert("RGB")
    small.thumbnail((_THUMBNAIL, small.height))
    written = io.BytesIO()
    small.quantize(32, Image.Quantize.MEDIANCUT).save(written, "PNG", optimize=True)
    return written.getvalue()


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directives; called by Sphinx."""
    app.add_directive("notebook-figure", NotebookFigure)
    app.add_directive("figure-gallery", FigureGallery)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
