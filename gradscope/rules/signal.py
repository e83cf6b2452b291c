"""The error signal over depth: what reaches a layer on the way back from the loss, beside what reaches the last."""

from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt

from gradscope.activations import RECTIFIER, SATURATING, SELF_NORMALIZING, SMOOTH
from gradscope.records import LOSS, NONFINITE_LOSS, SKIPPED, TOTAL_NORM, Float64s, Mask, Run
from gradscope.rules.persistence import WEIGHT_LAYERS, held, median, persistent
from gradscope.rules.progress import SMALL

ACTIVATIONS = (RECTIFIER, SATURATING, SELF_NORMALIZING, SMOOTH)

NEAREST = 4
"""The last quarter of the weight layers are those nearest the loss, to which all others are compared."""

DISTANCE = 3.0
"""How far back within its threshold a ratio has to come before its condition ends: half an order of magnitude."""


def relative_signal(run: Run) -> Float64s:
    """Return the error signal at each weight layer relative to that nearest the loss: float64[S, L], NaN elsewhere.

    The gradient of a weight matrix is the error signal δ at the layer's output times its input x, ∂L/∂W = δ xᵀ, that of
    the bias is δ: together their norm goes as ‖δ‖ √(1 + ‖x‖²). So it is divided by √(1 + mean square of x), where x is
    what the activation before the layer gave out. That matters where activations grow with depth: weights that are
    three times too large leave all gradient norms alike, since x grows as δ falls. Where no activation stands before a
    layer x is taken for 1. The comparison is with the largest among the layers nearest the loss. Nothing is said of a
    net with fewer than three weight layers.
    """
    if run not in _KNOWN:
        _KNOWN[run] = _relative_signal(run)
    return _KNOWN[run]


_KNOWN: WeakKeyDictionary[Run, Float64s] = WeakKeyDictionary()
"""What has been computed already: several rules ask for it in one diagnosis."""


def _relative_signal(run: Run) -> Float64s:
    norms = run.metric("grad_norm")
    everywhere = np.full(norms.shape, np.nan)
    rows = run.rows(*WEIGHT_LAYERS)
    rows = rows[~np.isnan(norms[:, rows]).all(axis=0)]
    if len(rows) < 3:
        return everywhere
    signal = norms[:, rows] / _input_scale(run, rows)
    signal[~np.isfinite(signal)] = np.nan
    near = signal[:, -max(1, len(rows) // NEAREST) :]
    nearest = np.where(np.isnan(near), 0, near).max(axis=1, initial=0)
    everywhere[:, rows] = signal / np.where(nearest > 0, nearest, np.nan)[:, None]
    return everywhere


def vanished(run: Run) -> Mask:
    """Say at which layers the error signal has vanished: bool[L].

    In most records, and still in the latest. What is lost on the way back is lost for all that stands in front: where
    the first weight layer gets its share nothing has vanished, and a branch behind a small gate is none. A layer with
    no gradient at all counts only in front of one that decays: then it has underflowed.
    """
    signal, low, few = relative_signal(run), run.thresholds.vanishing_ratio, run.thresholds.minimum_records
    measured = ~np.isnan(signal)
    small = persistent(run, held(signal < low, ~(signal >= DISTANCE * low)), measured)
    small &= median(signal[-few:]) < DISTANCE * low
    decaying = small & (median(signal) > 0)
    first = np.flatnonzero(measured.any(axis=0))[:1]
    if not decaying.any() or not small[first].all():
        return np.zeros_like(small)
    in_front: Mask = np.arange(len(small)) <= np.flatnonzero(decaying)[-1]
    return small & in_front


def exploded(run: Run) -> Mask:
    """Say at which layers the error signal has exploded: bool[L]. A run that dies young is judged by what it lived."""
    signal, high = relative_signal(run), run.thresholds.exploding_ratio
    condition = held(signal > high, ~(signal <= high / DISTANCE))
    return persistent(run, condition, ~np.isnan(signal), 1 if died_young(run) else None)


def died_young(run: Run) -> bool:
    """Say whether a NaN or an infinity came before there were enough records to judge by."""
    norms = run.series(TOTAL_NORM)
    return bool(len(norms)) and bool(np.isfinite(norms).sum() < run.thresholds.minimum_records and spoiled(run).any())


SENSITIVE = 100.0
"""‖∂L/∂w‖ ‖w‖ / L, the share by which the loss changes for a share by which the weights do. A net of a few layers has
some ten to fifty: it is about the number of layers that the loss is homogeneous in."""


def is_inflated(run: Run) -> bool:
    """Say whether the net starts so sensitive to its weights that a fall of its loss from there is no success."""
    if not len(run.steps):
        return False
    norm, loss = float(run.series(TOTAL_NORM)[0]), abs(float(run.series(LOSS)[0]))
    return loss > SMALL and norm * weights_norm(run, 0) > SENSITIVE * loss  # near zero any loss is sensitive


def weights_norm(run: Run, record: int) -> float:
    """Return the norm of all weights in a record."""
    return float(np.sqrt(np.nansum(run.metric("weight_norm")[record].astype(np.float64) ** 2)))


def spoiled(run: Run) -> Mask:
    """Say in which records a NaN or an infinity was, but for steps that a GradScaler skipped: bool[S]."""
    seen: Mask = (run.series(NONFINITE_LOSS) == 1) | np.isinf(run.series(TOTAL_NORM))
    seen |= (run.metric("nonfinite") > 0).any(axis=1)
    seen &= run.series(SKIPPED) != 1
    return seen


def _input_scale(run: Run, rows: npt.NDArray[np.int64]) -> Float64s:
    """√(1 + mean square) of what each of `rows` is given, relative to an input of 1: float64[S, len(rows)]."""
    square = np.ones((len(run.steps), len(rows)))
    fed = np.array([row > 0 and run.layers[row - 1].kind in ACTIVATIONS for row in rows], dtype=bool)
    before = rows[fed] - 1
    square[:, fed] = run.metric("act_mean")[:, before].astype(np.float64) ** 2 + run.metric("act_var")[:, before]
    return np.sqrt((1 + np.where(np.isfinite(square), square, 1.0)) / 2)
