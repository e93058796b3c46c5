"""The list of what the documents number: complete, pointing somewhere, refused where it is not."""

import re
from pathlib import Path
from typing import Any

import pytest
import small_book
import yaml
from claim_examples import ENTRY, INTERVAL, SINGLE, write_claims
from docutils import nodes
from hypothesis import given
from hypothesis import strategies as st

from erdpaper.claims import coverage, coverage_nodes
from erdpaper.claims.coverage import CoverageError, Item
from erdpaper.claims.ledger import Row, rows
from erdpaper.claims.verdicts import Verdict

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = {path.stem: path for path in (ROOT / "notebooks").glob("*.md")}


def counted(stem: str, last: int) -> list[str]:
    return [f"{stem}{n}" for n in range(1, last + 1)]


# what the two documents number, read off the documents and not off the list under test
NUMBERED = {
    ("paper", "equation"): counted("", 120),
    ("paper", "statement"): [
        *("Proposition 3.1", "Lemma 3.2", "Theorem 3.3", "Theorem 3.4", "Remark 3.5"),
        *("Theorem 3.6", "Proposition 3.7", "Theorem 3.8", "Definition A.1", "Assumption A.2"),
        *("Proposition B.1", "Lemma C.1", "Lemma C.2", "Lemma C.3", "Theorem C.4"),
        *("Proposition C.5", "Theorem C.6", "Lemma D.1", "Theorem D.2", "Proposition D.3"),
        *("Theorem D.4", "Proposition E.1", "Remark E.2", "Remark E.3"),
    ],
    ("paper", "figure"): counted("", 37),
    ("paper", "table"): counted("", 9),
    ("thesis", "equation"): [
        *counted("2.", 47),
        *counted("3.", 4),
        *counted("A.1.", 3),
        *counted("A.3.", 1),
        *counted("A.4.", 3),
        *counted("A.5.", 2),
    ],
    ("thesis", "figure"): [
        *("1.1", *counted("2.", 10), *counted("3.", 8)),
        *(*counted("A.", 3), *counted("B.", 11)),
    ],
    # sentences in their order: contributions, limitations, conclusions
    ("thesis", "statement"): [*counted("1.2.", 5), *counted("3.5.", 12), *counted("4.", 10)],
}


@pytest.fixture(scope="module")
def items() -> list[Item]:
    return coverage.load(ROOT / "data", NOTEBOOKS)


def test_every_numbered_item_is_listed_and_nothing_else(items: list[Item]) -> None:
    listed: dict[tuple[str, str], list[str]] = {}
    for item in items:
        listed.setdefault((item.document, item.kind), []).extend(item.numbers)
    assert {key: sorted(numbers) for key, numbers in listed.items()} == {
        key: sorted(numbers) for key, numbers in NUMBERED.items()
    }


def test_every_item_points_somewhere(items: list[Item]) -> None:
    named = {row.claim.id for row in rows(ROOT / "data")}
    for item in items:
        assert set(item.claims) <= named, item
        for chapter in item.chapters:
            assert NOTEBOOKS[chapter].is_file(), item
        if item.section is not None:
            source = NOTEBOOKS[item.chapters[0]].read_text(encoding="utf-8")
            assert re.search(rf"^#+ {re.escape(item.section)}$", source, re.M), item
        assert item.chapters or item.schematic, item
        assert item.kind == "figure" or not item.schematic, item


def test_the_page_shows_every_table() -> None:
    page = (ROOT / "book" / "coverage.md").read_text(encoding="utf-8")
    shown = re.findall(r"^```\{coverage\} (\w+) (\w+)$", page, re.M)
    assert sorted(shown) == sorted(NUMBERED)


def test_labels_are_those_of_the_first_chapter(items: list[Item]) -> None:
    for item in items:
        if item.label:
            source = NOTEBOOKS[item.chapters[0]].read_text(encoding="utf-8")
            mark = f"$$ ({item.label})" if item.kind == "equation" else f":label: {item.label}"
            assert source.count(f"\n{mark}\n") == 1, item


def test_numbers_of_an_equation_are_gathered_by_document() -> None:
    def item(document: str, number: str, label: str | None, kind: str = "equation") -> Item:
        return Item(document, kind, number, (number,), "x", ("02_elbo",), label=label)

    items = [item("paper", "4", "eq-a"), item("paper", "46-48", "eq-a"), item("paper", "5", None)]
    items += [item("thesis", "2.1", "eq-a"), item("paper", "6", "eq-b")]
    items += [item("paper", "Lemma 3.2", "thm", "statement")]
    assert coverage.equation_numbers(items) == {"eq-a": "P 4, 46–48, T 2.1", "eq-b": "P 6"}


def test_words_are_few(items: list[Item]) -> None:
    assert [item.says for item in items if len(item.says.split()) > 12] == []


