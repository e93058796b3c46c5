"""What `erdpaper regimes` does: all that the chapters on sampling keep."""

from pathlib import Path

from erdpaper.regimes import (
    contraction_runs,
    crossings,
    endpoint_kept,
    networks,
    pushes,
    shortcut_runs,
    windows,
)

# in the order of the chapters; each has a work folder and a folder of results by its NAME
_PARTS = (endpoint_kept, crossings, shortcut_runs, windows, pushes)


def everything(work: Path, out: Path, jobs: int) -> None:
    """Make what the work folder lacks, `jobs` pieces at a time, and keep the results in `out`."""
    trained = work / "regimes" / "networks"
    networks.train(trained, jobs)
    name = contraction_runs.NAME
    contraction_runs.collect(work / name, trained, out / name, jobs)
    for part in _PARTS:
        part.collect(work / part.NAME, out / part.NAME, jobs)
