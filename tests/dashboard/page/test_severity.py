"""The worst of several severities, and a sign for each."""

from collections.abc import Callable

import pytest

from gradscope.records import Severity
from tests.dashboard.modules import Module

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def severity(module_of: Callable[[str], Module]) -> Module:
    return module_of("severity.js")


@pytest.mark.parametrize(
    ("severities", "worst"),
    [
        (["warning", "critical", None], "critical"),
        ([None, "info", "warning"], "warning"),
        (["info", None], None),
        (["constructor", "sound"], None),
        ([], None),
    ],
)
def test_the_worst_is_what_colours_a_row(severity: Module, severities: list[str | None], worst: str | None) -> None:
    assert severity.call("worst", severities) == worst


def test_every_severity_that_the_server_tells_has_a_sign_of_its_own(severity: Module) -> None:
    signs = severity.run("(m) => m.SIGNS")
    assert set(signs) == {*map(str, Severity), "sound", "unjudged"}
    assert len(set(signs.values())) == len(signs)


def test_a_layer_is_as_sick_as_findings_say_whatever_its_name(severity: Module) -> None:
    known = {"a": "critical", "": "warning"}
    layers = ["a", "", "b", "constructor", "toString", "__proto__"]
    found = severity.run("(m, layers, known) => layers.map((layer) => m.severityOf(layer, known))", layers, known)
    assert found == ["critical", "warning", None, None, None, None]
