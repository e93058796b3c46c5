"""What is measured of which model, and that what is kept of Fashion-MNIST was measured so."""

from dataclasses import asdict, replace
from itertools import combinations
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from erdpaper import sampling
from erdpaper.cli import main
from erdpaper.images.measure import Features
from erdpaper.regimes import (
    command,
    contraction_kept,
    contraction_runs,
    crossings,
    opened,
    plans,
    push_curves,
    pushes,
    shortcut_runs,
    windows,
)
from erdpaper.regimes.plans import FASHION, PlanError
from erdpaper.regimes.system import Label, System
from erdpaper.schedules import Cosine


def on_a_line(places: list[float], free: bool = True, each: int = 24) -> System:
    """States of a class around its mean; with a denoiser for no class or without."""
    means = torch.tensor(places)
    x0 = (means[:, None] + torch.tensor([-1.0, 1.0] * (each // 2))).reshape(-1, 1)
    labels = torch.arange(len(places)).repeat_interleave(each)

    def denoiser(label: Label, scale: float) -> sampling.Denoiser:
        if label is None and not free:
            raise ValueError("this network has no class for none")
        return lambda x, t: sampling.Prediction(x, x)

    def data(split: str, label: int | None) -> tuple[Tensor, Tensor]:
        return x0, labels

    def look(x: Tensor) -> Features:
        return Features(x, x)

    names = tuple(f"class {k}" for k in range(len(places)))
    return System("line", Cosine(), (1,), names, denoiser, data, lambda x: x, look)


distinct = st.lists(st.integers(-50, 50), min_size=3, max_size=9, unique=True)


@given(distinct)
def test_near_and_far_pairs_are_those_of_the_class_means(places: list[int]) -> None:
    near, far = plans._pairs(on_a_line([float(p) for p in places]))
    distance = {
        (f"class {a}", f"class {b}"): abs(places[a] - places[b])
        for a, b in combinations(range(len(places)), 2)
    }
    assert len(near) == len(far) == min(3, len(distance) // 2)
    assert not set(near) & set(far)
    ordered = [distance[pair] for pair in (*near, *far)]
    assert ordered == sorted(ordered)
    rest = [d for pair, d in distance.items() if pair not in (*near, *far)]
    assert all(distance[near[-1]] <= d <= distance[far[0]] for d in rest)


@pytest.fixture
def unnamed(monkeypatch: pytest.MonkeyPatch) -> None:
    """No environment variables are read."""
    monkeypatch.setattr(plans, "_origin", lambda model: (("MODEL", "a"),))


@pytest.mark.usefixtures("unnamed")
def test_a_plan_is_of_the_model_and_limits_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plans, "open_system", lambda *_: on_a_line([0.0, 1.0, 4.0, 9.0, 30.0]))
    plan = plans.made("stable-diffusion", 50)
    assert plan.near[0] == ("class 0", "class 1") and plan.far[-1] == ("class 0", "class 4")
    assert plan.steered == (*plan.near[:2], plan.far[-1], plan.far[-2])
    assert plan.spaces == ("latents",) and plan.guidance == 7.5
    assert (plan.size(200), plan.size(20), replace(plan, most=None).size(200)) == (50, 20, 200)
    assert plan.images == (24, 24) and contraction_runs.images(plan) == 24
    # 50 is what is taken where none are asked for
    assert plan == plans.made("stable-diffusion") and plan.origin == (("MODEL", "a"),)
    assert plan.command == "erdpaper regimes --model stable-diffusion"
    assert replace(plan, most=20).command.endswith(" --samples 20")
    assert plan.within(Path("a")) == Path("a/stable-diffusion")
    # birds of CIFAR-10, as in Figure 3.5
    assert plans.made("cifar10").counted[0] == 2
    assert len(set(plan.counted)) == 3


@pytest.mark.usefixtures("unnamed")
def test_models_that_cannot_be_measured_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plans, "open_system", lambda *_: on_a_line([0.0, 1.0]))
    with pytest.raises(PlanError, match="near and far pairs need three classes or more"):
        plans.made("cifar10")
    monkeypatch.setattr(plans, "open_system", lambda *_: on_a_line([0.0, 1.0, 3.0], free=False))
    with pytest.raises(PlanError, match="no class for none"):
        plans.made("cifar10")
    monkeypatch.setattr(plans, "open_system", lambda *_: on_a_line([0.0, 1.0, 3.0], each=20))
    with pytest.raises(PlanError, match="class 0 has 20 images in the split train; at least 21"):
        plans.made("cifar10")


def test_a_plan_is_kept_and_not_mixed_with_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = replace(FASHION, model="cifar10", most=40, origin=(("MODEL", "a"),))
    monkeypatch.setattr(plans, "results", lambda: tmp_path)
    monkeypatch.setattr(plans, "_origin", lambda model: (("MODEL", "a"),))
    assert plans.measured("cifar10") is None and plans.measured("fashion") == FASHION
    plans.keep(plan, plan.within(tmp_path))
    assert plans.measured("cifar10") == plan and not plans.of_another("cifar10")
    plans.check(plan, plan.within(tmp_path))
    with pytest.raises(
        PlanError,
        match="by `erdpaper regimes --model cifar10 --samples 40`, not",
    ):
        plans.check(replace(plan, most=None), plan.within(tmp_path))
    # another network under the same name
    monkeypatch.setattr(plans, "_origin", lambda model: (("MODEL", "b"),))
    assert plans.measured("cifar10") is None and plans.of_another("cifar10")
    assert not plans.of_another("stable-diffusion")


def test_a_network_is_told_from_another_by_its_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("ERDPAPER_CIFAR10", "ERDPAPER_CLIP"):
        monkeypatch.setenv(name, "hub/name")
    monkeypatch.setenv("ERDPAPER_CIFAR10_MODEL", str(tmp_path))
    (tmp_path / "unet").mkdir()
    weights = tmp_path / "unet" / "model.safetensors"
    weights.write_bytes(b"one")
    first = opened.origin("cifar10")
    assert first == opened.origin("cifar10")
    assert first[0] == ("ERDPAPER_CIFAR10", "hub/name")
    assert first[1][1].startswith(f"{tmp_path}, SHA-256 ")
    weights.write_bytes(b"two")
    assert opened.origin("cifar10") != first


def test_results_are_those_of_a_model_once_they_are_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = replace(FASHION, model="cifar10")
    monkeypatch.setattr(plans, "results", lambda: tmp_path / "kept")
    monkeypatch.setattr(plans, "_origin", lambda model: ())

    def nothing(*_: object) -> None:
        return None

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    for part in (contraction_runs, *command._PARTS):
        monkeypatch.setattr(part, "collect", nothing)
    monkeypatch.setattr(pushes, "collect", interrupted)
    with pytest.raises(KeyboardInterrupt):
        command.everything(tmp_path / "work", tmp_path / "kept", 1, plan)
    assert plans.measured("cifar10") is None
    with pytest.raises(PlanError, match="work/cifar10 holds measurements by `erdpaper reg"):
        command.everything(tmp_path / "work", tmp_path / "kept", 1, replace(plan, most=30))
    monkeypatch.setattr(pushes, "collect", nothing)
    command.everything(tmp_path / "work", tmp_path / "kept", 1, plan)
    assert plans.measured("cifar10") == plan


def test_kept_arms_of_injection_are_those_of_the_plan() -> None:
    kept = windows.load()
    made = {job.name: asdict(job.arm) for job in windows.jobs()}
    assert list(made) == list(kept.arms)
    assert made == {name: arm.result["arm"] for name, arm in kept.arms.items()}
    assert set(kept.pairs()) < set(made) and kept.base is kept.arms["Trouser to Bag"]


def test_other_guidance_is_tried_around_that_of_the_plan() -> None:
    plan = replace(FASHION, model="stable-diffusion", guidance=7.5)
    scales = {n: (a.guidance, a.adversary_guidance) for n, a in windows.guided(plan).items()}
    assert scales == {
        "guidance 1": (1, 1),
        "guidance 3": (3, 3),
        "guidance 3, adversary without": (3, 1),
        "guidance 7.5, adversary without": (7.5, 1),
    }
    assert windows.base(plan).guidance == windows.base(plan).adversary_guidance == 7.5
    steered = {name: setting.guidance for name, setting in pushes.settings(plan).items()}
    assert steered == {"ddpm": 7.5, "ddim": 7.5, "guidance 3": 3.0}
    assert {windows.PIXELS, windows.LATER} < set(windows.others())
    assert set(windows.others()) - set(windows.others(plan)) == {windows.PIXELS, windows.LATER}


def test_kept_curves_levels_and_vectors_are_those_of_the_plan() -> None:
    found = contraction_kept.load()
    assert found.card["classes"] == list(FASHION.counted)
    made = {(p.space, p.label) for p in contraction_runs.pieces()}
    assert {(c["space"], c["label"]) for c in found.lines} == made
    states = crossings.load().card["states"]
    assert states == {name: problem.n for name, problem in crossings.problems().items()}
    steered = push_curves.load()
    assert {key[1] for key in steered.lines} == set(pushes.pairs())
    settings = {name: asdict(setting) for name, setting in pushes.settings().items()}
    assert steered.card["settings"] == settings
    other = {key[1] for key in steered.lines if key[0] == "ddim"}
    assert other == set(pushes.other_pairs())
    assert shortcut_runs.load().card["samples"] == shortcut_runs.SAMPLES


def test_problems_of_another_model_are_all_classes_and_its_pairs() -> None:
    plan = replace(FASHION, model="cifar10", spaces=("pixels",), most=30)
    found = crossings.problems(plan)
    names = ["all classes", *(" or ".join(pair) for pair in (*plan.far, *plan.near))]
    assert list(found) == names
    assert all(p.n == 30 and p.space == "pixels" for p in found.values())
    assert found["Trouser or Bag"].classes == (1, 8)
    made = [path.stem for path in crossings.tasks(Path("work"), plan)]
    assert "all classes, deterministic" in made and "Trouser or Bag, takeover" in made


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--samples", "30"], "--samples is for other models; the samples of fashion are fixed"),
        (["--model", "cifar10", "--samples", "5"], "5 is not in the range x>=20"),
        (["--model", "cifar100"], "'cifar100' is not one of 'fashion', 'cifar10'"),
        (["--model", "cifar10"], "set the environment variable ERDPAPER_CIFAR10 to the folder"),
        (["--model", "stable-diffusion"], "variable ERDPAPER_STABLE_DIFFUSION to a folder or hub"),
    ],
)
def test_wrong_requests_get_one_sentence(
    options: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("ERDPAPER_CIFAR10", "ERDPAPER_STABLE_DIFFUSION"):
        monkeypatch.delenv(name, raising=False)
    result = CliRunner().invoke(main, ["regimes", *options, "--out", str(tmp_path)])
    assert result.exit_code != 0 and said in result.output
    assert not list(tmp_path.iterdir())
