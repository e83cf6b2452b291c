"""That whoever runs the checks runs the same: the targets of the Makefile."""

import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.project import PROJECT

ROOT = Path(__file__).parents[1]
WORKFLOW = ".github/workflows/ci.yml"
CALL = re.compile(r"\bmake ((?:[a-z][a-z-]*)(?: [a-z][a-z-]*)*)")


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def called(text: str) -> set[str]:
    """Return the targets for which `text` calls make."""
    return {target for call in CALL.findall(text) for target in call.split()}


def jobs() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(read(WORKFLOW))["jobs"]
    return found


def runs(job: str) -> list[str]:
    return [step["run"] for step in jobs()[job]["steps"] if "run" in step]


@pytest.mark.parametrize("name", [".ci/run", WORKFLOW, ".pre-commit-config.yaml"])
def test_every_target_that_is_called_exists(name: str) -> None:
    calls = re.sub(r"^name:.*|^ *#.*", "", read(name), flags=re.MULTILINE)
    assert called(calls) <= set(re.findall(r"^([a-z-]+):", read("Makefile"), re.MULTILINE))
    assert called(calls)


def test_the_workflow_checks_what_ci_checks_in_that_order() -> None:
    assert runs("check") == re.findall(r"^make .*$", read(".ci/run"), re.MULTILINE)


@pytest.fixture
def matrix() -> Any:
    """The script of `make matrix`."""
    spec = importlib.util.spec_from_file_location("matrix", ROOT / ".ci" / "matrix.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_workflow_runs_every_cell_of_the_matrix(matrix: Any) -> None:
    cells = jobs()["matrix"]["strategy"]["matrix"]["include"]
    assert tuple(cell["cell"] for cell in cells) == matrix.CELLS
    assert all(cell["cell"].startswith(cell["python"]) for cell in cells)
    assert runs("matrix") == ["make matrix CELLS=${{ matrix.cell }}"]
    assert runs("release-check") == ["make release-check"]


def test_every_dependency_is_met_at_its_lower_bound(matrix: Any) -> None:
    needed = {line.split(">=")[0] for line in PROJECT["dependencies"]}
    floors = dict(line.split("==") for line in matrix.floors())
    assert needed <= set(floors)
    assert floors["torch"] == "2.8"
    assert "pytest" not in floors


def test_a_python_that_is_not_there_fails_the_matrix(matrix: Any, tmp_path: Path) -> None:
    outcome = matrix.run("3.99:newest", tmp_path, [])
    assert (outcome.passed, outcome.told) == (False, "there is no python3.99 here")
