"""FSDP: two processes that hold half of the network each train as one that holds it all.

accelerate shards on GPUs only, so the two processes here, on CPUs over gloo, are told that they
have some: all that follows, from the wrapping of blocks to the exchange, is its own and torch's.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from fresh_process import fresh_process
from safetensors.torch import load_file
from small_training import CLASSES, RECIPE, generator_batch, losses
from torch import Tensor

from erdpaper.models.dit import DiT
from erdpaper.models.uvit import UViT
from erdpaper.training import Batch, Recipe, RunFolder, Trainer, engine

F64 = torch.float64
KINDS = {"dit": "DiT-fashion-latent", "uvit": "U-ViT-fashion-latent"}

SCRIPT = """\
import json, sys
from itertools import islice
from pathlib import Path

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import DistributedType
from test_training_sharded import made

from erdpaper.training import RunFolder, devices, sharding

out = Path(sys.argv[1])
accelerator = Accelerator(cpu=True, mixed_precision=sys.argv[2])
for state in (PartialState(), accelerator.state):
    state.distributed_type = DistributedType.FSDP
accelerator.state.fsdp_plugin = devices.fsdp()
assert accelerator.is_fsdp2 and accelerator.num_processes == 2
half = sys.argv[2] != "no"
found = {}


def sharded(**changes):
    accelerator._models.clear()
    accelerator.state.fsdp_plugin = devices.fsdp()
    run = made(accelerator=accelerator, dtype=torch.float32 if half else torch.float64, **changes)
    assert run.sharded
    # half of every tensor, of the moving average too
    for module in (run.model, run.average.module):
        for part in module.parameters():
            assert sharding.own(part).numel() <= 0.75 * part.numel() or part.shape[0] < 2
    return run


for kind in ("dit", "uvit"):
    found[kind] = [float(record.loss) for record in sharded(kind=kind).run()]
if not half:
    found["accumulated"] = [float(record.loss) for record in sharded(accumulate=2).run()]
    found["recomputed"] = [float(record.loss) for record in sharded(recompute=True).run()]
    found["compiled"] = [float(record.loss) for record in sharded(compiled=True).run()]
    # stopped after its checkpoint at step 4, and gone on with
    folder = RunFolder(out / "run", {}, every=4)
    list(islice(folder.run(sharded()), 4))
    accelerator.wait_for_everyone()
    other = sharded(init=accelerator.process_index + 1)
    found["going on"] = [float(record.loss) for record in folder.run(other)]
    # begun by one process
    accelerator.wait_for_everyone()
    begun = RunFolder(out / "one", {}, every=4)
    found["from one"] = [float(record.loss) for record in begun.run(sharded(init=7))]
(out / f"{accelerator.process_index}.json").write_text(json.dumps(found))
accelerator.end_training()
"""


def made(
    kind: str = "dit",
    init: int = 0,
    dtype: torch.dtype = F64,
    recompute: bool = False,
    compiled: bool = False,
    accumulate: int = 1,
    accelerator: Any = None,
) -> Trainer:
    """A small transformer whose blocks do something from the first step on."""
    torch.manual_seed(init)
    family: Any = DiT if kind == "dit" else UViT
    net = family.from_name(KINDS[kind], width=16, heads=2, depth=3, classes=CLASSES).to(dtype)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    net.recompute = recompute
    if compiled:
        net.compile(backend="aot_eager")

    def draw(step: int) -> Batch:
        return generator_batch(step, (4, 7, 7), dtype)

    recipe = Recipe(**vars(RECIPE) | {"steps": 8, "accumulate": accumulate})
    return Trainer(net, draw, recipe, accelerator=accelerator)


def launch(path: Path, precision: str) -> dict[str, list[float]]:
    (path / "script.py").write_text(SCRIPT)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    done = subprocess.run(
        [*command, str(path / "script.py"), str(path), precision],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parent)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    found = [json.loads((path / f"{rank}.json").read_text()) for rank in range(2)]
    assert found[0] == found[1]
    result: dict[str, list[float]] = found[0]
    return result


def close(path: Path, state: dict[str, Tensor]) -> None:
    found = load_file(path)
    assert found.keys() == state.keys()
    for name, part in state.items():
        torch.testing.assert_close(found[name], part, rtol=0, atol=1e-9)


def test_two_halves_are_one(tmp_path: Path) -> None:
    # a run of one process, stopped after its checkpoint at step 4
    begun = RunFolder(tmp_path / "one", {}, every=4).run(made())
    start = [float(next(begun).loss) for _ in range(4)]
    begun.close()
    found = launch(tmp_path, "no")
    alone, other = made(), made(kind="uvit")
    expected = losses(alone)
    assert found["dit"] == pytest.approx(expected, rel=1e-9)
    assert found["uvit"] == pytest.approx(losses(other), rel=1e-9)
    for name in ("accumulated", "recomputed", "compiled"):
        assert found[name] == pytest.approx(expected, rel=1e-9), name
    for name in ("going on", "from one"):
        assert found[name] == pytest.approx(expected[4:], rel=1e-9), name
    assert start == expected[:4]
    # what two processes keep is whole, and one goes on with it
    assert alone.average is not None
    for name in ("run", "one"):
        close(tmp_path / name / "model.safetensors", alone.average.module.state_dict())
        log = (tmp_path / name / "losses.csv").read_text().splitlines()[1:]
        assert [line.split(",")[0] for line in log] == [str(k) for k in range(1, 9)]
    (tmp_path / "run" / "step-00000008.safetensors").unlink()
    rest = [float(record.loss) for record in RunFolder(tmp_path / "run", {}).run(made(init=5))]
    assert rest == pytest.approx(expected[4:], rel=1e-9)


def test_two_halves_in_half_precision_stay_close(tmp_path: Path) -> None:
    found = launch(tmp_path, "bf16")
    for kind in KINDS:
        expected = losses(made(kind=kind, dtype=torch.float32))
        assert found[kind] == pytest.approx(expected, rel=0.02) and found[kind] != expected


def test_nothing_is_sharded_over_one_process_or_cpus() -> None:
    refused = pytest.raises(ValueError, match="sharded over several GPUs, one a process: start it")
    with fresh_process(), refused:
        engine(cpu=True, sharded=True)
