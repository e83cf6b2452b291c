"""What follows from what: a consequence is told under its cause."""

from collections.abc import Sequence
from dataclasses import replace

from gradscope.records import Finding, Severity

CAUSES: dict[str, tuple[str, ...]] = {
    "non_finite": ("exploding_gradient", "update_ratio_high"),
    "vanishing_gradient": ("saturated_activation", "selu_misconfigured", "update_ratio_high"),
    "saturated_activation": ("update_ratio_high",),
    "dead_relu": ("update_ratio_high", "exploding_gradient"),
    "exploding_gradient": ("selu_misconfigured", "update_ratio_high"),
    "selu_drift": ("selu_misconfigured",),
}
"""Code → the codes that cause it, the likeliest first. Numbers overflow because gradients explode; a signal is lost in
units that are saturated; steps that overwrite the weights throw units to where they saturate or die; SELUs
leave their bounds where the weights do not meet the conditions."""

OF_A_STEP = ("update_ratio_high",)
"""Codes of what an optimizer's step does: it causes nothing that was there when it was taken."""

EXPLAINED: dict[str, tuple[str, ...]] = {
    "uneven_learning_speed": ("vanishing_gradient", "exploding_gradient", "saturated_activation", "update_ratio_high"),
    "update_ratio_low": ("vanishing_gradient", "saturated_activation", "clipping_dominates", "uneven_learning_speed"),
}
"""Code → the codes beside which it says nothing new: where a gradient is lost, steps are small, and where it is cut off
they are, too."""


def under_causes(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    """Return `findings` with their causes named, in the order in which they are told.

    A cause begins no later than its consequence, and is a warning at least. Left out are a remark about what is a
    warning, too, and what says nothing new (`EXPLAINED`).
    """
    warned = {f.code for f in findings if f.severity >= Severity.WARNING}
    kept = [
        f
        for f in findings
        if (f.severity >= Severity.WARNING or f.code not in warned)
        and not warned.intersection(EXPLAINED.get(f.code, ()))
    ]
    return in_order([replace(f, cause=_cause(f, kept)) for f in kept])


def in_order(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    """Return `findings`, the most severe first, each consequence right behind the cause that it names."""
    by_severity = sorted(findings, key=lambda f: -f.severity)
    codes = {f.code for f in findings}
    ordered: list[Finding] = []

    def put(finding: Finding) -> None:
        ordered.append(finding)
        for other in by_severity:
            if other.cause == finding.code and not any(other is f for f in ordered):
                put(other)

    for finding in by_severity:
        if finding.cause not in codes:
            put(finding)
    return tuple(ordered)


def _cause(finding: Finding, findings: Sequence[Finding]) -> str:
    for code in CAUSES.get(finding.code, ()):
        for other in findings:
            # What a step does shows in the next one.
            early = other.first_step < finding.first_step + (code not in OF_A_STEP)
            if other.code == code and other.severity >= Severity.WARNING and early:
                return code
    return ""
