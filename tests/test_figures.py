"""The plot style: told apart in grey and by the colour-blind, labelled, and the same every time."""

import hashlib
import io
import itertools
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from PIL import Image

from erdpaper import figures

# Machado, Oliveira and Fernandes 2009, full severity, on linear RGB
DEFICIENCY = {
    "none": np.eye(3),
    "protanopia": np.array(
        [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ]
    ),
    "deuteranopia": np.array(
        [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.011820, 0.042940, 0.968881],
        ]
    ),
    "tritanopia": np.array(
        [
            [1.255528, -0.076749, -0.178779],
            [-0.078411, 0.930809, 0.147602],
            [0.004733, 0.691367, 0.303900],
        ]
    ),
}
XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])


@pytest.fixture(autouse=True)
def _style() -> Iterator[None]:
    figures.use_style()
    yield
    plt.close("all")


def linear(color: str) -> np.ndarray:
    """sRGB to linear RGB."""
    rgb = np.array(to_rgb(color))
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def lab(rgb: np.ndarray) -> np.ndarray:
    """Linear RGB to CIE L*a*b* under D65."""
    scaled = XYZ @ np.clip(rgb, 0, 1) / (XYZ @ np.ones(3))
    f = np.where(scaled > 216 / 24389, np.cbrt(scaled), (24389 / 27 * scaled + 16) / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def luminance(color: str) -> float:
    """WCAG relative luminance."""
    return float(XYZ[1] @ linear(color))


def curves() -> Figure:
    figure, axes = figures.grid(1, 2, sharey=True)
    t = np.linspace(0, 1, 30)
    for ax, name in zip(axes[0], ("linear", "cosine"), strict=True):
        for power, (target, style) in enumerate(figures.TARGET.items(), start=1):
            ax.plot(t, t**power, label=target, markevery=6, **style)
        figures.label(ax, "time $t$", r"floor $\ell^\star$", name)
        ax.legend()
    return figure


def test_targets_differ_in_colour_dash_and_marker() -> None:
    assert set(figures.TARGET) == {"x0", "eps", "v", "u"}
    for key in ("color", "linestyle", "marker"):
        assert len({style[key] for style in figures.TARGET.values()}) == 4


@pytest.mark.parametrize(("one", "other"), list(itertools.combinations(figures.TARGET, 2)))
def test_targets_differ_in_grey_and_for_the_colour_blind(one: str, other: str) -> None:
    a, b = (linear(figures.TARGET[name]["color"]) for name in (one, other))
    assert abs(lab(a)[0] - lab(b)[0]) > 15
    for kind, matrix in DEFICIENCY.items():
        distance = np.linalg.norm(lab(matrix @ a) - lab(matrix @ b))
        assert distance > 30, kind


@pytest.mark.parametrize("name", figures.TARGET)
def test_targets_stand_out_from_the_white_face(name: str) -> None:
    assert 1.05 / (luminance(figures.TARGET[name]["color"]) + 0.05) > 2.5


def test_default_lines_differ_in_colour_and_dash() -> None:
    cycle = list(plt.rcParams["axes.prop_cycle"])
    assert len(cycle) == 6
    assert len({line["color"] for line in cycle}) == 6
    assert len({str(line["linestyle"]) for line in cycle}) == 6


def test_text_is_large_enough_and_the_face_is_white() -> None:
    sizes = {text.get_fontsize() for text in curves().findobj(plt.Text) if text.get_text().strip()}
    assert min(sizes) >= 9
    pixels = np.asarray(Image.open(io.BytesIO(figures.png(curves()))))
    corners = pixels[[0, 0, -1, -1], [0, -1, 0, -1]]
    assert (corners == 255).all()


def test_a_matplotlibrc_of_the_reader_changes_nothing() -> None:
    expected = figures.png(curves())
    plt.rcParams.update({"axes.facecolor": "black", "font.size": 30, "savefig.bbox": "tight"})
    figures.use_style()
    assert figures.png(curves()) == expected


def test_png_has_the_width_of_the_book_and_no_changing_metadata() -> None:
    data = figures.png(curves())
    assert data.startswith(b"\x89PNG")
    assert struct.unpack(">I", data[16:20])[0] == int(7.2 * 144)
    assert b"tEXt" not in data and b"tIME" not in data and b"Matplotlib" not in data


def test_png_is_the_same_in_another_process() -> None:
    program = (
        "import hashlib, sys; sys.path.insert(0, 'tests'); import test_figures as t;"
        "t.figures.use_style(); print(hashlib.sha256(t.figures.png(t.curves())).hexdigest())"
    )
    here = hashlib.sha256(figures.png(curves())).hexdigest()
    there = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).resolve().parents[1],
    )
    assert there.stdout.strip() == here


