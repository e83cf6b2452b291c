"""That every finding is explained, by thresholds that exist, and that the explanation can be read."""

import json
import os
import re
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from rich.cells import cell_len

from gradscope import Thresholds
from gradscope.cli import main
from gradscope.explanations import EXPLANATIONS, values_of
from gradscope.report.explained import Explained
from gradscope.rules import RULES
from tests.report.test_report import render
from tests.rules.sick_runs import otherwise_sick_runs, sick_runs

GOLDEN = Path(__file__).parent / "report" / "golden"
DESIGNED = (
    "vanishing_gradient exploding_gradient dead_relu selu_drift saturated_activation uneven_learning_speed no_gradient "
    "non_finite update_ratio_high update_ratio_low selu_misconfigured clipping_dominates rank_outlier"
)


def test_every_finding_is_explained() -> None:
    assert " ".join(EXPLANATIONS) == DESIGNED
    assert all(code == explanation.code for code, explanation in EXPLANATIONS.items())


def test_thresholds_are_those_that_exist_and_all_are_spoken_of() -> None:
    known = {field.name for field in fields(Thresholds)}
    named = {name for explanation in EXPLANATIONS.values() for name in explanation.thresholds}
    assert named == known
    changed = Thresholds(dead_fraction=0.7)
    defaults = {"dead_window": changed.dead_window, "minimum_records": changed.minimum_records}
    assert values_of(EXPLANATIONS["dead_relu"], changed) == {"dead_fraction": 0.7, **defaults}


BESIDE = {
    "uneven_learning_speed": {"vanishing_ratio", "persistence"},
    "update_ratio_low": {"vanishing_ratio", "persistence"},
    "no_gradient": {"vanishing_ratio", "persistence"},
    "clipping_dominates": {"exploding_ratio"},
}
"""What a rule looks at besides: another disease, which goes before it, and what it advises."""


def test_a_finding_is_explained_by_what_its_rule_looks_at() -> None:
    looked_at: dict[str, set[str]] = {code: set() for code in EXPLANATIONS}
    for run in {**sick_runs(), **otherwise_sick_runs()}.values():
        for rule in RULES:
            noting = Noting()
            noting.read.clear()
            with np.errstate(all="ignore"):
                codes = {finding.code for finding in rule(replace(run, thresholds=noting))}
            for code in codes | ({rule.__name__} & looked_at.keys()):
                looked_at[code] |= noting.read
    assert looked_at == {code: {*e.thresholds} | BESIDE.get(code, set()) for code, e in EXPLANATIONS.items()}


class Noting(Thresholds):
    """Notes which of its fields are read."""

    read: ClassVar[set[str]] = set()

    def __getattribute__(self, name: str) -> Any:
        if name in Thresholds.__dataclass_fields__:
            Noting.read.add(name)
        return super().__getattribute__(name)


@pytest.mark.parametrize("code", EXPLANATIONS)
def test_an_explanation_is_whole(code: str) -> None:
    explanation = EXPLANATIONS[code]
    for sentence in (explanation.what, explanation.measured, *explanation.cures):
        assert sentence.endswith(".")
        assert sentence == " ".join(sentence.split())
    assert min(len(explanation.mathematics), len(explanation.cures), len(explanation.sources)) >= 1
    for width in (40, 80, 120):
        assert max(map(cell_len, render(Explained(explanation), width=width).splitlines())) <= width


def test_golden() -> None:
    """To accept what is printed now as right: GRADSCOPE_UPDATE_GOLDEN=1 pytest tests/test_explanations.py; read it."""
    path = GOLDEN / "explain_vanishing_gradient_80.txt"
    text = render(Explained(EXPLANATIONS["vanishing_gradient"]), width=80)
    if os.environ.get("GRADSCOPE_UPDATE_GOLDEN"):
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")


# ------------------------------------------------------------------ the numbers that the mathematics state


def test_the_slopes_that_are_stated() -> None:
    x = np.linspace(-9, 9, 100_001)
    sigmoid = 1 / (1 + np.exp(-x))
    slope, slope_of_tanh = sigmoid * (1 - sigmoid), 1 - np.tanh(x) ** 2
    assert slope.max() == pytest.approx(1 / 4)
    assert slope.max() ** 10 < 1e-6
    assert slope[(sigmoid < 0.01) | (sigmoid > 0.99)].max() < 0.01
    assert slope_of_tanh[np.abs(np.tanh(x)) > 1 - 0.02].max() < 0.04


def test_the_precisions_that_are_stated() -> None:
    one = np.float32(1)
    assert np.finfo(np.float16).max == 65504
    assert 5e-8 < float(np.finfo(np.float16).smallest_subnormal) < 6e-8
    assert one - np.float32(2.9e-8) == one + np.float32(2.9e-8) == one
    assert one - np.float32(6e-8) != one


# ------------------------------------------------------------------ at the command line


def test_without_a_code_all_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "--width", "80"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == DESIGNED.split()
    assert lines[2].split(maxsplit=1)[1].strip() == EXPLANATIONS["dead_relu"].title


def test_a_code_is_explained_with_the_thresholds_in_force(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["explain", "clipping_dominates", "--width", "100"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"clipped_share +0\.9\b", out)
    assert "c = min(1, v / ‖g‖)" in out
    assert main(["explain", "selu_drift"]) == 0
    assert re.search(r"selu_variance +\[0\.8, 1\.5\]", capsys.readouterr().out)


def test_json_is_one_object(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "dead_relu", "--json"]) == 0
    (explained,) = json.loads(capsys.readouterr().out)["explanations"]
    explanation = EXPLANATIONS["dead_relu"]
    assert explained["thresholds"] == values_of(explanation, Thresholds())
    assert (explained["code"], explained["cures"]) == ("dead_relu", list(explanation.cures))
    assert main(["explain", "--json"]) == 0
    assert [e["code"] for e in json.loads(capsys.readouterr().out)["explanations"]] == DESIGNED.split()


@pytest.mark.parametrize(
    ("code", "advice"),
    [
        ("dead-relus", "did you mean dead_relu?"),
        ("Vanishing", "did you mean vanishing_gradient?"),
        ("selu", "did you mean selu_drift?"),
        ("zzz\n\x1b[31m", "`gradscope explain` lists them"),
    ],
)
@pytest.mark.parametrize("options", [[], ["--json"]])
def test_an_unknown_code_is_one_line_and_2(
    code: str, advice: str, options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["explain", code, *options]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err == f"gradscope: error: `CODE` must be the code of a finding, got {code!r}; {advice}\n"
