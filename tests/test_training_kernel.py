"""The trainer's arithmetic against torch's schedulers and formulas written out."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_training import RECIPE, Dropping, losses, network, stream, trainer
from torch import Tensor, nn

from erdpaper import training
from erdpaper.training import Batch, Recipe, Trainer
from erdpaper.training.loop import Alone

F64 = torch.float64


def scheduled(recipe: Recipe) -> list[float]:
    """The rates of torch's LinearLR, then those of ConstantLR or CosineAnnealingLR."""
    optimiser = torch.optim.SGD([nn.Parameter(torch.zeros(1))], recipe.lr)
    rates: list[float] = []
    rest = recipe.steps - recipe.warmup
    with_scheduler = torch.optim.lr_scheduler
    if recipe.warmup > 1:
        rise = with_scheduler.LinearLR(optimiser, 1 / recipe.warmup, 1.0, recipe.warmup - 1)
        rates += follow(optimiser, rise, recipe.warmup)
    elif recipe.warmup:
        rates.append(recipe.lr)
    optimiser = torch.optim.SGD([nn.Parameter(torch.zeros(1))], recipe.lr)
    if recipe.decay == "cosine":
        fall = with_scheduler.CosineAnnealingLR(optimiser, rest)
        return rates + follow(optimiser, fall, rest)
    return rates + rest * [recipe.lr]


def follow(
    optimiser: torch.optim.Optimizer, scheduler: torch.optim.lr_scheduler.LRScheduler, n: int
) -> list[float]:
    rates = []
    for _ in range(n):
        rates.append(float(optimiser.param_groups[0]["lr"]))
        optimiser.step()
        scheduler.step()
    return rates


@settings(max_examples=25)
@given(
    steps=st.integers(2, 40),
    share=st.floats(0, 0.99),
    lr=st.floats(1e-5, 10),
    decay=st.sampled_from(["constant", "cosine"]),
)
def test_rates_are_those_of_torch(
    steps: int, share: float, lr: float, decay: training.Decay
) -> None:
    recipe = Recipe(steps, lr, decay, warmup=int(share * steps))
    found = [recipe.rate(k + 1) for k in range(steps)]
    assert found == pytest.approx(scheduled(recipe), rel=1e-9, abs=1e-9 * lr)


def test_every_step_is_taken_at_its_rate() -> None:
    run = trainer()
    for k, record in enumerate(run.run(), start=1):
        assert (record.step, run.step) == (k, k)
        assert record.lr == RECIPE.rate(k) == run.optimiser.param_groups[0]["lr"]
    assert run.step == RECIPE.steps and list(run.run()) == []


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"steps": 0}, "steps >= 1 and a positive lr, got 0"),
        ({"lr": math.inf}, "positive lr, got 12 and inf"),
        ({"decay": "linear"}, "decay must be 'constant' or 'cosine', got 'linear'"),
        ({"warmup": 12}, "warm-up must be shorter than 12, got 12"),
        ({"warmup": -1}, "warm-up must be shorter than 12, got -1"),
        ({"clip": 0.0}, "clipped must be > 0: 0.0"),
        ({"clip": math.nan}, "clipped must be > 0: nan"),
        ({"accumulate": 0}, "accumulate must be at least 1, got 0"),
        ({"betas": (0.9, 1.0)}, r"betas must lie in \[0, 1\), got \(0.9, 1.0\)"),
        ({"weight_decay": -0.1}, "weight decay must be finite and >= 0, got -0.1"),
        ({"ema": 1.0}, "moving average must lie between 0 and 1, got 1.0"),
    ],
)
def test_a_bad_recipe_is_one_sentence(wrong: dict[str, object], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence) as caught:
        Recipe(**({"steps": 12} | wrong))  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


class Steps:
    """AdamW [Loshchilov and Hutter 2019, algorithm 2] with clipping, written out in float64."""

    def __init__(self, recipe: Recipe, start: list[Tensor]) -> None:
        self.recipe, self.theta = recipe, [p.clone() for p in start]
        self.m = [torch.zeros_like(p) for p in start]
        self.v = [torch.zeros_like(p) for p in start]

    def step(self, k: int, gradients: list[Tensor]) -> float:
        (b1, b2), rate = self.recipe.betas, self.recipe.rate(k)
        norm = math.sqrt(sum(float((g * g).sum()) for g in gradients))
        # torch adds 1e-6 to the norm
        shrink = min(1.0, (self.recipe.clip or math.inf) / (norm + 1e-6))
        for i, gradient in enumerate(gradients):
            g = shrink * gradient
            self.m[i] = b1 * self.m[i] + (1 - b1) * g
            self.v[i] = b2 * self.v[i] + (1 - b2) * g * g
            direction = self.m[i] / (1 - b1**k) / ((self.v[i] / (1 - b2**k)).sqrt() + 1e-8)
            self.theta[i] = self.theta[i] - rate * (
                direction + self.recipe.weight_decay * self.theta[i]
            )
        return norm


