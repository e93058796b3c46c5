"""Where the book treats each numbered item of the two documents: data/coverage.yml, validated.

The file has a section for each document with a list for each kind.  A row holds `number` (one,
several, or ranges such as "2.17-2.19"), `says`, `where` (one notebook or several; `schematic` for a
drawing that makes no claim, with the notebook that shows it if there is one), and if they apply
`claims` that judge the item, `section` (a heading of its first notebook), `label` (that of the
equation or statement in its first notebook) and a `note`.
"""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from erdpaper.claims import entries
from erdpaper.claims.entries import Claim
from erdpaper.claims.reading import read_yaml

DOCUMENTS = ("paper", "thesis")
KINDS = ("equation", "statement", "figure", "table")
SCHEMATIC = "schematic"

JUDGED = "judged"
TREATED = "treated"

_KEYS = {"number", "says", "where", "claims", "section", "label", "note"}
_RANGE = re.compile(r"((?:\w+\.)*)(\d+)-\1(\d+)")
_COUNTED = re.compile(r"(?:[A-Z][a-z]+ )?((?:\w+\.)*)(\d+)")


class CoverageError(ValueError):
    """A row of coverage.yml is not valid; the message is one sentence that names it."""


@dataclass(frozen=True)
class Item:
    """One row: an item of a document, or neighbours that belong together.

    number: as written; numbers: each of them.  says: the content in our words, may hold $math$.
    chapters: its notebooks.  schematic: a drawing that makes no claim.  claims: ids that judge it.
    section: a heading of the first chapter.  label: where that chapter writes the item out.
    """

    document: str
    kind: str
    number: str
    numbers: tuple[str, ...]
    says: str
    chapters: tuple[str, ...] = ()
    schematic: bool = False
    claims: tuple[str, ...] = ()
    section: str | None = None
    label: str | None = None
    note: str | None = None

    def status(self, recorded: Collection[str]) -> str:
        """`judged`, `treated` or `schematic`, given the ids that have a verdict."""
        if self.schematic:
            return SCHEMATIC
        return JUDGED if any(id in recorded for id in self.claims) else TREATED


def load(data_dir: Path, chapters: Collection[str]) -> list[Item]:
    """Read and validate `coverage.yml` of a data folder, in the file's order.

    chapters: the names of the notebooks that exist.  Raises CoverageError, one sentence naming the
    row, for a row that is not valid, names an unknown notebook or claim, or repeats a number, and
    for a gap in a document's numbering; ClaimError if claims.yml is not valid.
    """
    path = data_dir / "coverage.yml"
    content = read_yaml(path, "it lists the documents' items", CoverageError)
    if not isinstance(content, dict):
        raise CoverageError(f"{path} must be a mapping of documents to their kinds")
    known = _Known(chapters, entries.load(data_dir))
    items = [_item(*where, row, known) for where, row in _rows(content)]
    _check_numbers(items)
    return items


def counts(items: Iterable[Item], recorded: Collection[str]) -> dict[str, int]:
    """Status -> how many numbered items have it; recorded: ids of the claims with a verdict."""
    tally = dict.fromkeys((JUDGED, TREATED, SCHEMATIC), 0)
    for item in items:
        tally[item.status(recorded)] += len(item.numbers)
    return tally


def equation_numbers(items: Iterable[Item]) -> dict[str, str]:
    """Label of an equation -> the documents' numbers for it, such as "P 4, 46"."""
    found: dict[str, dict[str, list[str]]] = {}
    for item in items:
        if item.kind == "equation" and item.label:
            letter = item.document[0].upper()
            found.setdefault(item.label, {}).setdefault(letter, []).append(shown(item.number))
    return {
        label: ", ".join(
            f"{letter} {', '.join(numbers)}" for letter, numbers in by_document.items()
        )
        for label, by_document in found.items()
    }


def shown(number: str) -> str:
    """A number or a range of them as a reader sees it."""
    return number.replace("-", "–")


