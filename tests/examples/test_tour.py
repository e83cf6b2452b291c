"""That the notebook runs from its first cell to its last, and that the runs in it are what its text says."""

import os
import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_notebook

EXAMPLES = Path(__file__).parents[2] / "examples"
TOUR = EXAMPLES / "tour.ipynb"

CHECKS = """
assert sound.findings == ()
assert [f.code for f in sick.findings if f.severity >= gradscope.Severity.WARNING] == ["vanishing_gradient"]
assert "network.linear1" in sick.findings[0].layers
assert set(runs) == {"sound", "sick"}
assert gradscope.diagnose(runs["sick"])[0].code == sick.findings[0].code
assert "vanishing_gradient" not in [f.code for f in gradscope.diagnose(runs["sick"], Thresholds(vanishing_ratio=1e-12))]
assert stopped.stopped.code == stopped.run.stop.code == "vanishing_gradient"
assert stopped.run.stop.step < sick.run.steps[-1]
"""
# A ReLU keeps half of the gradient's square at each of four layers: a factor of about 100 with PyTorch's initial
# weights, far from a thousand. Eight sigmoids with slopes of a quarter and weights of gain 1/√3 leave (0.25 · 0.58)^8,
# 2e-7: far below a thousandth, and far above 1e-12.


def executed(notebook: NotebookNode) -> NotebookNode:
    """Run all cells in order, in the folder of the examples; the first that raises ends it with its error."""
    client = NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": EXAMPLES}}, record_timing=False
    )
    return client.execute()


def printed(notebook: NotebookNode) -> str:
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    return "".join(output.get("text", "") + output.get("data", {}).get("text/plain", "") for output in outputs)


def test_a_cell_that_raises_fails() -> None:
    with pytest.raises(CellExecutionError, match="ZeroDivisionError"):
        executed(new_notebook(cells=[new_code_cell("1 / 0"), new_code_cell("pass")]))


def test_it_is_stored_as_it_was_run_and_tells_nothing_of_the_machine() -> None:
    notebook = nbformat.read(TOUR, as_version=4)
    counts = [cell.execution_count for cell in notebook.cells if cell.cell_type == "code"]
    assert counts == list(range(1, len(counts) + 1))
    assert re.findall(r"(?<![\w.])/(?:home|tmp|usr|work|root|Users)\b.*", printed(notebook)) == []
    assert TOUR.stat().st_size < 300_000


@pytest.mark.slow
@pytest.mark.parametrize("data", ["MNIST", "digits"])
def test_it_runs_and_shows_what_it_says(
    data: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To store the outputs anew: GRADSCOPE_UPDATE_GOLDEN=1 pytest tests/examples/test_tour.py -k MNIST; read it."""
    # Nothing can be downloaded to where no folder can be made.
    folder = request.getfixturevalue("mnist_dir") if data == "MNIST" else Path(os.devnull, "nothing")
    monkeypatch.setenv("GRADSCOPE_DATA", str(folder))
    notebook = nbformat.read(TOUR, as_version=4)
    notebook.cells.append(new_code_cell(CHECKS))
    executed(notebook)
    assert ("using scikit-learn's 1,797 digits" in printed(notebook)) == (data == "digits")
    pictures = [o for cell in notebook.cells for o in cell.get("outputs", ()) if "image/png" in o.get("data", {})]
    assert len(pictures) == 2
    if data == "MNIST" and os.environ.get("GRADSCOPE_UPDATE_GOLDEN"):
        del notebook.cells[-1]
        nbformat.write(notebook, TOUR)
