"""What `erdpaper regimes` does: all that the chapters on sampling keep, of one model."""

from pathlib import Path

from erdpaper.datasets import OWN_MODEL
from erdpaper.regimes import (
    contraction_runs,
    crossings,
    endpoint_kept,
    networks,
    plans,
    pushes,
    shortcut_runs,
    windows,
)
from erdpaper.regimes.plans import Plan

# in the order of the chapters; each has a work folder and a folder of results by its NAME
_PARTS = (endpoint_kept, crossings, shortcut_runs, windows, pushes)


def everything(work: Path, out: Path, jobs: int, plan: Plan = plans.FASHION) -> None:
    """Make what the work folder lacks, `jobs` pieces at a time, and keep the results in `out`.

    Of another model than fashion both have a folder of its name, and the plan is kept there: in
    `work` before and in `out` after everything else. PlanError, before anything is made, for a
    folder with measurements by another plan.
    """
    work, out = plan.within(work), plan.within(out)
    trained = work / "regimes" / "networks"
    if plan.model == OWN_MODEL:
        networks.train(trained, jobs)
    else:
        for folder in (work, out):
            plans.check(plan, folder)
        plans.keep(plan, work)
    name = contraction_runs.NAME
    contraction_runs.collect(work / name, trained, out / name, jobs, plan)
    for part in _PARTS:
        part.collect(work / part.NAME, out / part.NAME, jobs, plan)
    if plan.model != OWN_MODEL:
        plans.keep(plan, out)
