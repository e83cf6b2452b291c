"""One cause, one finding: what follows from what."""

import pytest

from gradscope import Finding, Severity
from gradscope.rules.causes import CAUSES, under_causes


def finding(code: str, severity: Severity = Severity.WARNING, step: int = 0) -> Finding:
    return Finding(code, severity, (), step, 100, "", "")


def shown(*findings: Finding) -> list[tuple[str, str]]:
    return [(f.code, f.cause) for f in under_causes(findings)]


def test_a_consequence_stands_behind_its_cause_also_when_it_is_more_severe() -> None:
    nan = finding("non_finite", Severity.CRITICAL, step=3)
    assert shown(nan, finding("dead_relu", step=1), finding("update_ratio_high")) == [
        ("update_ratio_high", ""),
        ("non_finite", "update_ratio_high"),
        ("dead_relu", "update_ratio_high"),
    ]


def test_what_came_before_is_no_consequence() -> None:
    nan, exploding = finding("non_finite", step=3), finding("exploding_gradient", step=4)
    assert shown(nan, exploding) == [("non_finite", ""), ("exploding_gradient", "")]


def test_what_a_step_does_shows_in_the_next() -> None:
    assert shown(finding("dead_relu"), finding("update_ratio_high")) == [("dead_relu", ""), ("update_ratio_high", "")]


def test_a_remark_causes_nothing() -> None:
    assert shown(finding("saturated_activation", Severity.INFO), finding("vanishing_gradient")) == [
        ("vanishing_gradient", ""),
        ("saturated_activation", ""),
    ]


def test_a_chain_is_told_in_its_order() -> None:
    codes = ("vanishing_gradient", "saturated_activation", "update_ratio_high")
    findings = [finding(code, step=step) for code, step in zip(codes, (1, 1, 0), strict=True)]
    assert shown(*findings) == [
        ("update_ratio_high", ""),
        ("saturated_activation", "update_ratio_high"),
        ("vanishing_gradient", "saturated_activation"),
    ]


def test_a_remark_about_what_is_a_warning_too_is_left_out() -> None:
    assert shown(finding("no_gradient", Severity.INFO), finding("no_gradient")) == [("no_gradient", "")]
    assert shown(finding("no_gradient", Severity.INFO)) == [("no_gradient", "")]


def test_what_is_explained_already_is_left_out() -> None:
    assert shown(finding("update_ratio_low"), finding("clipping_dominates")) == [("clipping_dominates", "")]
    assert shown(finding("update_ratio_low"), finding("clipping_dominates", Severity.INFO)) == [
        ("update_ratio_low", ""),
        ("clipping_dominates", ""),
    ]


@pytest.mark.parametrize("code", CAUSES)
def test_nothing_causes_itself(code: str) -> None:
    seen: set[str] = set()
    front = {code}
    while front:
        front = {cause for c in front for cause in CAUSES.get(c, ())} - seen
        seen |= front
    assert code not in seen
