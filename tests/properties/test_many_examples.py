"""All properties once more, on many examples each."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__)
OTHERS = sorted(path.name for path in HERE.parent.glob("test_*.py") if path != HERE)


@pytest.mark.slow
@pytest.mark.parametrize("name", OTHERS)
def test_properties_hold_for_many_examples(name: str) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(HERE.parent / name)]
    environment = {**os.environ, "GRADSCOPE_EXAMPLES": "many"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1800, check=False)
    assert done.returncode == 0, done.stdout[-5000:]