LIST: dict[str, Any] = {
    "paper": {
        "equation": [
            {"number": 1, "says": "a loss in $t$", "where": "02_elbo", "claims": ["02.floor"]},
            {"number": "2-4", "says": "a range", "where": ["05_erd", "08_full_scale"]},
        ],
        "figure": [
            {"number": 1, "says": "a sketch", "where": "schematic"},
            {"number": 2, "says": "samples", "where": "08_full_scale", "note": "not $yet$"},
        ],
    },
    "thesis": {
        "equation": [
            {"number": "2.1", "says": "one", "where": "05_erd", "section": "A b"},
            {"number": "2.2", "says": "two", "where": "05_erd", "label": "eq-two"},
        ]
    },
}
CHAPTERS = ["02_elbo", "05_erd", "08_full_scale"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_claims(tmp_path, [ENTRY, SINGLE, INTERVAL])
    (tmp_path / "coverage.yml").write_text(yaml.safe_dump(LIST), encoding="utf-8")
    return tmp_path


def test_rows_are_read(folder: Path) -> None:
    one, several, sketch, samples, thesis, labelled = coverage.load(folder, CHAPTERS)
    assert labelled.label == "eq-two" and one.label is None
    assert one.numbers == ("1",) and one.claims == ("02.floor",)
    assert several.numbers == ("2", "3", "4") and several.number == "2-4"
    assert several.chapters == ("05_erd", "08_full_scale")
    assert sketch.schematic and sketch.chapters == ()
    assert not samples.schematic
    assert samples.note == "not $yet$" and thesis.section == "A b"


def test_items_are_counted_by_number_and_not_by_row(folder: Path) -> None:
    items = coverage.load(folder, CHAPTERS)
    assert coverage.counts(items, ["02.floor"]) == {
        "judged": 1,
        "treated": 6,
        "schematic": 1,
    }
    # a claim without a record judges nothing
    assert coverage.counts(items[:1], []) == {
        "judged": 0,
        "treated": 1,
        "schematic": 0,
    }


REFUSED = {
    "names the unknown notebook '09_x'": {"number": 5, "says": "x", "where": "09_x"},
    "names the unknown claim '02.flor'": {
        "number": 5,
        "says": "x",
        "where": "02_elbo",
        "claims": ["02.flor"],
    },
    "paper equation 3 is listed twice": {"number": 3, "says": "x", "where": "02_elbo"},
    "paper equation 5 is missing": {"number": 6, "says": "x", "where": "02_elbo"},
    "lacks the notebook of claim '05.range'": {
        "number": 5,
        "says": "x",
        "where": "02_elbo",
        "claims": ["05.range"],
    },
    "points nowhere": {"number": 5, "says": "x"},
    "is schematic and so has no claim": {
        "number": 5,
        "says": "x",
        "where": ["schematic", "02_elbo"],
        "claims": ["02.floor"],
    },
    "has no number, or needs it quoted": {"number": 2.1, "says": "x", "where": "02_elbo"},
    "says must be a text that is not empty": {"number": 5, "where": "02_elbo"},
    "has the unknown key 'wher'": {"number": 5, "says": "x", "wher": "02_elbo"},
    "'five' is not a number": {"number": "five", "says": "x", "where": "02_elbo"},
    "the range '6-5' does not ascend": {"number": "6-5", "says": "x", "where": "02_elbo"},
}


@pytest.mark.parametrize(("sentence", "row"), REFUSED.items())
def test_bad_rows_are_refused_in_one_sentence(
    folder: Path, sentence: str, row: dict[str, Any]
) -> None:
    listed = {**LIST, "paper": {"equation": [*LIST["paper"]["equation"], row]}}
    (folder / "coverage.yml").write_text(yaml.safe_dump(listed), encoding="utf-8")
    with pytest.raises(CoverageError) as caught:
        coverage.load(folder, CHAPTERS)
    message = str(caught.value)
    assert sentence in message and "\n" not in message and ". " not in message


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[", "is not valid YAML"),
        ("[]", "must be a mapping of documents to their kinds"),
        ("book: {}", "'book' is not a document"),
        ("paper: {lemma: []}", "paper has no kind 'lemma'"),
        ("paper: {}\npaper: {}", "repeated key 'paper'"),
        (None, "is missing"),
    ],
)
def test_bad_files_are_refused_in_one_sentence(
    folder: Path, text: str | None, sentence: str
) -> None:
    path = folder / "coverage.yml"
    path.unlink() if text is None else path.write_text(text, encoding="utf-8")
    with pytest.raises(CoverageError, match=re.escape(sentence)):
        coverage.load(folder, CHAPTERS)


@given(
    st.sampled_from(["", "2.", "A.4.", "B."]),
    st.integers(1, 150),
    st.integers(1, 40),
    st.sampled_from(["Lemma 3.2", "7", "A.1.1"]),
)
def test_ranges_expand_to_neighbours(stem: str, first: int, more: int, other: str) -> None:
    last = first + more
    found = coverage.expand(f"{other}, {stem}{first}-{stem}{last}")
    assert found == (other, *(f"{stem}{n}" for n in range(first, last + 1)))


