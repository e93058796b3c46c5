"""The first use of a symbol in a chapter leads to its row of the notation page."""

from pathlib import Path

import pytest
from docutils import nodes
from docutils.utils import new_document

from erdpaper import notation

PAGE = r"""# Notation

| symbol | meaning | in code |
| --- | --- | --- |
| $\alpha, \sigma$ | how much of each is in $x_t = \alpha x_0 + \sigma \varepsilon$ | `s(t)` |
| SNR, $\lambda$ | $\alpha^2/\sigma^2$ and its logarithm | `s.snr(t)` |
| $r$ (chapters 1, 2) | $\sqrt{\alpha^2 + \sigma^2}$ | |
| $r$ (chapter 3) | $f - f^*$, the residual | `residual` |
| $y = c_x x_0$ | the target | |
| floor | $\mathbb{E}\lVert y \rVert^2$ | `bayes_floor` |

## Elsewhere

| $z$ | not a symbol of the first table | |
"""
ROOT = Path(__file__).resolve().parents[1]


def test_the_rows_of_the_first_table_are_the_symbols() -> None:
    found = {(s.tex, s.chapters): s.meaning for s in notation.symbols(PAGE)}
    assert found == {
        (r"\alpha", None): "how much of each is in x_t = αx_0 + σε",
        (r"\sigma", None): "how much of each is in x_t = αx_0 + σε",
        (r"\lambda", None): "α²/σ² and its logarithm",
        ("r", frozenset({1, 2})): "√(α² + σ²)",
        ("r", frozenset({3})): "f - f*, the residual",
        ("y", None): "the target",
    }


def linked(chapter: int, *paragraphs: nodes.Node) -> list[tuple[str, str]]:
    """(TeX, address) of the links that a page with these paragraphs gets."""
    page = new_document("page")
    page += list(paragraphs)
    notation.link_first(page, notation.symbols(PAGE), chapter, "notation.html")
    links = page.findall(nodes.reference)
    return [(link.astext(), link["refuri"]) for link in links if "symbol-link" in link["classes"]]


def math(tex: str) -> nodes.paragraph:
    return nodes.paragraph("", "", nodes.math(tex, tex))


def test_only_the_first_use_of_a_symbol_is_a_link() -> None:
    found = linked(1, math("y"), math("r"), math("y"), math("r + y"), math("r"))
    assert found == [
        ("y", "notation.html#symbol-y-c-x-x-0"),
        ("r", "notation.html#symbol-r-chapters-1-2"),
    ]


@pytest.mark.parametrize(("chapter", "row"), [(2, "chapters-1-2"), (3, "chapter-3")])
def test_a_letter_with_two_meanings_leads_to_that_of_the_chapter(chapter: int, row: str) -> None:
    assert linked(chapter, math("r")) == [("r", f"notation.html#symbol-r-{row}")]


def test_a_letter_of_other_chapters_is_no_link() -> None:
    assert linked(9, math("r")) == []


def test_titles_links_and_tables_stay_as_they_are() -> None:
    inside = nodes.math("y", "y")
    title = nodes.title("", "", inside)
    link = nodes.paragraph("", "", nodes.reference("", "", inside.deepcopy(), refuri="x"))
    cell = nodes.table("", nodes.entry("", math("y")))
    assert linked(1, title, link, cell) == []
    assert len(linked(1, title, link, cell, math("y"))) == 1


def test_the_title_of_a_link_says_what_the_symbol_means() -> None:
    page = new_document("page")
    page += math(r" \lambda")
    notation.link_first(page, notation.symbols(PAGE), 1, "notation.html")
    assert next(page.findall(nodes.reference))["reftitle"] == "α²/σ² and its logarithm"


def test_the_book_gives_every_symbol_of_a_chapter_one_meaning() -> None:
    found = notation.symbols((ROOT / "book" / "notation.md").read_text(encoding="utf-8"))
    for chapter in range(1, 14):
        here = [s.tex for s in found if s.chapters is None or chapter in s.chapters]
        assert len(here) == len(set(here)), chapter
    assert all("\\" not in s.meaning and "$" not in s.meaning for s in found)
