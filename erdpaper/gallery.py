"""Sphinx extension: show a figure of an executed notebook on another page of the book.

Directive `{notebook-figure} 05_erd_derivation fig-nearest` takes the image, its alt text and its
caption from the notebook's cell, so that the picture and its words exist once, and links back to
where it was computed.
"""

import base64
import os
from pathlib import Path
from typing import Any

import nbformat
from docutils import nodes
from docutils.nodes import Node
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective


class NotebookFigure(SphinxDirective):
    """The directive `{notebook-figure} NOTEBOOK NAME`."""

    required_arguments = 2

    def run(self) -> list[Node]:
        """Copy the image beside the build and return a figure that links to its notebook."""
        notebook, name = self.arguments
        source = Path(self.env.srcdir) / "notebooks" / f"{notebook}.ipynb"
        self.env.note_dependency(str(source))
        try:
            png, alt, caption = find(source, name)
        except LookupError as error:
            raise self.error(str(error)) from error
        image = Path(self.env.app.outdir).parent / "notebook_figures" / f"{notebook}-{name}.png"
        image.parent.mkdir(parents=True, exist_ok=True)
        image.write_bytes(png)
        here = Path(self.env.doc2path(self.env.docname)).parent
        picture = nodes.image(uri=Path(os.path.relpath(image, here)).as_posix(), alt=alt)
        page = self.env.app.builder.get_relative_uri(self.env.docname, f"notebooks/{notebook}")
        link = nodes.reference("", "", picture, refuri=f"{page}#{name}")
        return [nodes.figure("", link, nodes.caption("", caption))]


def find(notebook: Path, name: str) -> tuple[bytes, str, str]:
    """(PNG, alt text, caption) of the figure of this name; LookupError if there is none."""
    for cell in nbformat.read(notebook, as_version=4).cells:
        words = cell.metadata.get("mystnb", {})
        if words.get("figure", {}).get("name") != name:
            continue
        for output in cell.outputs:
            if "image/png" in output.get("data", {}):
                png = base64.b64decode(output["data"]["image/png"])
                return png, words["image"]["alt"], words["figure"]["caption"]
    raise LookupError(f"{notebook.name} has no executed figure named {name!r}")


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directive; called by Sphinx."""
    app.add_directive("notebook-figure", NotebookFigure)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
