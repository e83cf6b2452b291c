"""What a cell of a run holds: a number, nothing at all, or something that was measured and is no number."""

import numpy as np

from gradscope.activations import RECTIFIER, SATURATING
from gradscope.records import SKIPPED, TOTAL_NORM_CLIPPED, Floats, Mask, NonFinite, Run

_FLAGS = {
    "grad_norm": NonFinite.GRADIENT,
    "grad_norm_clipped": NonFinite.GRADIENT,
    "weight_norm": NonFinite.WEIGHT,
    "update_ratio": NonFinite.WEIGHT | NonFinite.GRADIENT,  # what makes the step, makes its length
    "act_mean": NonFinite.OUTPUT,
    "act_var": NonFinite.OUTPUT,
    "zero_fraction": NonFinite.OUTPUT,
    "saturated_fraction": NonFinite.OUTPUT,
}
"""Metric → where a NaN must have been seen for the metric to be NaN itself. All others are numbers where measured."""

_ONLY_OF = {"zero_fraction": RECTIFIER, "saturated_fraction": SATURATING}
"""Metric → the kind of layer it is measured of; others have NaN there whatever their outputs are."""

_NEEDS_A_STEP = ("grad_norm_clipped", "update_ratio")
"""What is not measured where the optimizer did not step."""


def measured_cells(run: Run, metric: str) -> Floats:
    """Return `metric` of `run` as float32[S, L], +inf where it was measured but is NaN or infinite.

    What stays NaN was not measured. A NaN is told from an absence by the flags of `nonfinite` in the same cell, so
    that without that metric every NaN counts as an absence. A run without `metric` gives NaN everywhere.
    """
    values = run.metric(metric).astype(np.float32)
    if metric in _FLAGS:
        values[_lost(run, metric, np.isnan(values))] = np.inf
    values[np.isinf(values)] = np.inf
    return values


def ingredients(metric: str) -> tuple[str, ...]:
    """Return the names of the other metrics that `measured_cells` looks at: where they are missing, it says less."""
    if metric not in _FLAGS:
        return ()
    return ("nonfinite", "grad_norm") if metric == "grad_norm_clipped" else ("nonfinite",)


def _lost(run: Run, metric: str, nan: Mask) -> Mask:
    """Return which cells of those that are `nan` were measured: bool[S, L]."""
    flags = run.metric("nonfinite")
    lost: Mask = nan & (flags > 0)
    lost[lost] = (flags[lost].astype(np.int64) & _FLAGS[metric]) > 0
    skipped = run.series(SKIPPED)
    if metric == "grad_norm_clipped":
        # Clipped by a norm that is NaN all gradients become NaN, those that were sound before as well.
        spoilt = (skipped == 0) & np.isnan(run.series(TOTAL_NORM_CLIPPED))
        lost[spoilt] |= nan[spoilt] & ~np.isnan(run.metric("grad_norm")[spoilt])
    if metric in _NEEDS_A_STEP:
        lost[skipped == 1] = False
    if metric in _ONLY_OF:
        lost[:, [layer.kind != _ONLY_OF[metric] for layer in run.layers]] = False
    return lost
