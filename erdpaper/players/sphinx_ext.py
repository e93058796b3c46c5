"""Sphinx extension: the directive `{player} phase`, a figure that the reader moves.

Its option `alt` describes the figure in words, its body is the caption.  Data and scripts are part
of the page: it works from a folder, without a server.  Elsewhere link to `player-phase`.
"""

import json
from html import escape
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.nodes import Node
from docutils.parsers.rst import directives
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from erdpaper import datasets
from erdpaper.players import DATA
from erdpaper.toys.networks import NAME

_STATIC = Path(__file__).with_name("static")
_STYLE, _SHARED = "players.css", ("toy.js", "player.js")
_KEY = "erdpaper_players"
# what a reader of paper, or without scripts, is told
_STILL = "This figure is moved by a slider: on screen, with scripts allowed."


class Player(SphinxDirective):
    """The directive `{player} NAME`: alt text as an option, the caption as its body."""

    required_arguments = 1
    has_content = True
    option_spec = {"alt": directives.unchanged_required}  # noqa: RUF012

    def run(self) -> list[Node]:
        """The figure with its data, and a label to link to."""
        name = self.arguments[0]
        if name not in DATA:
            raise self.error(f"no player is called {name!r}; there are {', '.join(DATA)}")
        if not (self.options.get("alt") and self.content):
            raise self.error(f"player {name!r} needs an alt text and a caption")
        self.env.note_dependency(str(datasets.data_dir() / "results" / NAME / "runs.jsonl"))
        self.env.metadata[self.env.docname].setdefault(_KEY, []).append(name)
        label = f"player-{name}"
        caption = nodes.container(classes=["player-caption"])
        self.state.nested_parse(self.content, self.content_offset, caption)
        domain = self.env.get_domain("std")
        domain.labels[label] = (self.env.docname, label, name)  # type: ignore[attr-defined]
        domain.anonlabels[label] = (self.env.docname, label)  # type: ignore[attr-defined]
        opened = _opening(name, label, self.options["alt"], as_json(name))
        closed = nodes.raw("", "</figcaption></figure>", format="html")
        return [nodes.raw("", opened, format="html"), caption, closed]


def as_json(name: str) -> str:
    """The data of a player as JSON that may stand within a script element."""
    return json.dumps(DATA[name](), separators=(",", ":")).replace("<", "\\u003c")


def _opening(name: str, label: str, alt: str, data: str) -> str:
    return (
        f'<figure class="player" id="{label}" data-player="{name}" data-alt="{escape(alt)}">'
        f'<script type="application/json">{data}</script><div class="player-stage"></div>'
        f'<p class="player-still">{escape(alt)} {_STILL}</p><figcaption>'
    )


def _add_static(app: Sphinx) -> None:
    app.config.html_static_path.append(str(_STATIC))


def _add_scripts(
    app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: Node | None
) -> None:
    """Give the scripts and the style to the pages that have a player, and to no other."""
    names = app.env.metadata.get(page, {}).get(_KEY, [])
    for script in [*_SHARED, *(f"{name}.js" for name in names)] if names else []:
        app.add_js_file(script)
    if names:
        app.add_css_file(_STYLE)


def setup(app: Sphinx) -> dict[str, Any]:
    """Register directive, scripts and style; called by Sphinx."""
    app.add_directive("player", Player)
    app.connect("builder-inited", _add_static)
    app.connect("html-page-context", _add_scripts)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
