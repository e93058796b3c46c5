"""The data of a step: a function of the step, of the seed and of what is asked of the network."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_training import CLASSES, SHAPE, network, normal, stream
from torch import Tensor

from erdpaper.models import Stack
from erdpaper.schedules import GVP, Cosine, Linear
from erdpaper.training import (
    Batch,
    Held,
    Labels,
    Objective,
    Stream,
    generator_for,
    loss_of,
    together,
    train,
)
from erdpaper.training.stream import Order

F64 = torch.float64
few = settings(max_examples=30)


def same(a: Batch, b: Batch) -> bool:
    return all(
        torch.equal(x, y) for x, y in zip(a, b, strict=True) if x is not None and y is not None
    )


@few
@given(n=st.integers(1, 30), share=st.floats(0.01, 1), seed=st.integers(0, 2**31))
def test_every_epoch_sees_every_sample_once(n: int, share: float, seed: int) -> None:
    order = Order(n, max(1, int(share * n)), seed)
    steps = math.ceil(4 * n / order.batch)
    seen = torch.cat([order(k + 1) for k in range(steps)])[: 4 * n].view(4, n)
    assert torch.equal(seen.sort(1).values, torch.arange(n).expand(4, n))
    # 4 equal orders of 10 samples: a chance of 1 in 10!^3
    assert n < 10 or len(seen.unique(dim=0)) == 4


@few
@given(asked=st.lists(st.integers(1, 12), min_size=1, max_size=6))
def test_a_batch_depends_on_its_step_alone(asked: list[int]) -> None:
    in_order = stream()
    expected = {step: in_order(step) for step in range(1, 13)}
    other = stream()
    assert all(same(other(step), expected[step]) for step in asked)


def test_seeds_and_steps_are_streams_of_their_own() -> None:
    first, second = stream(0), stream(1)
    batches = [draw(step) for draw in (first, second) for step in range(1, 9)]
    for name in ("x", "t", "y"):
        parts = torch.stack([getattr(batch, name) for batch in batches]).flatten(1)
        assert len(parts.unique(dim=0)) == 16
    numbers = [
        torch.rand(1, generator=generator_for(*entropy)).item()
        for entropy in [(0, 0, 1), (0, 1, 0), (1, 0, 0), (0, 0, 0), (2**32 - 1, 0, 1)]
    ]
    assert len(set(numbers)) == 5


def test_a_seed_sees_the_same_noise_whatever_is_asked_of_the_network() -> None:
    labels = Labels(torch.arange(20) % CLASSES, CLASSES)
    data = normal(20, *SHAPE, dtype=F64)
    objectives = [Objective(GVP(), "eps"), Objective(GVP(), "v", lambda t: 1 + t)]
    eps, v = (Stream(data, objective, 8, 5, labels)(3) for objective in objectives)
    assert torch.equal(eps.x, v.x) and torch.equal(eps.t, v.t)
    assert torch.equal(eps.label, v.label)  # type: ignore[arg-type]
    # x = cos x0 + sin eps and v = cos eps - sin x0, so cos v + sin x = eps
    c, s = (f(math.pi / 2 * v.t).view(-1, 1, 1, 1) for f in (torch.cos, torch.sin))
    torch.testing.assert_close(c * v.y + s * v.x, eps.y)


def test_stratified_times_put_one_into_each_part() -> None:
    data = torch.zeros(64, 1, dtype=F64)
    for step in range(1, 30):
        t = Stream(data, Objective(Linear(), "eps", stratified=True), 64, 0)(step).t
        assert torch.equal((64 * t).floor(), torch.arange(64, dtype=F64))
        on_table = Stream(data, Objective(Cosine(T=64), "eps", stratified=True), 64, 0)(step).t
        assert torch.equal(64 * on_table, torch.arange(1, 65, dtype=F64))
    plain = Stream(data, Objective(Linear(), "eps"), 64, 0)(1).t
    assert len((64 * plain).floor().unique()) < 64


def test_stratified_times_are_uniform_in_their_part_and_not_bound_to_a_sample() -> None:
    draw = Stream(
        torch.arange(8, dtype=F64)[:, None], Objective(Linear(), "x0", stratified=True), 8, 0
    )
    batches = [draw(step) for step in range(1, 2001)]
    place = torch.stack([8 * batch.t - torch.arange(8) for batch in batches])
    assert (place.mean(0) - 0.5).abs().max() < 4.5 / math.sqrt(12 * 2000)
    # y is the sample itself: its mean time is 1/2 whichever it is
    t = torch.stack([batch.t for batch in batches]).flatten()
    sample = torch.stack([batch.y for batch in batches]).flatten()
    for k in range(8):
        assert abs(float(t[sample == k].mean()) - 0.5) < 4.5 / math.sqrt(12 * 2000)


def dropped(draw: Stream, steps: int, classes: Tensor) -> Tensor:
    """Which labels were replaced, (steps, batch); the others must be those of their samples."""
    rows = []
    for step in range(1, steps + 1):
        label, right = draw(step).label, classes[draw._order(step)]
        assert label is not None
        gone = label == CLASSES
        assert torch.equal(label[~gone], right[~gone])
        rows.append(gone)
    return torch.stack(rows)


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.5])
def test_labels_are_dropped_as_often_as_asked(rate: float) -> None:
    classes, data = torch.arange(200) % CLASSES, torch.zeros(200, 1)
    draw = Stream(data, Objective(Linear(), "eps"), 100, 7, Labels(classes, CLASSES, rate))
    gone = dropped(draw, 200, classes)
    assert torch.equal(gone, dropped(draw, 200, classes))
    n = gone.numel()
    assert abs(int(gone.sum()) - rate * n) <= 4.5 * math.sqrt(n * rate * (1 - rate))
    # decided sample by sample: so many pairs of neighbours as for independent ones
    pairs = int((gone[:, ::2] & gone[:, 1::2]).sum())
    both = rate**2
    assert abs(pairs - n / 2 * both) <= 4.5 * math.sqrt(n / 2 * both * (1 - both))


def test_without_labels_there_is_none() -> None:
    assert stream(labelled=False)(1).label is None


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"batch": 0}, r"batch must lie in 1..20 \(the samples\), got 0"),
        ({"batch": 21}, r"batch must lie in 1..20 \(the samples\), got 21"),
        ({"classes": torch.arange(19) % CLASSES}, "20 samples need as many labels, got 19"),
        ({"null": 2}, "label for none must be no class of the data, got 2"),
        ({"dropout": 1.0}, r"label dropout must lie in \[0, 1\), got 1.0"),
    ],
)
def test_bad_streams_are_one_sentence(wrong: dict[str, Any], sentence: str) -> None:
    given = {"batch": 8, "classes": torch.arange(20) % CLASSES, "null": CLASSES, "dropout": 0.1}
    given |= wrong
    with pytest.raises(ValueError, match=sentence):
        labels = Labels(given["classes"], given["null"], given["dropout"])
        Stream(normal(20, 1), Objective(Linear(), "eps"), given["batch"], 0, labels)


# ---------------------------------------------------------------- stacks


def test_a_stack_trains_labelled_networks_as_if_each_were_alone() -> None:
    def draw(seed: int):  # type: ignore[no-untyped-def]
        steps, batches = iter(range(1, 99)), stream(seed, F64)
        return lambda: batches(next(steps))

    stack = Stack([network(k, F64) for k in range(3)])
    batch = together([draw(k) for k in range(3)])()
    assert batch.label is not None and batch.label.shape == (3, 8)
    expected = [loss_of(network(k, F64), stream(k, F64)(1)) for k in range(3)]
    torch.testing.assert_close(loss_of(stack, batch), torch.stack(expected))
    found = [r.loss for r in train(stack, together([draw(k) for k in range(3)]), 10, 1e-2)]
    for k, net in enumerate(stack.networks()):
        alone = network(k, F64)
        losses = [r.loss for r in train(alone, draw(k), 10, 1e-2)]
        torch.testing.assert_close(torch.stack(found)[:, k], torch.stack(losses))
        for mine, theirs in zip(net.parameters(), alone.parameters(), strict=True):
            torch.testing.assert_close(mine, theirs)


def test_draws_without_labels_stay_without() -> None:
    objective = Objective(Linear(), "eps")
    draws = [
        objective.draw(lambda n, g: torch.randn(n, 2, generator=g), 4, generator_for(k))
        for k in range(2)
    ]
    assert together(draws)().label is None


# ---------------------------------------------------------------- sources


class Jittered:
    """Examples that are drawn anew each time: a mean and a deviation for each."""

    labels = torch.arange(20) % CLASSES
    shape = (2, 3)

    def __len__(self) -> int:
        return 20

    def take(self, indices: Tensor, generator: torch.Generator) -> Tensor:
        noise = torch.randn(len(indices), *self.shape, generator=generator, dtype=F64)
        return indices.view(-1, 1, 1) + 0.1 * noise


def test_what_is_random_about_a_source_is_a_function_of_the_step() -> None:
    source = Jittered()
    labels = Labels(source.labels, CLASSES, 0.0)
    first, again, other = (
        Stream(source, Objective(Linear(), "x0"), 8, seed, labels) for seed in (1, 1, 2)
    )
    batches = {step: first(step) for step in (1, 2, 3, 4)}
    for step in (4, 2):
        assert same(again(step), batches[step]) and not same(other(step), batches[step])
    for step, batch in batches.items():
        # y is what the source gave, and its label that of the same example
        example = batch.y.mean((1, 2)).round().long()
        assert torch.equal(example, first._order(step))
        assert batch.label is not None and torch.equal(batch.label, source.labels[example])
    # an epoch later an example is another draw
    assert not torch.equal(batches[1].y.sort(0).values, first(6).y.sort(0).values)


def test_a_tensor_is_a_source() -> None:
    x, labels = normal(20, 2, 3), torch.arange(20)
    held = Held(x, labels)
    assert (len(held), held.shape, held.labels is labels) == (20, (2, 3), True)
    plain, wrapped = (Stream(data, Objective(Cosine(), "v"), 8, 4) for data in (x, held))
    assert all(same(plain(step), wrapped(step)) for step in (1, 2, 7))
