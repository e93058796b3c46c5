"""Networks that differ in target and length are trained, kept and read back as such."""

from pathlib import Path

import pytest
import torch

from erdpaper.images import build, keep
from erdpaper.images.presets import PRESETS
from erdpaper.regimes import networks


def test_trainings_differ_in_target_and_length_alone() -> None:
    assert len({each.file for each in networks.trainings()}) == 10
    for each in networks.trainings():
        row, kept = PRESETS[each.preset], PRESETS[f"fashion-{each.space}"]
        assert row == kept._replace(target=each.target)


def test_a_network_is_read_back_as_it_was_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(networks, "STEPS", {"latents": (2,), "pixels": ()})
    networks.train(tmp_path, 2)
    for target in networks.TARGETS:
        training = networks.Training("latents", target, 2)
        trainer = build.build(training.preset, steps=2).trainer
        for _ in trainer.run():
            pass
        expected = keep.half(trainer.model.state_dict())
        found = networks.load(tmp_path, training).state_dict()
        assert all(torch.equal(found[name], part.float()) for name, part in expected.items())
