"""The ledger: rows, counts, its copies, and records it does not believe."""

import json
import re
from pathlib import Path

import pytest
from claim_examples import ENTRY, INTERVAL, SINGLE, data_folder, open_02, refusal, write_claims

from erdpaper import claims
from erdpaper.claims import ledger


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return data_folder(tmp_path / "data", monkeypatch)


def fill(data: Path) -> None:
    open_02()
    claims.record("02.floor", {"linear": 0.01, "vp": 0.2, "gvp": 0.05})
    open_02("gpu", steps=3)
    claims.record(
        "02.floor", {"linear": 0.01, "vp": 0.02, "gvp": 0.05}, dict.fromkeys(ENTRY["cases"], 0.001)
    )
    claims.record("02.single", 5)


def test_ledger_has_a_row_for_each_claim_and_profile(data: Path) -> None:
    fill(data)
    rows = ledger.rows(data)
    assert [(row.claim.id, row.profile, row.verdict_name) for row in rows] == [
        ("02.floor", "cpu", "holds in part"),
        ("02.floor", "gpu", "holds"),
        ("02.single", "gpu", "does not hold"),
        ("05.range", None, "not run here"),
    ]
    assert ledger.counts(rows) == {
        "holds": 0,
        "holds in part": 1,
        "does not hold": 1,
        "not run here": 1,
    }
    assert rows[1].parameters == {"steps": 3} and rows[0].seed == 0


def test_ledger_without_any_record(data: Path) -> None:
    assert [row.verdict_name for row in ledger.rows(data)] == ["not run here"] * 3


def test_ledger_as_json(data: Path) -> None:
    fill(data)
    content = json.loads(ledger.as_json(ledger.rows(data)))
    assert content["counts"]["holds in part"] == 1 and len(content["rows"]) == 4
    first, last = content["rows"][0], content["rows"][-1]
    assert first["worst"] == "vp" and first["values"]["vp"] == 0.2
    assert first["anchor"] == "claim-02-floor" and first["threshold"] == 0.1
    assert last["profile"] is None and last["values"] is None and last["threshold"] == [-1, 2]
    assert content["rows"][2]["published"] == 3
    assert [row["scale"] for row in content["rows"]] == [
        *["four points, one seed"] * 3,
        "formulas; no network",
    ]


def test_notes_are_in_the_machine_readable_copy(data: Path) -> None:
    write_claims(data, [{**ENTRY, "note": "Said of $t$\n  only."}, SINGLE])
    content = json.loads(ledger.as_json(ledger.rows(data)))
    assert [row["note"] for row in content["rows"]] == ["Said of $t$ only.", None]


def test_ledger_as_text(data: Path) -> None:
    fill(data)
    lines = ledger.as_text(ledger.rows(data)).splitlines()
    assert re.split(r"  +", lines[0]) == [
        *("claim", "profile", "verdict", "worst value", "passed", "required", "scale")
    ]
    assert lines[1].split("  ")[0] == "02.floor"
    assert "◐ holds in part" in lines[1] and "0.2" in lines[1] and "2 of 3 cases" in lines[1]
    assert "0.05 ± 0.001" in lines[2] and "1 case" not in lines[2]
    assert "○ not run here" in lines[4] and "between -1 and 2" in lines[4]
    assert lines[1].endswith("  four points, one seed")
    assert lines[4].endswith("  formulas; no network")
    assert lines[-1] == "3 claims: 1 holds in part, 1 does not hold, 1 not run here"


def test_ledger_refuses_typed_verdicts_and_stale_records(data: Path) -> None:
    fill(data)
    path = data / "results" / "claims" / "cpu" / "02_elbo.json"
    good = path.read_text()
    path.write_text(good.replace('"holds in part"', '"holds"'))
    assert "a verdict that claims.yml does not" in refusal(lambda: ledger.rows(data))
    path.write_text(good.replace('"vp": false', '"vp": true'))
    assert "run the notebook again" in refusal(lambda: ledger.rows(data))
    path.write_text(good)
    write_claims(data, [{**ENTRY, "threshold": 0.3}, SINGLE, INTERVAL])
    assert "run the notebook again" in refusal(lambda: ledger.rows(data))
    write_claims(data, [{**ENTRY, "cases": ["linear", "vp"]}, SINGLE, INTERVAL])
    assert "unknown gvp" in refusal(lambda: ledger.rows(data))
    write_claims(data, [SINGLE, INTERVAL])
    assert "records '02.floor', which claims.yml does not list" in refusal(
        lambda: ledger.rows(data)
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{", "is not a claims record (JSONDecodeError"),
        ("[]", "is not a claims record (TypeError"),
        ("{}", "is not a claims record (KeyError: 'notebook')"),
        ('{"notebook": "x", "profile": "cpu"}', "record of another notebook or profile"),
    ],
)
def test_ledger_refuses_damaged_records(data: Path, text: str, expected: str) -> None:
    fill(data)
    (data / "results" / "claims" / "cpu" / "02_elbo.json").write_text(text)
    assert expected in refusal(lambda: ledger.rows(data))


def test_empty_ledger_counts_every_verdict() -> None:
    assert list(ledger.counts([])) == ["holds", "holds in part", "does not hold", "not run here"]
    assert ledger.as_text([]).endswith("0 claims: none")