def test_steps_are_those_of_adamw_with_clipping_written_out() -> None:
    run, draw = trainer(dtype=F64), stream(dtype=F64)
    by_hand = Steps(RECIPE, [p.detach() for p in run.model.parameters()])
    other = network(dtype=F64)
    norms = []
    for k, record in enumerate(run.run(), start=1):
        with torch.no_grad():
            for p, value in zip(other.parameters(), by_hand.theta, strict=True):
                p.copy_(value)
        batch = draw(k)
        error = (other(batch.x, batch.t, batch.label) - batch.y).square().flatten(1).mean(1)
        loss = (batch.weight * error).sum() / len(error)
        assert float(record.loss) == pytest.approx(float(loss.detach()), rel=1e-10)
        norms.append(by_hand.step(k, list(torch.autograd.grad(loss, list(other.parameters())))))
        for p, value in zip(run.model.parameters(), by_hand.theta, strict=True):
            torch.testing.assert_close(p.detach(), value, rtol=1e-10, atol=1e-10)
    # some steps are clipped and others not
    assert min(norms) < 0.8 < max(norms)


@pytest.mark.parametrize("decay", [0.5, 0.9])
def test_the_average_is_its_recursion_over_the_recorded_weights(decay: float) -> None:
    run, path = trainer(dtype=F64, ema=decay), []
    for _ in run.run():
        path.append([p.detach().clone() for p in run.model.parameters()])
    expected = path[0]
    for weights in path[1:]:
        expected = [decay * a + (1 - decay) * b for a, b in zip(expected, weights, strict=True)]
    assert run.average is not None
    for p, value in zip(run.average.module.parameters(), expected, strict=True):
        torch.testing.assert_close(p.detach(), value, rtol=1e-12, atol=1e-12)


def test_without_averaging_there_is_none() -> None:
    run = trainer(ema=None)
    assert run.average is None and losses(run) == losses(trainer())


@pytest.mark.parametrize("parts", [2, 4, 8])
def test_accumulation_changes_no_step(parts: int) -> None:
    whole, cut = trainer(dtype=F64), trainer(dtype=F64, accumulate=parts)
    assert losses(cut) == pytest.approx(losses(whole), rel=1e-12)
    for a, b in zip(whole.model.parameters(), cut.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


def test_accumulation_needs_equal_parts() -> None:
    with pytest.raises(ValueError, match=r"batch of 8 cannot be cut into 1 \(processes\) x 3"):
        next(trainer(accumulate=3).run())


class Second(Alone):
    process_index = 1


def test_every_process_drops_others_and_goes_on_as_it_would_have() -> None:
    def dropping(engine: Alone, until: int) -> Trainer:
        run = trainer(net=Dropping(network()), ema=None)
        run.engine = engine
        # a batch of which this one process has all
        losses(run, until)
        return run

    first, second = dropping(Alone(), 12), dropping(Second(), 12)
    mine, other = (list(run.model.parameters()) for run in (first, second))
    assert not any(torch.equal(a, b) for a, b in zip(mine, other, strict=True))
    stopped = dropping(Second(), 5)
    torch.manual_seed(99)
    losses(stopped)
    assert all(map(torch.equal, stopped.model.parameters(), other))


def test_stopping_on_the_way_and_going_on_is_the_whole_run() -> None:
    run = trainer()
    assert losses(run, 5) + losses(run, 5) + losses(run, 9) + losses(run, 99) == losses(trainer())


def test_a_loss_that_is_no_number_stops_before_its_record() -> None:
    draw = stream()

    def poisoned(step: int) -> Batch:
        batch = draw(step)
        return batch._replace(y=batch.y / 0) if step == 4 else batch

    run = Trainer(network(), poisoned, RECIPE)
    with pytest.raises(training.TrainingError, match="not finite at step 4; try a lower"):
        losses(run)


def test_every_sample_is_given_its_label_or_none_at_all() -> None:
    seen: list[tuple[Tensor, ...]] = []

    class Watching(nn.Linear):
        def forward(self, *inputs: Tensor) -> Tensor:  # type: ignore[override]
            seen.append(inputs)
            return nn.functional.linear(inputs[0], self.weight)

    for labelled in (True, False):
        seen.clear()
        draw = stream(labelled=labelled)
        losses(trainer(net=Watching(3, 3, bias=False), draw=draw), 2)
        for step, inputs in enumerate(seen, start=1):
            batch = draw(step)
            expected = [part for part in (batch.x, batch.t, batch.label) if part is not None]
            assert len(inputs) == (3 if labelled else 2)
            assert all(map(torch.equal, inputs, expected))
