"""The entries of data/claims.yml and their validation: one clear sentence per mistake.

`data/scales.yml` beside it says of each notebook on what its verdicts were reached.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from erdpaper.claims.reading import read_yaml

COMPARATORS = ("at_most", "at_least", "between")
DOCUMENTS = {"paper": "Paper", "thesis": "Thesis", "book": "Book"}

_REQUIRED = (
    "id",
    "document",
    "number",
    "statement",
    "notebook",
    "cases",
    "comparator",
    "threshold",
)
_OPTIONAL = ("measure", "published", "noise", "note", "scale")
_ID = re.compile(r"[a-z0-9]+([.-][a-z0-9]+)*")
_NOTEBOOK = re.compile(r"[A-Za-z0-9_]+")
# so that it adds a line or two to a row of the ledger
_SCALE_LENGTH = 90


class ClaimError(ValueError):
    """A claim is badly stated or badly recorded; the message is one sentence that names it."""


@dataclass(frozen=True)
class Claim:
    """One claim, as stated before its result.

    threshold: a number, or (low, high) for the comparator `between`, ends included.
    cases: what is measured separately; a claim with one case takes a bare number.
    measure: which number is measured, with its unit.  published: what the document prints.
    noise: magnitude below which a value is rounding error and shown as "< noise", 1e-9 if absent.
    note: what a reader of the verdict should know.  statement and note may hold $math$.
    scale: on what the verdict is reached (data, networks, seeds), the notebook's if not its own.
    """

    id: str
    document: str
    number: str
    statement: str
    notebook: str
    cases: tuple[str, ...]
    comparator: str
    threshold: float | tuple[float, float]
    scale: str
    measure: str | None = None
    published: str | float | None = None
    noise: float | None = None
    note: str | None = None

    @property
    def anchor(self) -> str:
        """The HTML id of the claim's verdict on its notebook's page."""
        return "claim-" + self.id.replace(".", "-")

    @property
    def source(self) -> str:
        """Document and number, as in "Paper, Lemma 3.2"."""
        return f"{DOCUMENTS[self.document]}, {self.number}"


def load(data_dir: Path) -> dict[str, Claim]:
    """Read and validate `claims.yml` of a data folder; id -> Claim in the file's order.

    Raises ClaimError, one sentence naming the entry, for a file or entry that is not valid, and
    for a `scales.yml` that does not say of every notebook with claims, and no other, its scale.
    """
    path = data_dir / "claims.yml"
    entries = read_yaml(path, "it states the claims", ClaimError)
    if not isinstance(entries, list):
        raise ClaimError(f"{path} must be a list of claims")
    scales = _scales(data_dir / "scales.yml")
    claims: dict[str, Claim] = {}
    anchors: dict[str, str] = {}
    for position, entry in enumerate(entries, start=1):
        claim = _claim(entry, position, scales)
        if claim.id in claims:
            raise ClaimError(f"claim {claim.id!r} is listed twice in claims.yml")
        if claim.anchor in anchors:
            raise ClaimError(f"claims {anchors[claim.anchor]!r} and {claim.id!r} share an anchor")
        claims[claim.id] = claim
        anchors[claim.anchor] = claim.id
    stated = {claim.notebook for claim in claims.values()}
    for notebook in scales:
        if notebook not in stated:
            raise ClaimError(f"scales.yml names {notebook!r}, of which claims.yml has no claim")
    return claims


def _scales(path: Path) -> dict[str, str]:
    """Notebook -> the scale of its verdicts."""
    content = read_yaml(path, "it gives the scale of each notebook's verdicts", ClaimError)
    if not isinstance(content, dict):
        raise ClaimError(f"{path} must map each notebook to the scale of its verdicts")
    return {notebook: _scale(f"notebook {notebook!r}", text) for notebook, text in content.items()}


def _scale(name: str, value: object) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ClaimError(f"{name}: scale must be a text that is not empty, not {value!r}")
    text = " ".join(value.split())
    if len(text) > _SCALE_LENGTH:
        raise ClaimError(f"{name}: scale has {len(text)} characters, at most {_SCALE_LENGTH} fit")
    return text


def _claim(entry: object, position: int, scales: Mapping[str, str]) -> Claim:
    """One validated entry; errors name it by its id, or by its position where it has none."""
    if not isinstance(entry, Mapping):
        raise ClaimError(f"entry {position} of claims.yml must be a mapping of keys to values")
    name = f"claim {entry['id']!r}" if "id" in entry else f"entry {position} of claims.yml"
    for key in _REQUIRED:
        if key not in entry:
            raise ClaimError(f"{name} has no {key}")
    for key in entry:
        if key not in _REQUIRED + _OPTIONAL:
            raise ClaimError(f"{name} has the unknown key {key!r}")
    _check_texts(name, entry)
    if entry["notebook"] not in scales:
        raise ClaimError(f"{name}: scales.yml has no scale of the notebook {entry['notebook']!r}")
    return Claim(
        id=entry["id"],
        document=entry["document"],
        number=entry["number"],
        statement=" ".join(entry["statement"].split()),
        notebook=entry["notebook"],
        cases=_cases(name, entry["cases"]),
        comparator=entry["comparator"],
        threshold=_threshold(name, entry["comparator"], entry["threshold"]),
        scale=_scale(name, entry.get("scale", scales[entry["notebook"]])),
        measure=entry.get("measure"),
        published=_published(name, entry.get("published")),
        noise=_noise(name, entry.get("noise")),
        note=" ".join(entry["note"].split()) if "note" in entry else None,
    )


def _check_texts(name: str, entry: Mapping[str, Any]) -> None:
    texts = ["id", "document", "number", "statement", "notebook", "comparator"]
    texts += [key for key in ("measure", "note") if key in entry]
    for key in texts:
        if not isinstance(entry[key], str) or not entry[key].strip():
            raise ClaimError(f"{name}: {key} must be a text that is not empty, not {entry[key]!r}")
    if not _ID.fullmatch(entry["id"]):
        raise ClaimError(f"{name}: an id is lower-case letters and digits joined by dots or dashes")
    if not _NOTEBOOK.fullmatch(entry["notebook"]):
        raise ClaimError(f"{name}: notebook must be a bare name, not {entry['notebook']!r}")
    if entry["document"] not in DOCUMENTS:
        known = ", ".join(DOCUMENTS)
        raise ClaimError(f"{name}: document must be one of {known}, not {entry['document']!r}")
    if entry["comparator"] not in COMPARATORS:
        known = ", ".join(COMPARATORS)
        raise ClaimError(f"{name}: comparator must be one of {known}, not {entry['comparator']!r}")


def _cases(name: str, cases: object) -> tuple[str, ...]:
    if not isinstance(cases, list) or not cases:
        raise ClaimError(f"{name}: cases must be a list with at least one case")
    for case in cases:
        if not isinstance(case, str) or not case.strip():
            raise ClaimError(f"{name}: each case must be a text that is not empty, not {case!r}")
    if len(set(cases)) < len(cases):
        raise ClaimError(f"{name}: a case is listed twice")
    return tuple(cases)


def _threshold(name: str, comparator: str, value: object) -> float | tuple[float, float]:
    if comparator != "between":
        return _finite(name, "the threshold", value)
    if not isinstance(value, list) or len(value) != 2:
        raise ClaimError(f"{name}: the threshold of between must be [low, high], not {value!r}")
    low, high = (_finite(name, "the threshold", end) for end in value)
    if low >= high:
        raise ClaimError(f"{name}: the threshold [{low:g}, {high:g}] must have low below high")
    return low, high


def _noise(name: str, value: object) -> float | None:
    if value is None:
        return None
    number = _finite(name, "noise", value)
    if number <= 0:
        raise ClaimError(f"{name}: noise must be above 0, not {value!r}")
    return number


def _finite(name: str, what: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        # YAML 1.1 reads 1e-3 as text: a float needs its point
        hint = " (YAML needs a point, as in 1.0e-3)" if isinstance(value, str) else ""
        raise ClaimError(f"{name}: {what} must be a finite number, not {value!r}{hint}")
    return float(value)


def _published(name: str, value: object) -> str | float | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ClaimError(f"{name}: published must be a number or a text, not {value!r}")
    return value
