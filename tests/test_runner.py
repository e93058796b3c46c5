"""The runner on throwaway notebooks: same bytes twice, two at a time, what happens on failure."""

import base64
import fcntl
import io
import json
import os
import pty
import struct
import subprocess
import sys
import termios
from dataclasses import dataclass
from pathlib import Path

import nbformat
import numpy as np
import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output
from papermill.translators import PythonTranslator
from PIL import Image
from throwaway import repository

from erdpaper import execution, runner
from erdpaper.execution import Outcome
from erdpaper.runner import Request, RunnerError

# Prints in pieces, shows its environment, draws a bar, and notes when it ran.
GOOD = """\
import os, sys, time
from pathlib import Path
from tqdm import tqdm
started = time.time()
print(profile, seed, scale, os.environ["OMP_NUM_THREADS"])
sys.stdout.flush()
time.sleep(0.4)
for _ in tqdm(range(3)):
    time.sleep(0.5)
record = Path(os.environ["ERDPAPER_CLAIMS_DIR"]) / profile / f"{scale}.json"
record.parent.mkdir(parents=True, exist_ok=True)
_ = record.write_text("a record")
log = Path("../log")
log.mkdir(exist_ok=True)
_ = (log / f"{time.time()}").write_text(f"{started} {time.time()}")
"""

# Records a claim before it fails.
BAD = """\
import os
from pathlib import Path
record = Path(os.environ["ERDPAPER_CLAIMS_DIR"]) / profile / "half.json"
record.parent.mkdir(parents=True, exist_ok=True)
_ = record.write_text("a record")
print("so far")
raise ValueError("it broke\\nbadly")
"""


@dataclass(frozen=True)
class Ran:
    """What an `erdpaper run` came to."""

    status: int
    err: str
    root: Path


def run(root: Path, *arguments: str, terminal: bool = False) -> Ran:
    """Run the installed command in a throwaway repository."""
    environment = {k: v for k, v in os.environ.items() if k not in ("TQDM_DISABLE", "COLUMNS")}
    del environment["ERDPAPER_CLAIMS_DIR"]
    environment["ERDPAPER_DATA"] = str(root / "data")
    command = [sys.executable, "-c", "from erdpaper.cli import main; main()", "run", *arguments]
    if not terminal:
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        return Ran(done.returncode, done.stderr, root)
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    with subprocess.Popen(command, env=environment, stderr=theirs) as process:
        os.close(theirs)
        written = b""
        while piece := _read(ours):
            written += piece
    os.close(ours)
    return Ran(process.returncode, written.decode(), root)


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:
        # Linux says so when the other end is closed
        return b""


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    root = repository(
        tmp_path_factory.mktemp("repository"),
        n01_one=GOOD,
        n02_two=GOOD,
        n03_bad=BAD,
        n04_dead_kernel="import os\nos._exit(3)",
        n05_dead_worker="import os, signal\nos.kill(os.getppid(), signal.SIGKILL)",
    )
    (root / "notebooks" / "03_bad.ipynb").write_text("the last good one")
    return run(root)


@pytest.fixture(scope="module")
def again(ran: Ran) -> tuple[dict[str, bytes], Ran]:
    """The bytes of the first run, and a second run of the same notebooks in a terminal."""
    first = {p.name: p.read_bytes() for p in (ran.root / "notebooks").glob("0[12]*.ipynb")}
    return first, run(ran.root, "1", "02_two", terminal=True)


def test_failure_lets_the_others_finish_and_exits_with_one(ran: Ran) -> None:
    assert ran.status == 1
    for name in ("01_one", "02_two"):
        assert (ran.root / "notebooks" / f"{name}.ipynb").exists()


def test_failure_names_notebook_cell_and_error(ran: Ran) -> None:
    assert "03_bad failed in cell 2: ValueError: it broke\n" in ran.err
    assert "04_dead_kernel failed in DeadKernelError: " in ran.err
    assert "05_dead_worker failed in exit status -9" in ran.err


def test_failed_notebook_is_kept_beside_the_good_one(ran: Ran) -> None:
    assert (ran.root / "notebooks" / "03_bad.ipynb").read_text() == "the last good one"
    failed = nbformat.read(ran.root / "runs" / "failed" / "03_bad.ipynb", as_version=4)
    kinds = [output.output_type for cell in failed.cells for output in cell.get("outputs", [])]
    assert kinds == ["stream", "error"]


def test_records_reach_the_committed_folder_if_the_notebook_ends_well(ran: Ran) -> None:
    folder = ran.root / "data" / "results" / "claims"
    assert [path.relative_to(folder).as_posix() for path in folder.rglob("*.*")] == ["cpu/1.0.json"]
    assert not list((ran.root / "runs").rglob("half.json"))


