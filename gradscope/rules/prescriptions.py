"""Cures with numbers of this run in them: values to put into code, and what they would have changed."""

import math

import numpy as np
import numpy.typing as npt

from gradscope.records import TOTAL_NORM, Run

CLIP_PERCENTILE = 90
"""Of the gradient norms of a run the one to clip at: a safety net touches a tenth of the steps."""

USUAL_UPDATE = 1e-3
"""‖Δw‖ / ‖w‖ of a net that learns well, by Karpathy's rule of thumb."""


def clip_value(run: Run) -> str:
    """Return the code for clipping at the 90th percentile of the gradient norms, and how many steps that touches.

    Of a run in which the gradient grew a thousandfold the first records tell what is usual. Without norms to go by it
    is 1.0, the value that most people start from.
    """
    norms = _norms(run)
    if len(norms) < run.thresholds.minimum_records:
        return clip_at(run, 1.0)
    start = norms[: 2 * run.thresholds.minimum_records]
    usual = norms[norms <= run.thresholds.exploding_ratio * np.median(start)]
    value = float(np.percentile(usual, CLIP_PERCENTILE))
    return clip_at(run, value, f"the {CLIP_PERCENTILE}th percentile of the usual norms, ")


def clip_at(run: Run, value: float, which: str = "") -> str:
    """Return the code for clipping at `value`, which `which` describes, and the share of steps that it touches."""
    code, norms = f"Trainer(gradient_clip_val={two_digits(value)})", _norms(run)
    if len(norms) < run.thresholds.minimum_records:
        return code
    return f"{code}, {which}touches {(norms > value).mean():.0%} of the steps here"


def _norms(run: Run) -> npt.NDArray[np.float64]:
    norms = run.series(TOTAL_NORM)
    return norms[np.isfinite(norms) & (norms > 0)]


def learning_rate_factor(update_ratio: float) -> str:
    """Return by what to multiply the learning rate so that `update_ratio` comes near the rule of thumb of 1e-3.

    A power of ten, because the rule is no more exact than that; ``"10"`` where the ratio is none.
    """
    if not (math.isfinite(update_ratio) and update_ratio > 0):
        return "10"
    exponent = round(math.log10(USUAL_UPDATE / update_ratio))
    return f"{10**exponent:,}" if 0 <= exponent <= 4 else f"1e{exponent}"


def two_digits(value: float) -> str:
    """Return `value` as one writes it in code, with two digits that count."""
    if 100 <= value < 10_000:
        return f"{value:.0f}"
    return f"{value:.2g}" if 0.01 <= value < 100 else f"{value:.1e}"
