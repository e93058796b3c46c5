import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from erdpaper.models import Stack
from erdpaper.models.mlp import BIAS_FACTOR, MLP, SILU_GAIN, TimeEmbedding, scale_factors
from erdpaper.posterior import GaussianMixture
from erdpaper.schedules import Linear
from erdpaper.training import Objective, together, train


def points(n: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 2, generator=generator, dtype=torch.float64)
    return x, torch.rand(n, generator=generator, dtype=torch.float64)


def by_hand(net: MLP, x: Tensor, t: Tensor, scale: float) -> np.ndarray:
    """The network of the paper in numpy, from its state dict."""
    state = {name: value.detach().numpy() for name, value in net.state_dict().items()}
    frequencies = np.array([1e4 ** (-k / 31) for k in range(32)])
    phase = scale * np.outer(t.numpy(), frequencies)
    h = np.concatenate([x.numpy(), np.cos(phase), np.sin(phase)], axis=1)
    for layer in range(3):
        z = h @ state[f"hidden.{layer}.weight"].T + state[f"hidden.{layer}.bias"]
        h = z / (1 + np.exp(-z))
    result: np.ndarray = h @ state["readout.weight"].T + state["readout.bias"]
    return result


@pytest.mark.parametrize("scale", [1.0, 1000.0])
def test_the_default_is_the_network_of_the_paper(scale: float) -> None:
    net = MLP(time_scale=scale).double()
    x, t = points(50)
    # frequencies are kept in float32
    expected = torch.from_numpy(by_hand(net, x, t, scale))
    torch.testing.assert_close(net(x, t).detach(), expected, rtol=0, atol=1e-8 * scale)


def test_it_has_the_parameters_of_three_hidden_layers_of_256() -> None:
    count = sum(p.numel() for p in MLP().parameters())
    assert count == (66 * 256 + 256) + 2 * (256 * 256 + 256) + (2 * 256 + 2)


def test_the_standard_parameterisation_draws_its_layers_as_torch_does() -> None:
    torch.manual_seed(3)
    net = MLP(width=16, depth=2)
    torch.manual_seed(3)
    layers = [nn.Linear(66, 16), nn.Linear(16, 16), nn.Linear(16, 2)]
    names = [f"{name}.{part}" for name in ("hidden.0", "hidden.1", "readout")
             for part in ("weight", "bias")]  # fmt: skip
    assert list(net.state_dict()) == names
    for mine, theirs in zip(
        net.parameters(), (p for layer in layers for p in layer.parameters()), strict=True
    ):
        assert torch.equal(mine, theirs)
    assert {scale_factors(layer) for layer in (*net.hidden, net.readout)} == {(1.0, 1.0)}  # type: ignore[arg-type]


def test_the_ntk_parameterisation_is_the_standard_one_with_its_factors_written_out() -> None:
    torch.manual_seed(0)
    net, plain = MLP(width=24, parameterisation="ntk").double(), MLP(width=24).double()
    assert list(net.state_dict()) == list(plain.state_dict())
    layers = [*zip(net.hidden, plain.hidden, strict=True), (net.readout, plain.readout)]
    for k, (scaled, usual) in enumerate(layers):
        gain = SILU_GAIN if k < 3 else 1.0
        factors = gain / math.sqrt(66 if k == 0 else 24), BIAS_FACTOR
        assert scale_factors(scaled) == factors  # type: ignore[arg-type]
        with torch.no_grad():
            usual.weight.copy_(factors[0] * scaled.weight)  # type: ignore[operator, union-attr]
            usual.bias.copy_(factors[1] * scaled.bias)  # type: ignore[operator, union-attr]
    torch.testing.assert_close(net(*points(9)), plain(*points(9)))


def test_the_ntk_parameterisation_draws_everything_from_a_unit_normal() -> None:
    torch.manual_seed(0)
    net = MLP(width=400, depth=2, parameterisation="ntk")
    for p in (net.hidden[1].weight, net.hidden[0].bias, net.hidden[0].weight):
        p = p.detach()  # type: ignore[operator]
        assert abs(float(p.mean())) < 4 / math.sqrt(p.numel())
        assert abs(float(p.square().mean()) - 1) < 4 * math.sqrt(2 / p.numel())


