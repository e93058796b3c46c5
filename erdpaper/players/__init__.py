"""Players: small figures of the book whose noise level a reader moves.

Each has a module that computes its data and a script in `static/` that draws them, in plain
JavaScript without a library or a request.  `sphinx_ext` puts both into a page of the book.
"""

from collections.abc import Callable, Mapping
from typing import Any

from erdpaper.players import gram, phase, trajectories

# name -> what its script is given, as plain numbers, strings, lists and dicts
DATA: Mapping[str, Callable[[], dict[str, Any]]] = {
    "phase": phase.data,
    "gram": gram.data,
    "trajectories": trajectories.data,
}

__all__ = ["DATA"]
