"""Whose figures a page shows."""

from dataclasses import replace
from typing import Any

import matplotlib.pyplot as plt
import pytest

from erdpaper import showing
from erdpaper.regimes.plans import FASHION
from erdpaper.showing import Page

OTHER = replace(FASHION, model="cifar10")
# nothing is kept of the other model, or results of its own
PAGES = {
    "fashion": Page(FASHION, FASHION),
    "nothing kept": Page(OTHER, FASHION),
    "own results": Page(OTHER, OTHER),
}


@pytest.mark.parametrize(("name", "shown"), [(k, k != "nothing kept") for k in PAGES])
def test_kept_figures_are_of_their_own_model(
    name: str,
    shown: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    seen: list[list[int]] = []
    monkeypatch.setattr(plt, "show", lambda: seen.append(plt.get_fignums()))
    plt.figure()
    PAGES[name].show()
    assert bool(seen) == shown
    # a figure that is left open would be shown at the end of a notebook's cell
    assert bool(plt.get_fignums()) == shown
    assert ("is left out for cifar10" in capsys.readouterr().out) != shown
    plt.close("all")
    plt.figure()
    # what is kept of Fashion-MNIST alone is of no other model
    PAGES[name].show(of=FASHION)
    assert bool(plt.get_fignums()) == (name == "fashion")
    plt.close("all")


def test_kept_numbers_are_told_for_their_own_model_alone(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, page in PAGES.items():
        page.tell(f"a number, {name}")
    assert capsys.readouterr().out == "a number, fashion\na number, own results\n"


def test_a_page_says_whose_results_it_shows(capsys: pytest.CaptureFixture[str]) -> None:
    PAGES["fashion"].announce()
    assert capsys.readouterr().out == ""
    PAGES["nothing kept"].announce()
    said = capsys.readouterr().out
    assert "here and now is of cifar10; kept results are of\nFashion-MNIST and left out" in said
    assert "`erdpaper regimes --model cifar10` keeps results of its own" in said
    PAGES["own results"].announce()
    said = capsys.readouterr().out
    assert "is of cifar10, here and now or by\n`erdpaper regimes --model cifar10`;" in said


def test_counts_are_drawn_at_their_levels(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Any] = []
    monkeypatch.setattr(plt, "show", lambda: drawn.extend(plt.gcf().axes[0].lines))
    showing.show_counts([-4.0, 0.0], {"network": [30, 9], "exact": [2, 5]}, "bird")
    assert [line.get_xydata().tolist() for line in drawn] == [
        [[-4.0, 30.0], [0.0, 9.0]],
        [[-4.0, 2.0], [0.0, 5.0]],
    ]
    plt.close("all")
