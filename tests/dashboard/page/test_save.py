"""The numbers as a file: what a spreadsheet makes of them, and of names that look like its formulas."""

import csv
import io
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.dashboard.modules import Module

pytestmark = pytest.mark.slow

SAVE = """(m, runs) => m.saveNumbers(runs.map(({name, matrix}) => ({
  name, matrix: {...matrix, data: Float32Array.from(matrix.data)},
})), {name: 'grad_norm'})"""


@pytest.fixture(scope="module")
def save(module_of: Callable[[str], Module]) -> Module:
    return module_of("save.js")


def run_of(name: str, steps: Sequence[int], cells: Sequence[float], *layers: str) -> dict[str, Any]:
    rows = [{"name": layer, "type": "Linear", "kind": "linear"} for layer in layers]
    matrix = {"steps": steps, "layers": rows, "data": cells, "measured": list(range(len(layers)))}
    return {"name": name, "matrix": matrix}


def saved(save: Module, *runs: dict[str, Any]) -> str:
    with save.page.expect_download() as download:
        save.run(SAVE, runs)
    assert download.value.suggested_filename == "gradscope_grad_norm.csv"
    return Path(download.value.path()).read_bytes().decode("utf-8")


def test_runs_and_layers_are_lines_and_steps_are_columns(save: Module) -> None:
    text = saved(
        save,
        run_of("a", [0, 10], [0.1, 2, math.inf, math.nan], "x", "y"),
        run_of("b", [5, 10], [-1e-9, 12345678], "x"),
    )
    assert text == (
        "run,layer,type,kind,0,5,10\r\n"
        "a,x,Linear,linear,0.1,,inf\r\n"
        "a,y,Linear,linear,2,,\r\n"
        "b,x,Linear,linear,,-1e-9,12345680\r\n"
    )


def test_a_layer_without_the_metric_has_no_line(save: Module) -> None:
    run = run_of("a", [0], [1, math.nan], "x", "y")
    run["matrix"]["measured"] = [0]
    assert saved(save, run).splitlines()[1:] == ["a,x,Linear,linear,1"]


def names_read_back(save: Module, names: Sequence[str]) -> list[str]:
    """Return what another program makes of runs and layers of these names, in one file: a page may not save many."""
    text = saved(save, *[run_of(name, [0], [1], name) for name in names])
    lines = list(csv.reader(io.StringIO(text, newline="")))[1:]
    assert all(line[0] == line[1] and line[2:] == ["Linear", "linear", "1"] for line in lines)
    return [line[0] for line in lines]


def test_any_name_is_read_back(save: Module) -> None:
    names = ['a"b', "a,b", "a\r\nb", '",="', "\U0001f525ü\u202e", " a ", "'a", "", "a=1"]
    assert names_read_back(save, names) == names


def test_no_name_is_run_as_a_formula(save: Module) -> None:
    names = ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", '=HYPERLINK("x","y")', "\n=1", "＝1"]
    assert names_read_back(save, names) == [f"'{name}" for name in names]
