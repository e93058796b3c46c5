"""Entries of claims.yml and their validation, one sentence per mistake."""

import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from claim_examples import (
    ENTRY,
    INTERVAL,
    SCALES,
    SINGLE,
    claim,
    data_folder,
    refusal,
    write_claims,
    write_scales,
)

from erdpaper import claims

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return data_folder(tmp_path / "data", monkeypatch)


def test_entries_load_in_order(data: Path) -> None:
    loaded = claims.load(data)
    assert list(loaded) == ["02.floor", "02.single", "05.range"]
    floor = loaded["02.floor"]
    assert floor == claim() and floor.anchor == "claim-02-floor"
    assert floor.source == "Paper, Lemma 3.2, C.1"
    assert loaded["05.range"].threshold == (-1.0, 2.0) and loaded["02.single"].published == 3


BAD_ENTRIES: dict[str, tuple[dict[str, Any], str]] = {
    "unknown key": ({"verdict": "holds"}, "claim '02.floor' has the unknown key 'verdict'"),
    "comparator": ({"comparator": "less"}, "comparator must be one of at_most, at_least, between"),
    "document": ({"document": "blog"}, "document must be one of paper, thesis, book, not 'blog'"),
    "infinite": ({"threshold": math.inf}, "threshold must be a finite number, not inf"),
    "nan": ({"threshold": math.nan}, "threshold must be a finite number, not nan"),
    "text": ({"threshold": "1e-3"}, "not '1e-3' (YAML needs a point, as in 1.0e-3)"),
    "flag": ({"threshold": True}, "threshold must be a finite number, not True"),
    "pair": ({"threshold": [0, 1]}, "threshold must be a finite number, not [0, 1]"),
    "no pair": ({"comparator": "between"}, "threshold of between must be [low, high], not 0.1"),
    "three": (
        {"comparator": "between", "threshold": [0, 1, 2]},
        "threshold of between must be [low, high]",
    ),
    "order": ({"comparator": "between", "threshold": [1, 1]}, "[1, 1] must have low below high"),
    "no cases": ({"cases": []}, "cases must be a list with at least one case"),
    "one text": ({"cases": "linear"}, "cases must be a list with at least one case"),
    "empty case": ({"cases": ["a", " "]}, "each case must be a text that is not empty, not ' '"),
    "number case": ({"cases": [1]}, "each case must be a text that is not empty, not 1"),
    "twice": ({"cases": ["a", "a"]}, "a case is listed twice"),
    "statement": ({"statement": ""}, "statement must be a text that is not empty"),
    "number": ({"number": 3.2}, "number must be a text that is not empty, not 3.2"),
    "measure": ({"measure": None}, "measure must be a text that is not empty, not None"),
    "note": ({"note": " "}, "note must be a text that is not empty, not ' '"),
    "published": ({"published": [1]}, "published must be a number or a text, not [1]"),
    "noise": ({"noise": 0}, "noise must be above 0, not 0"),
    "noise text": ({"noise": "1e-5"}, "noise must be a finite number, not '1e-5'"),
    "notebook": ({"notebook": "../02"}, "notebook must be a bare name, not '../02'"),
    "id": ({"id": "02 Floor"}, "an id is lower-case letters and digits"),
}


@pytest.mark.parametrize("case", BAD_ENTRIES)
def test_bad_entries_are_named_in_one_sentence(data: Path, case: str) -> None:
    changes, expected = BAD_ENTRIES[case]
    write_claims(data, [SINGLE, {**ENTRY, **changes}])
    message = refusal(lambda: claims.load(data))
    assert expected in message and repr(changes.get("id", "02.floor")) in message


# ---------------------------------------------------------------- scales


def test_a_claim_has_the_scale_of_its_notebook_or_its_own(data: Path) -> None:
    own = {**SINGLE, "scale": "a table as it is\n  printed"}
    write_claims(data, [ENTRY, own, INTERVAL])
    assert {id: claim.scale for id, claim in claims.load(data).items()} == {
        "02.floor": "four points, one seed",
        "02.single": "a table as it is printed",
        "05.range": "formulas; no network",
    }


