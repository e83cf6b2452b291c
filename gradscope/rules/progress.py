"""Whether the run gets anywhere: what is odd about a net that learns is no disease."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import sliding_window_view

from gradscope.records import LOSS, NONFINITE_LOSS, Mask, Run
from gradscope.rules.persistence import has_lasted

LEARNED = 0.4
"""Share of the starting loss from which on a net has learned: at least 60 % of all that any cure could have taken away
is gone, for no loss goes below zero. Then what is odd about its gradients does no harm."""

SMALL = 0.01
"""A loss that needs no further fall. In cross-entropy the right answer then gets 99 % of the probability, in a squared
error of standardised targets 99 % of the variance is explained. A net that is resumed there has nothing to learn."""

WORSE = 1.5
"""Times the starting loss, in the median of some records, from which on training has done harm."""


class Progress(NamedTuple):
    """The loss relative to that of the first records, at each record: float64[S], NaN where it is not known.

    `share` is a median over the latest records, for one easy batch is no success and one hard batch no relapse; `each`
    is that of the record alone. `small` is where the median is `SMALL` by itself, whatever it was at first.
    """

    share: npt.NDArray[np.float64]
    learned: Mask
    small: Mask
    each: npt.NDArray[np.float64]

    @property
    def known(self) -> bool:
        """Whether there is a loss above zero to compare with."""
        return not np.isnan(self.share).all()

    @property
    def has_learned(self) -> bool:
        """Whether the loss has come down by the last record."""
        return bool(self.learned[-1]) if len(self.learned) else False

    @property
    def has_fallen(self) -> bool:
        """Whether the loss has come down from where it began, however small it was there."""
        return bool(self.share[-1] <= LEARNED) if len(self.share) else False

    @property
    def got_worse(self) -> bool:
        """Whether the loss was ever well above that of the start."""
        return bool((self.share > WORSE).any())


def progress(run: Run) -> Progress:
    """Return how far the loss of `run` has come down.

    The start is the first loss, or the median of the first `Thresholds.minimum_records` where that is lower. A loss
    that is not finite counts as infinitely high; without any loss, or from one that is not above zero, nothing is known
    and nothing learned.
    """
    loss, window = run.series(LOSS), run.thresholds.minimum_records
    first = loss[np.isfinite(loss)][:window]
    nothing = np.full(len(loss), np.nan)
    if not len(first) or not min(first[0], np.median(first)) > 0:
        nowhere = np.zeros(len(loss), dtype=bool)
        return Progress(nothing, nowhere, nowhere, nothing)
    start = float(min(first[0], np.median(first)))  # a learning rate that is far too high shows in the second step
    known = _known(run)
    padded = np.concatenate([np.full(window - 1, known[0]), known])
    latest = np.median(sliding_window_view(padded, window), axis=1)
    return Progress(latest / start, latest <= max(LEARNED * start, SMALL), latest <= SMALL, known / start)


def gets_nowhere(run: Run) -> bool:
    """Say whether the loss is known, has had time to come down, and has not."""
    went = progress(run)
    return went.known and not went.has_learned and has_lasted(run)


def _known(run: Run) -> npt.NDArray[np.float64]:
    """The loss at each record, infinity where it is none; where there was no loss the one before stands in."""
    loss = np.where(run.series(NONFINITE_LOSS) == 1, np.inf, run.series(LOSS))
    last = np.maximum.accumulate(np.where(np.isnan(loss), -1, np.arange(len(loss))))
    first = int(np.argmax(~np.isnan(loss)))  # before there was one, the first stands in
    return loss[np.where(last < 0, first, last)]
