"""The book's plot style: one look, readable in grey, by the colour-blind, and on dark pages.

Lines are told apart by colour, lightness, dash and marker together.  Figures keep a white face, so
that they read as a card on a dark page, and are PNG of the book's width with fixed metadata.
"""

import importlib
import io
import math
import sys
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter
from numpy.typing import NDArray
from torch import Tensor

WIDTH = 7.2  # inches, the width of a page of the book
DPI = 144

# lightness L* of the colours: 0, 32, 49 and 67, so that they differ in grey as well
TARGET: dict[str, dict[str, Any]] = {
    "x0": {"color": "#000000", "linestyle": "-", "marker": "o"},
    "eps": {"color": "#004c8c", "linestyle": "--", "marker": "s"},
    "v": {"color": "#c94f00", "linestyle": "-.", "marker": "^"},
    "u": {"color": "#33b5a0", "linestyle": ":", "marker": "D"},
}

# for lines that are not targets, in the order they are drawn
_COLORS = [*(style["color"] for style in TARGET.values()), "#a0358c", "#e0a000"]
_DASHES = ["-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (8, 2))]

_STYLE: dict[str, Any] = {
    "axes.axisbelow": True,
    "axes.edgecolor": "#444444",
    "axes.formatter.use_mathtext": True,
    "axes.grid": True,
    "axes.labelsize": 11,
    "axes.prop_cycle": cycler(color=_COLORS) + cycler(linestyle=_DASHES),
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 11,
    "figure.dpi": DPI,
    "figure.edgecolor": "white",
    "figure.facecolor": "white",
    "figure.figsize": (WIDTH, 4.2),
    "figure.titlesize": 12,
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same on every machine
    "font.size": 11,
    "grid.color": "#dddddd",
    "image.cmap": "cividis",
    "legend.fontsize": 10,
    "legend.framealpha": 0.9,
    "legend.handlelength": 3.2,  # long enough to show a dash pattern
    "lines.linewidth": 2,
    "lines.markersize": 5,
    "mathtext.fontset": "dejavusans",
    "savefig.dpi": DPI,
    "savefig.edgecolor": "white",
    "savefig.facecolor": "white",
    "savefig.transparent": False,
    "xtick.labelsize": 10,
    "ytick.labelsize": 10,
}


_METADATA = {"Software": None}  # matplotlib's version, which would change the file


def use_style() -> None:
    """Make the book's style the default of matplotlib and of figures shown in a notebook."""
    # from matplotlib's own defaults, so that nobody's matplotlibrc changes the book
    plt.style.use(["default", _STYLE])
    _style_notebook()


def grid(
    rows: int = 1,
    cols: int = 1,
    *,
    height: float | None = None,
    sharex: bool = False,
    sharey: bool = False,
) -> tuple[Figure, NDArray[np.object_]]:
    """Make a figure of the book's width with rows x cols axes.

    height: inches of one row; by default each panel is a little wider than high.
    Returns the figure and its Axes as an array of shape (rows, cols).
    Raises ValueError for a size that is not positive.
    """
    if rows < 1 or cols < 1 or (height is not None and height <= 0):
        raise ValueError(f"a grid needs positive sizes, not {rows} x {cols} of height {height}")
    row_height = height or max(1.6, 0.62 * WIDTH / cols + 0.4)
    figure, axes = plt.subplots(
        rows,
        cols,
        figsize=(WIDTH, rows * row_height),
        sharex=sharex,
        sharey=sharey,
        squeeze=False,
        layout="constrained",
    )
    return figure, axes


def label(ax: Axes, x: str, y: str, title: str | None = None) -> None:
    """Name both axes and, if given, the panel; a shared inner axis stays without its name.

    Raises ValueError for an empty text: every axis of the book says what it shows.
    """
    for what, text in (("x label", x), ("y label", y), ("title", title)):
        if text is not None and not text.strip():
            raise ValueError(f"the {what} of a panel must not be empty")
    ax.set_xlabel(x)
    ax.set_ylabel(y)
    if title is not None:
        ax.set_title(title)
    spec = ax.get_subplotspec()
    if spec is not None and len(ax.get_shared_x_axes().get_siblings(ax)) > 1:
        ax.xaxis.label.set_visible(spec.is_last_row())
    if spec is not None and len(ax.get_shared_y_axes().get_siblings(ax)) > 1:
        ax.yaxis.label.set_visible(spec.is_first_col())


def legend(figure: Figure, ax: Axes, columns: int) -> None:
    """Put one legend below all panels of a figure, with the entries of one of them."""
    handles, labels = ax.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=columns)


def plain_log(axis: Axis) -> None:
    """Label a logarithmic axis with few plain numbers; called after everything is drawn.

    Powers of ten where the axis spans two decades or more, 1, 2 and 5 of each below that, and
    round numbers where it spans less than two thirds of one.
    """
    low, high = axis.get_view_interval()
    decades = math.log10(high / low)
    if decades < 2 / 3:
        axis.set_major_locator(MaxNLocator(3))
    else:
        axis.set_major_locator(LogLocator(subs=(1, 2, 5) if decades < 2 else (1,)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def image(ax: Axes, pixels: Tensor, title: str) -> None:
    """Show one grey image, (H, W) or (1, H, W) with values in [-1, 1], under its title."""
    if pixels.ndim == 3 and pixels.shape[0] == 1:
        pixels = pixels[0]
    if pixels.ndim != 2:
        raise ValueError(f"an image must have shape (H, W) or (1, H, W), not {tuple(pixels.shape)}")
    if not title.strip():
        raise ValueError("the title of an image must not be empty")
    ax.imshow(pixels.detach().cpu().numpy(), cmap="gray", vmin=-1, vmax=1, interpolation="nearest")
    ax.set_title(title)
    ax.set_axis_off()


def png(figure: Figure) -> bytes:
    """The figure as PNG, the same bytes on every call."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, metadata=_METADATA)
    return buffer.getvalue()


def _style_notebook() -> None:
    """Let a notebook show figures at their own size and with fixed metadata."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    if shell is None:
        return
    inline = importlib.import_module("matplotlib_inline.config").InlineBackend
    # the default crops to the drawing, which changes the width from figure to figure
    settings = inline.instance(parent=shell)
    settings.shell = shell
    settings.figure_formats = {"png"}
    settings.print_figure_kwargs = {"bbox_inches": None, "metadata": _METADATA}