def test_a_table_shows_number_content_place_and_verdicts() -> None:
    claim = coverage.entries.load(ROOT / "data")["02.decomposition"]
    ledger = {
        "02.decomposition": Row(
            claim, "cpu", Verdict(claim, dict.fromkeys(claim.cases, 1e-12)), 0, "cpu", {}
        ),
    }
    item = Item(
        document="paper",
        kind="equation",
        number="30-34",
        label="eq-cross",
        numbers=("30",),
        says="the cross term <b> is $0$",
        chapters=("02_elbo", "03_ntk"),
        claims=("02.decomposition",),
        section="The split",
        note="a note",
    )
    asked: list[tuple[str, str | None]] = []

    def link_chapter(name: str, section: str | None) -> nodes.Node:
        asked.append((name, section))
        return nodes.reference("", name, refuri=f"{name}.html")

    opening, table, closing = coverage_nodes.table_nodes(
        [item],
        ledger,
        lambda row: f"#{row.claim.anchor}",
        link_chapter,
        lambda item: f"#equation-{item.label}",
    )
    assert 'aria-label="Equations of the paper"' in opening.astext()
    assert closing.astext() == "</div>"
    assert asked == [("02_elbo", "The split"), ("03_ntk", None)]
    number, says, where, verdicts = table.next_node(nodes.tbody).findall(nodes.entry)
    assert number.astext() == "30–34"
    assert next(number.findall(nodes.reference))["refuri"] == "#equation-eq-cross"
    assert says.astext() == "the cross term <b> is 0\n\na note"
    assert where.astext() == "02_elbo\n\n03_ntk"
    assert verdicts.astext() == "✓ holds 02.decomposition"
    badge = next(verdicts.findall(nodes.reference))
    assert badge["refuri"] == "#claim-02-decomposition"


CONF = """
extensions = ["myst_nb", "erdpaper.claims.sphinx_ext"]
html_theme = "basic"
myst_enable_extensions = ["dollarmath"]
mathjax_path = "none.js"
numfig = True
"""
# the second has a number of its own in the document
EQUATIONS = """
$$ a $$ (eq-one)

$$ b $$ (eq-two)

$$ c $$ (eq-three)

See {eq}`eq-one`, {eq}`eq-two` and {eq}`eq-three`.
"""
PAGE = """# Coverage

```{coverage}
```

```{coverage} paper equation
```

```{coverage} thesis equation
```

```{toctree}
notebooks/02_elbo
notebooks/05_erd
notebooks/08_full_scale
```
"""


def build(folder: Path, page: str) -> small_book.Done:
    """A small book that shows the list of the folder; warnings are errors."""
    source = folder / "book"
    (source / "notebooks").mkdir(parents=True, exist_ok=True)
    (source / "conf.py").write_text(CONF, encoding="utf-8")
    (source / "index.md").write_text(page, encoding="utf-8")
    for name in CHAPTERS:
        text = f"# Title of {name}\n\n## A b\n\nText.\n{EQUATIONS if name == '05_erd' else ''}"
        (source / "notebooks" / f"{name}.md").write_text(text, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ERDPAPER_DATA", str(folder))
        return small_book.build(source, folder / "html")


def test_the_directive_draws_counts_and_tables_with_links(folder: Path) -> None:
    done = build(folder, PAGE)
    assert done.returncode == 0, done.stderr
    page = (folder / "html" / "index.html").read_text(encoding="utf-8")
    text = " ".join(re.sub(r"<[^>]+>", " ", page).split())
    assert "6 numbered items of the paper: 5 have a chapter and no verdict, 1 are" in text
    assert "○ not run here 02.floor" in text
    assert re.search(r'href="notebooks/02_elbo\.html"><span[^>]*>Title of 02_elbo<', page)
    assert re.search(r'href="notebooks/05_erd\.html#a-b">A b<', page)
    target = (folder / "html" / "notebooks" / "05_erd.html").read_text(encoding="utf-8")
    assert 'id="a-b"' in target
    assert 'href="notebooks/05_erd.html#equation-eq-two">2.2<' in page
    words = " ".join(re.sub(r"<[^>]+>", " ", target).split())
    assert re.findall(r'"eqno">\(([^<)]*)', target) == ["1", "T 2.2", "2"]
    assert "See (1) , (T 2.2) and (2) ." in words

    # the list is a source of the page
    listed = {**LIST, "thesis": {"equation": [{"number": "2.1", "says": "new", "where": "05_erd"}]}}
    (folder / "coverage.yml").write_text(yaml.safe_dump(listed), encoding="utf-8")
    again = build(folder, PAGE)
    assert again.returncode == 0, again.stderr
    assert ">new<" in (folder / "html" / "index.html").read_text(encoding="utf-8")


def test_a_list_that_is_wrong_stops_the_build_in_one_sentence(folder: Path) -> None:
    done = build(folder, PAGE.replace("paper equation", "paper table"))
    assert done.returncode != 0
    assert "coverage.yml lists nothing for 'paper table'" in done.stderr
    listed = {**LIST, "thesis": {"table": [{"number": 1, "says": "one", "where": "99_none"}]}}
    (folder / "coverage.yml").write_text(yaml.safe_dump(listed), encoding="utf-8")
    done = build(folder, PAGE)
    assert done.returncode != 0 and "Traceback" not in done.stderr
    assert "thesis table 1 names the unknown notebook '99_none'" in done.stderr
