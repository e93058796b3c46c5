"""Tables of the paper as a notebook shows them: every cell as printed, and how it was read."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from erdpaper.fullscale.tables.published import Row, table

UNREAD, RESTORED = "?", "†"
_BOX = (
    '<div class="ledger-scroll" role="region" tabindex="0" aria-label="{}, scrolls sideways">'
    '<table class="table"><thead><tr>{}</tr></thead><tbody>{}</tbody></table></div>'
)


@dataclass(frozen=True)
class Printed:
    """Rows under a heading; a cell that could not be read is ?, one that was mended has a †."""

    heading: str
    rows: tuple[Row, ...]

    @property
    def lines(self) -> list[list[str]]:
        """The header and the cells, as text."""
        columns = list(self.rows[0].cells)
        return [columns, *([_shown(row, column) for column in columns] for row in self.rows)]

    def __repr__(self) -> str:
        """Aligned columns."""
        widths = [max(map(len, column)) for column in zip(*self.lines, strict=True)]
        return "\n".join([self.heading, *(_aligned(line, widths) for line in self.lines)])

    def _repr_html_(self) -> str:
        """A table in a box that scrolls."""
        header, *body = self.lines
        head = "".join(f"<th>{escape(name)}</th>" for name in header)
        rows = ("".join(f"<td>{escape(cell)}</td>" for cell in line) for line in body)
        shown = _BOX.format(escape(self.heading), head, "".join(f"<tr>{row}</tr>" for row in rows))
        return f"<p><strong>{escape(self.heading)}</strong></p>{shown}"


def printed(number: int, title: str) -> Printed:
    """Table `number` of the paper under its number and a title of ours."""
    return Printed(f"Table {number} as published: {title}", table(number))


def _shown(row: Row, column: str) -> str:
    text = row[column] or UNREAD
    return text + RESTORED if column in row.restored else text


def _aligned(cells: Sequence[str], widths: Sequence[int]) -> str:
    padded = (cell.ljust(width) for cell, width in zip(cells, widths, strict=True))
    return "  ".join(padded).rstrip()
