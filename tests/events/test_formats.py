"""Logs of every format version so far, each with the numbers that it was written with: what was logged stays readable.

To introduce a version, raise `FORMAT_VERSION`, run `python -m tests.logs.write`, and add the new folder of tests/logs.
"""

import json
import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from gradscope import LogReader, diagnose, load
from gradscope.events.decoding import FORMAT_VERSION
from tests.logs import write
from tests.logs.write import FOLDER, plain

VERSIONS = range(1, FORMAT_VERSION + 1)


def differences(found: Any, expected: Any, place: str = "run") -> list[str]:
    """Return where `found` lacks what is `expected`, or has something else; what it has beyond that does not count."""
    if isinstance(expected, Mapping) and isinstance(found, Mapping):
        pairs = [(f"{place}.{key}", found.get(key), value) for key, value in expected.items()]
    elif isinstance(expected, list) and isinstance(found, list) and len(found) == len(expected):
        pairs = [(f"{place}[{i}]", one, other) for i, (one, other) in enumerate(zip(found, expected, strict=True))]
    else:
        same = found == expected or (found != found and expected != expected)  # NaN is not itself
        return [] if same else [f"{place}: {found} is not {expected}"]
    return [line for name, one, other in pairs for line in differences(one, other, name)]


def expected_of(version: int) -> Any:
    return json.loads((FOLDER / f"format_{version}" / "expected.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("version", VERSIONS)
def test_a_log_of_every_version_holds_what_was_written(version: int) -> None:
    expected = expected_of(version)
    assert min(len(expected["steps"]), len(expected["layers"]), len(expected["metrics"])) > 5
    (run,) = load(FOLDER / f"format_{version}").values()
    assert differences(plain(run), expected) == []


@pytest.mark.parametrize("version", VERSIONS)
def test_every_command_and_rule_takes_a_log_of_every_version(version: int, capsys: pytest.CaptureFixture[str]) -> None:
    from gradscope.cli import main

    folder = FOLDER / f"format_{version}"
    (run,) = load(folder).values()
    assert diagnose(run)
    assert main(["summary", str(folder)]) == 0
    assert str(run.steps[-1]) in capsys.readouterr().out


def test_a_log_that_is_read_while_it_grows_holds_the_same(tmp_path: Path) -> None:
    reader = LogReader(tmp_path)
    for file in sorted((FOLDER / "format_1").glob("events*")):
        shutil.copy(file, tmp_path)
        (run,) = reader.read().values()
    assert differences(plain(run), expected_of(1)) == []


def test_the_log_of_this_version_cannot_be_overwritten() -> None:
    assert "is there already" in str(write.main())


def test_differences_are_seen_whatever_they_are() -> None:
    assert differences({"a": [1.0, math.nan], "new": 1}, {"a": [1.0, math.nan]}) == []
    assert differences({"a": [1.0, 2.0]}, {"a": [1.0, math.nan]}) == ["run.a[1]: 2.0 is not nan"]
    assert differences({}, {"a": {"b": 1}}) == ["run.a: None is not {'b': 1}"]
    assert differences([1], [1, 2]) == ["run: [1] is not [1, 2]"]
