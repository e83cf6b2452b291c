"""SELU and the bounds within which it promises to keep a net."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from gradscope.activations import SELF_NORMALIZING
from gradscope.records import Finding, Run, Severity
from gradscope.rules.persistence import Mask, counted, names, persistent, span


def selu_drift(run: Run) -> Iterator[Finding]:
    """Find SELU layers whose outputs leave the stated bounds.

    The bounds are on the mean and on the variance of the outputs (Klambauer et al. 2017, theorem 1:
    `Thresholds.selu_mean`, `Thresholds.selu_variance`). A layer outside at most of the first
    `Thresholds.selu_initial_steps` steps, and at most of all later ones, never had the conditions that the theorem
    asks for: a warning. A layer that starts inside and leaves later is information alone, for a correctly
    initialised net does so within some fifty steps of Adam while it learns well.
    """
    mean, variance = run.metric("act_mean"), run.metric("act_var")
    measured = ~np.isnan(mean)
    measured[:, [layer.kind != SELF_NORMALIZING for layer in run.layers]] = False
    outside = measured & (_outside(mean, run.thresholds.selu_mean) | _outside(variance, run.thresholds.selu_variance))
    early = measured & (run.steps < run.thresholds.selu_initial_steps)[:, None]
    drifted = persistent(run, outside, measured)
    from_the_start = drifted & _mostly(outside, early)
    later = drifted & ~from_the_start
    if from_the_start.any():
        yield _finding(run, outside, np.flatnonzero(from_the_start), Severity.WARNING)
    elif later.any():
        yield _finding(run, outside, np.flatnonzero(later), Severity.INFO)


def _finding(run: Run, outside: Mask, layers: npt.NDArray[np.int64], severity: Severity) -> Finding:
    # The first in depth comes first: what is behind it only inherits its inputs.
    first_step, last_step = span(run, outside, layers)
    leader = int(layers[0])
    at = int(np.flatnonzero(outside[:, leader])[0])
    mean, variance = (float(run.metric(m)[at, leader]) for m in ("act_mean", "act_var"))
    bounds, (low, high) = run.thresholds.selu_mean, run.thresholds.selu_variance
    shared = (
        f"{run.layers[leader].name} has mean {mean:.2f} and variance {variance:.2f} at step {run.steps[at]}, outside "
        f"the stated bounds (mean in [{bounds[0]:g}, {bounds[1]:g}], variance in [{low:g}, {high:g}])"
    )
    others = f", the first of {counted(len(layers), 'SELU layer')} outside" if len(layers) > 1 else ""
    if severity is Severity.INFO:
        message = f"{shared}{others}. It started inside and left while training, which SELU nets do that learn well."
        hint = (
            "Nothing to change while the loss goes down; else a lower learning rate keeps the weights in their range."
        )
    else:
        message = (
            f"{shared}{others}, from the start. Usual cause: weights that are not LeCun-normal, plain Dropout, or "
            "inputs that were not standardised."
        )
        hint = (
            "Initialise every layer before a SELU with torch.nn.init.kaiming_normal_(weight, nonlinearity='linear') "
            "and zero bias, use AlphaDropout in place of Dropout, and standardise the inputs."
        )
    evidence = {"mean": mean, "variance": variance, "layers_outside": float(len(layers))}
    return Finding("selu_drift", severity, names(run, layers), first_step, last_step, message, hint, evidence)


def _outside(values: npt.NDArray[np.float32], bounds: tuple[float, float]) -> Mask:
    return (values < bounds[0]) | (values > bounds[1])


def _mostly(condition: Mask, measured: Mask) -> Mask:
    """In most of the records where it was `measured`; False where it never was: bool[L]."""
    mostly: Mask = (condition & measured).sum(axis=0) * 2 > measured.sum(axis=0)
    return mostly