def test_two_at_a_time_with_one_thread_each(ran: Ran) -> None:
    spans = [[float(t) for t in p.read_text().split()] for p in (ran.root / "log").iterdir()]
    assert any(a[0] < b[0] < a[1] for a in spans for b in spans)
    assert "cpu 0 1.0 1\n" in printed(ran.root / "notebooks" / "01_one.ipynb")


def test_every_notebook_has_one_finished_bar_with_a_rate_where_stderr_is_no_terminal(
    ran: Ran,
) -> None:
    lines = ran.err.splitlines()
    for name in ("01_one", "02_two", "03_bad"):
        (bar,) = [line for line in lines if line.startswith(f"{name}: ") and "100%" in line]
        assert "2/2" in bar and "cell" in bar
        assert ("failed" in bar) == (name == "03_bad")
    assert "\r" not in ran.err


def test_second_run_gives_the_same_bytes(again: tuple[dict[str, bytes], Ran]) -> None:
    first, second = again
    assert second.status == 0
    assert len(first) == 2
    for name, content in first.items():
        assert (second.root / "notebooks" / name).read_bytes() == content


def test_running_bars_have_a_line_each_in_a_terminal(
    again: tuple[dict[str, bytes], Ran],
) -> None:
    drawn = again[1].err
    assert "01_one:  50%" in drawn and "02_two:  50%" in drawn
    assert "\x1b[A" in drawn, "the second bar is drawn below the first"


def test_output_is_clean(again: tuple[dict[str, bytes], Ran]) -> None:
    notebook = nbformat.read(again[1].root / "notebooks" / "01_one.ipynb", as_version=4)
    nbformat.validate(notebook)
    assert set(notebook.metadata) == {"kernelspec", "language_info"}
    assert [set(cell.metadata) for cell in notebook.cells] == [set(), {"tags"}, set()]
    assert [c.execution_count for c in notebook.cells if c.cell_type == "code"] == [1, 2]
    # printed in pieces, kept as one; the bar inside stays silent
    assert [output.name for output in notebook.cells[2].outputs] == ["stdout"]


def test_only_seconds_of_good_default_runs_are_kept(ran: Ran) -> None:
    kept = json.loads((ran.root / "data" / "results" / "timings" / "cpu.json").read_text())
    assert set(kept) == {"01_one", "02_two"}
    assert all(1 < seconds < 120 for seconds in kept.values())


def test_kept_seconds_stay_unless_they_are_to_be_measured_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = repository(tmp_path, n01_one="1", n02_two="1")
    monkeypatch.setenv("ERDPAPER_DATA", str(root / "data"))
    took = [5.0]
    monkeypatch.setattr(
        runner.pool, "execute_all", lambda jobs, _: [Outcome(job.name, took[0]) for job in jobs]
    )
    path = root / "data" / "results" / "timings" / "cpu.json"

    def kept(*names: str, timings: bool = False) -> dict[str, float]:
        runner.run(Request(names, timings=timings))
        return json.loads(path.read_text())

    assert kept("01") == {"01_one": 5.0}
    took[0] = 7.0
    assert kept() == {"01_one": 5.0, "02_two": 7.0}
    before = path.stat()
    assert kept() == {"01_one": 5.0, "02_two": 7.0} and path.stat() == before
    assert kept("02", "01", timings=True) == {"01_one": 7.0, "02_two": 7.0}


def test_changed_parameters_leave_the_committed_results_alone(ran: Ran) -> None:
    before = {p: p.read_bytes() for p in ran.root.rglob("*") if p.is_file()}
    changed = run(ran.root, "01", "-p", "scale", "2.5", "--seed", "0")
    assert changed.status == 0
    target = ran.root / "runs" / "cpu" / "01_one.ipynb"
    assert "cpu 0 2.5 1\n" in printed(target)
    assert (ran.root / "runs" / "claims" / "cpu" / "2.5.json").is_file()
    (injected,) = [
        cell.source
        for cell in nbformat.read(target, as_version=4).cells
        if "injected-parameters" in cell.metadata.get("tags", [])
    ]
    assert injected.strip() == "# Parameters\nscale = 2.5"
    assert {p: p.read_bytes() for p in before} == before


def printed(path: Path) -> str:
    notebook = nbformat.read(path, as_version=4)
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return "".join(output.text for output in outputs if output.get("name") == "stdout")


def test_out_names_the_folder_of_the_results(tmp_path: Path) -> None:
    root = repository(tmp_path, n01_one="1")
    jobs = runner.plan(Request(out=tmp_path / "elsewhere"), root)
    assert [job.target for job in jobs] == [tmp_path / "elsewhere" / "01_one.ipynb"]


