"""A run in a folder: killed at any moment it goes on, and a run that breaks says what is left."""

import json
import resource
import signal
import subprocess
from itertools import islice
from pathlib import Path

import pytest
import step_by_step
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from small_training import losses, network, stream, trainer
from torch import Tensor, nn

from erdpaper.files import replacing, write_atomically
from erdpaper.models.classifier import Classifier
from erdpaper.training import Batch, Recipe, RunFolder, Trainer, TrainingError, checkpoints
from erdpaper.training.folder import snapshot

CONFIG = {"model": "small", "betas": (0.9, 0.95), "seed": 3}
STEPS = 40

SCRIPT = """\
import os, signal, sys
from pathlib import Path

from small_training import trainer

from erdpaper.training import RunFolder, checkpoints

path, die_in_save_of = Path(sys.argv[1]), int(sys.argv[2])
save_file = checkpoints.save_file


def half(state, temporary, facts):
    if facts["step"] != str(die_in_save_of):
        return save_file(state, temporary, facts)
    save_file(state, temporary, facts)
    os.truncate(temporary, os.path.getsize(temporary) // 2)
    os.kill(os.getpid(), signal.SIGKILL)


checkpoints.save_file = half
folder = RunFolder(path, {"model": "small", "betas": [0.9, 0.95], "seed": 3}, every=5)
for record in folder.run(trainer(steps=40)):
    print(record.step, flush=True)
    if die_in_save_of < 0:
        # until it is killed from outside, or told to go on
        sys.stdin.readline()
"""


def start(path: Path, die_in_save_of: int) -> "subprocess.Popen[str]":
    script = path.parent / "script.py"
    return step_by_step.start(script, SCRIPT, str(path), str(die_in_save_of))


def folder(path: Path, every: int = 5) -> RunFolder:
    return RunFolder(path, CONFIG, every)


def names(path: Path) -> list[str]:
    return sorted(part.name for part in path.iterdir())


