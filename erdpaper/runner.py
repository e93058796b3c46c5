"""``erdpaper run``: choose notebooks, execute them side by side, say how it went.

Each notebook is executed in a process of its own. Everything that can be wrong with the request
is said in one sentence before any of them starts.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from erdpaper import datasets, execution, pool
from erdpaper.claims import reference
from erdpaper.claims.session import PROFILES
from erdpaper.execution import Job, Outcome
from erdpaper.files import write_atomically


class RunnerError(ValueError):
    """A request that cannot be carried out; the message is one sentence."""


@dataclass(frozen=True)
class Request:
    """What to run: notebook names or numbers (none: all), parameters, and where results go.

    ``parameters`` are notebook parameters by name, ``profile`` and ``seed`` among them. With
    ``timings`` the seconds of notebooks whose seconds are known already are replaced.
    """

    names: Sequence[str] = ()
    parameters: Mapping[str, object] = field(default_factory=dict)
    jobs: int = 2
    out: Path | None = None
    timings: bool = False


def parse_value(text: str) -> object:
    """Read a parameter as ``papermill -p`` does: True, False, None, a number, else a string."""
    constants: dict[str, object] = {"True": True, "False": False, "None": None}
    if text in constants:
        return constants[text]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def run(request: Request) -> list[Outcome]:
    """Execute the requested notebooks and return their outcomes in the order of their names.

    Raises RunnerError before any work where the request is wrong.
    """
    root = datasets.data_dir().resolve().parent
    if request.jobs < 1:
        raise RunnerError(f"jobs must be at least 1, not {request.jobs}")
    jobs = plan(request, root)
    timings = _Timings(root, str(request.parameters.get("profile", "cpu")))
    # the longest first, so that no core idles at the end
    jobs.sort(key=lambda job: -timings.known.get(job.name, float("inf")))
    outcomes = pool.execute_all(jobs, request.jobs)
    # the kept timings describe default runs; a changed parameter says nothing about those
    timings.keep(
        outcome
        for job, outcome in zip(jobs, outcomes, strict=True)
        if outcome.error is None
        and _is_default(job.parameters)
        and (request.timings or job.name not in timings.known)
    )
    return sorted(outcomes, key=lambda outcome: outcome.name)


def run_reference() -> list[Outcome]:
    """Measure the GPU, then execute every notebook at the gpu profile; keep records and card.

    Raises RunnerError before any work where torch finds no GPU.
    """
    import torch

    if not torch.cuda.is_available():
        raise RunnerError(f"{reference.COMMAND} needs a CUDA GPU, and torch finds none here")
    measure_speeds()
    # one at a time: they would share one card
    outcomes = run(Request(parameters={"profile": "gpu"}, jobs=1, timings=True))
    seconds = {outcome.name: outcome.seconds for outcome in outcomes if outcome.error is None}
    reference.keep(datasets.data_dir(), seconds)
    return outcomes


def measure_speeds() -> None:
    """Measure the GPU, which chapter 8 reads, in a process of its own that gives its memory back.

    What does not fit the GPU is said there, and the notebooks go on with what was measured.
    """
    command = [sys.executable, "-m", "erdpaper", "throughput", "--precision", "bf16", "--compile"]
    subprocess.run(command, check=False)


def plan(request: Request, root: Path) -> list[Job]:
    """Return the jobs of a request in the repository at ``root``, or raise RunnerError."""
    profile = request.parameters.get("profile", "cpu")
    if profile not in PROFILES:
        raise RunnerError(f"unknown profile {profile!r}; choose one of {', '.join(PROFILES)}")
    sources = _select(request.names, sorted((root / "notebooks").glob("[0-9]*.md")))
    return [_job(source, request, str(profile), root) for source in sources]


def _select(names: Sequence[str], sources: list[Path]) -> list[Path]:
    if not sources:
        raise RunnerError("there is no notebook source (notebooks/NN_name.md) in this repository")
    if not names:
        return sources
    chosen: set[Path] = set()
    for name in names:
        stem = Path(name).stem if name.endswith((".md", ".ipynb")) else name
        hits = [s for s in sources if stem == s.stem or stem.zfill(2) == s.stem.split("_")[0]]
        if not hits:
            there = ", ".join(source.stem for source in sources)
            raise RunnerError(f"no notebook is called {name!r}; there are {there}")
        chosen.update(hits)
    return sorted(chosen)


def _job(source: Path, request: Request, profile: str, root: Path) -> Job:
    name = source.stem
    known = execution.defaults(source)
    for parameter in request.parameters:
        if parameter not in known:
            raise RunnerError(
                f"notebook {name} has no parameter {parameter!r}; it knows {', '.join(known)}"
            )
    changed = {
        key: value
        for key, value in request.parameters.items()
        if (type(value), value) != (type(known[key]), known[key])
    }
    folder = request.out or (root / "runs" / profile if changed else root / "notebooks")
    return Job(
        name=name,
        source=source,
        target=folder.resolve() / f"{name}.ipynb",
        failed=root / "runs" / "failed" / f"{name}.ipynb",
        parameters=changed,
        claims=_claims_folder(changed, root),
    )


def _is_default(changed: Mapping[str, object]) -> bool:
    """Whether no parameter but the profile differs from its default."""
    return not set(changed) - {"profile"}


def _claims_folder(changed: Mapping[str, object], root: Path) -> Path:
    """Where records go: where the caller says, else only a default run's are the committed ones."""
    named = os.environ.get("ERDPAPER_CLAIMS_DIR")
    if named:
        return Path(named).resolve()
    return root / ("data/results/claims" if _is_default(changed) else "runs/claims")


class _Timings:
    """Seconds per notebook of default runs, kept outside the notebooks.

    What is known stays unless asked for anew, so that a run leaves the committed file alone.
    """

    def __init__(self, root: Path, profile: str) -> None:
        self._path = root / "data" / "results" / "timings" / f"{profile}.json"
        self.known: dict[str, float] = {}
        if self._path.exists():
            self.known = json.loads(self._path.read_text(encoding="utf-8"))

    def keep(self, outcomes: Iterable[Outcome]) -> None:
        new = {outcome.name: round(outcome.seconds, 1) for outcome in outcomes}
        if new:
            text = json.dumps(self.known | new, indent=2, sort_keys=True) + "\n"
            write_atomically(self._path, text)
