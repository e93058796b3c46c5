"""The ledger as docutils nodes: a badge, the counts, and the table in a box that scrolls."""

import re
from collections.abc import Callable, Sequence

from docutils import nodes

from erdpaper.claims.ledger import Row, counts, passed_text, worst_text
from erdpaper.claims.numbers import criterion, plain
from erdpaper.claims.verdicts import CLASSES, SYMBOLS

LinkTo = Callable[[Row], str | None]

# heading and relative width of each column
_COLUMNS = {"Claim": 28, "Verdict": 22, "Measured": 38, "Required": 12}
_TITLES = {
    "paper": "of the paper",
    "thesis": "of the thesis",
    "book": "of this book: controls and further steps",
}
_OPEN_BOX = (
    '<div class="ledger-scroll" role="region" tabindex="0" '
    'aria-label="Table of claims, scrolls sideways">'
)


def badge_node(row: Row, link: str | None) -> nodes.Element:
    """A verdict as symbol and words, linked if there is a page to link to."""
    name = row.verdict_name
    badge = nodes.inline("", f"{SYMBOLS[name]} {name}", classes=["claim-badge", CLASSES[name]])
    if link is None:
        return badge
    return nodes.reference("", "", badge, internal=True, refuri=link, classes=["claim-link"])


def text_nodes(text: str) -> list[nodes.Node]:
    """A text whose $...$ parts become math."""
    parts = re.split(r"\$([^$]+)\$", text)
    made = [nodes.math(p, p) if i % 2 else nodes.Text(p) for i, p in enumerate(parts)]
    return [node for node in made if node.astext()]


def ledger_nodes(rows: Sequence[Row], link_to: LinkTo) -> list[nodes.Node]:
    """The counts by verdict, then the table of all rows."""
    # docutils' word for a table whose columns have the given widths
    table = nodes.table(classes=["claims-ledger", "colwidths-given"])
    group = nodes.tgroup(cols=len(_COLUMNS))
    group += [nodes.colspec(colwidth=width) for width in _COLUMNS.values()]
    group += nodes.thead("", _row([[nodes.paragraph("", name)] for name in _COLUMNS]))
    body = nodes.tbody()
    for row in rows:
        line = _row(_cells(row, link_to(row)))
        line["ids"].append(f"ledger-{row.claim.anchor}-{row.profile or 'none'}")
        body += line
    group += body
    table += group
    box = nodes.raw("", _OPEN_BOX, format="html"), table, nodes.raw("", "</div>", format="html")
    return [*counts_nodes(rows), *box]


def counts_nodes(rows: Sequence[Row]) -> list[nodes.Node]:
    """The number of claims with each verdict: a line for all, and one for each document."""
    lines: list[nodes.Node] = [_counts("claims", rows)]
    for document, title in _TITLES.items():
        part = [row for row in rows if row.claim.document == document]
        lines += [_counts(title, part)] if part else []
    return lines


def _counts(title: str, rows: Sequence[Row]) -> nodes.paragraph:
    tally = counts(rows)
    line = nodes.paragraph(classes=["ledger-counts"])
    line += nodes.strong("", f"{sum(tally.values())} {title}")
    for name, number in tally.items():
        if not number:
            continue
        line += nodes.Text(" ")
        text = f"{SYMBOLS[name]} {number} {name}"
        line += nodes.inline("", text, classes=["claim-badge", CLASSES[name]])
    return line


def _row(cells: Sequence[Sequence[nodes.Node]]) -> nodes.row:
    return nodes.row("", *[nodes.entry("", *cell) for cell in cells])


def _cells(row: Row, link: str | None) -> list[list[nodes.Node]]:
    """The cells of one row, in the order of the columns."""
    claim, verdict = row.claim, row.verdict
    measured = [worst_text(row)] if verdict else []
    if verdict and len(claim.cases) > 1:
        measured += [f"worst case: {verdict.worst}", passed_text(row)]
    run = [f"profile {row.profile}, device {row.device}"] if verdict else []
    run.append(f"scale: {claim.scale}")
    name = nodes.literal("", claim.id)
    page = nodes.reference("", "", name, internal=True, refuri=link) if link else name
    if claim.published is not None:
        number = claim.published
        measured.append(f"published: {number if isinstance(number, str) else plain(number)}")
    note = [nodes.emphasis("", "", *text_nodes(claim.note))] if claim.note else []
    return [
        _lines(nodes.strong("", claim.source), claim.statement, *note, page),
        _lines(badge_node(row, link), *run),
        _lines(*measured, *([claim.measure] if claim.measure else [])),
        _lines(criterion(claim)),
    ]


def _lines(*lines: str | nodes.Node) -> list[nodes.Node]:
    """A paragraph for each line that is not empty."""
    return [
        nodes.paragraph("", "", *(text_nodes(line) if isinstance(line, str) else [line]))
        for line in lines
        if line
    ]
