"""The printed tables: read as printed, and what they decide, checked by hand or against prose."""

import math
import re
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest

from erdpaper.datasets import DatasetError
from erdpaper.fullscale import table5
from erdpaper.fullscale.tables import published, readings
from erdpaper.fullscale.tables.printed import Printed, printed
from erdpaper.fullscale.tables.published import METRICS, Row, agree, one, select, table
from erdpaper.models.dit import CONFIGS as DIT
from erdpaper.models.uvit import CONFIGS as UVIT

# lines of each printed table, counted on its page
LENGTHS = {1: 6, 2: 6, 3: 16, 4: 16, 5: 7, 6: 18, 7: 16, 8: 8, 9: 7}
# digits after the point: a misplaced one would be off by ten
PRINTED = {"fid": (1, 2), "sfid": (1, 2), "is": (1, 2), "precision": (2, 2), "recall": (2, 2)}
LIKELY = {"fid": (1, 100), "sfid": (4, 10), "is": (20, 400), "precision": (0.3, 1)}
LIKELY |= {"recall": (0.4, 1), "w": (1, 3)}


def test_every_table_has_its_rows_and_every_cell_a_number_a_dash_or_nothing() -> None:
    for number, length in LENGTHS.items():
        rows = table(number)
        assert len(rows) == length and len({tuple(r.cells) for r in rows}) == 1
        for row in rows:
            for column in row.cells.keys() & {*METRICS, "params", "iter", "epochs", "w"}:
                row.number(column)
            assert set(row.restored) <= {c for c, text in row.cells.items() if text}


def test_a_restored_point_stands_where_the_column_has_it() -> None:
    for number in LENGTHS:
        for row in table(number):
            for column in LIKELY.keys() & row.cells.keys():
                value = row.number(column)
                if value is None:
                    continue
                low, high = LIKELY[column]
                assert low <= value <= high, (number, column, row)
                few, many = PRINTED.get(column, (2, 3))
                assert few <= -int(value.as_tuple().exponent) <= many, (number, column, row)


def test_unreadable_cells_are_empty_and_few() -> None:
    empty = {
        (number, column)
        for number in LENGTHS
        for row in table(number)
        for column, text in row.cells.items()
        if not text
    }
    unread = {(4, column) for column in ("epochs", *METRICS)}
    assert empty == unread | {(3, "model"), (5, "convolution"), (8, "iter")}
    assert [row["model"] for row in table(4) if not row["fid"]] == ["SD-DiT"]


def test_numbers_keep_their_digits_and_units() -> None:
    row = Row({"a": "1.500", "b": "400K", "c": "-", "d": "", "e": "1,024", "f": "4M", "g": "n/a"})
    numbers = [str(row.number(column)) for column in "abcdef"]
    assert numbers == ["1.500", "400000", "None", "None", "1024", "4000000"]
    assert row.value("b") == 400_000.0
    with pytest.raises(ValueError, match="no number is printed in column 'c'"):
        row.value("c")
    with pytest.raises(ValueError, match="column 'g' prints 'n/a', which is no number"):
        row.number("g")


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        ("278.24", "278.2", True),
        ("278.24", "278.3", False),
        ("263.88", "263.9", True),
        ("315.4", "312.4", False),
        ("1.50", "1.500", True),
        ("17.2", "17.3", True),  # 17.25 is printed as either
        ("17.2", "17.4", False),
    ],
)
def test_printed_numbers_agree_up_to_rounding(a: str, b: str, same: bool) -> None:
    assert agree(Decimal(a), Decimal(b)) == agree(Decimal(b), Decimal(a)) == same


def test_a_wrong_table_and_a_wrong_row_are_refused() -> None:
    with pytest.raises(ValueError, match="Tables 1 to 9, not 10"):
        table(10)
    with pytest.raises(LookupError, match="Table 8 has 5 rows"):
        one(8, model="Ours")


def test_a_missing_and_a_damaged_file_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(published.datasets, "data_dir", lambda: tmp_path)
    read = published.table.__wrapped__
    with pytest.raises(DatasetError, match=r"table_2.csv is missing; get it back"):
        read(2)
    (tmp_path / "published").mkdir()
    for text in ("part,fid,restored\n", "part,fid,restored\na\n", "part,fid,restored\na,b,,c\n"):
        (tmp_path / "published" / "table_2.csv").write_text(text)
        with pytest.raises(DatasetError, match=r"table_2.csv is damaged"):
            read(2)


def test_sizes_of_table_5_are_those_of_the_networks() -> None:
    for row in table(5):
        config = (DIT | UVIT)[row["model"]]
        assert row["input_dim"] == f"{config.size}x{config.size}x{config.channels}"
        found = (config.width, config.depth, config.heads)
        assert found == tuple(int(row.value(c)) for c in ("width", "layers", "heads"))


def test_what_the_prose_says_is_best_is_best() -> None:
    # Sec 4.4: ERD lowest in each block of Table 3; Sec 4.2: in each part of Tables 1 and 2
    for number, part in ((3, "group"), (1, "part"), (2, "part")):
        rows = table(number)
        for name in {row[part] for row in rows}:
            best = min(select(number, **{part: name}), key=lambda row: row.value("fid"))
            assert "Ours" in best.cells.get("model", best.cells.get("method", "")), (number, name)
    # Sec 4.4: REPA is ahead, ERD with an interval next
    fids = {row["model"]: row.number("fid") for row in table(4) if row["fid"]}
    assert sorted(fids, key=lambda name: fids[name])[:2] == ["REPA*", "Ours*"]


