"""Kept curves are found by their names and summarised over classes."""

import json
import math
from pathlib import Path

import pytest
from scipy import stats

from erdpaper.datasets import DatasetError
from erdpaper.regimes import contraction_kept, contraction_runs, shortcut, shortcut_runs
from erdpaper.regimes.contraction_kept import Kept


def curve(space: str, name: str, label: int, k: list[int]) -> contraction_kept.Curve:
    head = {"space": space, "name": name, "label": label, "levels": [-8.0, -4.0, 0.0]}
    return head | {"k0.99": k, "agreement": [0.2, 0.5, 0.9]}


KEPT = Kept(
    (
        curve("pixels", "eps-1000", 8, [400, 100, 100]),
        curve("latents", "eps-3000", 8, [100, 50, 80]),
        curve("latents", "eps-3000", 5, [100, 200, 400]),
        curve("latents", "images", 8, [128]),
        curve("latents", "class posterior", 8, [1, 1, 1]),
        {"space": "latents", "name": "samples", "label": 8, "scale": 2.0, "recall": 0.5},
    ),
    {},
)


def test_a_network_of_a_target_is_the_longest_trained() -> None:
    assert len(KEPT.curves("latents", "eps-network")) == 2
    assert KEPT.curves("pixels", "eps-network")[0]["k0.99"] == [400, 100, 100]
    with pytest.raises(LookupError, match="no kept curve of x0-network in pixels"):
        KEPT.curves("pixels", "x0-network")


def test_classes_are_summarised_by_mean_and_half_the_range() -> None:
    found = KEPT.cases(["eps-network"], lambda c: contraction_kept.level(c, 0.0))
    assert list(found.values) == ["pixels, eps-network", "latents, eps-network"]
    assert found.values["latents, eps-network"] == pytest.approx(math.sqrt(80 * 400))
    assert (
        found.spread["latents, eps-network"] == pytest.approx(160)
        and found.spread["pixels, eps-network"] == 0
    )
    plain = contraction_kept.summary([1.0, 4.0], geometric=False)
    assert (plain.mean, plain.half) == (2.5, 1.5)


def test_curves_are_read_at_levels_and_between() -> None:
    pixels = KEPT.curves("pixels", "eps-network")[0]
    assert contraction_kept.level(pixels, -6.0) == pytest.approx(200)
    assert contraction_kept.at_given(pixels, -4.0, "agreement") == 0.5
    found = contraction_kept.change(pixels)
    assert found.factor == pytest.approx(4**0.25) and found.at == pytest.approx(-6, abs=0.05)
    assert KEPT.of_images("latents", 8) == 128
    assert KEPT.samples(8, 2.0)["recall"] == 0.5


def test_ratios_are_of_one_class_each() -> None:
    two = (curve("latents", "v-network", 5, [10, 20, 40]), curve("latents", "other", 5, [5, 4, 2]))
    kept = Kept((*two, curve("latents", "v-network", 8, [1, 1, 1])), {})
    found = kept.ratios("latents", "v-network", "other", lambda c: contraction_kept.level(c, 0.0))
    assert found.mean == pytest.approx(20) and found.half == 0
    assert kept.pairs("latents", "other", "v-network") == [(two[1], two[0])]


def test_a_class_is_decided_where_agreement_rises_to_the_share() -> None:
    assert KEPT.decided("latents", 8, 0.5) == pytest.approx(-4)
    assert -4 < KEPT.decided("latents", 8, 0.775) < 0


def test_distance_from_kept_values_is_in_half_widths_of_the_prediction_interval() -> None:
    parts = [90.0, 100.0, 110.0, 105.0, 95.0]
    logs = [math.log(p) for p in parts]
    mean, std = sum(logs) / 5, stats.tstd(logs)
    edge = math.exp(mean + stats.t.ppf(0.995, 4) * std * math.sqrt(6 / 5))
    assert contraction_kept.away(edge, parts) == pytest.approx(1)
    assert math.isnan(contraction_kept.away(edge, None))
    # equal parts have no spread: two per cent count as none
    assert contraction_kept.away(102.0, [100.0] * 5) == pytest.approx(1)


def test_what_the_work_folder_has_is_collected_and_not_made_again(tmp_path: Path) -> None:
    work, out = tmp_path / "work", tmp_path / "kept"
    work.mkdir()
    line = json.dumps(KEPT.lines[0]) + "\n"
    made = contraction_runs.tasks(work, tmp_path)
    for path in made:
        path.write_text(line)
    contraction_runs.collect(work, tmp_path, out, 1)
    found = contraction_kept.load(out)
    assert found.lines == (KEPT.lines[0],) * len(made)
    assert found.card["pieces"] == len(made) and found.card["images"] == 5_000


def test_missing_curves_say_how_to_make_them(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="make it anew with `erdpaper regimes`"):
        contraction_kept.load(tmp_path)


def test_starts_are_collected_alike(tmp_path: Path) -> None:
    work, out = tmp_path / "work", tmp_path / "kept"
    work.mkdir()
    pieces = list(shortcut_runs.pieces())
    for piece in pieces:
        head = {"start": piece.kind, "offset": piece.offset, "seed": piece.seed, "logsnr": -3.0}
        lines = [head | {"calls": n, "fd": 1.0 + piece.seed} for n in piece.calls]
        (work / piece.file).write_text("".join(json.dumps(each) + "\n" for each in lines))
    shortcut_runs.collect(work, out, 1)
    kept = shortcut_runs.load(out)
    # every comparison of the chapter finds its runs
    for start, counts in (
        (shortcut.STATISTICS, shortcut_runs.CALLS),
        (shortcut.NOISE, (*shortcut_runs.CALLS, shortcut_runs.LONG)),
        (shortcut.JUMP, shortcut_runs.FEW),
        *((kind, (20,)) for kind in shortcut.OTHERS),
    ):
        for n in counts:
            assert kept.values("fd", start, n) == [1, 2, 3, 4, 5, 6]
    for offset in shortcut_runs.OFFSETS:
        assert len(kept.values("fd", shortcut.STATISTICS, 20, offset)) == 6
    assert kept.saved().mean == pytest.approx(1)


def test_a_level_that_a_curve_has_not_is_not_a_number() -> None:
    curve = {"levels": [-5.0, -3.0], "k0.99": [4, 16]}
    assert contraction_kept.level(curve, -4.0) == pytest.approx(8)
    ends = [contraction_kept.level(curve, at) for at in (-5.0, -3.0)]
    assert ends == pytest.approx([4, 16])
    assert math.isnan(contraction_kept.level(curve, -8.0))
    assert math.isnan(contraction_kept.level(curve, 0.0))
