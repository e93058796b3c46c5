"""The hourglass against its formula in numpy, and how it starts."""

from typing import Any

import numpy as np
import pytest
import torch
from by_hand import (
    affine,
    arrays,
    condition,
    convolutional,
    convolved,
    folded,
    normed,
    residual,
    silu,
    unfolded,
)
from small_training import normal
from torch import Tensor

from erdpaper.models.hourglass import CONFIGS, Hourglass

F64 = torch.float64
SMALL = {
    "size": 8,
    "channels": 2,
    "fine": 4,
    "coarse": 6,
    "inner_channels": 3,
    "width": 10,
    "depth": 2,
    "embedding": 8,
    "classes": 3,
}


def network(**changes: Any) -> Hourglass:
    """Small, with nothing at 0."""
    torch.manual_seed(0)
    net = Hourglass.from_name("Hourglass-fashion-tiny", **(SMALL | changes)).double()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    return net


def inputs(n: int = 5) -> tuple[Tensor, Tensor, Tensor]:
    t = torch.linspace(0.05, 0.95, n, dtype=F64)
    return normal(n, 2, 8, 8, dtype=F64), t, torch.arange(n) % 4


def by_hand(net: Hourglass, x: Tensor, t: Tensor, label: Tensor) -> np.ndarray:
    state = arrays(net)
    c = condition(state, net.config.embedding, t, label)
    fine = convolutional(state, "fine_in", convolved(state, "first", folded(x.numpy())), c)
    coarse = convolutional(state, "coarse_in", convolved(state, "down", folded(fine)), c)
    grid = convolved(state, "gather", coarse)
    h = affine(state, "inward", grid.reshape(len(x), -1))
    for k in range(net.config.depth):
        h = residual(state, f"blocks.{k}", h, c)
    inner = affine(state, "outward", h).reshape(grid.shape)
    coarse = coarse + convolved(state, "spread", inner)
    coarse = convolutional(state, "coarse_out", coarse, c)
    fine = fine + unfolded(convolved(state, "up", coarse))
    fine = convolutional(state, "fine_out", fine, c)
    gain, offset = (state[f"norm.{name}"][:, None, None] for name in ("weight", "bias"))
    return unfolded(convolved(state, "last", silu(gain * normed(fine, 1e-5) + offset)))


def test_folding_by_hand_is_undone() -> None:
    x = normal(3, 2, 8, 8, dtype=F64).numpy()
    assert (folded(x)[:, 4:] == folded(x[:, 1:])).all()
    np.testing.assert_array_equal(unfolded(folded(x)), x)


def test_the_hourglass_is_its_formula() -> None:
    net, (x, t, label) = network(), inputs()
    expected = by_hand(net, x, t, label)
    # frequencies are kept in float32
    np.testing.assert_allclose(net(x, t, label).detach().numpy(), expected, rtol=0, atol=1e-4)
    assert expected.std() > 0.3


def test_every_part_of_it_matters() -> None:
    net, (x, t, label) = network(), inputs()
    y = net(x, t, label)
    for name, parameter in net.named_parameters():
        kept = parameter.detach().clone()
        with torch.no_grad():
            parameter.mul_(1.5)
            moved = (net(x, t, label) - y).abs().max()
            parameter.copy_(kept)
        assert float(moved) > 1e-6, name


def test_no_label_is_the_class_that_stands_for_none_and_one_time_serves_all() -> None:
    net, (x, t, _) = network(), inputs()
    none = torch.full((len(x),), 3)
    assert net.null == 3
    assert torch.equal(net(x, t), net(x, t, none))
    assert not torch.equal(net(x, t), net(x, t, none - 1))
    assert torch.equal(net(x, t[2], none), net(x, t[2].expand(len(x)), none))


@pytest.mark.parametrize("name", CONFIGS)
def test_a_new_hourglass_answers_zero_and_its_blocks_do_nothing(name: str) -> None:
    torch.manual_seed(0)
    net = Hourglass.from_name(name)
    x, t, label = normal(3, 1, 28, 28), torch.linspace(0, 1, 3), torch.arange(3)
    passed: list[bool] = []
    for part in (net.fine_in, net.coarse_in, *net.blocks, net.coarse_out, net.fine_out):
        part.register_forward_hook(
            lambda module, args, out: passed.append(torch.equal(args[0], out))
        )
    assert torch.equal(net(x, t, label), torch.zeros_like(x))
    assert passed == [True] * (4 + net.config.depth)
    # nothing else was made 0: weights and biases of the modulations and of the last layer
    c = net.config
    modulations = 3 * (c.embedding + 1) * (2 * c.fine + 2 * c.coarse + c.depth * c.width)
    norm = c.fine
    last = 4 * c.channels * (9 * c.fine + 1)
    assert sum(int((p == 0).sum()) for p in net.parameters()) == modulations + norm + last
    assert float(net.label.weight.detach().std()) == pytest.approx(0.02, rel=0.1)


def test_bad_hourglasses_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown network 'x'; use one of Hourglass-fashion, "):
        Hourglass.from_name("x")
    with pytest.raises(ValueError, match="must be a multiple of 4, got 30"):
        network(size=30)
