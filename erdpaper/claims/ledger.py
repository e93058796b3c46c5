"""The ledger: every claim of claims.yml beside what each profile's run measured for it."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from erdpaper.claims.entries import Claim, ClaimError, load
from erdpaper.claims.numbers import criterion, measured, spreads
from erdpaper.claims.verdicts import NOT_RUN, SYMBOLS, Verdict

# smoke runs record nothing
RECORDED_PROFILES = ("cpu", "gpu", "full")


@dataclass(frozen=True)
class Row:
    """One claim in one profile; profile and verdict are None for a claim without any record."""

    claim: Claim
    profile: str | None = None
    verdict: Verdict | None = None
    seed: int | None = None
    device: str | None = None
    parameters: dict[str, Any] | None = None

    @property
    def verdict_name(self) -> str:
        """The verdict in words, `not run here` without a record."""
        return self.verdict.name if self.verdict else NOT_RUN


def rows(data_dir: Path) -> list[Row]:
    """All claims in the order of claims.yml, one row for each profile that has a record.

    Verdicts are computed again from the recorded values, so that nobody can type one.
    Raises ClaimError for a claims.yml or record that is not valid, for a record of a claim that
    is not listed, and for a record whose verdict is no longer that of claims.yml.
    """
    claims = load(data_dir)
    found: dict[tuple[str, str], Row] = {}
    for profile in RECORDED_PROFILES:
        for path in sorted((data_dir / "results" / "claims" / profile).glob("*.json")):
            for row in _read(path, profile, claims):
                found[row.claim.id, profile] = row
    result: list[Row] = []
    for claim in claims.values():
        recorded = [found[claim.id, p] for p in RECORDED_PROFILES if (claim.id, p) in found]
        result += recorded or [Row(claim)]
    return result


def _read(path: Path, profile: str, claims: dict[str, Claim]) -> list[Row]:
    """The rows of one record file, checked against the claims."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if (content["notebook"], content["profile"]) != (path.stem, profile):
            raise ClaimError(f"{path} is the record of another notebook or profile")
        run = {key: content[key] for key in ("seed", "device", "parameters")}
        recorded = dict(content["claims"])
        return [
            Row(verdict.claim, profile, verdict, **run)
            for verdict in (_verdict(path, id, recorded[id], claims) for id in recorded)
        ]
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ClaimError(
            f"{path} is not a claims record ({type(error).__name__}: {error})"
        ) from None


def _verdict(path: Path, id: str, entry: dict[str, Any], claims: dict[str, Claim]) -> Verdict:
    if id not in claims or claims[id].notebook != path.stem:
        raise ClaimError(f"{path} records {id!r}, which claims.yml does not list for this notebook")
    claim = claims[id]
    verdict = Verdict(claim, measured(claim, entry["values"]), spreads(claim, entry["spread"]))
    if (verdict.name, verdict.passed) != (entry["verdict"], entry["passed"]):
        raise ClaimError(
            f"{path} gives {id!r} a verdict that claims.yml does not; "
            "run the notebook again at this profile or delete the file"
        )
    return verdict


def counts(rows: Sequence[Row]) -> dict[str, int]:
    """Verdict -> number of claims, each claim counted once, by its first profile (cpu first)."""
    first: dict[str, str] = {}
    for row in rows:
        first.setdefault(row.claim.id, row.verdict_name)
    tally = Counter(first.values())
    return {name: tally[name] for name in SYMBOLS}


def as_json(rows: Sequence[Row]) -> str:
    """The machine-readable copy: counts by verdict, then one object per row."""
    content = {"counts": counts(rows), "rows": [_as_dict(row) for row in rows]}
    return json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":")) + "\n"


def _as_dict(row: Row) -> dict[str, Any]:
    claim, verdict = row.claim, row.verdict
    return {
        "id": claim.id,
        "document": claim.document,
        "number": claim.number,
        "statement": claim.statement,
        "note": claim.note,
        "notebook": claim.notebook,
        "anchor": claim.anchor,
        "cases": list(claim.cases),
        "comparator": claim.comparator,
        "threshold": claim.threshold,
        "measure": claim.measure,
        "published": claim.published,
        "noise": claim.noise,
        "scale": claim.scale,
        "profile": row.profile,
        "verdict": row.verdict_name,
        "worst": verdict.worst if verdict else None,
        "values": verdict.values if verdict else None,
        "spread": verdict.spread if verdict else None,
        "passed": verdict.passed if verdict else None,
        "seed": row.seed,
        "device": row.device,
        "parameters": row.parameters,
    }


def worst_text(row: Row) -> str:
    """The measured value of the worst case, with its spread; empty without a record."""
    return row.verdict.measured(row.verdict.worst) if row.verdict else ""


def passed_text(row: Row) -> str:
    """How many cases pass, as in "3 of 4 cases"; empty without a record."""
    if row.verdict is None:
        return ""
    results = row.verdict.passed.values()
    noun = "case" if len(results) == 1 else "cases"
    return f"{sum(results)} of {len(results)} {noun}"


def as_text(rows: Sequence[Row]) -> str:
    """A plain table for the terminal: id, profile, verdict, worst value, cases, rule, scale."""
    header = ("claim", "profile", "verdict", "worst value", "passed", "required", "scale")
    table = [header] + [
        (
            row.claim.id,
            row.profile or "",
            f"{SYMBOLS[row.verdict_name]} {row.verdict_name}",
            worst_text(row),
            passed_text(row),
            criterion(row.claim),
            row.claim.scale,
        )
        for row in rows
    ]
    widths = [max(len(line[column]) for line in table) for column in range(len(header))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in table
    ]
    total = ", ".join(f"{number} {name}" for name, number in counts(rows).items() if number)
    return "\n".join([*lines, "", f"{sum(counts(rows).values())} claims: {total or 'none'}"])
