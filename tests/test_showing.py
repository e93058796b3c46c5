"""Whose figures a page shows."""

from typing import Any

import matplotlib.pyplot as plt
import pytest

from erdpaper import showing


@pytest.mark.parametrize(("model", "shown"), [("fashion", True), ("cifar10", False)])
def test_kept_figures_are_of_their_own_model(
    model: str,
    shown: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    seen: list[list[int]] = []
    monkeypatch.setattr(plt, "show", lambda: seen.append(plt.get_fignums()))
    plt.figure()
    showing.show_kept(model)
    assert bool(seen) == shown
    # a figure that is left open would be shown at the end of a notebook's cell
    assert bool(plt.get_fignums()) == shown
    assert ("is left out for cifar10" in capsys.readouterr().out) != shown
    plt.close("all")


def test_kept_numbers_are_told_for_their_own_model_alone(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for model in ("fashion", "cifar10"):
        showing.teller(model)(f"a number, {model}")
    assert capsys.readouterr().out == "a number, fashion\n"


def test_counts_are_drawn_at_their_levels(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Any] = []
    monkeypatch.setattr(plt, "show", lambda: drawn.extend(plt.gcf().axes[0].lines))
    showing.show_counts([-4.0, 0.0], {"network": [30, 9], "exact": [2, 5]}, "bird")
    assert [line.get_xydata().tolist() for line in drawn] == [
        [[-4.0, 30.0], [0.0, 9.0]],
        [[-4.0, 2.0], [0.0, 5.0]],
    ]
    plt.close("all")
