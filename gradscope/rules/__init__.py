"""What a run means: pure functions from a `Run` to findings.

Adding a rule means writing one function in the file of its subject here and naming it in `RULES`.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np

from gradscope.records import Finding, Run
from gradscope.rules.activity import dead_relu, saturated_activation
from gradscope.rules.causes import under_causes
from gradscope.rules.clipping import clipping_dominates
from gradscope.rules.gradients import exploding_gradient, no_gradient, vanishing_gradient
from gradscope.rules.numerics import non_finite
from gradscope.rules.ranks import rank_outlier
from gradscope.rules.selu import selu_drift
from gradscope.rules.setup import in_no_optimizer, never_called, output_activation, saturating_stack, selu_misconfigured
from gradscope.rules.thinning import thinned
from gradscope.rules.updates import uneven_learning_speed, update_ratio_high, update_ratio_low
from gradscope.thresholds import Thresholds

Rule = Callable[[Run], Iterator[Finding]]

RULES: tuple[Rule, ...] = (
    non_finite,
    exploding_gradient,
    vanishing_gradient,
    update_ratio_high,
    no_gradient,
    dead_relu,
    saturated_activation,
    selu_misconfigured,
    selu_drift,
    uneven_learning_speed,
    update_ratio_low,
    clipping_dominates,
    rank_outlier,
    saturating_stack,
    output_activation,
    in_no_optimizer,
    never_called,
)
"""In the order in which findings of the same severity are reported."""


def diagnose(run: Run, thresholds: Thresholds | None = None) -> tuple[Finding, ...]:
    """Return what is wrong with `run`, the most severe first, consequences behind their cause.

    Nothing for a sound or an empty run. Judged by `thresholds`, or by those that the run was recorded with. Of more
    than 300 records a choice is judged, so that it takes the same time for a run of any length.
    """
    # A sick run holds infinities: what comes of computing with them is no number, and no rule takes it for one.
    with np.errstate(all="ignore"):
        judged = thinned(run if thresholds is None else replace(run, thresholds=thresholds))
        return under_causes([finding for rule in RULES for finding in rule(judged)])