def test_names_are_numbers_stems_or_files(tmp_path: Path) -> None:
    root = repository(tmp_path, n01_one="1", n02_two="1", n11_more="1")

    def chosen(*names: str) -> list[str]:
        return [job.name for job in runner.plan(Request(names), root)]

    assert chosen() == ["01_one", "02_two", "11_more"]
    assert chosen("1") == chosen("01") == chosen("01_one") == ["01_one"]
    assert chosen("notebooks/02_two.md", "11") == ["02_two", "11_more"]


@pytest.mark.parametrize(
    ("request_", "sentence"),
    [
        (Request(("99",)), "no notebook is called '99'; there are 01_one"),
        (
            Request(parameters={"profile": "huge"}),
            "unknown profile 'huge'; choose one of smoke, cpu, gpu, full",
        ),
        (
            Request(parameters={"sed": 3}),
            "notebook 01_one has no parameter 'sed'; it knows profile, seed, device, scale",
        ),
        (Request(jobs=0), "jobs must be at least 1, not 0"),
    ],
)
def test_a_wrong_request_is_one_sentence_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request_: Request, sentence: str
) -> None:
    root = repository(tmp_path, n01_one="1")
    monkeypatch.setenv("ERDPAPER_DATA", str(root / "data"))
    before = sorted(root.rglob("*"))
    with pytest.raises(RunnerError) as refusal:
        runner.run(request_)
    assert str(refusal.value) == sentence
    assert sorted(root.rglob("*")) == before


def test_only_what_differs_from_the_defaults_is_injected(tmp_path: Path) -> None:
    root = repository(tmp_path, n01_one="1")
    same = {"profile": "cpu", "seed": 0, "scale": 1.0}
    (job,) = runner.plan(Request(parameters=same), root)
    assert job.parameters == {} and job.target.parent == root / "notebooks"
    # True equals 1.0 in Python and is not what the notebook has
    (job,) = runner.plan(Request(parameters=same | {"scale": True}), root)
    assert job.parameters == {"scale": True} and job.target.parent == root / "runs" / "cpu"


@pytest.mark.parametrize(
    ("parameters", "folder"),
    [
        ({"profile": "cpu"}, "data/results/claims"),
        ({"profile": "gpu", "seed": 0, "scale": 1.0}, "data/results/claims"),
        ({"profile": "cpu", "seed": 3}, "runs/claims"),
        ({"profile": "gpu", "seed": 3}, "runs/claims"),
        ({"profile": "full", "scale": 2.0}, "runs/claims"),
    ],
)
def test_where_claims_are_recorded(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    parameters: dict[str, object],
    folder: str,
) -> None:
    root = repository(tmp_path, n01_one="1")
    monkeypatch.delenv("ERDPAPER_CLAIMS_DIR")
    (job,) = runner.plan(Request(parameters=parameters), root)
    assert job.claims == root / folder
    monkeypatch.setenv("ERDPAPER_CLAIMS_DIR", "named")
    (job,) = runner.plan(Request(parameters=parameters), root)
    assert job.claims == Path("named").resolve()


@pytest.mark.parametrize(
    "text", ["True", "False", "None", "3", "-2", "1e3", "2.5", "cpu", "false", "05_x", "nan", ""]
)
def test_values_are_read_as_papermill_reads_them(text: str) -> None:
    from papermill import cli

    ours, theirs = runner.parse_value(text), cli._resolve_type(text)
    assert PythonTranslator.translate(ours) == PythonTranslator.translate(theirs)


def test_scrub_reduces_pictures_once() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    cell = new_code_cell("plot()")
    drawn = {"image/png": base64.b64encode(file.getvalue()).decode()}
    cell.outputs = [new_output("display_data", drawn)]
    notebook = new_notebook(cells=[cell])
    execution.scrub(notebook)
    first = cell.outputs[0].data["image/png"]
    assert Image.open(io.BytesIO(base64.b64decode(first))).mode == "P"
    execution.scrub(notebook)
    assert cell.outputs[0].data["image/png"] == first != drawn["image/png"]


def test_scrub_removes_what_runs_do_not_share_and_nothing_else() -> None:
    code = new_code_cell(
        "print(1)", id="random", metadata={"tags": ["kept"], "execution": {"at": "noon"}}
    )
    code.outputs = [new_output("stream", name="stdout", text=t) for t in ("a", "b")]
    code.outputs.append(new_output("stream", name="stderr", text="c"))
    twin = new_code_cell("print(1)", metadata={"papermill": {"duration": 1.5}, "tags": []})
    notebook = new_notebook(cells=[code, twin], metadata={"papermill": {}, "jupytext": {}})
    execution.scrub(notebook)
    assert [(o.name, o.text) for o in code.outputs] == [("stdout", "ab"), ("stderr", "c")]
    assert code.metadata == {"tags": ["kept"]} and twin.metadata == {}
    assert twin.id == f"{code.id}-2" and "random" not in code.id
    assert set(notebook.metadata) == {"kernelspec", "language_info"}
