"""The line below a chapter's title says what it cost, from the kept timings, and gives the file."""

import json
import re
from pathlib import Path

import nbformat
import pytest
import small_book

from erdpaper import effort

CONF = """
extensions = ["myst_nb", "erdpaper.effort"]
html_theme = "basic"
nb_execution_mode = "off"
html_sourcelink_suffix = ""
"""


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.2, "1 s"), (54.6, "55 s"), (119.4, "119 s"), (131.3, "2 minutes"), (3_600, "60 minutes")],
)
def test_durations_are_said_in_round_numbers(seconds: float, words: str) -> None:
    assert effort.words(seconds) == words


def test_line_stands_below_the_title_of_notebooks_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    timings = tmp_path / "data" / "results" / "timings" / "cpu.json"
    timings.parent.mkdir(parents=True)
    timings.write_text(json.dumps({"01_timed": 54.6}))
    source = tmp_path / "source"
    (source / "notebooks").mkdir(parents=True)
    for name in ("01_timed", "02_new"):
        cells = [nbformat.v4.new_markdown_cell(f"# Chapter {name}\n\nText.")]
        nbformat.write(nbformat.v4.new_notebook(cells=cells), source / f"notebooks/{name}.ipynb")
    (source / "conf.py").write_text(CONF)
    index = "# Home\n\n```{toctree}\nnotebooks/01_timed\nnotebooks/02_new\n```\n"
    (source / "index.md").write_text(index)
    monkeypatch.setenv("ERDPAPER_DATA", str(tmp_path / "data"))
    done = small_book.build(source, tmp_path / "out")
    assert done.returncode == 0, done.stderr

    def text_of(name: str) -> str:
        html = (tmp_path / "out" / f"{name}.html").read_text(encoding="utf-8")
        return " ".join(re.sub(r"<[^>]+>", "", html.split('role="main"')[1]).split())

    line = "Computed in 55 s on one core. Download the notebook. Text."
    assert line in text_of("notebooks/01_timed")
    untimed = text_of("notebooks/02_new")
    assert "Download the notebook. Text." in untimed and "Computed" not in untimed
    assert "Download" not in text_of("index")
    page = tmp_path / "out" / "notebooks" / "01_timed.html"
    (link,) = re.findall(r'href="([^"]+)" download="01_timed.ipynb"', page.read_text())
    assert (page.parent / link).is_file()
