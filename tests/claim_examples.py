"""Three claims that the tests of the claims share, and how a test breaks them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from erdpaper.claims import Claim, ClaimError, session

ENTRY: dict[str, Any] = {
    "id": "02.floor",
    "document": "paper",
    "number": "Lemma 3.2, C.1",
    "statement": "The floor bounds the loss: $l \\ge l^\\star$.",
    "notebook": "02_elbo",
    "cases": ["linear", "vp", "gvp"],
    "comparator": "at_most",
    "threshold": 0.1,
}
SINGLE = {**ENTRY, "id": "02.single", "cases": ["all"], "measure": "gap, in nats", "published": 3}
INTERVAL = {**ENTRY, "id": "05.range", "notebook": "05_erd", "comparator": "between"}
INTERVAL |= {"threshold": [-1, 2], "cases": [f"case {n}" for n in range(6)], "document": "thesis"}
INTERVAL |= {"note": "Said of $t > 0$ only."}
SCALES = {"02_elbo": "four points, one seed", "05_erd": "formulas; no network"}


def data_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a data folder with the three claims; records go below it, as under `erdpaper run`."""
    folder.mkdir()
    write_claims(folder, [ENTRY, SINGLE, INTERVAL])
    monkeypatch.setenv("ERDPAPER_DATA", str(folder))
    monkeypatch.setenv("ERDPAPER_CLAIMS_DIR", str(folder / "results" / "claims"))
    monkeypatch.setattr(session, "_session", None)
    return folder


def write_claims(folder: Path, listed: list[dict[str, Any]]) -> None:
    """Write a claims.yml of these entries, and the scales of their notebooks."""
    (folder / "claims.yml").write_text(yaml.safe_dump(listed), encoding="utf-8")
    named = {entry["notebook"] for entry in listed if "notebook" in entry}
    write_scales(folder, {name: scale for name, scale in SCALES.items() if name in named})


def write_scales(folder: Path, scales: object) -> None:
    """Write a scales.yml."""
    (folder / "scales.yml").write_text(yaml.safe_dump(scales), encoding="utf-8")


def claim(**changes: Any) -> Claim:
    """The first claim with some fields changed."""
    fields = {**ENTRY, "scale": SCALES["02_elbo"], **changes}
    fields["cases"] = tuple(fields["cases"])
    if isinstance(fields["threshold"], list):
        fields["threshold"] = tuple(fields["threshold"])
    return Claim(**fields)


def refusal(action: Callable[[], object]) -> str:
    """The one sentence with which an action is refused."""
    with pytest.raises(ClaimError) as caught:
        action()
    message = str(caught.value)
    assert message and "\n" not in message and ". " not in message
    return message


def open_02(profile: str = "cpu", **parameters: Any) -> session.Session:
    """Open a session of the notebook of the first two claims."""
    return session.begin("02_elbo", profile, 0, "cpu", parameters)
