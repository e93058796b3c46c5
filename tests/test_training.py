import math
from itertools import islice

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from erdpaper import targets, training, weights
from erdpaper.posterior import Gaussian, GaussianMixture
from erdpaper.schedules import GVP, Cosine, Linear
from erdpaper.training import Batch, Objective, TrainingError, density_times, train, uniform_times


def stream(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Affine(nn.Module):
    """y = W x + b, whatever t is."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2).double()
        nn.init.zeros_(self.layer.weight)
        nn.init.zeros_(self.layer.bias)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        answer: Tensor = self.layer(x)
        return answer


# ---------------------------------------------------------------- batches


@pytest.mark.parametrize("target", targets.ALL, ids=lambda y: y.name)
def test_a_batch_holds_noisy_data_their_target_and_their_weight(target: targets.Target) -> None:
    weight = weights.normalised(weights.erd, Linear(), target)
    x0 = torch.randn(64, 2, 3, generator=stream(1), dtype=torch.float64)
    batch = Objective(Linear(), target, weight).batch(x0, stream(2))
    again = stream(2)
    t = torch.rand(64, generator=again, dtype=torch.float64)
    eps = torch.randn(x0.shape, generator=again, dtype=torch.float64)
    a, s = (1 - t)[:, None, None], t[:, None, None]
    formula = {"x0": x0, "eps": eps, "v": a * eps - s * x0, "u": eps - x0}
    torch.testing.assert_close(batch.x, a * x0 + s * eps)
    torch.testing.assert_close(batch.t, t)
    torch.testing.assert_close(batch.y, formula[target.name])
    torch.testing.assert_close(batch.weight, weight(t))


@pytest.mark.parametrize("lead", [(), (3,)])
def test_the_loss_is_the_weighted_mean_over_samples_and_coordinates(lead: tuple[int, ...]) -> None:
    x, y = torch.randn(2, *lead, 5, 2, generator=stream(), dtype=torch.float64)
    t, weight = torch.rand(2, *lead, 5, generator=stream(1), dtype=torch.float64)
    net = Affine()
    net.layer.weight.data = torch.tensor([[1.0, 2.0], [3.0, 4.0]]).double()
    found = training.loss_of(net, Batch(x, t, y, weight))
    assert found.shape == lead
    for k in range(math.prod(lead)):
        expected = 0.0
        for i in range(5):
            x_i, y_i = x.reshape(-1, 5, 2)[k, i].tolist(), y.reshape(-1, 5, 2)[k, i].tolist()
            f_i = (x_i[0] + 2 * x_i[1], 3 * x_i[0] + 4 * x_i[1])
            error = sum((f - y) ** 2 for f, y in zip(f_i, y_i, strict=True)) / 2
            expected += float(weight.reshape(-1, 5)[k, i]) * error / 5
        assert found.detach().reshape(-1)[k].item() == pytest.approx(expected)


def test_times_of_a_table_are_its_nodes_each_as_often() -> None:
    x0 = torch.zeros(20_000, 1)
    t = Objective(Cosine(T=4), "eps").batch(x0, stream()).t
    values, counts = t.unique(return_counts=True)
    assert values.tolist() == [0.25, 0.5, 0.75, 1.0]
    assert (counts - 5_000).abs().max() < 4.5 * math.sqrt(20_000 * 3 / 16)


@given(st.floats(0, 0.9), st.floats(0.05, 0.1), st.floats(0, 0.999))
def test_uniform_times_stay_in_their_bin(low: float, width: float, u: float) -> None:
    t = float(uniform_times(low, low + width)(torch.tensor(u, dtype=torch.float64)))
    assert t == pytest.approx(low + u * width)


def test_times_drawn_with_a_density_follow_it() -> None:
    u = torch.linspace(0, 0.9999, 1_001, dtype=torch.float64)
    times = density_times(lambda t: 2 * t)
    torch.testing.assert_close(times(u), u.sqrt(), rtol=0, atol=3e-4)
    # nothing is drawn where the density is 0
    upper = density_times(lambda t: (t > 0.5).double())
    assert float(upper(u).min()) >= 0.5 and upper(u).isfinite().all()
    assert float(upper(torch.tensor(1 - 1e-17, dtype=torch.float64))) == pytest.approx(1)


@pytest.mark.parametrize("target", ["x0", "eps", "v"])
def test_a_density_of_times_has_the_expected_gradient_of_the_weight(target: str) -> None:
    law, n = GaussianMixture.square(), 200_000
    weight = weights.normalised(weights.erd, GVP(), target)
    objectives = [
        Objective(GVP(), target, weight),
        Objective(GVP(), target, times=density_times(weight)),
    ]
    gradients, errors = [], []
    for k, objective in enumerate(objectives):
        batch = objective.batch(law.sample(n, stream(k)), stream(10 + k))
        each = -batch.weight[:, None] * (batch.y * batch.x)
        gradients.append(each.mean(0))
        errors.append(each.std(0) / math.sqrt(n))
    apart = (gradients[0] - gradients[1]) / torch.hypot(*errors)
    assert apart.abs().max() < 4.5


# ---------------------------------------------------------------- the loop


def affine_draw(seed: int = 0, size: int = 32) -> training.Draw:
    law = Gaussian.standard(2)
    return Objective(Linear(), "eps").draw(law.sample, size, stream(seed), torch.float64)


@pytest.mark.parametrize("decay", ["constant", "cosine"])
def test_steps_are_those_of_adam_written_out(decay: training.Decay) -> None:
    steps, lr, net, draw = 7, 0.05, Affine(), affine_draw()
    found = list(train(net, affine_draw(), steps, lr, decay))
    W = torch.zeros(2, 3, dtype=torch.float64)  # the bias is the last column
    m, v = torch.zeros_like(W), torch.zeros_like(W)
    for k, record in enumerate(found):
        batch = draw()
        x = torch.cat([batch.x, torch.ones_like(batch.x[:, :1])], 1)
        error = x @ W.T - batch.y
        assert float(record.loss) == pytest.approx(float(error.square().mean()))
        rate = lr if decay == "constant" else lr / 2 * (1 + math.cos(math.pi * k / steps))
        assert (record.step, record.lr) == (k + 1, pytest.approx(rate))
        gradient = error.T @ x / len(x)
        m, v = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient.square()
        W -= rate * (m / (1 - 0.9 ** (k + 1))) / ((v / (1 - 0.999 ** (k + 1))).sqrt() + 1e-8)
    torch.testing.assert_close(net.layer.weight.detach(), W[:, :2])
    torch.testing.assert_close(net.layer.bias.detach(), W[:, 2])


def test_the_moving_average_is_its_recursion() -> None:
    net, weights_of = Affine(), []
    average = training.averaged(net, 0.9)
    for _ in train(net, affine_draw(), 20, 0.1, average=average):
        weights_of.append(net.layer.weight.detach().clone())
    expected = weights_of[0]
    for value in weights_of[1:]:
        expected = 0.9 * expected + 0.1 * value
    torch.testing.assert_close(average.module.layer.weight.detach(), expected)


@pytest.mark.parametrize("target", ["x0", "eps", "v", "u"])
def test_training_finds_the_wiener_denoiser(target: str) -> None:
    law = Gaussian(
        torch.tensor([1.0, -0.5]).double(), torch.tensor([[1.0, 0.6], [0.6, 0.5]]).double()
    )
    objective = Objective(GVP(), target, times=uniform_times(0.4, 0.4 + 1e-9))
    net = Affine()
    draw = objective.draw(law.sample, 256, stream(), torch.float64)
    for _ in train(net, draw, 400, 0.1, "cosine"):
        pass
    # affine in x, so three points and the origin know it
    x = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]).double()
    t = torch.full((3,), 0.4, dtype=torch.float64)
    exact = law.posterior_mean(x, *GVP()(t), target)
    torch.testing.assert_close(net(x, t).detach(), exact, rtol=0, atol=0.03)


def test_a_seed_is_a_run_and_a_broken_off_run_repeats() -> None:
    def losses(seed: int, upto: int) -> list[float]:
        run = train(Affine(), affine_draw(seed), 50, 0.01)
        return [float(record.loss) for record in islice(run, upto)]

    assert losses(3, 50)[:20] == losses(3, 20)
    assert losses(3, 20) != losses(4, 20)


def test_a_loss_that_is_no_number_stops_with_its_step() -> None:
    draw = affine_draw()
    poisoned = [draw()._replace(y=torch.full((32, 2), math.nan, dtype=torch.float64))]
    with pytest.raises(TrainingError, match="step 1;"):
        list(train(Affine(), lambda: poisoned[0], 100))
    batches = iter([*(draw() for _ in range(6)), *poisoned])
    with pytest.raises(TrainingError, match="step 7;"):
        list(train(Affine(), lambda: next(batches), 10))


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"steps": 0}, "steps >= 1"),
        ({"lr": 0.0}, "positive lr"),
        ({"lr": math.nan}, "positive lr"),
        ({"decay": "linear"}, "'constant' or 'cosine'"),
    ],
)
def test_wrong_arguments_are_refused_before_the_first_step(
    wrong: dict[str, object], sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence):
        train(Affine(), affine_draw(), **({"steps": 1} | wrong))  # type: ignore[arg-type]


def test_wrong_objectives_are_refused() -> None:
    with pytest.raises(ValueError, match="low < high"):
        uniform_times(0.5, 0.5)
    with pytest.raises(ValueError, match="density"):
        density_times(lambda t: -t)
    with pytest.raises(ValueError, match="at least one sample"):
        Objective(Linear(), "eps").draw(Gaussian.standard(2).sample, 0, stream())
    with pytest.raises(ValueError, match="between 0 and 1"):
        training.averaged(Affine(), 1.0)
