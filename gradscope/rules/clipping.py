"""Clipping that decides how far a step goes, in place of the gradient."""

from collections.abc import Iterator

import numpy as np

from gradscope.records import CLIP_COEFFICIENT, SKIPPED, TOTAL_NORM, TOTAL_NORM_CLIPPED, Finding, Run, Severity
from gradscope.rules.persistence import WEIGHT_LAYERS, median
from gradscope.rules.prescriptions import USUAL_UPDATE, clip_value, two_digits
from gradscope.rules.progress import gets_nowhere

UNTOUCHED = 0.9999
"""A clip coefficient from which nothing was clipped: what is left is rounding."""


def clipping_dominates(run: Run) -> Iterator[Finding]:
    """Find runs in which nearly every step is clipped, and clipped hard.

    Condition: at least `Thresholds.clipped_share` of the recorded steps are clipped, a typical one to
    `Thresholds.clip_coefficient` of its gradient norm or less, steps are smaller than the rule of thumb, and the loss
    has not come down. Clipping by norm keeps the direction and sets the length to the clip value (Pascanu, Mikolov and
    Bengio 2013), which then multiplies the learning rate. An optimizer that divides by the gradient's own size, as Adam
    does, hardly feels it: its steps are as large as ever.
    """
    coefficient = run.series(CLIP_COEFFICIENT)
    coefficient = np.where(run.series(SKIPPED) == 1, np.nan, coefficient)
    measured = np.isfinite(coefficient)
    clipped = measured & (coefficient < UNTOUCHED)
    if not measured.any() or not gets_nowhere(run):
        return
    share, typical = float(clipped.sum() / measured.sum()), float(np.median(coefficient[measured]))
    if share < run.thresholds.clipped_share or typical > run.thresholds.clip_coefficient:
        return
    if _typical_update(run) >= USUAL_UPDATE:
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
            f"{left:.2g}, {typical:.1%} of it, and the loss has not come down: the clip value, not the gradient, "
            "decides how far a step goes. Usual cause: a clip value that is too small for this net."
        ),
        hint=(
            f"Raise the clip value: {clip_value(run)}"
            + (f"; or keep it and multiply the learning rate by {two_digits(1 / typical)}." if typical > 0 else ".")
        ),
        evidence={
            "clipped_share": share,
            "median_clip_coefficient": typical,
            "threshold": run.thresholds.clip_coefficient,
        },
    )


def _typical_update(run: Run) -> float:
    """The median over weight layers that move of their median update ratios: 0 where none does.

    It lies between the middle two in powers of ten, for ratios do: the mean of two would be that of the faster layer.
    One that has no gradient, or stands still with one, tells nothing of clipping, which makes nothing zero.
    """
    moved = np.where(run.metric("grad_norm") > 0, run.metric("update_ratio"), np.nan)
    ratios = median(moved[:, run.rows(*WEIGHT_LAYERS)])
    ratios = ratios[np.isfinite(ratios) & (ratios > 0)]
    return float(np.exp(np.median(np.log(ratios)))) if len(ratios) else 0.0