def expand(number: str) -> tuple[str, ...]:
    """The single numbers of a text such as "2, 14-17" or "A.1.1-A.1.3"."""
    found: list[str] = []
    for part in number.split(", "):
        match = _RANGE.fullmatch(part)
        if match is None:
            found.append(part)
            continue
        stem, first, last = match[1], int(match[2]), int(match[3])
        if first >= last:
            raise CoverageError(f"the range {part!r} does not ascend")
        found += [f"{stem}{n}" for n in range(first, last + 1)]
    return tuple(found)


@dataclass(frozen=True)
class _Known:
    chapters: Collection[str]
    claims: Mapping[str, Claim]


def _rows(content: Mapping[str, Any]) -> Iterator[tuple[tuple[str, str], object]]:
    for document, kinds in content.items():
        if document not in DOCUMENTS or not isinstance(kinds, Mapping):
            raise CoverageError(f"coverage.yml: {document!r} is not a document with its kinds")
        for kind, rows in kinds.items():
            if kind not in KINDS or not isinstance(rows, list):
                raise CoverageError(f"coverage.yml: {document} has no kind {kind!r} with a list")
            yield from (((document, kind), row) for row in rows)


def _item(document: str, kind: str, row: object, known: _Known) -> Item:
    """One validated row."""
    if not isinstance(row, Mapping) or not isinstance(row.get("number"), int | str):
        # YAML reads 2.10 as a number and loses its 0
        raise CoverageError(f"{document}: a row of kind {kind} has no number, or needs it quoted")
    name = f"{document} {kind} {row['number']}"
    for key in row:
        if key not in _KEYS:
            raise CoverageError(f"{name} has the unknown key {key!r}")
    optional = ("section", "label", "note")
    texts = {"says": row.get("says")} | {key: row[key] for key in optional if key in row}
    for key, text in texts.items():
        if not isinstance(text, str) or not text.strip():
            raise CoverageError(f"{name}: {key} must be a text that is not empty, not {text!r}")
    claims, places = _list(row.get("claims")), _list(row.get("where"))
    _check_places(name, places, claims, known)
    return Item(
        document,
        kind,
        number=str(row["number"]),
        numbers=expand(str(row["number"])),
        says=row["says"],
        chapters=tuple(place for place in places if place != SCHEMATIC),
        schematic=SCHEMATIC in places,
        claims=tuple(claims),
        section=row.get("section"),
        label=row.get("label"),
        note=row.get("note"),
    )


def _list(value: object) -> list[str]:
    if value is None:
        return []
    return [str(one) for one in value] if isinstance(value, list) else [str(value)]


def _check_places(name: str, places: Sequence[str], claims: Sequence[str], known: _Known) -> None:
    if not places:
        raise CoverageError(f"{name} points nowhere: `where` must name a notebook or {SCHEMATIC}")
    if SCHEMATIC in places and claims:
        raise CoverageError(f"{name} is {SCHEMATIC} and so has no claim that judges it")
    for place in places:
        if place not in (SCHEMATIC, *known.chapters):
            raise CoverageError(f"{name} names the unknown notebook {place!r}")
    for id in claims:
        if id not in known.claims:
            raise CoverageError(f"{name} names the unknown claim {id!r}")
        if known.claims[id].notebook not in places:
            raise CoverageError(f"{name}: `where` lacks the notebook of claim {id!r}")


def _check_numbers(items: Sequence[Item]) -> None:
    """No number twice, and none left out below the last of each chapter's count."""
    seen: dict[tuple[str, str, str], set[int]] = {}
    for item in items:
        for number in item.numbers:
            match = _COUNTED.fullmatch(number)
            if match is None:
                raise CoverageError(f"{item.document} {item.kind} {number!r} is not a number")
            series = seen.setdefault((item.document, item.kind, match[1]), set())
            if int(match[2]) in series:
                raise CoverageError(f"{item.document} {item.kind} {number} is listed twice")
            series.add(int(match[2]))
    for (document, kind, stem), series in seen.items():
        missing = set(range(1, max(series))) - series
        if missing:
            raise CoverageError(f"{document} {kind} {stem}{min(missing)} is missing")