def finished(path: Path) -> tuple[list[float], bytes]:
    return folder(path).losses(), (path / "model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[float], bytes]:
    """The losses and the network of a run that nobody stopped."""
    path = tmp_path_factory.mktemp("whole") / "run"
    for _ in folder(path).run(trainer(steps=STEPS)):
        pass
    return finished(path)


def test_a_run_killed_twice_is_the_uninterrupted_run(
    tmp_path: Path, whole: tuple[list[float], bytes]
) -> None:
    path = tmp_path / "run"
    # killed between two steps, after three losses which no checkpoint covers
    step_by_step.kill_after(13, start(path, -1))
    with (path / "losses.csv").open("a") as log:
        log.write("11,0.5\n12,0.")
    assert names(path)[-2:] == ["step-00000005.safetensors", "step-00000010.safetensors"]
    # killed with half a checkpoint written
    second = start(path, 25)
    output, _ = second.communicate()
    assert second.returncode == -signal.SIGKILL
    assert output.split() == [str(step) for step in range(11, 25)]
    assert any(name.startswith(".step-00000025") for name in names(path))
    assert len((path / "losses.csv").read_text().splitlines()) == 26
    # and now to its end, by another network of the same shape
    steps = [record.step for record in folder(path).run(trainer(7, steps=STEPS))]
    assert steps == list(range(21, STEPS + 1))
    assert finished(path) == whole
    assert names(path) == [
        "config.json",
        "losses.csv",
        "model.safetensors",
        "step-00000035.safetensors",
        "step-00000040.safetensors",
    ]


def test_a_folder_holds_the_losses_and_the_averaged_network(
    whole: tuple[list[float], bytes], tmp_path: Path
) -> None:
    run = trainer(steps=STEPS)
    assert whole[0] == losses(run)
    (tmp_path / "model.safetensors").write_bytes(whole[1])
    saved = load_file(tmp_path / "model.safetensors")
    assert run.average is not None
    average = run.average.module.state_dict()
    assert saved.keys() == average.keys()
    assert all(torch.equal(saved[name], part) for name, part in average.items())
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        assert json.loads(file.metadata()["config"]) == json.loads(json.dumps(CONFIG))


def test_without_an_average_the_network_itself_is_kept(tmp_path: Path) -> None:
    run = trainer(ema=None)
    list(folder(tmp_path).run(run))
    saved = load_file(tmp_path / "model.safetensors")
    assert all(torch.equal(saved[name], part) for name, part in run.model.state_dict().items())


def test_a_run_that_is_left_goes_on_and_a_finished_one_is_done(
    tmp_path: Path, whole: tuple[list[float], bytes]
) -> None:
    list(islice(folder(tmp_path).run(trainer(steps=STEPS)), 8))
    # every loss so far can be read, those after the checkpoint too
    assert folder(tmp_path).losses() == whole[0][:8]
    run = folder(tmp_path).run(trainer(1, steps=STEPS))
    assert next(run).step == 6
    for _ in run:
        pass
    assert finished(tmp_path) == whole
    (tmp_path / "model.safetensors").unlink()
    assert list(folder(tmp_path).run(trainer(1, steps=STEPS))) == []
    assert finished(tmp_path) == whole


def test_a_snapshot_is_the_average_after_its_step_whatever_came_between(tmp_path: Path) -> None:
    state: dict[str, Tensor] = {}
    whole, left = (
        RunFolder(tmp_path / name, CONFIG, every=5, snapshots=(7, STEPS)) for name in ("a", "b")
    )
    running = trainer(steps=STEPS)
    for record in whole.run(running):
        if record.step == 7:
            assert running.average is not None
            state = {k: v.clone() for k, v in running.average.module.state_dict().items()}
    kept = load_file(snapshot(whole.path, 7))
    assert kept.keys() == state.keys()
    assert all(torch.equal(kept[name], state[name]) for name in state)
    last = snapshot(whole.path, STEPS).read_bytes()
    assert last == (whole.path / "model.safetensors").read_bytes()

    # one start goes beyond the snapshot, the next from the checkpoint that came with it
    for _ in islice(left.run(trainer(steps=STEPS)), 9):
        pass
    for _ in left.run(trainer(steps=STEPS)):
        pass
    assert snapshot(left.path, 7).read_bytes() == snapshot(whole.path, 7).read_bytes()
    assert (left.path / "model.safetensors").read_bytes() == last
    assert left.losses() == whole.losses()


@pytest.mark.parametrize("step", [0, -1, STEPS + 1])
def test_snapshots_are_of_steps_of_the_run(tmp_path: Path, step: int) -> None:
    asked = RunFolder(tmp_path, CONFIG, snapshots=(step,))
    with pytest.raises(TrainingError, match=rf"^snapshots must be of steps 1..{STEPS}, got {step}"):
        next(asked.run(trainer(steps=STEPS)))
    assert names(tmp_path) == []


def test_a_snapshot_that_is_asked_for_too_late_is_one_sentence(tmp_path: Path) -> None:
    for _ in islice(folder(tmp_path).run(trainer(steps=STEPS)), 6):
        pass
    asked = RunFolder(tmp_path, CONFIG, snapshots=(3,))
    with pytest.raises(TrainingError, match=r"is at step 5, past the snapshot of step 3; leave"):
        next(asked.run(trainer(steps=STEPS)))


def test_the_last_step_is_kept_wherever_it_falls(tmp_path: Path) -> None:
    list(folder(tmp_path, 5).run(trainer(steps=7, warmup=0)))
    assert [p.name for p in folder(tmp_path).checkpoints()] == [
        "step-00000005.safetensors",
        "step-00000007.safetensors",
    ]


def test_a_network_in_another_memory_layout_is_kept(tmp_path: Path) -> None:
    net = Classifier(8, classes=3).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    images = torch.zeros(4, 1, 8, 8)

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        answer: Tensor = model(batch.x).square().mean()
        return answer

    run = Trainer(net, lambda step: Batch(*4 * [images]), Recipe(2), loss)
    list(folder(tmp_path).run(run))
    saved = load_file(tmp_path / "model.safetensors")
    assert all(torch.equal(saved[name], part) for name, part in net.state_dict().items())


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("other", "sentence"),
    [
        (CONFIG | {"seed": 4}, "holds a run with seed 3, not 4; name another folder or delete"),
        (CONFIG | {"betas": (0.9, 0.99)}, r"with betas \[0.9, 0.95\], not \[0.9, 0.99\]"),
        (CONFIG | {"extra": 1}, "with extra None, not 1"),
        ({"model": "small", "betas": (0.9, 0.95)}, "with seed 3, not None"),
    ],
)
def test_another_configuration_is_one_sentence(
    tmp_path: Path, other: dict[str, object], sentence: str
) -> None:
    list(islice(folder(tmp_path).run(trainer()), 6))
    before = {name: (tmp_path / name).read_bytes() for name in names(tmp_path)}
    with pytest.raises(TrainingError, match=sentence) as caught:
        next(RunFolder(tmp_path, other).run(trainer()))
    assert "\n" not in str(caught.value)
    assert {name: (tmp_path / name).read_bytes() for name in names(tmp_path)} == before


@pytest.mark.parametrize("raw", ["", "{", "[]", "5"])
def test_a_damaged_configuration_is_one_sentence(tmp_path: Path, raw: str) -> None:
    list(islice(folder(tmp_path).run(trainer()), 6))
    (tmp_path / "config.json").write_text(raw)
    with pytest.raises(TrainingError, match=r"config.json is damaged; delete .* to start anew"):
        next(folder(tmp_path).run(trainer()))