def test_training_lowers_the_fid_at_every_printed_step() -> None:
    for number in (6, 7):
        for group in {row["group"] for row in table(number)}:
            rows = select(number, group=group, model="+ Ours")
            assert [row["iter"] for row in rows] == ["100K", "200K", "300K", "400K"]
            fids = [row.value("fid") for row in rows]
            assert fids == sorted(fids, reverse=True)


def test_ratios_are_those_of_a_pocket_calculator() -> None:
    ratios = readings.fid_ratios()
    assert ratios["DiT-XL/2"] == pytest.approx(0.7692, abs=1e-4)  # 15.0/19.5
    assert ratios["SiT-XL/2"] == pytest.approx(0.8721, abs=1e-4)  # 15.0/17.2
    assert ratios["U-ViT-H/2"] == pytest.approx(0.6496, abs=1e-4)  # 8.9/13.7
    assert ratios["U-ViT-H/2 with Min-SNR"] == pytest.approx(0.7607, abs=1e-4)  # 8.9/11.7
    assert len(ratios) == 10
    assert readings.rungs()["ERD on that"] == pytest.approx(0.8761, abs=1e-4)  # 57.54/65.68
    assert readings.weight_share() == pytest.approx(0.7088, abs=1e-4)  # .1323/.1867
    assert readings.celeba()["DiT-S over itself without ERD"] == pytest.approx(0.79)
    assert readings.celeba_controls() == {"U-Net": 0, "DiT": 1}
    assert readings.gaps()["U-ViT-H/2, plain guidance"] == pytest.approx(0.47 / 0.87)
    assert readings.budgets()["U-ViT-H/2"] == 2 and readings.budgets()["REPA"] == 1


def test_steps_needed_lie_between_the_printed_steps_around_the_level() -> None:
    needed = readings.steps_needed()
    # DiT-B/2 ends at 43.4; ERD has 43.6 at 200K and 36.8 at 300K
    assert 0.5 < needed["DiT-B/2"] < 0.51
    # SiT-XL/2 ends at 17.2; ERD has 17.3 at 300K and 15.0 at 400K
    assert 0.75 < needed["SiT-XL/2"] < 0.77
    # U-ViT-M/2 ends at 27.7; ERD has 38.4 at 100K and 26.7 at 200K
    share = math.log(38.4 / 27.7) / math.log(38.4 / 26.7)
    assert needed["U-ViT-M/2"] == pytest.approx(0.25 * 2**share)
    assert len(needed) == 10


def test_metrics_are_counted_over_the_baselines_that_print_them() -> None:
    # by hand: sFID is worse than SiT-B/2's, SiT-L/2's and U-ViT-L/2's, and equal to U-ViT-M/2's
    found = readings.as_good()
    assert found == {"sFID": 0.5, "IS": 1.0, "precision": 5 / 6, "recall": 5 / 6}


def test_the_only_contradiction_between_tables_is_an_inception_score() -> None:
    found = readings.contradictions()
    assert found.pop("Tables 4 and 9") == ["is 315.4 and 312.4"]
    assert list(found.values()) == [[], [], []]


def test_a_changed_cell_is_found() -> None:
    row = one(9, interval="[0,0.8]", w="2.10")
    other = Row(row.cells | {"recall": "0.72", "fid": "1.4"})
    found = published.disagreements([(row, other)], METRICS)
    assert found == ["recall 0.62 and 0.72"], "1.45 may be printed as 1.4"


def test_guidance_sweeps_and_epochs() -> None:
    assert list(readings.inside().values()) == [0, 1, 2]
    stated = readings.stated_guidance()
    assert stated["FID"] == pytest.approx(2.00 / 1.89 - 1)
    assert all(
        value == pytest.approx(1, abs=1e-3) for value in readings.epochs_over_steps().values()
    )


def test_presets_are_compared_with_every_legible_row(monkeypatch: pytest.MonkeyPatch) -> None:
    assert all(rows == [] for rows in table5.disagreements().values())
    name = table5.COLUMNS["U-ViT-M/2"]
    row = table5.PRESETS[name]
    other = row._replace(
        model="U-ViT-H/2", batch=128, recipe=replace(row.recipe, lr=2e-4, steps=300_000)
    )
    monkeypatch.setitem(table5.PRESETS, name, other)
    found = table5.disagreements()
    sizes = ["model", "layers", "width", "heads"]
    assert found["U-ViT-M/2"] == [*sizes, "batch", "learning_rate", "convolution", "length"]
    assert found["U-ViT-L/2"] == []


def test_a_table_is_shown_with_what_was_mended_and_what_was_not_read() -> None:
    shown = Printed("A & B", (Row({"a": "1.0", "b": ""}, ("a",)), Row({"a": "<", "b": "-"})))
    assert repr(shown) == "A & B\na     b\n1.0†  ?\n<     -"
    html = shown._repr_html_()
    assert "<td>1.0†</td><td>?</td>" in html and "<td>&lt;</td><td>-</td>" in html
    assert 'aria-label="A &amp; B, scrolls sideways"' in html
    assert repr(printed(3, "FIDs")).startswith("Table 3 as published: FIDs\ngroup ")


def test_the_card_names_every_file() -> None:
    folder = Path(__file__).resolve().parents[1] / "data" / "published"
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert set(re.findall(r"`(\w+\.csv)`", card)) == {p.name for p in folder.glob("*.csv")}


def test_figures_are_those_of_single_classes_in_the_order_of_their_labels() -> None:
    found = published.figures()
    assert [int(row.value("figure")) for row in found] == list(range(14, 38))
    labels = [row.value("label") for row in found]
    assert labels == sorted(set(labels)) and labels[0] == 33 and labels[-1] == 980
    assert {row["w"] for row in found} == {"4.0"}
