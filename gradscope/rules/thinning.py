"""A choice of the records of a long run, so that a diagnosis takes the same time for any."""

import numpy as np

from gradscope.records import TOTAL_NORM, Run
from gradscope.rules.signal import spoiled
from gradscope.selection import with_records

LIMIT = 300
"""Records that are judged at most."""

ENDS = 40
"""Records at the start and at the end that are always among them, and at most as many of those that stand out."""


def thinned(run: Run, limit: int = LIMIT) -> Run:
    """Return `run` with `limit` records or fewer: the first, the last, the extraordinary and an even choice between.

    Extraordinary is a record with a NaN or an infinity, of which the first ones are kept, and the largest gradients.
    `limit` is above ``3 * ENDS``.
    """
    records = len(run.steps)
    if records <= limit:
        return run
    norms = run.series(TOTAL_NORM)
    bad = np.flatnonzero(spoiled(run))
    largest = np.argsort(np.nan_to_num(norms, posinf=0.0))[-3:]
    even = np.linspace(0, records - 1, limit - 3 * ENDS).round().astype(np.int64)
    chosen = np.unique(
        np.concatenate([np.arange(ENDS), bad[: ENDS - len(largest)], largest, even, records - 1 - np.arange(ENDS)])
    )
    return with_records(run, chosen)
