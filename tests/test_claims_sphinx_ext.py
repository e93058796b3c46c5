"""The Sphinx extension, by building a small book with warnings as errors and reading its pages."""

import json
import re
from pathlib import Path

import nbformat
import pytest
import small_book
from claim_examples import ENTRY, INTERVAL, SINGLE, data_folder, open_02, write_claims

from erdpaper.claims import Verdict, record

CONF = """
extensions = ["myst_nb", "erdpaper.claims.sphinx_ext"]
html_theme = "sphinx_book_theme"
project = "small book"
nb_execution_mode = "off"
myst_enable_extensions = ["dollarmath"]
mathjax_path = "none.js"
"""
INDEX = """# Small book

The worst gap is {claim-value}`02.floor` and that of gvp is {claim-value}`02.floor:gvp`, so the
claim {claim-verdict}`02.floor`: {claim-passed}`02.floor`. Elsewhere: {claim-value}`02.single`,
{claim-verdict}`05.range`, {claim-passed}`05.range`.

```{claims-counts}
```

```{toctree}
book/ledger
notebooks/02_elbo
```
"""
LEDGER = "# Ledger\n\n```{claims-ledger}\n```\n"


class Book:
    """A small book in a folder of its own, with a data folder beside it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.source = root / "source"
        self.data = root / "data"
        self.write("conf.py", CONF)
        self.write("index.md", INDEX)
        self.write("book/ledger.md", LEDGER)

    def write(self, name: str, text: str) -> None:
        path = self.source / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")

    def write_notebook(self, verdict: Verdict) -> None:
        shown = {"text/html": verdict._repr_html_(), "text/plain": repr(verdict)}
        output = nbformat.v4.new_output("execute_result", shown, execution_count=1)
        cell = nbformat.v4.new_code_cell("claims.record(...)", outputs=[output], execution_count=1)
        title = nbformat.v4.new_markdown_cell("# ELBO")
        kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
        made = nbformat.v4.new_notebook(cells=[title, cell], metadata={"kernelspec": kernel})
        self.write("notebooks/02_elbo.ipynb", nbformat.writes(made))

    def build(self, *options: str, builder: str = "html") -> small_book.Done:
        return small_book.build(self.source, self.root / builder, "-b", builder, *options)

    def page(self, name: str, builder: str = "html") -> str:
        return (self.root / builder / name).read_text(encoding="utf-8")


def make_book(root: Path, monkeypatch: pytest.MonkeyPatch) -> Book:
    """A book whose two claims of notebook 02 have records, one of them at the gpu profile only."""
    data_folder(root / "data", monkeypatch)
    # a book reads the list of the documents' items too, and here there are none
    (root / "data" / "coverage.yml").write_text("paper: {}\n", encoding="utf-8")
    made = Book(root)
    open_02()
    made.write_notebook(record("02.floor", {"linear": 0.012345, "vp": 0.23456, "gvp": 1e-13}))
    open_02("gpu")
    record("02.single", 0.05, spread=0.01)
    return made


@pytest.fixture
def book(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Book:
    """A book of its own, in a plain theme to build faster."""
    made = make_book(tmp_path, monkeypatch)
    made.write("conf.py", CONF.replace("sphinx_book_theme", "basic"))
    return made


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Book:
    """One book in the real theme, built without warnings, that tests only read."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        made = make_book(tmp_path_factory.mktemp("book"), monkeypatch)
        result = made.build()
    assert result.returncode == 0, result.stderr
    return made


def article(page: str) -> str:
    """The article of a page as HTML."""
    found = re.search(r"<article.*?</article>", page, re.S)
    assert found
    return found[0]


def text_of(html: str) -> str:
    """HTML without tags and doubled spaces."""
    return " ".join(re.sub(r"<[^>]+>", " ", html).split())


def test_running_text_shows_values_and_verdicts(built: Book) -> None:
    index = article(built.page("index.html"))
    text = text_of(index)
    assert "The worst gap is 0.235 and that of gvp is &lt; 1e-9 , so the claim" in text
    assert "◐ holds in part : 2 of 3 cases . Elsewhere: not run here ," in text
    assert ", ○ not run here , not run here . 3 claims ✓ 1 holds ◐ 1 holds in part ○ 1" in text
    link = 'href="notebooks/02_elbo.html#claim-02-floor"'
    assert re.search(rf'<a [^>]*{link}[^>]*><span class="claim-badge claim-in-part">', index)


