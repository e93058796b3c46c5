"""Batches drawn ahead: the same batches, drawn before they are asked for, and none too many."""

import threading
import time

import pytest
import torch
from small_training import losses, stream, trainer

from erdpaper.training import Ahead


def until(condition: "threading.Event") -> None:
    assert condition.wait(20)


def test_nothing_changes_but_the_thread() -> None:
    seen: list[str] = []
    draw = stream()

    def watched(step: int):  # type: ignore[no-untyped-def]
        seen.append(threading.current_thread().name)
        return draw(step)

    assert losses(trainer(draw=Ahead(watched, 12))) == losses(trainer())
    assert len(seen) == 12 and all(name.startswith("ahead") for name in seen)


def test_the_next_steps_are_drawn_while_the_first_is_used() -> None:
    drawn = {k: threading.Event() for k in range(1, 9)}

    def draw(step: int) -> int:
        drawn[step].set()
        return step

    ahead = Ahead(draw, 4)
    assert ahead(1) == 1
    until(drawn[3])
    assert not drawn[4].is_set()
    assert ahead(2) == 2
    until(drawn[4])
    assert [ahead(k) for k in (3, 4)] == [3, 4]
    time.sleep(0.05)
    assert not drawn[5].is_set()


def test_steps_may_be_asked_for_in_any_order_and_again() -> None:
    ahead, plain = Ahead(stream(), 12), stream()
    for step in (3, 4, 4, 9, 1, 12, 2):
        assert torch.equal(ahead(step).x, plain(step).x)


def test_an_error_comes_with_its_step() -> None:
    def draw(step: int) -> int:
        if step == 3:
            raise ValueError("the disk is gone")
        return step

    ahead = Ahead(draw, 9)
    assert [ahead(1), ahead(2)] == [1, 2]
    with pytest.raises(ValueError, match="the disk is gone"):
        ahead(3)
