"""That the pages are built without a warning, and that what is missing or leads nowhere is one."""

import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"

FAULTS = {
    "a name that does not exist": ("thresholds.rst", "", "\nSee `gradscope.Thresold`.\n"),
    "a field that does not exist": ("metrics.rst", "`Thresholds.dead_window`", "`Thresholds.dead_windows`"),
    "a method without docstring": ("conf.py", "", "\ngradscope.Finding.as_dict.__doc__ = None\n"),
    "a public name on no page": ("python.rst", ".. autoclass:: gradscope.Stop\n   :members:\n", ""),
    "a metric on no page": ("metrics.rst", ".. metric:: weight_norm", "**weight_norm**"),
}
"""What is done to the pages: in which file, what is taken out, and what stands there instead (else at the end)."""

TOLD = {
    "a name that does not exist": "py:obj reference target not found: gradscope.Thresold",
    "a field that does not exist": "py:obj reference target not found: Thresholds.dead_windows",
    "a method without docstring": "method gradscope.Finding.as_dict has no docstring",
    "a public name on no page": "gradscope.Stop is public and stands on no page",
    "a metric on no page": "weight_norm is public and stands on no page",
}


def built(folder: Path, faults: Mapping[str, tuple[str, str, str]]) -> subprocess.CompletedProcess[str]:
    """Build a copy of the pages with `faults`, as `make docs` does."""
    copy = Path(shutil.copytree(DOCS, folder / "docs", ignore=shutil.ignore_patterns("_build")))
    for name, old, new in faults.values():
        text = (copy / name).read_text(encoding="utf-8")
        assert old in text
        (copy / name).write_text(text.replace(old, new) if old else text + new, encoding="utf-8")
    options = ["--quiet", "--builder", "html", "--fresh-env", "--fail-on-warning", "--keep-going"]
    return subprocess.run(
        [sys.executable, "-m", "sphinx", *options, copy, folder / "pages"], capture_output=True, text=True
    )


@pytest.mark.slow
def test_the_pages_are_built_without_a_warning(tmp_path: Path) -> None:
    done = built(tmp_path, {})
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert 'id="dead-relu"' in (tmp_path / "pages" / "findings.html").read_text(encoding="utf-8")


@pytest.mark.slow
def test_every_fault_is_told_and_fails_the_build(tmp_path: Path) -> None:
    done = built(tmp_path, FAULTS)
    assert done.returncode == 1
    assert [fault for fault, words in TOLD.items() if words not in done.stderr] == []
