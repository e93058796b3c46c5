"""The checking cell of the notebooks: what it accepts, and the one sentence for what it refuses."""

import base64
import math
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import nbformat
import papermill
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from erdpaper import notebook
from erdpaper.notebook import Choice, Folder, Integer, Number, ParameterError, Run

CLAIMS = """
- id: 90.example
  document: book
  number: example
  statement: One is at most two.
  notebook: 90_example
  cases: [only]
  comparator: at_most
  threshold: 2
"""
OWN = {"log_snr_max": Number(1, 30), "steps": Integer(1, 1000), "model": Choice("fashion", "toy")}
GOOD = {
    "profile": "cpu",
    "seed": 0,
    "device": "cpu",
    "log_snr_max": 12.5,
    "steps": 10,
    "model": "toy",
}


@pytest.fixture(autouse=True)
def _book(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "claims.yml").write_text(CLAIMS)
    (tmp_path / "scales.yml").write_text("90_example: two numbers\n")
    monkeypatch.setenv("ERDPAPER_DATA", str(tmp_path))
    monkeypatch.setenv("ERDPAPER_CLAIMS_DIR", str(tmp_path / "records"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    yield
    plt.close("all")


def begin(**changes: Any) -> Run:
    return notebook.begin("90_example", {**GOOD, **changes}, **OWN)


def refusal(**changes: Any) -> str:
    with pytest.raises(ParameterError) as caught:
        begin(**changes)
    message = str(caught.value)
    assert message and "\n" not in message and ". " not in message
    return message


def test_good_parameters_open_a_run() -> None:
    run = begin(seed=3)
    assert (run.name, run.profile, run.seed) == ("90_example", "cpu", 3)
    assert run.device == torch.device("cpu")
    assert dict(run.parameters) == {"log_snr_max": 12.5, "steps": 10, "model": "toy"}
    with pytest.raises(AttributeError):
        run.seed = 4  # type: ignore[misc]


@pytest.mark.parametrize("profile", ["fast", "", "CPU", 1, None, True, ["cpu"]])
def test_profile(profile: object) -> None:
    expected = f"profile must be one of smoke, cpu, gpu, full, not {profile!r}"
    assert refusal(profile=profile) == expected


@pytest.mark.parametrize("seed", [-1, "abc", "3", True, False, 1.5, None, math.inf, math.nan])
def test_seed(seed: object) -> None:
    assert refusal(seed=seed) == f"seed must be an integer >= 0, not {seed!r}"


def test_seed_as_a_whole_float_says_what_to_write() -> None:
    assert refusal(seed=1e3) == "seed must be an integer, not the float 1000.0; write 1000"


def test_seed_has_no_upper_end() -> None:
    assert begin(seed=10**400).seed == 10**400


def test_unknown_names() -> None:
    knows = "this notebook knows profile, seed, device, log_snr_max, steps, model"
    assert refusal(sed=3) == f"unknown parameter 'sed'; {knows}"
    assert refusal(flag="false") == f"unknown parameter 'flag'; {knows}"
    assert refusal(nothing=None) == f"unknown parameter 'nothing'; {knows}"


def test_names_that_a_kernel_brings_are_no_parameters() -> None:
    begin(In=[], Out={}, exit=1, quit=1, get_ipython=len, _i1="x", __name__="x", notebook=notebook)
    begin(Path=Path, helper=lambda: 0)


def test_unknown_names_pass_when_the_cell_runs_again() -> None:
    run = begin()
    assert begin(run=run, curve=[1, 2], seed=5).seed == 5
    # what is known is still checked
    assert "seed" in refusal(run=run, curve=[1, 2], seed=-5)


@pytest.mark.parametrize("value", ["12", True, math.nan, math.inf, 0.99, 30.01, None])
def test_own_number(value: object) -> None:
    assert refusal(log_snr_max=value) == f"log_snr_max must be a number from 1 to 30, not {value!r}"


@pytest.mark.parametrize("value", ["12", True, 0, 1001, 2.5, None, [3]])
def test_own_integer(value: object) -> None:
    assert refusal(steps=value) == f"steps must be an integer from 1 to 1000, not {value!r}"


@pytest.mark.parametrize("value", ["sd", "", 3, None, True])
def test_own_choice(value: object) -> None:
    assert refusal(model=value) == f"model must be one of fashion, toy, not {value!r}"


@given(st.floats(allow_nan=True) | st.integers() | st.booleans() | st.text())
def test_number_accepts_exactly_its_range(value: object) -> None:
    fits = not isinstance(value, bool | str) and -2 <= value <= 5  # type: ignore[operator]
    if fits:
        Number(-2, 5).check("x", value)
    else:
        with pytest.raises(ParameterError, match=r"^x must be a number from -2 to 5, not "):
            Number(-2, 5).check("x", value)


@given(st.floats(allow_nan=True) | st.integers() | st.booleans() | st.text())
def test_integer_accepts_exactly_the_ints_of_its_range(value: object) -> None:
    if type(value) is int and value <= 5:
        Integer(high=5).check("n", value)
    else:
        with pytest.raises(ParameterError, match=r"^n must be an integer"):
            Integer(high=5).check("n", value)


def test_ends_of_a_range_are_included() -> None:
    begin(log_snr_max=1, steps=1000)
    begin(log_snr_max=30.0, steps=1)


def test_a_parameter_that_the_cell_does_not_set() -> None:
    for name in GOOD:
        names = {key: value for key, value in GOOD.items() if key != name}
        with pytest.raises(ParameterError, match=f"^the parameters cell must set {name}$"):
            notebook.begin("90_example", names, **OWN)


def test_common_parameters_are_checked_first() -> None:
    assert refusal(profile="fast", seed=-1, steps=0, sed=1).startswith("profile")
    assert refusal(seed=-1, steps=0, sed=1).startswith("seed")
    assert refusal(steps=0, sed=1).startswith("steps")


def test_devices_without_a_gpu() -> None:
    assert begin(device="auto").device == torch.device("cpu")
    for device in ("cuda", "cuda:0", "cuda:3"):
        expected = f"device {device!r} needs a CUDA GPU, and torch finds none here"
        assert refusal(device=device) == expected


def test_devices_with_two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert begin(device="auto").device == torch.device("cuda")
    assert begin(device="cuda:1").device == torch.device("cuda:1")
    assert begin(device="cpu").device == torch.device("cpu")
    assert "does not exist; torch finds 2" in refusal(device="cuda:2")


@pytest.mark.parametrize("device", ["gpu", "cuda:", "cuda:x", "cuda:-1", "cuda:²", "mps", 0, None])
def test_unknown_devices(device: object) -> None:
    expected = f"device must be auto, cpu, cuda or cuda:N, not {device!r}"
    assert refusal(device=device) == expected


def test_generators_repeat_and_their_streams_differ() -> None:
    def draw(seed: int, offset: int) -> list[float]:
        generator = begin(seed=seed).generator(offset)
        assert generator.device.type == "cpu"
        return torch.randn(4, generator=generator).tolist()

    assert draw(3, 1) == draw(3, 1)
    streams = {tuple(draw(seed, offset)) for seed in range(4) for offset in range(4)}
    assert len(streams) == 16
    with pytest.raises(ValueError, match="offset must be an integer >= 0, not -1"):
        begin().generator(-1)


def test_begin_seeds_the_initialisation_of_models() -> None:
    def weights(seed: int) -> torch.Tensor:
        begin(seed=seed)
        return torch.nn.Linear(3, 3).weight.detach().clone()

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


def test_pick_falls_back_to_smaller_profiles() -> None:
    def picks(**amounts: int) -> list[int]:
        return [begin(profile=name).pick(**amounts) for name in ("smoke", "cpu", "gpu", "full")]

    assert picks(smoke=1, cpu=2, gpu=3, full=4) == [1, 2, 3, 4]
    assert picks(smoke=1, cpu=2, gpu=3) == [1, 2, 3, 3]
    assert picks(smoke=1, cpu=2) == [1, 2, 2, 2]
    assert picks(cpu=2) == [2, 2, 2, 2]


def test_pick_refuses_unknown_profiles_and_needs_cpu() -> None:
    with pytest.raises(ValueError, match="has the unknown fast"):
        begin().pick(cpu=1, fast=2)
    with pytest.raises(ValueError, match="needs an amount for cpu"):
        begin().pick(smoke=1)


def test_own_folder(tmp_path: Path) -> None:
    for good in ("", str(tmp_path)):
        Folder().check("runs", good)
    for bad in (str(tmp_path / "nowhere"), __file__, 3, None, Path(tmp_path)):
        with pytest.raises(ParameterError, match="runs must be an existing folder or empty, not"):
            Folder().check("runs", bad)


def test_specs_refuse_to_be_empty() -> None:
    with pytest.raises(ValueError, match="at least one option"):
        Choice()


def test_begin_opens_a_claims_session(tmp_path: Path) -> None:
    from erdpaper import claims

    begin(seed=7, model="fashion")
    assert not (tmp_path / "records").exists()
    claims.record("90.example", 1)
    text = (tmp_path / "records" / "cpu" / "90_example.json").read_text()
    assert '"seed": 7' in text and '"steps": 10' in text and '"device": "cpu"' in text


def as_notebook(path: Path) -> None:
    """A notebook with a parameters cell, a checking cell and a figure."""
    parameters = nbformat.v4.new_code_cell(
        'profile: str = "cpu"\nseed: int = 0\ndevice: str = "auto"',
        metadata={"tags": ["parameters"]},
    )
    cells = [
        parameters,
        nbformat.v4.new_code_cell(
            "from erdpaper import claims, figures, notebook\n"
            'run = notebook.begin("90_example", globals())'
        ),
        nbformat.v4.new_code_cell(
            "figure, axes = figures.grid(1, 2)\n"
            'figures.label(axes[0, 0], "t", "loss")\nfigures.label(axes[0, 1], "t", "loss")'
        ),
        nbformat.v4.new_code_cell('claims.record("90.example", 1)'),
    ]
    kernel = {"kernelspec": {"name": "python3", "display_name": "p", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), path)


def test_in_a_kernel_figures_have_the_book_width_and_verdicts_show(tmp_path: Path) -> None:
    source, target = tmp_path / "in.ipynb", tmp_path / "out.ipynb"
    as_notebook(source)
    executed = papermill.execute_notebook(source, target, {"seed": 3}, progress_bar=False)
    outputs = [output for cell in executed.cells for output in cell.get("outputs", [])]
    figure = next(output.data for output in outputs if "image/png" in output.get("data", {}))
    png = base64.b64decode(figure["image/png"])
    assert struct.unpack(">I", png[16:20])[0] == int(7.2 * 144)
    assert b"tEXt" not in png and "image/svg+xml" not in figure
    assert 'id="claim-90-example"' in outputs[-1].data["text/html"]
    assert "holds" in outputs[-1].data["text/plain"]


def test_in_a_kernel_a_bad_parameter_stops_the_checking_cell(tmp_path: Path) -> None:
    source, target = tmp_path / "in.ipynb", tmp_path / "out.ipynb"
    as_notebook(source)
    with pytest.raises(papermill.PapermillExecutionError) as caught:
        papermill.execute_notebook(source, target, {"sed": 3}, progress_bar=False)
    assert caught.value.ename == "ParameterError"
    expected = "unknown parameter 'sed'; this notebook knows profile, seed, device"
    assert caught.value.evalue == expected
