"""What is kept of the shortcut: one piece a start and seed, with all its numbers of calls."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from erdpaper.comparisons import Ratio, paired_ratio
from erdpaper.files import write_atomically
from erdpaper.images.measure import balanced
from erdpaper.regimes.plans import FASHION, Plan
from erdpaper.regimes.shortcut import (
    JUMP,
    NOISE,
    OTHERS,
    STATISTICS,
    Start,
    draw,
    quality,
    reference,
    start_level,
)
from erdpaper.tasks import fill, read_kept, write_card

NAME = "11_pca_speciation/shortcut"
CALLS, FEW, LONG = (6, 10, 20, 40), (6, 10, 20), 160
# starts from class statistics elsewhere, in units of log-SNR after speciation
OFFSETS = (-2.0, 1.0, 2.0, 3.0)
SEEDS = range(6)
SAMPLES = 2_000
# a Frechet distance is as good as another up to this factor
AS_GOOD = 1.05


class Piece(NamedTuple):
    """One file of the work folder: a start, an offset from speciation, and a seed."""

    kind: str
    offset: float
    calls: tuple[int, ...]
    seed: int

    @property
    def file(self) -> str:
        """Its name."""
        return f"{self.kind.replace(' ', '-')}{self.offset:+g}-{self.calls[-1]}-{self.seed}.json"


def pieces() -> Iterator[Piece]:
    """All of them, seed by seed."""
    for seed in SEEDS:
        yield Piece(STATISTICS, 0.0, CALLS, seed)
        yield Piece(NOISE, 0.0, CALLS, seed)
        yield Piece(JUMP, 0.0, FEW, seed)
        for kind in OTHERS:
            yield Piece(kind, 0.0, FEW[-1:], seed)
        for offset in OFFSETS:
            yield Piece(STATISTICS, offset, FEW[-1:], seed)
        yield Piece(NOISE, 0.0, (LONG,), seed)


def measure(piece: Piece, plan: Plan = FASHION) -> list[dict[str, Any]]:
    """One line a number of calls: the piece, its log-SNR, and `shortcut.quality`.

    None for a start before the schedule begins.
    """
    system = plan.system(plan.spaces[-1])
    labels = balanced(plan.size(SAMPLES)) % len(system.classes)
    start = Start(piece.kind, start_level(system) + piece.offset)
    found: list[dict[str, Any]] = []
    if start.logsnr < float(system.schedule.logsnr(1.0)):
        return found
    for calls in piece.calls:
        x = draw(system, start, calls, labels, piece.seed)
        head: dict[str, Any] = {
            "start": piece.kind,
            "offset": piece.offset,
            "calls": calls,
            "seed": piece.seed,
        }
        found.append(
            head
            | {"logsnr": round(start.logsnr, 4)}
            | quality(system, x, labels, reference(system))
        )
    return found


def _text(piece: Piece, plan: Plan) -> str:
    return "".join(json.dumps(line) + "\n" for line in measure(piece, plan))


def collect(work: Path, out: Path, jobs: int, plan: Plan = FASHION) -> None:
    """Measure what the work folder lacks, and keep all lines in `out` with their card."""
    made = {work / piece.file: partial(_text, piece, plan) for piece in pieces()}
    fill(made, jobs, "shortcut", "start")
    write_atomically(out / "runs.jsonl", "".join(path.read_text() for path in made))
    facts = {"samples": plan.size(SAMPLES), "seeds": list(SEEDS), "pieces": len(made)}
    write_card(out, plan.command, "start", plan.device, **facts)


@dataclass(frozen=True)
class Kept:
    """All kept lines, by what they are of."""

    lines: tuple[dict[str, Any], ...] = field(repr=False)
    card: dict[str, Any]

    def values(self, measure: str, start: str, calls: int, offset: float = 0.0) -> list[float]:
        """One number for each seed, in order."""
        wanted = {"start": start, "calls": calls, "offset": offset}
        found = [line for line in self.lines if wanted.items() <= line.items()]
        if not found:
            raise LookupError(f"no kept run of {start} with {calls} calls at offset {offset:g}")
        return [float(line[measure]) for line in sorted(found, key=lambda line: line["seed"])]

    def ratio(self, first: tuple[str, int, float], second: tuple[str, int, float]) -> Ratio:
        """Frechet distance of one (start, calls, offset) over another's, paired by seed."""
        return paired_ratio(self.values("fd", *first), self.values("fd", *second))

    @property
    def level(self) -> float:
        """The log-SNR of the starts."""
        return float(next(line["logsnr"] for line in self.lines if line["offset"] == 0))

    @property
    def offsets(self) -> list[float]:
        """How much later starts from class statistics were tried, rising; before it if negative."""
        return sorted({line["offset"] for line in self.lines if line["start"] == STATISTICS})

    def saved(self) -> Ratio:
        """Calls from pure noise over calls from class statistics, for as good a distance.

        As good as `AS_GOOD` times that of the long run of the same seed.
        """
        wanted = [AS_GOOD * fd for fd in self.values("fd", NOISE, LONG)]
        columns = {}
        for start, counts in ((NOISE, (*CALLS, LONG)), (STATISTICS, CALLS)):
            curves = np.array([self.values("fd", start, n) for n in counts]).T
            columns[start] = [
                calls_to(counts, curve, least) for curve, least in zip(curves, wanted, strict=True)
            ]
        return paired_ratio(columns[NOISE], columns[STATISTICS])


def calls_to(calls: Sequence[int], distances: Sequence[float], wanted: float) -> float:
    """Calls after which a curve first lies at a distance, linear in both logarithms.

    At once: the least number; never: the largest one, the least that is known.
    """
    logs = np.log(np.asarray(distances, dtype=float) / wanted)
    below = np.flatnonzero(logs <= 0)
    if len(below) == 0 or below[0] == 0:
        return float(calls[-1] if len(below) == 0 else calls[0])
    k = int(below[0])
    share = logs[k - 1] / (logs[k - 1] - logs[k])
    return float(calls[k - 1] * (calls[k] / calls[k - 1]) ** share)


@cache
def load(folder: Path | None = None, plan: Plan = FASHION) -> Kept:
    """Read data/results/11_pca_speciation/shortcut, or another folder that `collect` wrote."""
    lines, card = read_kept(folder or plan.kept(NAME), plan.command)
    return Kept(tuple(lines), card)