def test_ledger_page_shows_counts_and_rows(built: Book) -> None:
    text = text_of(article(built.page("book/ledger.html")))
    assert "3 claims ✓ 1 holds ◐ 1 holds in part ○ 1 not run here 2 of the paper" in text
    assert "Paper, Lemma 3.2, C.1 The floor bounds the loss: " in text
    assert r"\(l \ge l^\star\)" in text
    assert "0.235 worst case: vp 2 of 3 cases at most 0.1" in text
    how = "profile gpu, device cpu scale: four points, one seed"
    assert f"02.single ✓ holds {how} 0.05 ± 0.01 published: 3 gap, in nats" in text
    # a claim that waits for its run has a scale too
    assert "05.range ○ not run here scale: formulas; no network between -1 and 2" in text
    note = r"Said of \\\(t &gt; 0\\\) only\. 05\.range "
    assert re.search(r"bounds the loss: \\\(l .{,40} " + note, text)


def test_links_lead_to_ids_that_exist_once(built: Book) -> None:
    page = built.page("book/ledger.html")
    assert re.findall(r'<tr[^>]*id="(ledger-[^"]+)"', page) == [
        "ledger-claim-02-floor-cpu",
        "ledger-claim-02-single-gpu",
        "ledger-claim-05-range-none",
    ]
    # a claim without a cpu record has no block to point to, an absent page no link at all
    targets = re.findall(r'href="\.\./notebooks/([^"]+)"', article(page))
    assert set(targets) == {"02_elbo.html#claim-02-floor", "02_elbo.html"}
    assert "05_erd.html" not in page
    for name in ("index.html", "book/ledger.html", "notebooks/02_elbo.html"):
        ids = re.findall(r'\sid="([^"]+)"', article(built.page(name)))
        assert len(ids) == len(set(ids))
    assert 'id="claim-02-floor"' in built.page("notebooks/02_elbo.html")


def test_json_and_style_are_in_the_output(built: Book) -> None:
    content = json.loads(built.page("claims.json"))
    assert [row["id"] for row in content["rows"]] == ["02.floor", "02.single", "05.range"]
    assert re.search(r'href="\.\./_static/ledger\.css[^"]*"', built.page("book/ledger.html"))
    assert ".claim-badge" in built.page("_static/ledger.css")


def luminance(color: str) -> float:
    """WCAG relative luminance of #rrggbb."""
    channels = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    bent = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * bent[0] + 0.7152 * bent[1] + 0.0722 * bent[2]


def test_badges_are_readable_in_both_themes(built: Book) -> None:
    pairs = re.findall(
        r"--claim-([a-z-]+): (#\w{6});\s+--claim-\1-back: (#\w{6})",
        built.page("_static/ledger.css"),
    )
    assert len(pairs) == 8
    for _, ink, back in pairs:
        light, dark = sorted([luminance(ink), luminance(back)], reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 6


def test_unknown_claims_and_cases_are_warnings(book: Book) -> None:
    roles = ["{claim-value}`02.flor`", "{claim-value}`02.floor:sub`", "{claim-verdict}`99.x`"]
    book.write("index.md", INDEX + "\n" + ", ".join(roles) + "\n")
    result = book.build()
    assert result.returncode != 0
    for role in roles:
        name, text = role[1:-1].split("}`")
        assert f"unknown claim or case '{text}' in role {name}" in result.stderr
    assert len(re.findall(r"index\.md:\d+: WARNING", result.stderr)) == len(roles)


def test_a_second_build_draws_new_results_and_nothing_else(book: Book) -> None:
    assert book.build().returncode == 0
    assert "0 added, 0 changed" in book.build().stdout
    open_02()
    record("02.single", 7)
    again = book.build()
    assert again.returncode == 0, again.stderr
    assert "2 changed" in again.stdout
    assert "Elsewhere: 7," in re.sub(r"<[^>]+>", "", book.page("index.html"))
    assert "ledger-claim-02-single-cpu" in book.page("book/ledger.html")


def test_other_builders_and_parallel_reading(book: Book) -> None:
    assert book.build("-j", "2", builder="dirhtml").returncode == 0
    page = book.page("book/ledger/index.html", "dirhtml")
    assert 'href="../../notebooks/02_elbo/#claim-02-floor"' in page
    result = book.build(builder="text")
    assert result.returncode == 0, result.stderr
    assert "holds in part" in book.page("book/ledger.txt", "text")
    assert not (book.root / "text" / "claims.json").exists()


def test_a_record_that_disagrees_stops_the_build(book: Book) -> None:
    write_claims(book.data, [{**ENTRY, "threshold": 1}, SINGLE, INTERVAL])
    result = book.build()
    assert result.returncode != 0 and "run the notebook again" in result.stderr
    assert "Traceback" not in result.stderr
