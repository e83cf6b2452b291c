"""SELU and the bounds within which it promises to keep a net."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from gradscope.activations import SELF_NORMALIZING
from gradscope.records import Finding, Floats, Mask, Run, Severity
from gradscope.rules.persistence import names, persistent, span
from gradscope.rules.setup import selu_weights
from gradscope.rules.signal import exploded, vanished
from gradscope.wording import counted

WELL_OUTSIDE = 2
"""How many times as far from mean 0 and variance 1 as the stated bounds (in log variance) a layer has to start to be
ill. One batch through one draw of correct weights may stray over the bounds themselves: of 200 LeCun-normal CNNs with
nine inputs to a unit of the first layer a third had a layer just outside, and none had most of them well outside."""


def selu_drift(run: Run) -> Iterator[Finding]:
    """Find SELU layers whose outputs leave the stated bounds.

    The bounds are on the mean and on the variance of the outputs (Klambauer et al. 2017, theorem 1:
    `Thresholds.selu_mean`, `Thresholds.selu_variance`); named are the layers outside in at least half of the
    records, the first in depth first. By the theorem a net of correct weights pulls them inside layer by layer, so that
    one which does not meet its conditions shows most of its SELU layers well outside before the first update: a
    warning. Fewer of them may be the draw of the weights, which is information alone, unless the first that is outside
    began well outside and weights in front of it are known to be wrong (`selu_misconfigured`): then it is no draw. A
    net that starts inside and leaves later is information, too, for many do so within a few steps of Adam and learn
    well; unless the error signal vanishes or explodes (`gradscope.rules.signal`): then it is a warning.
    """
    mean, variance = run.metric("act_mean"), run.metric("act_var")
    measured = ~np.isnan(mean)
    measured[:, [layer.kind != SELF_NORMALIZING for layer in run.layers]] = False
    outside = measured & _outside(run, mean, variance, 1)
    layers = np.flatnonzero(persistent(run, outside, measured))
    if not len(layers):
        return
    initial = measured & (run.steps < run.thresholds.selu_initial_steps)[:, None]
    ill = initial & _outside(run, mean, variance, WELL_OUTSIDE)
    started_outside = bool(ill[:, layers[0]].any())
    if 2 * ill.sum() >= initial.sum() > 0 or (started_outside and _is_fed_by_wrong_weights(run, layers[0])):
        yield _finding(run, outside, layers, Severity.WARNING, FROM_THE_START)
    elif _signal_suffers(run):
        yield _finding(run, outside, layers, Severity.WARNING, FROM_THE_START if started_outside else LATER_AND_ILL)
    else:
        yield _finding(run, outside, layers, Severity.INFO, ALONE if started_outside else LATER)


class _Phase(NamedTuple):
    """What to say of SELUs outside, by when they left; `what` goes on after "outside the stated bounds"."""

    what: str
    hint: str


FROM_THE_START = _Phase(
    ", from the start. Usual cause: weights that are not LeCun-normal, plain Dropout, or inputs that were not "
    "standardised.",
    "Initialise every layer before a SELU with torch.nn.init.kaiming_normal_(weight, nonlinearity='linear') and zero "
    "bias, use AlphaDropout in place of Dropout, and standardise the inputs.",
)
LATER_AND_ILL = _Phase(
    ". It left them while training, and the error signal over depth is lost or grows with it. Usual cause: a learning "
    "rate that carries the weights away from their range.",
    "Lower the learning rate, which keeps the weights near LeCun-normal; clip, or decay the weights.",
)
LATER = _Phase(
    ". It started near them and left while training, which SELU nets do that learn well.",
    "Nothing to change while the loss goes down; else a lower learning rate keeps the weights in their range.",
)


ALONE = _Phase(
    ", from the start, which the draw of its weights may do to a single layer: most others started near them.",
    LATER.hint,
)


def _is_fed_by_wrong_weights(run: Run, row: int) -> bool:
    """Say whether weights in front of the layer in `row` are further off than a draw explains."""
    in_front = {layer.name for layer in run.layers[:row]}
    causes = [cause for cause in selu_weights(run) if cause.severity >= Severity.WARNING]
    return any(in_front & {*cause.layers} for cause in causes)


def _signal_suffers(run: Run) -> bool:
    return bool((vanished(run) | exploded(run)).any())


def _finding(run: Run, outside: Mask, layers: npt.NDArray[np.int64], severity: Severity, phase: _Phase) -> Finding:
    # The first in depth comes first: what is behind it only inherits its inputs.
    first_step, last_step = span(run, outside, layers)
    leader = int(layers[0])
    at = int(np.flatnonzero(outside[:, leader])[0])
    mean, variance = (float(run.metric(m)[at, leader]) for m in ("act_mean", "act_var"))
    bounds, (low, high) = run.thresholds.selu_mean, run.thresholds.selu_variance
    others = f", the first of {counted(len(layers), 'SELU layer')} outside" if len(layers) > 1 else ""
    message = (
        f"{run.layers[leader].name} has mean {mean:.2f} and variance {variance:.2f} at step {run.steps[at]}, outside "
        f"the stated bounds (mean in [{bounds[0]:g}, {bounds[1]:g}], variance in [{low:g}, {high:g}])"
        f"{others}{phase.what}"
    )
    evidence = {"mean": mean, "variance": variance, "layers_outside": float(len(layers))}
    return Finding("selu_drift", severity, names(run, layers), first_step, last_step, message, phase.hint, evidence)


def _outside(run: Run, mean: Floats, variance: Floats, times: float) -> Mask:
    """Further from the fixed point than `times` the stated bounds: bool[S, L], False where not measured."""
    low, high = (times * bound for bound in run.thresholds.selu_mean)
    least, greatest = (bound**times for bound in run.thresholds.selu_variance)
    outside: Mask = (mean < low) | (mean > high) | (variance < least) | (variance > greatest)
    return outside