def test_the_gain_keeps_the_second_moment_through_silu() -> None:
    nodes, mass = np.polynomial.hermite_e.hermegauss(120)
    moment = (mass * (nodes / (1 + np.exp(-nodes))) ** 2).sum() / mass.sum()
    assert moment * SILU_GAIN**2 == pytest.approx(1, abs=1e-8)
    torch.manual_seed(0)
    net = MLP(width=2000, depth=4, parameterisation="ntk").double()
    # a unit second moment before the first SiLU, by the size of the inputs
    h = nn.functional.normalize(torch.randn(20, 66, dtype=torch.float64)) * 66**0.5 / SILU_GAIN
    for layer in net.hidden:
        nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
        z = layer(h).detach()
        assert float(z.square().mean()) == pytest.approx(1, abs=0.05)
        h = nn.functional.silu(z)


def test_an_unknown_parameterisation_is_refused() -> None:
    with pytest.raises(ValueError, match="not 'mup'"):
        MLP(parameterisation="mup")  # type: ignore[arg-type]


def test_features_are_what_the_readout_sees() -> None:
    net = MLP(width=32).double()
    x, t = points(9)
    assert net.features(x, t).shape == (9, 32)
    torch.testing.assert_close(net.readout(net.features(x, t)), net(x, t))


def test_one_time_serves_all_points() -> None:
    net = MLP(width=16).double()
    x, _ = points(5)
    t = torch.tensor(0.3, dtype=torch.float64)
    torch.testing.assert_close(net(x, t), net(x, t.expand(5)))


def test_time_frequencies_fall_from_one_to_a_ten_thousandth() -> None:
    t = torch.tensor([0.5], dtype=torch.float64)
    embedded = TimeEmbedding(8, 3.0).double()(t)[0]
    expected = [1.5 * 1e4 ** (-k / 3) for k in range(4)]
    torch.testing.assert_close(
        embedded, torch.tensor([*map(math.cos, expected), *map(math.sin, expected)]).double(),
        rtol=1e-6, atol=1e-6,
    )  # fmt: skip


@pytest.mark.parametrize("wrong", [{"embedding": 7}, {"embedding": 2}, {"width": 0}, {"depth": 0}])
def test_wrong_sizes_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="at least"):
        MLP(**wrong)


def networks(k: int) -> list[nn.Module]:
    torch.manual_seed(0)
    # the time scale is a buffer, which a stack must tell apart too
    return [MLP(width=16, depth=2, time_scale=1.0 + j).double() for j in range(k)]


def test_a_stack_answers_as_its_networks_do() -> None:
    alone = networks(3)
    x, t = (torch.stack(part) for part in zip(*[points(7, seed) for seed in range(3)], strict=True))
    expected = torch.stack([net(x[k], t[k]) for k, net in enumerate(alone)])
    torch.testing.assert_close(Stack(alone)(x, t), expected)


def test_a_stack_trains_each_network_as_if_it_were_alone() -> None:
    law, objective = GaussianMixture.square(), Objective(Linear(), "v")

    def draw(seed: int):  # type: ignore[no-untyped-def]
        generator = torch.Generator().manual_seed(seed)
        return objective.draw(law.sample, 16, generator, torch.float64)

    stack = Stack(networks(3))
    losses = [r.loss for r in train(stack, together([draw(k) for k in range(3)]), 20, 1e-2)]
    for k, (net, found) in enumerate(zip(networks(3), stack.networks(), strict=True)):
        alone = [r.loss for r in train(net, draw(k), 20, 1e-2)]
        torch.testing.assert_close(torch.stack(losses)[:, k], torch.stack(alone))
        for mine, theirs in zip(found.parameters(), net.parameters(), strict=True):
            torch.testing.assert_close(mine, theirs)


def test_a_stack_gives_its_networks_back_as_it_was_moved() -> None:
    stack = Stack([MLP(width=8), MLP(width=8, time_scale=3.0)]).double()
    x, t = (torch.stack([part, part]) for part in points(4))
    for k, net in enumerate(stack.networks()):
        assert next(net.parameters()).dtype == torch.float64
        torch.testing.assert_close(net(x[k], t[k]), stack(x, t)[k])


def test_an_empty_stack_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one network"):
        Stack([])
