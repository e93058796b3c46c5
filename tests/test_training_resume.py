"""A training that stops, is saved and goes on elsewhere is, bit for bit, the one that never did."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_training import CLASSES, Dropping, losses, network, normal, stream, trainer, truncated
from torch import Tensor, nn

from erdpaper import training, weights
from erdpaper.images.weighting import OnlineLoss
from erdpaper.models.classifier import Classifier
from erdpaper.schedules import Cosine
from erdpaper.training import Recipe, Trainer, TrainingError, checkpoints


def plain(init: int) -> Trainer:
    return trainer(init)


def unaveraged(init: int) -> Trainer:
    return trainer(init, ema=None)


def double(init: int) -> Trainer:
    return trainer(init, torch.float64)


def accumulating(init: int) -> Trainer:
    return trainer(init, accumulate=2)


def dropping(init: int) -> Trainer:
    return trainer(net=Dropping(network(init)))


def online(init: int) -> Trainer:
    estimate = weights.OnlineRecoverability(Cosine(), "v", 1.0)
    # the estimate starts to weigh at step 4, before any stop
    return trainer(init, loss=OnlineLoss(estimate, 3))


def truncating(init: int) -> Trainer:
    return trainer(init, draw=truncated())


def batch_normed(init: int) -> Trainer:
    """A classifier: running statistics in buffers, and dropout."""
    torch.manual_seed(init)
    images, labels = normal(20, 1, 8, 8), torch.arange(20) % CLASSES

    def draw(step: int) -> training.Batch:
        chosen = torch.randperm(20, generator=training.generator_for(1, step))[:8]
        return training.Batch(images[chosen], *3 * [labels[chosen]])

    def loss(model: nn.Module, batch: training.Batch) -> Tensor:
        return nn.functional.cross_entropy(model(batch.x), batch.t)

    return Trainer(Classifier(8, classes=CLASSES), draw, Recipe(12, 1e-2, ema=0.9), loss)


KINDS = [plain, unaveraged, double, accumulating, dropping, online, truncating, batch_normed]


def state(run: Trainer) -> dict[str, Tensor]:
    """Everything there is to compare: network, average, moments, the loss's own, generator."""
    found = {f"model.{k}": v for k, v in run.model.state_dict().items()}
    if run.average is not None:
        found |= {f"average.{k}": v for k, v in run.average.state_dict().items()}
    for index, moments in run.optimiser.state_dict()["state"].items():
        found |= {f"optimiser.{index}.{k}": v for k, v in moments.items()}
    if isinstance(run.loss, OnlineLoss):
        found |= run.loss.state_dict()
    return found | {"rng": torch.get_rng_state()}


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("stop", [1, 7])
def test_going_on_is_the_uninterrupted_run(
    kind: Callable[[int], Trainer], stop: int, tmp_path: Path
) -> None:
    whole = kind(0)
    torch.manual_seed(11)
    expected = losses(whole)
    at_the_end = state(whole)

    first = kind(0)
    torch.manual_seed(11)
    before = losses(first, stop)
    checkpoints.save(tmp_path / "here.safetensors", first)
    second = kind(5)
    torch.manual_seed(99)
    checkpoints.load(tmp_path / "here.safetensors", second)
    assert second.step == stop
    assert before + losses(second) == expected
    found = state(second)
    assert found.keys() == at_the_end.keys()
    assert all(torch.equal(found[name], at_the_end[name]) for name in found)


def test_what_the_checkpoint_must_hold_does_matter(tmp_path: Path) -> None:
    """Without the generator's state, or without the loss's, the run would have been another."""
    for kind in (dropping, online):
        first = kind(0)
        torch.manual_seed(11)
        losses(first, 7)
        checkpoints.save(tmp_path / "here.safetensors", first)
        second = kind(5)
        checkpoints.load(tmp_path / "here.safetensors", second)
        torch.manual_seed(1)
        if isinstance(second.loss, OnlineLoss):
            second.loss = online(0).loss
        assert losses(second) != losses(first)


def test_a_checkpoint_is_readable_without_this_package(tmp_path: Path) -> None:
    run = plain(0)
    losses(run, 3)
    checkpoints.save(tmp_path / "here.safetensors", run)
    saved = load_file(tmp_path / "here.safetensors")
    assert torch.equal(saved["model.first.weight"], run.model.first.weight)  # type: ignore[arg-type, union-attr]
    assert float(saved["optimiser.0.step"]) == 3


def test_tied_weights_and_other_memory_layouts_are_saved(tmp_path: Path) -> None:
    def tied(init: int) -> Trainer:
        net = network(init)
        net.blocks[1].inner.weight = net.blocks[0].inner.weight  # type: ignore[union-attr]
        return trainer(net=net)

    def channels_last(init: int) -> Trainer:
        run = batch_normed(init)
        run.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return run

    for kind in (tied, channels_last):
        first, second = kind(0), kind(1)
        torch.manual_seed(11)
        losses(first, 3)
        checkpoints.save(tmp_path / "here.safetensors", first)
        checkpoints.load(tmp_path / "here.safetensors", second)
        state_then = torch.get_rng_state()
        rest = losses(second)
        torch.set_rng_state(state_then)
        assert losses(first) == rest


# ---------------------------------------------------------------- what is refused


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    run = plain(0)
    losses(run, 2)
    checkpoints.save(tmp_path / "here.safetensors", run)
    return tmp_path / "here.safetensors"


def refusal(path: Path, run: Trainer) -> str:
    before = {name: part.clone() for name, part in run.model.state_dict().items()}
    with pytest.raises(TrainingError) as caught:
        checkpoints.load(path, run)
    # nothing was half loaded
    assert run.step == 0
    assert all(torch.equal(before[name], part) for name, part in run.model.state_dict().items())
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("keep", [0, 5, 200, -1])
def test_a_damaged_checkpoint_is_one_sentence(kept: Path, keep: int) -> None:
    kept.write_bytes(kept.read_bytes()[:keep])
    assert "is no readable checkpoint (" in refusal(kept, plain(0))
    kept.unlink()
    assert "is no readable checkpoint (" in refusal(kept, plain(0))


def test_a_file_of_something_else_is_one_sentence(kept: Path) -> None:
    save_file(network().state_dict(), kept)
    assert "is no checkpoint of a training" in refusal(kept, plain(0))
    # half of what makes one
    save_file({"rng.cpu": torch.get_rng_state()}, kept, {"step": "3"})
    assert "is no checkpoint of a training" in refusal(kept, plain(0))


def test_a_checkpoint_of_another_training_is_one_sentence(kept: Path) -> None:
    other = "belongs to another training: "
    assert f"{other}model.network." in refusal(kept, dropping(0))
    assert f"{other}model.convolutions." in refusal(kept, batch_normed(0))
    assert f"{other}model.embed.0.weight differs" in refusal(kept, double(0))
    assert f"{other}average." in refusal(kept, unaveraged(0))
    assert f"{other}loss.error differs" in refusal(kept, online(0))
    checkpoints.save(kept, unaveraged(0))
    assert f"{other}average." in refusal(kept, plain(0))


def test_a_save_that_fails_leaves_the_last_one(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = kept.read_bytes()

    def full(state: dict[str, Tensor], path: Path, facts: dict[str, str]) -> None:
        Path(path).write_bytes(b"half of it")
        raise OSError("no space left on device")

    monkeypatch.setattr(checkpoints, "save_file", full)
    with pytest.raises(OSError, match="no space left"):
        checkpoints.save(kept, trainer(draw=stream(9)))
    assert kept.read_bytes() == before and list(kept.parent.iterdir()) == [kept]
