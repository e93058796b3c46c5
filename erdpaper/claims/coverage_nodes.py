"""The coverage as docutils nodes: counts by document, and a table for each kind of item."""

from collections.abc import Callable, Mapping, Sequence

from docutils import nodes

from erdpaper.claims.coverage import JUDGED, SCHEMATIC, TREATED, Item, shown
from erdpaper.claims.ledger import Row
from erdpaper.claims.ledger_nodes import LinkTo, badge_node, text_nodes

# a notebook, and the heading of a section or None -> a node that leads there
LinkChapter = Callable[[str, str | None], nodes.Node]

# an item with a label -> the address of what bears it
LinkItem = Callable[[Item], str]

# heading and relative width of each column
_COLUMNS = {"No.": 12, "What it says": 29, "Where": 22, "Verdicts": 37}
_WORDS = {
    JUDGED: "have a chapter and a verdict",
    TREATED: "have a chapter and no verdict",
    SCHEMATIC: "are drawings without a claim",
}


def counts_node(document: str, tally: Mapping[str, int]) -> nodes.paragraph:
    """How many numbered items a document has, and what has become of them."""
    line = nodes.paragraph(classes=["coverage-counts"])
    line += nodes.strong("", f"{sum(tally.values())} numbered items of the {document}: ")
    parts = [f"{number} {_WORDS[status]}" for status, number in tally.items() if number]
    line += nodes.Text(", ".join(parts) + ".")
    return line


def table_nodes(
    items: Sequence[Item],
    rows: Mapping[str, Row],
    link_to: LinkTo,
    link_chapter: LinkChapter,
    link_item: LinkItem,
) -> list[nodes.Node]:
    """The table of these items in a box that scrolls.  rows: claim id -> its row of the ledger."""
    table = nodes.table(classes=["coverage"])
    group = nodes.tgroup(cols=len(_COLUMNS))
    group += [nodes.colspec(colwidth=width) for width in _COLUMNS.values()]
    group += nodes.thead("", _line([[nodes.paragraph("", name)] for name in _COLUMNS]))
    lines = [
        _line([[_number(item, link_item)], *_cells(item, rows, link_to, link_chapter)])
        for item in items
    ]
    group += nodes.tbody("", *lines)
    table += group
    label = f"{items[0].kind}s of the {items[0].document}".capitalize()
    opening = f'<div class="ledger-scroll" role="region" tabindex="0" aria-label="{label}">'
    return [nodes.raw("", opening, format="html"), table, nodes.raw("", "</div>", format="html")]


def _line(cells: Sequence[Sequence[nodes.Node]]) -> nodes.row:
    return nodes.row("", *[nodes.entry("", *cell) for cell in cells])


def _cells(
    item: Item, rows: Mapping[str, Row], link_to: LinkTo, link_chapter: LinkChapter
) -> list[list[nodes.Node]]:
    """The cells of one row after its number, in the order of the columns."""
    says = [nodes.paragraph("", "", *text_nodes(item.says))]
    if item.note:
        says.append(nodes.paragraph("", "", nodes.emphasis("", "", *text_nodes(item.note))))
    places: list[nodes.Node] = [nodes.inline("", "a drawing")] if item.schematic else []
    places += [
        link_chapter(name, None if at else item.section) for at, name in enumerate(item.chapters)
    ]
    verdicts: list[nodes.Node] = [_verdict(rows[id], link_to) for id in item.claims]
    return [
        says,
        [nodes.paragraph("", "", place) for place in places],
        [nodes.paragraph("", "", verdict) for verdict in verdicts],
    ]


def _number(item: Item, link_item: LinkItem) -> nodes.paragraph:
    """The number, which leads to where it is written out."""
    number = nodes.Text(shown(item.number))
    if item.label:
        return nodes.paragraph("", "", nodes.reference("", "", number, refuri=link_item(item)))
    return nodes.paragraph("", "", number)


def _verdict(row: Row, link_to: LinkTo) -> nodes.inline:
    """The badge of a claim and its id."""
    badge = badge_node(row, link_to(row))
    return nodes.inline("", "", badge, nodes.Text(" "), nodes.literal("", row.claim.id))