@pytest.mark.parametrize(("rows", "cols"), [(1, 1), (2, 3), (1, 4)])
def test_grid_has_two_dimensions_and_book_width(rows: int, cols: int) -> None:
    figure, axes = figures.grid(rows, cols, height=1.5)
    assert axes.shape == (rows, cols)
    assert figure.get_size_inches().tolist() == pytest.approx([7.2, 1.5 * rows])


@pytest.mark.parametrize("bad", [{"rows": 0}, {"cols": -1}, {"height": 0.0}])
def test_grid_refuses_sizes_that_are_not_positive(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="positive sizes"):
        figures.grid(**bad)  # type: ignore[arg-type]


def test_label_names_axes_and_hides_shared_inner_names() -> None:
    _, axes = figures.grid(2, 2, sharex=True, sharey=True)
    for ax in axes.flat:
        figures.label(ax, "t", "loss", "panel")
    assert [ax.xaxis.label.get_visible() for ax in axes.flat] == [False, False, True, True]
    assert [ax.yaxis.label.get_visible() for ax in axes.flat] == [True, False, True, False]
    _, alone = figures.grid(2, 1)
    figures.label(alone[0, 0], "t", "loss")
    assert alone[0, 0].get_xlabel() == "t" and alone[0, 0].xaxis.label.get_visible()
    assert alone[0, 0].get_title() == ""


@pytest.mark.parametrize(
    ("texts", "what"),
    [(("", "y"), "x label"), (("x", " "), "y label"), (("x", "y", ""), "title")],
)
def test_label_refuses_empty_texts(texts: tuple[str, ...], what: str) -> None:
    _, axes = figures.grid()
    with pytest.raises(ValueError, match=f"the {what} of a panel must not be empty"):
        figures.label(axes[0, 0], *texts)


@pytest.mark.parametrize(
    ("limits", "shown"),
    [
        ((0.0005, 20.0), ["0.001", "0.01", "0.1", "1", "10"]),
        ((0.3, 4.0), ["0.5", "1", "2"]),
        ((0.8, 1.3), ["0.8", "1", "1.2"]),
    ],
)
def test_a_logarithmic_axis_has_few_plain_numbers(
    limits: tuple[float, float], shown: list[str]
) -> None:
    figure, axes = figures.grid()
    ax = axes[0, 0]
    ax.set_xscale("log")
    ax.set_xlim(*limits)
    figures.plain_log(ax.xaxis)
    figure.draw_without_rendering()
    low, high = limits
    ticks = zip(ax.get_xticks(), ax.get_xticklabels(), strict=True)
    assert [text.get_text() for x, text in ticks if low <= x <= high] == shown
    assert not any(text.get_text() for text in ax.get_xticklabels(minor=True))


def test_image_shows_black_at_minus_one_and_white_at_one() -> None:
    _, axes = figures.grid(1, 2)
    pixels = torch.tensor([[-1.0, 1.0], [0.0, 1.0]])
    figures.image(axes[0, 0], pixels, "plain")
    figures.image(axes[0, 1], pixels[None], "with channel")
    for ax in axes.flat:
        shown = ax.get_images()[0]
        grey = shown.to_rgba(shown.get_array())[..., 0]
        assert grey.round(2).tolist() == [[0.0, 1.0], [0.5, 1.0]]


def test_image_refuses_colour_and_no_title() -> None:
    _, axes = figures.grid()
    with pytest.raises(ValueError, match=r"not \(3, 4, 4\)"):
        figures.image(axes[0, 0], torch.zeros(3, 4, 4), "colour")
    with pytest.raises(ValueError, match="title of an image"):
        figures.image(axes[0, 0], torch.zeros(4, 4), "")
