"""How long something has to hold before it is a disease, and how to speak of it."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from gradscope.records import Mask, Run

WEIGHT_LAYERS = ("linear", "convolution", "recurrent", "attention")
"""Kinds of layers whose gradient norms compare over depth. Embeddings see few rows a batch, normalization layers hold
few and differently scaled parameters: their norms say little beside those of a weight matrix."""

_BEFORE = np.int32(-1)

TIME_TO_TELL = 40
"""Steps after which a run can be said to get nowhere: a net that is odd in its first steps may heal, and its loss has
had no time to tell."""


def has_lasted(run: Run, steps: int = TIME_TO_TELL) -> bool:
    """Say whether `run` spans that many steps, with twice `Thresholds.minimum_records` records at least."""
    enough = len(run.steps) >= 2 * run.thresholds.minimum_records
    return enough and bool(run.steps[-1] - run.steps[0] >= steps)


def persistent(run: Run, condition: Mask, measured: Mask, least: int | None = None) -> Mask:
    """Say for which layers `condition` holds often enough: bool[L] from bool[S, L].

    That is in at least `Thresholds.persistence` of the records in which it was `measured` (bool[S, L]), of which
    there must be `least`, by default `Thresholds.minimum_records`.
    """
    records = measured.sum(axis=0)
    share = (condition & measured).sum(axis=0) / np.maximum(records, 1)
    needed = run.thresholds.minimum_records if least is None else least
    enough: Mask = (records >= needed) & (share >= run.thresholds.persistence)
    return enough


def held(begin: Mask, go_on: Mask) -> Mask:
    """Say when a condition that starts with `begin` still holds: until `go_on` is False, too. bool[S, L] of bool[S, L].

    Hysteresis, as in a trigger of Schmitt's: what wavers about a threshold neither comes nor goes with each record.
    """
    rows = np.arange(len(begin), dtype=np.int32)[:, None]
    started = np.maximum.accumulate(np.where(begin, rows, _BEFORE), axis=0)
    ended = np.maximum.accumulate(np.where(go_on | begin, _BEFORE, rows), axis=0)
    on: Mask = started > ended
    return on


def longest_streak(condition: Mask) -> npt.NDArray[np.int64]:
    """Return how many records in a row `condition` (bool[S, L]) holds at most: int64[L]."""
    rows = np.arange(1, len(condition) + 1)[:, None]
    broken = np.maximum.accumulate(np.where(condition, 0, rows), axis=0)
    lengths: npt.NDArray[np.int64] = (rows - broken).max(axis=0, initial=0)
    return lengths


def span(run: Run, condition: Mask, layers: npt.NDArray[np.int64]) -> tuple[int, int]:
    """Return the first and the last step at which `condition` (bool[S, L]) holds for any of `layers` (int64[n])."""
    steps = run.steps[condition[:, layers].any(axis=1)]
    return int(steps[0]), int(steps[-1])


def median(values: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """Return the median of each column over what is not NaN: float64[L] from float[S, L], NaN for an empty column."""
    ordered = np.sort(values.astype(np.float64), axis=0)  # NaN goes to the end
    counts = (~np.isnan(values)).sum(axis=0)
    result = np.full(values.shape[1], np.nan)
    some = np.flatnonzero(counts)
    middle = counts[some]
    result[some] = (ordered[(middle - 1) // 2, some] + ordered[middle // 2, some]) / 2
    return result


def names(run: Run, layers: Sequence[int] | npt.NDArray[np.int64]) -> tuple[str, ...]:
    """Return the names of `layers`."""
    return tuple(run.layers[i].name for i in layers)