def test_checkpoints_need_steps_between_them(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least one step between them, got 0"):
        folder(tmp_path, 0)


def test_missing_losses_are_one_sentence(tmp_path: Path) -> None:
    list(islice(folder(tmp_path).run(trainer()), 6))
    (tmp_path / "losses.csv").write_text("step,loss\n1,0.5\n")
    with pytest.raises(TrainingError, match="ends before step 5; delete"):
        next(folder(tmp_path).run(trainer()))


def test_a_damaged_checkpoint_can_be_deleted(
    tmp_path: Path, whole: tuple[list[float], bytes]
) -> None:
    list(islice(folder(tmp_path).run(trainer(steps=STEPS)), 12))
    last = folder(tmp_path).checkpoints()[-1]
    last.write_bytes(last.read_bytes()[:1000])
    with pytest.raises(TrainingError, match="delete it to go on from the one before"):
        next(folder(tmp_path).run(trainer(steps=STEPS)))
    last.unlink()
    assert next(iter(folder(tmp_path).run(trainer(steps=STEPS)))).step == 6
    list(folder(tmp_path).run(trainer(steps=STEPS)))
    assert finished(tmp_path) == whole


def breaking(step_of_it: int, value: float) -> Trainer:
    draw = stream()

    def poisoned(step: int) -> Batch:
        batch = draw(step)
        return batch._replace(weight=batch.weight * value) if step == step_of_it else batch

    return trainer(steps=STEPS, draw=poisoned)


@pytest.mark.parametrize("bad", [12, 15, 16])
def test_a_loss_that_is_no_number_names_its_step_and_what_is_left(
    tmp_path: Path, bad: int, whole: tuple[list[float], bytes]
) -> None:
    last = tmp_path / f"step-000000{(bad - 1) // 5 * 5:02d}.safetensors"
    with pytest.raises(TrainingError, match=f"not finite at step {bad}; .*checkpoint is {last}"):
        list(folder(tmp_path).run(breaking(bad, float("nan"))))
    assert folder(tmp_path).losses() == whole[0][: bad - 1]
    run = trainer(5, steps=STEPS)
    checkpoints.load(last, run)
    assert run.step == (bad - 1) // 5 * 5
    # with the fault mended, the run goes on
    list(folder(tmp_path).run(run))
    assert finished(tmp_path) == whole


def test_a_loss_that_is_seen_late_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # a GPU's losses are looked at every 50 steps only
    monkeypatch.setattr(Trainer, "_looks", lambda *_: False)
    with pytest.raises(TrainingError, match=r"not finite at step 13; the last .*step-00000010"):
        list(folder(tmp_path).run(breaking(13, float("nan"))))
    assert [p.name for p in folder(tmp_path).checkpoints()] == [
        "step-00000005.safetensors",
        "step-00000010.safetensors",
    ]


class Rooted(nn.Module):
    """A finite loss with a gradient that is not, where the root's argument is 0."""

    def __init__(self) -> None:
        super().__init__()
        self.network, self.scale = network(), nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor, t: Tensor, label: Tensor) -> Tensor:
        answer: Tensor = self.network(x, t, label) + (self.scale * 0).sqrt()
        return answer


def test_weights_that_are_no_numbers_are_not_kept(tmp_path: Path) -> None:
    run = trainer(net=Rooted(), clip=None)
    with pytest.raises(TrainingError, match="weights are not finite after step 1; no checkpoint"):
        list(folder(tmp_path, every=1).run(run))
    assert names(tmp_path) == ["config.json", "losses.csv"]


# ---------------------------------------------------------------- files that are replaced


def test_a_crash_while_writing_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file"
    write_atomically(path, "old")
    for error in (ValueError, KeyboardInterrupt):
        with pytest.raises(error), replacing(path) as temporary:
            temporary.write_text("half")
            assert path.read_text() == "old"
            raise error
        assert path.read_text() == "old" and names(path.parent) == ["file"]
    # what is gone already need not be removed
    with pytest.raises(FileNotFoundError), replacing(path) as temporary:
        temporary.unlink()
    assert path.read_text() == "old" and names(path.parent) == ["file"]


def test_a_file_that_took_its_place_can_be_read_by_all(tmp_path: Path) -> None:
    write_atomically(tmp_path / "file", b"\x00new")
    assert (tmp_path / "file").read_bytes() == b"\x00new"
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("most", [100, 1_500, 60_000])
def test_a_full_disk_is_one_sentence_and_the_run_goes_on_later(
    most: int, whole: tuple[list[float], bytes], tmp_path: Path
) -> None:
    path = tmp_path / "run"
    # what a file may hold is limited, which fails as a full disk does: in the middle of writing
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, hard))
    try:
        with pytest.raises(TrainingError, match=r"cannot be written to .*File too large") as caught:
            list(folder(path).run(trainer(steps=STEPS)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    assert "\n" not in str(caught.value)
    assert not [name for name in names(path) if name.endswith(".tmp")]
    list(folder(path).run(trainer(steps=STEPS)))
    assert finished(path) == whole
