"""The same training with an accelerator, on two processes, in half precision and compiled."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from fresh_process import fresh_process
from safetensors.torch import load_file
from small_training import losses, network, normal, trainer, truncated
from torch import Tensor, nn

from erdpaper.images import tools
from erdpaper.models.autoencoder import Autoencoder
from erdpaper.training import Recipe, Trainer

F64 = torch.float64

SCRIPT = """\
import json, sys
from itertools import islice
from pathlib import Path

import torch
from accelerate import Accelerator
from safetensors.torch import save_file
from small_training import trainer, truncated
from test_training_processes import autoencoding

from erdpaper.training import RunFolder

out = Path(sys.argv[1])
accelerator = Accelerator(cpu=True)
rank = accelerator.process_index
assert accelerator.num_processes == 2
found = {}


def small(init, **other):
    return trainer(init, torch.float64, accelerator=accelerator, **other)


for name, parts in [("plain", 1), ("accumulated", 2)]:
    # every process starts elsewhere: what the first one has counts
    run = small(rank, accumulate=parts)
    found[name] = [float(record.loss) for record in run.run()]
    save_file(run.model.state_dict(), out / f"{name}-{rank}.safetensors")
    save_file(run.average.module.state_dict(), out / f"{name}-average-{rank}.safetensors")
run = small(rank, draw=truncated(torch.float64), accumulate=2)
found["truncated"] = [float(record.loss) for record in run.run()]
folder = RunFolder(out / "run", {}, every=4)
list(islice(folder.run(small(0)), 6))
accelerator.wait_for_everyone()
found["going on"] = [float(record.loss) for record in folder.run(small(3 + rank))]
found["autoencoder"] = [float(record.loss) for record in autoencoding(accelerator).run()]
try:
    next(small(0, accumulate=3).run())
except ValueError as error:
    found["refused"] = str(error)
(out / f"{rank}.json").write_text(json.dumps(found))
accelerator.end_training()
"""


class Twice(tools.NoisedStream):
    """Two equal halves: each process does what one alone would do with one of them."""

    def __call__(self, step: int) -> tools.Noised:
        batch = super().__call__(step)
        return tools.Noised(*(torch.cat([part, part]) for part in batch))


def autoencoding(accelerator: Accelerator | None = None) -> Trainer:
    torch.manual_seed(2)
    model = Autoencoder.from_name("KL-fashion-tiny").double()
    kind = tools.NoisedStream if accelerator is None else Twice
    draw = kind(normal(8, 1, 28, 28, dtype=F64).tanh(), model.shape, 2, 4)
    return Trainer(model, draw, Recipe(3, 1e-3, clip=1.0), tools.restoration, accelerator)


@pytest.fixture
def accelerated() -> Iterator[Callable[..., Accelerator]]:
    """Accelerators, which share a state that only this empties."""

    def make(**arguments: Any) -> Accelerator:
        AcceleratorState._reset_state(True)
        return Accelerator(cpu=True, **arguments)

    with fresh_process():
        yield make


def test_one_accelerated_process_changes_no_bit(accelerated: Callable[..., Accelerator]) -> None:
    for parts in (1, 2):
        alone = trainer(accumulate=parts)
        run = trainer(accumulate=parts, accelerator=accelerated())
        assert losses(run) == losses(alone)
        assert run.average is not None and alone.average is not None
        for mine, theirs in ((run.model, alone.model), (run.average, alone.average)):
            state = theirs.state_dict()
            assert list(mine.state_dict()) == list(state)
            assert all(torch.equal(v, state[name]) for name, v in mine.state_dict().items())


def test_half_precision_stays_close(accelerated: Callable[..., Accelerator]) -> None:
    seen: list[torch.dtype] = []
    run = trainer(accelerator=accelerated(mixed_precision="bf16"))
    run.model.first.register_forward_hook(lambda *args: seen.append(args[2].dtype))  # type: ignore[union-attr, operator]
    found, expected = losses(run), losses(trainer())
    assert found == pytest.approx(expected, rel=2**-7) and found != expected
    assert set(seen) == {torch.bfloat16}
    # weights, average and moments stay in single precision
    state = run.optimiser.state_dict()["state"]
    kept = [*run.model.parameters(), *run.average.parameters()]  # type: ignore[union-attr]
    assert {p.dtype for p in [*kept, *(v for m in state.values() for v in m.values())]} == {
        torch.float32
    }


def test_accumulation_belongs_to_the_recipe(accelerated: Callable[..., Accelerator]) -> None:
    with pytest.raises(ValueError, match="leave accumulation to the recipe"):
        trainer(accelerator=accelerated(gradient_accumulation_steps=2))


def launch(path: Path) -> list[dict[str, Any]]:
    (path / "script.py").write_text(SCRIPT)
    # what `accelerate launch` starts where there are several GPUs
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent)}
    done = subprocess.run(
        [*command, str(path / "script.py"), str(path)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads((path / f"{rank}.json").read_text()) for rank in range(2)]


def test_two_processes_are_one(tmp_path: Path) -> None:
    found = launch(tmp_path)
    alone = trainer(dtype=F64)
    expected = losses(alone)
    assert alone.average is not None
    assert found[0] == found[1]
    for name in ("plain", "accumulated"):
        assert found[0][name] == pytest.approx(expected, rel=1e-9)
        for rank in range(2):
            close(load_file(tmp_path / f"{name}-{rank}.safetensors"), alone.model)
            kept = load_file(tmp_path / f"{name}-average-{rank}.safetensors")
            close(kept, alone.average.module)
    # one smallest time for all processes and parts of a batch
    other = losses(trainer(dtype=F64, draw=truncated(F64)))
    assert found[0]["truncated"] == pytest.approx(other, rel=1e-9)
    # the folder's run went on after its checkpoint at step 4, and was kept once
    assert found[0]["going on"] == pytest.approx(expected[4:], rel=1e-9)
    log = (tmp_path / "run" / "losses.csv").read_text().splitlines()[1:]
    assert [line.split(",")[0] for line in log] == [str(k) for k in range(1, 13)]
    close(load_file(tmp_path / "run" / "model.safetensors"), alone.average.module)
    assert found[0]["autoencoder"] == pytest.approx(losses(autoencoding()), rel=1e-9)
    assert found[0]["refused"] == (
        "a batch of 8 cannot be cut into 2 (processes) x 3 (accumulation) equal parts"
    )


def close(state: dict[str, Tensor], model: nn.Module) -> None:
    expected = model.state_dict()
    assert state.keys() == expected.keys()
    for name, part in state.items():
        torch.testing.assert_close(part, expected[name], rtol=0, atol=1e-9)


def test_compiling_changes_nothing_but_speed() -> None:
    net = network()
    names = list(net.state_dict())
    # the compiler's own C++ takes half a minute, and this is what stands between it and a trainer
    net.compile(backend="aot_eager")
    run = trainer(net=net, steps=6)
    assert losses(run) == pytest.approx(losses(trainer(steps=6)), rel=1e-5)
    assert list(run.model.state_dict()) == names
    assert run.average is not None
    assert [f"module.{name}" for name in names] == list(run.average.state_dict())[1:]
