"""A figure shown on another page carries the notebook's own picture and words."""

import base64
import io
from pathlib import Path

import nbformat
import numpy as np
import pytest
from PIL import Image

from erdpaper import gallery


def picture(width: int, height: int) -> Image.Image:
    """A smooth ramp of greys, darker on the left."""
    row = np.linspace(0, 255, width).astype(np.uint8)
    return Image.fromarray(np.tile(row, (height, 1)))


def png_of(image: Image.Image) -> bytes:
    written = io.BytesIO()
    image.save(written, "PNG")
    return written.getvalue()


PNG = png_of(picture(880, 300))


def notebook(path: Path, *, executed: bool = True) -> Path:
    words = {"image": {"alt": "two lines"}, "figure": {"name": "fig-b", "caption": "They cross."}}
    plain = nbformat.v4.new_code_cell("1")
    drawn = nbformat.v4.new_code_cell("plot()", metadata={"mystnb": words})
    if executed:
        data = {"image/png": base64.b64encode(PNG).decode(), "text/plain": "<Figure>"}
        drawn.outputs = [nbformat.v4.new_output("display_data", data)]
    unnamed = nbformat.v4.new_code_cell("plot()", outputs=drawn.outputs)
    nbformat.write(nbformat.v4.new_notebook(cells=[plain, unnamed, drawn]), path)
    return path


def test_a_figure_is_found_by_name_with_its_words(tmp_path: Path) -> None:
    found = gallery.find(notebook(tmp_path / "a.ipynb"), "fig-b")
    assert found == ("fig-b", PNG, "two lines", "They cross.")


@pytest.mark.parametrize(("name", "executed"), [("fig-a", True), ("fig-b", False)])
def test_a_figure_that_is_not_there_is_named(tmp_path: Path, name: str, executed: bool) -> None:
    path = notebook(tmp_path / "a.ipynb", executed=executed)
    with pytest.raises(LookupError, match=f"a.ipynb has no executed figure named '{name}'"):
        gallery.find(path, name)


def test_the_gallery_has_the_named_figures_that_were_drawn(tmp_path: Path) -> None:
    found = list(gallery.figures_of(notebook(tmp_path / "a.ipynb")))
    assert found == [gallery.Figure("fig-b", PNG, "two lines", "They cross.")]
    assert list(gallery.figures_of(notebook(tmp_path / "b.ipynb", executed=False))) == []


PLAYER = """Before.

```{player} phase
:alt: words for who cannot see it

It moves with $t$.
```

After."""


def test_the_gallery_offers_the_players_of_a_notebook(tmp_path: Path) -> None:
    path = tmp_path / "a.ipynb"
    cells = [nbformat.v4.new_code_cell(PLAYER), nbformat.v4.new_markdown_cell(PLAYER)]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    assert list(gallery.players_of(path)) == [("phase", "It moves with $t$.")]


def test_a_small_figure_is_the_same_picture_in_fewer_colours() -> None:
    with Image.open(io.BytesIO(gallery.thumbnail(PNG))) as small:
        assert small.size == (320, 109)
        found = np.asarray(small.convert("L"), dtype=float)
    wanted = np.asarray(picture(880, 300).resize((320, 109)), dtype=float)
    # 32 shades of 256, so half a step of 8, and what resampling does at the rim
    assert np.abs(found - wanted).max() <= 8


def test_a_figure_is_never_enlarged() -> None:
    with Image.open(io.BytesIO(gallery.thumbnail(png_of(picture(100, 40))))) as small:
        assert small.size == (100, 40)
