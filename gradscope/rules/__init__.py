"""What a run means: pure functions from a `Run` to findings.

Adding a rule means writing one function in the file of its subject here and naming it in `RULES`.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace

from gradscope.records import Finding, Run
from gradscope.rules.activity import dead_relu, saturated_activation
from gradscope.rules.gradients import exploding_gradient, no_gradient, vanishing_gradient
from gradscope.rules.numerics import non_finite
from gradscope.rules.selu import selu_drift
from gradscope.rules.setup import in_no_optimizer, never_called, output_activation, saturating_stack, selu_misconfigured
from gradscope.thresholds import Thresholds

Rule = Callable[[Run], Iterator[Finding]]

RULES: tuple[Rule, ...] = (
    non_finite,
    exploding_gradient,
    vanishing_gradient,
    no_gradient,
    dead_relu,
    saturated_activation,
    selu_misconfigured,
    selu_drift,
    saturating_stack,
    output_activation,
    in_no_optimizer,
    never_called,
)
"""In the order in which findings of the same severity are reported: causes before what they cause."""


def diagnose(run: Run, thresholds: Thresholds | None = None) -> tuple[Finding, ...]:
    """Return what is wrong with `run`, the most severe first; nothing for a sound or an empty run.

    Judged by `thresholds`, or by those that the run was recorded with.
    """
    judged = run if thresholds is None else replace(run, thresholds=thresholds)
    findings = [finding for rule in RULES for finding in rule(judged)]
    return tuple(sorted(findings, key=lambda finding: -finding.severity))
