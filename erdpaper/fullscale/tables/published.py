"""The paper's tables as printed: data/published/table_N.csv with N from 1 to 9.

Numbers are `Decimal`, so that a cell keeps the digits it was printed with: 1.500 is 1.500, and two
cells are compared at the precision of the coarser one.
"""

import csv
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from functools import cache

from erdpaper import datasets
from erdpaper.datasets import DatasetError

METRICS = ("fid", "sfid", "is", "precision", "recall")
IMAGENET = 1_281_167  # training images, one epoch
NOT_GIVEN = "-"

_TABLES = range(1, 10)
_THOUSANDS = {"K": 1_000, "M": 1_000_000}


@dataclass(frozen=True)
class Row:
    """One printed row.

    cells: column -> text as printed, "" for what cannot be read, "-" for what is not given.
    restored: columns in which the scan had lost a decimal point or mistaken a character.
    """

    cells: dict[str, str]
    restored: tuple[str, ...] = ()

    def __getitem__(self, column: str) -> str:
        """The text of a cell."""
        return self.cells[column]

    def number(self, column: str) -> Decimal | None:
        """The number of a cell, 400K as 400000; None where none is given or legible."""
        text = self.cells[column].replace(",", "")
        if text in ("", NOT_GIVEN):
            return None
        try:
            return Decimal(text.rstrip("KM")) * _THOUSANDS.get(text[-1], 1)
        except InvalidOperation:
            raise ValueError(f"column {column!r} prints {text!r}, which is no number") from None

    def value(self, column: str) -> float:
        """The number of a cell that has one; ValueError otherwise."""
        number = self.number(column)
        if number is None:
            raise ValueError(f"no number is printed in column {column!r} of {self.cells}")
        return float(number)


@cache
def table(number: int) -> tuple[Row, ...]:
    """The rows of one of the Tables 1 to 9, in the order of the paper.

    Raises ValueError for another number, DatasetError where the file is missing or damaged.
    """
    if number not in _TABLES:
        raise ValueError(f"the paper has Tables 1 to 9, not {number!r}")
    return _rows(f"table_{number}.csv")


def figures() -> tuple[Row, ...]:
    """Figures 14 to 37: `figure`, `label` and `name` of the class, guidance scale `w`."""
    return _rows("figures.csv")


def _rows(name: str) -> tuple[Row, ...]:
    path = datasets.data_dir() / "published" / name
    try:
        with path.open(encoding="utf-8", newline="") as file:
            lines = list(csv.DictReader(file, strict=True))
    except FileNotFoundError:
        raise DatasetError(
            f"{path} is missing; get it back with `git checkout -- data/published`"
        ) from None
    if not lines or any(None in line or None in line.values() for line in lines):
        raise DatasetError(f"{path} is damaged; its rows do not all have the columns of its header")
    restored = [tuple(line.pop("restored", "").split()) for line in lines]
    return tuple(map(Row, lines, restored))


def select(number: int, **cells: str) -> tuple[Row, ...]:
    """The rows of a table whose cells are these texts, as in select(8, model="Ours")."""
    return tuple(
        row for row in table(number) if all(row[column] == text for column, text in cells.items())
    )


def one(number: int, **cells: str) -> Row:
    """The only row with these cells; LookupError if there is none or several."""
    found = select(number, **cells)
    if len(found) != 1:
        raise LookupError(f"Table {number} has {len(found)} rows with {cells}, not one")
    return found[0]


def agree(a: Decimal, b: Decimal) -> bool:
    """Whether two printed numbers are one number, each rounded to the digits it is printed with."""
    halves = [Decimal((0, (5,), int(number.as_tuple().exponent) - 1)) for number in (a, b)]
    return abs(a - b) <= sum(halves)


def disagreements(pairs: list[tuple[Row, Row]], columns: tuple[str, ...]) -> list[str]:
    """The cells in which the rows of a pair print different numbers, in words."""
    found = []
    for first, second in pairs:
        for column in columns:
            a, b = first.number(column), second.number(column)
            if a is not None and b is not None and not agree(a, b):
                found.append(f"{column} {a} and {b}")
    return found
