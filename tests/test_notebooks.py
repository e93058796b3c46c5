"""Each notebook: source and executed twin agree, the run is clean, wrong parameters stop early."""

import copy
import re
from pathlib import Path
from typing import Any

import nbformat
import papermill
import pytest
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_notebook
from papermill.translators import PythonTranslator

from erdpaper import claims, execution

NOTEBOOKS = Path(__file__).resolve().parents[1] / "notebooks"
SOURCES = sorted(NOTEBOOKS.glob("*.md"))
COMMON = {"profile": "cpu", "seed": 0, "device": "auto"}
WRONG = [{"profile": "huge"}, {"seed": -1}, {"seed": "abc"}, {"device": "tpu"}, {"sed": 3}]
# what each notebook's own parameters may not be
WRONG_OWN: dict[str, list[dict[str, object]]] = {
    "02_elbo_bayes_decomposition": [{"queries": 1}, {"queries": "many"}],
    "05_erd_derivation": [{"queries": 1}, {"queries": "many"}, {"logsnr_max": 0}],
    "08_full_scale": [{"peak": 0}, {"share": 1.5}, {"runs": "/nowhere"}],
    "10_endpoint_estimates": [{"model": "mnist"}],
    "11_pca_speciation": [{"model": "mnist"}],
    "12_injection": [{"model": "mnist"}],
    "13_steering": [{"model": "mnist"}],
}
FORGET = "globals().pop('sed', None)\n"

each_notebook = pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)


def executed(source: Path) -> Any:
    twin = source.with_suffix(".ipynb")
    assert twin.exists(), f"run `erdpaper run {source.stem}` and commit {twin.name}"
    return nbformat.read(twin, as_version=4)


def code_cells(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_there_are_notebooks_and_no_twin_without_a_source() -> None:
    assert SOURCES
    twins = {path.stem for path in NOTEBOOKS.glob("*.ipynb")}
    assert twins <= {path.stem for path in SOURCES}


@each_notebook
def test_twin_has_the_cells_tags_and_metadata_of_its_source(source: Path) -> None:
    def content(notebook: Any) -> list[tuple[str, str, str, dict[str, Any]]]:
        return [(c.id, c.cell_type, c.source, dict(c.metadata)) for c in notebook.cells]

    twin = executed(source)
    assert content(twin) == content(execution.load(source)), (
        f"{source.name} changed after it was executed: run `erdpaper run {source.stem}`"
    )
    assert twin.metadata == execution.load(source).metadata


@each_notebook
def test_twin_was_executed_in_order_without_errors_or_warnings(source: Path) -> None:
    cells = code_cells(executed(source))
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error"]
    # a warning in the output would be shown to the reader and compared on every machine
    assert not [output.text for output in outputs if output.get("name") == "stderr"]


@each_notebook
def test_twin_is_scrubbed(source: Path) -> None:
    twin = executed(source)
    nbformat.validate(twin)
    scrubbed = copy.deepcopy(twin)
    execution.scrub(scrubbed)
    assert scrubbed == twin


@each_notebook
def test_first_cell_documents_the_parameters(source: Path) -> None:
    first = code_cells(execution.load(source))[0]
    assert first.metadata["tags"] == ["parameters"]
    assert dict(list(execution.defaults(source).items())[:3]) == COMMON
    documented = papermill.inspect_notebook(source.with_suffix(".ipynb"))
    assert documented.keys() == execution.defaults(source).keys()
    for name, parameter in documented.items():
        assert parameter["inferred_type_name"] != "None", f"{name} has no type"
        assert len(parameter["help"]) > 3, f"{name} has no comment"


@each_notebook
def test_second_cell_checks_them(source: Path) -> None:
    second = code_cells(execution.load(source))[1].source
    assert second.startswith("from erdpaper import notebook\n")
    assert re.search(rf'run = notebook\.begin\(\s*"{source.stem}",\s*globals\(\)', second)


@each_notebook
def test_closing_section_has_the_verdict_of_every_claim(source: Path) -> None:
    *_, closing = re.split(r"^## ", source.read_text(encoding="utf-8"), flags=re.M)
    assert closing.startswith("What was checked\n")
    shown = re.findall(r"\{claim-verdict\}`([^`]+)`", closing)
    listed = claims.load(NOTEBOOKS.parent / "data").values()
    assert set(shown) == {claim.id for claim in listed if claim.notebook == source.stem}


@each_notebook
def test_wrong_parameters_stop_the_first_cells_with_one_sentence(source: Path) -> None:
    parameters, begin = code_cells(execution.load(source))[:2]
    own = WRONG_OWN.get(source.stem, [])
    assert {name for wrong in own for name in wrong} == execution.defaults(source).keys() - COMMON
    notebook = new_notebook()
    # one kernel for all of them: the defaults, what papermill would inject, the checking cell
    for wrong in WRONG + own:
        notebook.cells.append(new_code_cell(FORGET + parameters.source))
        notebook.cells.append(new_code_cell(PythonTranslator.codify(wrong)))
        notebook.cells.append(new_code_cell(begin.source))
    resources = {"metadata": {"path": str(NOTEBOOKS)}}
    NotebookClient(
        notebook, allow_errors=True, kernel_name="python3", resources=resources
    ).execute()
    for wrong, checked in zip(WRONG + own, notebook.cells[2::3], strict=True):
        (name,) = wrong
        errors = [output for output in checked.outputs if output.output_type == "error"]
        assert [error.ename for error in errors] == ["ParameterError"], wrong
        assert name in errors[0].evalue and "\n" not in errors[0].evalue.strip()
