import math
from dataclasses import replace

import pytest

from erdpaper.images import grid, kept
from erdpaper.images.kept import Kept, Result
from erdpaper.images.spec import Cell


def result(curve: dict[str, float], cell: Cell | None = None, fd: float = 1.0) -> Result:
    cell = cell or Cell("eps", "erd", 1e-3, steps=1_000)
    return Result(cell, cell.as_dict() | {"curve": curve, "final": {"fd": fd}})


def test_steps_to_a_distance_are_read_off_a_power_law() -> None:
    power = result({str(s): 100 * s**-0.5 for s in (100, 300, 1_000)})
    for steps in (100, 150, 300, 777, 1_000):
        assert power.steps_to(100 * steps**-0.5) == pytest.approx(steps)
    assert power.steps_to(50) == 100, "before the first point that point's steps count"
    assert power.steps_to(1) == kept.NEVER * 1_000


def test_a_curve_is_in_the_order_of_its_steps_and_infinite_where_sampling_failed() -> None:
    steps, values = result({"1000": 2.0, "200": math.nan, "90": 5.0}).curve
    assert steps == [90, 200, 1_000] and values[0] == 5.0
    failed = Result(Cell("eps", "erd", 1e-3), {"curve": {"10": None}, "final": {"fd": None}})
    assert failed.curve == ([10], [math.inf]) and failed.fd == math.inf


def everything(distance: dict[tuple[str, str, float], float]) -> Kept:
    """A kept grid whose distances are given by target, weight and rate, times 1 + seed / 100."""
    swept = [
        cell.as_dict() | {"final": {"fd": distance[cell.target, cell.weight, cell.lr]}}
        for cell in grid.sweep()
    ]
    rest = [*grid.ladder(), *grid.noise_ladder(), *grid.architectures()]
    cells = [*grid.sweep(), *grid.judged(swept), *rest]
    results = {}
    for cell in cells:
        known = distance.get((cell.target, cell.weight, cell.lr), 1.0)
        factor = 1 + (cell.seed % 100) / 100
        results[cell.key] = result({}, cell, known * factor)
    return Kept(results, {})


def table() -> dict[tuple[str, str, float], float]:
    found = {}
    for k, cell in enumerate(grid.sweep()):
        found[cell.target, cell.weight, cell.lr] = 10 + (k * 7) % 13
    return found


def test_judged_seeds_are_those_of_the_best_rate_and_pair_by_seed() -> None:
    distance = table()
    found = everything(distance)
    for target in grid.TARGETS:
        best = min(grid.LEARNING_RATES, key=lambda lr: distance[target, "erd", lr])
        seeds = found.judged(target, "erd")
        assert [r.cell.seed for r in seeds] == list(grid.JUDGED_SEEDS)
        assert {r.cell.lr for r in seeds} == {best}
        assert [r.cell.lr for r in found.sweep(target, "erd")] == list(grid.LEARNING_RATES)
        least = {
            w: min(distance[target, w, lr] for lr in grid.LEARNING_RATES) for w in ("erd", "p2")
        }
        ratio = found.ratio(target, "erd", "p2")
        assert ratio.mean == pytest.approx(least["erd"] / least["p2"])
        assert ratio.low == pytest.approx(ratio.high), "the seeds' factors cancel"
    pooled = found.pooled("online", "erd")
    logs = [
        math.log(found.judged(y, "online")[0].fd / found.judged(y, "erd")[0].fd)
        for y in grid.TARGETS
    ]
    assert pooled.mean == pytest.approx(math.exp(sum(logs) / 3))
    with pytest.raises(LookupError, match="no kept training of nothing for eps"):
        found.judged("eps", "nothing")


def test_the_ladder_has_a_rung_for_each_trick_with_all_seeds() -> None:
    rungs = everything(table()).ladder()
    described = [(r[0].cell.weight, r[0].cell.beta2, r[0].cell.decay) for r in rungs]
    assert described == [
        ("uniform", 0.999, "constant"),
        ("erd", 0.999, "constant"),
        ("uniform", 0.95, "constant"),
        ("uniform", 0.95, "cosine"),
        ("erd", 0.95, "cosine"),
    ]
    assert all([r.cell.seed for r in rung] == list(grid.JUDGED_SEEDS) for rung in rungs)


def test_the_other_ladder_and_the_architectures_come_back_by_rung_and_weight() -> None:
    kept = everything(table())
    rungs = kept.noise_ladder()
    assert [[r.cell for r in rung] for rung in rungs] == [
        [cell for cell in grid.noise_ladder() if replace(cell, seed=0) == first]
        for first in grid.noise_ladder()[:5]
    ]
    assert rungs[3] == kept.ladder()[2]
    for name in grid.ARCHITECTURES:
        for weight in ("uniform", "erd"):
            found = [r.cell for r in kept.architecture(name, weight)]
            assert {(c.model, c.weight) for c in found} == {(name, weight)}
            assert [c.seed for c in found] == list(grid.ARCHITECTURE_SEEDS)
