"""Clipping that decides how far a step goes, in place of the gradient."""

from collections.abc import Iterator

import numpy as np

from gradscope.records import CLIP_COEFFICIENT, SKIPPED, TOTAL_NORM, TOTAL_NORM_CLIPPED, Finding, Run, Severity
from gradscope.rules.prescriptions import clip_value, two_digits
from gradscope.rules.progress import progress

UNTOUCHED = 0.9999
"""A clip coefficient from which nothing was clipped: what is left is rounding."""


def clipping_dominates(run: Run) -> Iterator[Finding]:
    """Find runs in which nearly every step is clipped, and clipped hard.

    Condition: at least `Thresholds.clipped_share` of the recorded steps are clipped, a typical one to
    `Thresholds.clip_coefficient` of its gradient norm or less, and the loss has not come down. Clipping by norm keeps
    the direction and sets the length to the clip value (Pascanu, Mikolov and Bengio 2013), which then multiplies the
    learning rate. An optimizer that divides by the gradient's own size, as Adam does, hardly feels it: a net that is
    clipped at every step and learns is sound.
    """
    coefficient = run.series(CLIP_COEFFICIENT)
    coefficient = np.where(run.series(SKIPPED) == 1, np.nan, coefficient)
    measured = np.isfinite(coefficient)
    clipped = measured & (coefficient < UNTOUCHED)
    if measured.sum() < 2 * run.thresholds.minimum_records:
        return
    share, typical = float(clipped.sum() / measured.sum()), float(np.median(coefficient[measured]))
    went = progress(run)
    if share < run.thresholds.clipped_share or typical > run.thresholds.clip_coefficient:
        return
    if went.has_learned or not went.known:
        return
    norm, left = (float(np.median(run.series(name)[clipped])) for name in (TOTAL_NORM, TOTAL_NORM_CLIPPED))
    yield Finding(
        code="clipping_dominates",
        severity=Severity.WARNING,
        layers=(),
        first_step=int(run.steps[clipped][0]),
        last_step=int(run.steps[clipped][-1]),
        message=(
            f"{share:.0%} of the recorded steps are clipped, a typical one from a gradient norm of {norm:.2g} to "
            f"{left:.2g}, {typical:.1%} of it, while the loss is not down: the clip value, not the gradient, decides "
            "how far a step goes. Usual cause: a clip value that is too small for this net."
        ),
        hint=(
            f"Raise the clip value: {clip_value(run)}; or keep it and multiply the learning rate by "
            f"{two_digits(1 / typical)}."
        ),
        evidence={
            "clipped_share": share,
            "median_clip_coefficient": typical,
            "threshold": run.thresholds.clip_coefficient,
        },
    )
