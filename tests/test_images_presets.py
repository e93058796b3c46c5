"""What the presets build: networks for their data, the same for the same arguments."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import small_images
import torch

from erdpaper.images import build, data
from erdpaper.images.presets import PRESETS, TOOLS, described
from erdpaper.models.autoencoder import Autoencoder


@pytest.fixture(scope="module")
def small() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        small_images.install(patch)
        torch.manual_seed(0)
        coder = Autoencoder.from_name("KL-fashion").eval().requires_grad_(False)
        patch.setattr(data, "autoencoder", lambda: coder)
        z, labels = small_images.latents()
        patch.setattr(data, "latents", lambda split="train": (z[:400], labels[:400]))
        yield
    small_images.forget()


@pytest.mark.parametrize("name", PRESETS | TOOLS)
def test_every_preset_builds_a_network_for_its_data(small: None, name: str) -> None:
    run = build.build(name, seed=3)
    row = (PRESETS | TOOLS)[name]
    assert json.loads(json.dumps(described(row))).keys() == run.config.keys() - {"preset", "seed"}
    assert json.loads(json.dumps(run.config))["preset"] == name
    assert run.trainer.recipe == row.recipe
    assert run.config == {"preset": name, "seed": 3} | described(row)
    batch, model = run.trainer.draw(1), run.trainer.model
    assert run.batch == len(batch[0]) == row.batch
    # on a part of the batch, for time, that has little noise and much
    part = type(batch)(*(value[::16] for value in batch))
    with torch.no_grad():
        loss = run.trainer.loss(model, part)
    assert loss.shape == () and 0.1 < float(loss) < 10
    if name in PRESETS:
        assert model.null == data.CLASSES
        with torch.no_grad():
            y = model(part.x, part.t, part.label)
        assert y.shape == part.y.shape == part.x.shape
        # a new network answers 0 or little, so its loss is the weighted energy of the target
        expected = (part.weight * (y - part.y).square().flatten(1).mean(1)).mean()
        assert float(loss) == pytest.approx(float(expected), rel=1e-5)
        assert int(batch.label.max()) <= data.CLASSES and int(batch.label.min()) >= 0


def test_a_build_is_the_same_for_the_same_arguments(small: None) -> None:
    first, again, other = (build.build("fashion-dit-latents", seed) for seed in (3, 3, 4))
    for run, same in ((again, True), (other, False)):
        mine, theirs = run.trainer.model.state_dict(), first.trainer.model.state_dict()
        assert all(map(torch.equal, mine.values(), theirs.values())) == same
        assert torch.equal(run.trainer.draw(5).x, first.trainer.draw(5).x) == same


def test_a_shorter_run_warms_up_for_a_tenth_at_most(small: None) -> None:
    row = PRESETS["fashion-latents"].recipe
    for steps, warmup in ((None, 200), (10**6, 200), (1_000, 100), (9, 0), (1, 0)):
        recipe = build.build("fashion-latents", steps=steps).trainer.recipe
        assert recipe.steps == (row.steps if steps is None else steps)
        assert recipe.warmup == warmup and recipe.lr == row.lr


def test_the_decoder_is_trained_on_a_copy(small: None) -> None:
    kept = {name: part.clone() for name, part in data.autoencoder().state_dict().items()}
    run = build.build("fashion-decoder", steps=1).trainer
    # a whole batch takes long
    draw = run.draw
    run.draw = lambda step: type(draw(step))(*(part[:4] for part in draw(step)))
    list(run.run())
    after = data.autoencoder().state_dict()
    assert all(torch.equal(part, after[name]) for name, part in kept.items())
    moved = run.model.state_dict()
    assert any(not torch.equal(moved[f"autoencoder.{n}"], part) for n, part in kept.items())


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: build.build("x"), "unknown preset 'x'; use one of fashion-pixels, .*-decoder"),
        (lambda: build.network("x"), "unknown network 'x'; use one of .*Hourglass-fashion"),
        (lambda: build.training_data("x"), "unknown data 'x'; use fashion or fashion-latents"),
        (lambda: build.build("fashion-dit", steps=0), "training needs steps >= 1"),
    ],
)
def test_unknown_names_are_one_sentence(call: Callable[[], Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence) as caught:
        call()
    assert "\n" not in str(caught.value)
