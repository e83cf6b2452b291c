"""That the worked examples of CONTRIBUTING.md work: a copy of the project gets all of them, and runs their tests."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"^```(python|diff)\n# (\S+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
"""A language, the file that the code belongs into, and the code."""


def blocks() -> list[tuple[str, str, str]]:
    return BLOCK.findall((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"))


def changed(text: str, change: str) -> str:
    """Return `text` with the lines of `change` that begin with - replaced by those with +, hunk by hunk."""
    for hunk in change.split("@@\n"):
        old, new = ("".join(line[1:] for line in hunk.splitlines(True) if line[0] == sign) for sign in "-+")
        assert text.count(old) == 1, f"there is no such place, or more than one: {old}"
        text = text.replace(old, new)
    return text


def apply(folder: Path) -> list[str]:
    """Apply every block to the project in `folder`; return the names of the new test files."""
    for language, name, code in blocks():
        path = folder / name
        assert path.exists() == (language == "diff")
        path.parent.mkdir(exist_ok=True)
        path.write_text(
            changed(path.read_text(encoding="utf-8"), code) if language == "diff" else code, encoding="utf-8"
        )
    return [name for _, name, _ in blocks() if name.startswith("tests/")]


@pytest.mark.slow
def test_the_examples_do_what_their_tests_say(tmp_path: Path) -> None:
    for name in ("gradscope", "tests"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    new = apply(tmp_path)
    assert len(new) == 2, "a probe's and a rule's"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *new]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "7 passed" in done.stdout


def test_no_example_is_overlooked() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert len(blocks()) == len(re.findall(r"^```(?:python|diff)$", text, re.MULTILINE)) == 6
