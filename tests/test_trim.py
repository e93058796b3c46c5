"""What no page asks for goes, and everything else stays."""

import json
from pathlib import Path

import nbformat
import pytest
import small_book

from erdpaper.trim import corrected, shorten, trim, without_icon_script


def test_only_maps_translations_and_old_fonts_go(tmp_path: Path) -> None:
    fonts = "vendor/fontawesome/6.5.2/webfonts/fa-solid-900"
    kept = {"scripts/bootstrap.js", "styles/theme.css", f"{fonts}.woff2", "mathjax/a.woff"}
    gone = {"scripts/bootstrap.js.map", "styles/theme.css.map", f"{fonts}.ttf", "locales/de/x.mo"}
    gone.add("mathjax/woff-v2/MathJax_Fraktur-Bold.woff")
    gone.add("vendor/fontawesome/6.5.2/js/all.min.js")
    for name in kept | gone:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    trim(tmp_path)
    left = {p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file()}
    assert left == kept


def test_entries_of_a_bibliography_are_items_of_a_list() -> None:
    entry = '<div class="citation" id="a" role="{}">A. Author</div>'
    assert corrected(entry.format("doc-biblioentry")) == entry.format("listitem")


def test_the_title_of_a_theorem_does_not_repeat_its_id() -> None:
    theorem = '<div class="theorem" id="a"><p class="admonition-title"{}>Theorem 1</p></div>'
    assert corrected(theorem.format(' id="a"')) == theorem.format("")


def test_notebooks_lose_white_space_alone(tmp_path: Path) -> None:
    content = {"cells": [{"source": ["a = 'ä  b'\n"], "outputs": []}], "nbformat": 4}
    path = tmp_path / "notebooks" / "a.ipynb"
    path.parent.mkdir()
    path.write_text(json.dumps(content, indent=1))
    shorten(tmp_path)
    assert json.loads(path.read_text()) == content
    assert ": " not in path.read_text() and "ä  b" in path.read_text()
    (tmp_path / "claims.json").write_text(json.dumps({"claims": [1, 2]}, indent=2))
    shorten(tmp_path)
    assert (tmp_path / "claims.json").read_text() == '{"claims":[1,2]}\n'


def test_pages_ask_for_no_script_that_is_gone(tmp_path: Path) -> None:
    other = '<script src="_static/doctools.js?v=1"></script>\n'
    icons = '<script src="../_static/vendor/fontawesome/6.5.2/js/all.min.js?digest=1"></script>\n'
    (tmp_path / "a.html").write_text(f"<head>\n{icons}{other}</head>")
    without_icon_script(tmp_path)
    assert (tmp_path / "a.html").read_text() == f"<head>\n{other}</head>"


CONF = """
extensions = ["myst_nb", "erdpaper.trim"]
html_theme = "sphinx_book_theme"
nb_execution_mode = "off"
html_theme_options = {
    "launch_buttons": {"binderhub_url": "https://mybinder.org"},
    "repository_url": "ADDRESS",
    "repository_branch": "main",
}
"""


@pytest.mark.parametrize("address", ["", "https://github.com/someone/copy"])
def test_a_notebook_has_a_launch_button_if_there_is_an_address(
    tmp_path: Path, address: str
) -> None:
    (tmp_path / "conf.py").write_text(CONF.replace("ADDRESS", address))
    kernel = {"name": "python3", "display_name": "Python 3"}
    cells = [nbformat.v4.new_markdown_cell("# Title")]
    notebook = nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel})
    nbformat.write(notebook, tmp_path / "index.ipynb")
    done = small_book.build(tmp_path, tmp_path / "html")
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "html" / "index.html").read_text(encoding="utf-8")
    assert ("mybinder.org/v2/gh/someone/copy/main" in page) == bool(address)
