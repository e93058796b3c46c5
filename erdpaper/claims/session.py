"""The recording session of a running notebook: `begin` opens it, `record` measures a claim."""

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from erdpaper import datasets
from erdpaper.claims.entries import Claim, ClaimError, load
from erdpaper.claims.numbers import criterion, margin, measured, spreads
from erdpaper.claims.verdicts import Verdict
from erdpaper.datasets import OWN_MODEL
from erdpaper.files import write_atomically

PROFILES = ("smoke", "cpu", "gpu", "full")


@dataclass(frozen=True)
class Unjudged:
    """What `record` returns for a run with a model that the claim is not about.

    values: those of the run's own model by case, "" if there is but one; None if they are of what
    was kept of another.
    """

    claim: Claim
    model: str
    values: Mapping[str, float] | None

    def __repr__(self) -> str:
        """One sentence, the values, and how many of them meet what the claim asks for."""
        said = f"{self.claim.id} needs model {OWN_MODEL} and is not judged with {self.model}"
        if self.values is None:
            return said
        shown = ", ".join(f"{case} {value:.4g}".strip() for case, value in self.values.items())
        known = [value for value in self.values.values() if math.isfinite(value)]
        met = sum(margin(self.claim, value) >= 0 for value in known)
        asked = f"asked for is {criterion(self.claim)}, which {met} of {len(known)} known meet"
        return f"{said}: {shown or 'nothing measured'} ({asked})"


def _plain(values: Any) -> dict[str, float]:
    by_case = values if isinstance(values, Mapping) else {"": values}
    return {str(case): float(value) for case, value in by_case.items()}


@dataclass
class Session:
    """One run of one notebook.  recorded: claim id -> what its file keeps."""

    notebook: str
    profile: str
    seed: int
    device: str
    parameters: dict[str, Any]
    claims: dict[str, Claim]
    folder: Path
    recorded: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def path(self) -> Path:
        """The file of this run."""
        return self.folder / self.profile / f"{self.notebook}.json"

    def text(self) -> str:
        """The file's contents: keys and claims in a fixed order, no time stamp."""
        content = {
            "notebook": self.notebook,
            "profile": self.profile,
            "seed": self.seed,
            "device": self.device,
            "parameters": self.parameters,
            "claims": {id: self.recorded[id] for id in sorted(self.recorded)},
        }
        return json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


_session: Session | None = None


def begin(
    notebook: str,
    profile: str,
    seed: int,
    device: str,
    parameters: Mapping[str, Any] | None = None,
) -> Session:
    """Open the session that later calls of `record` write to.

    notebook: bare name, as in claims.yml.  parameters: the notebook's own, plain values.
    Records go to ERDPAPER_CLAIMS_DIR, else to runs/claims beside the data folder: only
    `erdpaper run` names the committed records.
    Raises ClaimError for an unknown profile or a claims.yml that is not valid.
    """
    global _session
    if profile not in PROFILES:
        raise ClaimError(f"profile must be one of {', '.join(PROFILES)}, not {profile!r}")
    data = datasets.data_dir()
    named = os.environ.get("ERDPAPER_CLAIMS_DIR")
    folder = Path(named) if named else data.parent / "runs" / "claims"
    own = dict(parameters or {})
    # resolved now: a notebook may change its working folder later
    _session = Session(notebook, profile, seed, device, own, load(data), folder.resolve())
    return _session


def record(
    id: str, values: object, spread: object = None, *, live: bool = False
) -> Verdict | Unjudged:
    """Record what this run measured for a claim and return the verdict.

    values: a number for a claim with one case, else a mapping case -> number with exactly the
    cases of claims.yml; numbers, 0-d tensors and numpy scalars, finite.  spread: the same shape,
    none negative; what it means (standard error, range over seeds) belongs in `measure`.
    Values are rounded to six significant digits and those below the claim's noise to 0 first, so
    that the verdict is that of the file and the file that of any CPU.
    The file of the run is written atomically; the profile `smoke` writes nothing. Nor does a run
    of which a parameter `model` is not OWN_MODEL, whose cases need not be those of claims.yml.
    live: all values are of the run's own model, so that a run of another shows them unjudged.

    Raises ClaimError if no session is open, the claim is unknown or another notebook's, or the
    values do not fit it.
    """
    session = _open_session()
    claim = session.claims.get(id)
    if claim is None:
        raise ClaimError(f"claim {id!r} is not listed in claims.yml")
    if claim.notebook != session.notebook:
        raise ClaimError(f"claim {id!r} belongs to {claim.notebook}, not to {session.notebook}")
    model = session.parameters.get("model", OWN_MODEL)
    if model != OWN_MODEL:
        return Unjudged(claim, model, _plain(values) if live else None)
    verdict = Verdict(claim, measured(claim, values), spreads(claim, spread))
    session.recorded[id] = {
        "values": verdict.values,
        "spread": verdict.spread,
        "verdict": verdict.name,
        "passed": verdict.passed,
    }
    if session.profile != "smoke":
        write_atomically(session.path, session.text())
    return verdict


def _open_session() -> Session:
    if _session is None:
        raise ClaimError("no run is open; a notebook calls notebook.begin before it records")
    return _session
