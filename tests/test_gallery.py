"""A figure shown on another page carries the notebook's own picture and words."""

import base64
from pathlib import Path

import nbformat
import pytest

from erdpaper import gallery

PNG = b"\x89PNG picture"


def notebook(path: Path, *, executed: bool = True) -> Path:
    words = {"image": {"alt": "two lines"}, "figure": {"name": "fig-b", "caption": "They cross."}}
    plain = nbformat.v4.new_code_cell("1")
    drawn = nbformat.v4.new_code_cell("plot()", metadata={"mystnb": words})
    if executed:
        data = {"image/png": base64.b64encode(PNG).decode(), "text/plain": "<Figure>"}
        drawn.outputs = [nbformat.v4.new_output("display_data", data)]
    nbformat.write(nbformat.v4.new_notebook(cells=[plain, drawn]), path)
    return path


def test_a_figure_is_found_by_name_with_its_words(tmp_path: Path) -> None:
    found = gallery.find(notebook(tmp_path / "a.ipynb"), "fig-b")
    assert found == (PNG, "two lines", "They cross.")


@pytest.mark.parametrize(("name", "executed"), [("fig-a", True), ("fig-b", False)])
def test_a_figure_that_is_not_there_is_named(tmp_path: Path, name: str, executed: bool) -> None:
    path = notebook(tmp_path / "a.ipynb", executed=executed)
    with pytest.raises(LookupError, match=f"a.ipynb has no executed figure named '{name}'"):
        gallery.find(path, name)
