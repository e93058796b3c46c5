"""Chains of variables with arrows for their conditionals, as the thesis draws them."""

from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.patches import FancyArrowPatch

UP, DOWN = "#004c8c", "#c94f00"


class Arrow(NamedTuple):
    """From node `start` to node `end`, labelled with text, bent by `bend` (0: straight).

    up: an encoder's (blue, dashed) or a decoder's (orange, solid); faint ones are not compared.
    """

    start: int
    end: int
    text: str
    up: bool
    bend: float = 0.3
    faint: bool = False


def chain(ax: Axes, nodes: list[str], arrows: list[Arrow], title: str) -> None:
    """Nodes in a row, one unit apart, and arrows between them; the first node is what is seen."""
    for place, name in enumerate(nodes):
        face = "#dddddd" if place == 0 else "white"
        ax.text(
            place,
            0,
            name,
            ha="center",
            va="center",
            bbox={"boxstyle": "circle,pad=0.35", "facecolor": face, "edgecolor": "#444444"},
        )
    for arrow in arrows:
        _draw(ax, arrow)
    ax.set(xlim=(-0.5, len(nodes) - 0.5), ylim=(-0.95, 0.95), title=title)
    ax.set_axis_off()


def _draw(ax: Axes, arrow: Arrow) -> None:
    """Encoders pass above the row and decoders below it."""
    side = 1 if arrow.up else -1
    width = abs(arrow.end - arrow.start)
    # an arc bends to the left of its direction for negative curvature
    leftward = 1 if arrow.end > arrow.start else -1
    ax.add_patch(
        FancyArrowPatch(
            (arrow.start, 0.17 * side),
            (arrow.end, 0.17 * side),
            connectionstyle=f"arc3,rad={-side * leftward * arrow.bend}",
            arrowstyle="-|>",
            mutation_scale=12,
            linestyle="--" if arrow.up else "-",
            linewidth=0.9 if arrow.faint else 2.2,
            alpha=0.5 if arrow.faint else 1.0,
            color=UP if arrow.up else DOWN,
            shrinkA=8,
            shrinkB=8,
        )
    )
    middle = (arrow.start + arrow.end) / 2
    # above the arc, whose height matplotlib measures on the page
    height = 0.17 + 1.3 * arrow.bend * width + 0.17
    ax.text(
        middle,
        side * height,
        arrow.text,
        ha="center",
        va="center",
        fontsize=9,
        color=UP if arrow.up else DOWN,
    )
