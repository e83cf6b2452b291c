"""How long something has to hold before it is a disease, and how to speak of it."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from gradscope.records import Run

Mask = npt.NDArray[np.bool_]

WEIGHT_LAYERS = ("linear", "convolution", "recurrent", "attention")
"""Kinds of layers whose gradient norms compare over depth. Embeddings see few rows a batch, normalization layers hold
few and differently scaled parameters: their norms say little beside those of a weight matrix."""


def persistent(run: Run, condition: Mask, measured: Mask) -> Mask:
    """Say for which layers `condition` holds often enough: bool[L] from bool[S, L].

    That is in at least `Thresholds.persistence` of the records in which it was `measured` (bool[S, L]), of which
    there must be `Thresholds.minimum_records`.
    """
    records = measured.sum(axis=0)
    share = (condition & measured).sum(axis=0) / np.maximum(records, 1)
    enough: Mask = (records >= run.thresholds.minimum_records) & (share >= run.thresholds.persistence)
    return enough


def span(run: Run, condition: Mask, layers: npt.NDArray[np.int64]) -> tuple[int, int]:
    """Return the first and the last step at which `condition` (bool[S, L]) holds for any of `layers` (int64[n])."""
    steps = run.steps[condition[:, layers].any(axis=1)]
    return int(steps[0]), int(steps[-1])


def median(values: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """Return the median of each column over what is not NaN: float64[L] from float[S, L], NaN for an empty column."""
    result = np.full(values.shape[1], np.nan)
    some = ~np.isnan(values).all(axis=0)
    result[some] = np.nanmedian(values[:, some].astype(np.float64), axis=0)
    return result


def names(run: Run, layers: Sequence[int] | npt.NDArray[np.int64]) -> tuple[str, ...]:
    """Return the names of `layers`."""
    return tuple(run.layers[i].name for i in layers)