def test_a_scale_is_given_for_each_notebook_with_claims_and_no_other(data: Path) -> None:
    write_scales(data, {"02_elbo": "four points"})
    assert refusal(lambda: claims.load(data)) == (
        "claim '05.range': scales.yml has no scale of the notebook '05_erd'"
    )
    write_scales(data, {**SCALES, "03_ntk": "four points"})
    assert refusal(lambda: claims.load(data)) == (
        "scales.yml names '03_ntk', of which claims.yml has no claim"
    )


@pytest.mark.parametrize(
    ("scale", "expected"),
    [
        (None, "scale must be a text that is not empty, not None"),
        (" ", "scale must be a text that is not empty, not ' '"),
        (64, "scale must be a text that is not empty, not 64"),
        ("x" * 91, "scale has 91 characters, at most 90 fit"),
    ],
)
def test_bad_scales_are_named_in_one_sentence(data: Path, scale: object, expected: str) -> None:
    write_scales(data, {**SCALES, "02_elbo": scale})
    assert refusal(lambda: claims.load(data)) == f"notebook '02_elbo': {expected}"
    write_claims(data, [ENTRY, {**SINGLE, "scale": scale}, INTERVAL])
    assert refusal(lambda: claims.load(data)) == f"claim '02.single': {expected}"


def test_files_that_are_no_scales(data: Path) -> None:
    path = data / "scales.yml"
    for text, expected in [
        ("- 02_elbo", "must map each notebook to the scale of its verdicts"),
        ("02_elbo: a\n02_elbo: b", "repeated key '02_elbo'"),
    ]:
        path.write_text(text)
        assert expected in refusal(lambda: claims.load(data))
    path.unlink()
    assert refusal(lambda: claims.load(data)) == (
        f"{path} is missing; it gives the scale of each notebook's verdicts"
    )


def test_every_notebook_of_the_book_has_a_scale() -> None:
    found = yaml.safe_load((ROOT / "data" / "scales.yml").read_text(encoding="utf-8"))
    assert found.keys() == {path.stem for path in (ROOT / "notebooks").glob("*.md")}
    listed = claims.load(ROOT / "data")
    # what is about printed numbers or waits for a lab does not read like a measurement of ours
    assert "printed tables" in listed["08.fid-without-guidance"].scale
    assert "waits for a lab" in listed["08.run-weights"].scale
    assert "no FID" in listed["07.erd-lowest"].scale


# ---------------------------------------------------------------- entries that are refused


@pytest.mark.parametrize("key", ENTRY)
def test_missing_keys(data: Path, key: str) -> None:
    write_claims(data, [SINGLE, {k: v for k, v in ENTRY.items() if k != key}])
    name = "entry 2 of claims.yml" if key == "id" else "claim '02.floor'"
    assert refusal(lambda: claims.load(data)) == f"{name} has no {key}"


def test_entries_that_clash(data: Path) -> None:
    write_claims(data, [ENTRY, SINGLE, ENTRY])
    assert "'02.floor' is listed twice" in refusal(lambda: claims.load(data))
    write_claims(data, [ENTRY, {**ENTRY, "id": "02-floor"}])
    assert "claims '02.floor' and '02-floor' share an anchor" in refusal(lambda: claims.load(data))


# ---------------------------------------------------------------- files


def test_files_that_are_no_list_of_claims(data: Path) -> None:
    path = data / "claims.yml"
    for text, expected in [
        ("a: 1", "must be a list of claims"),
        ("[1]", "entry 1 of claims.yml must be a mapping"),
        ("- [", "is not valid YAML"),
        ("- {id: a, id: b}", "repeated key 'id'"),
        ("- !!python/object:os.system {}", "is not valid YAML"),
    ]:
        path.write_text(text)
        assert expected in refusal(lambda: claims.load(data))
    path.unlink()
    assert "is missing" in refusal(lambda: claims.load(data))
