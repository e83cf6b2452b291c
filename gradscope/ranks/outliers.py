"""Which rank is unlike the others: its weights are theirs, so that its data must be different."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from gradscope.records import Floats, Layer, RankOutlier

FRACTIONS = ("dead_fraction", "saturated_fraction", "zero_fraction")

FRACTION = 0.2
"""By how much a fraction has to differ from that of the other ranks."""

DEVIATIONS = 0.5
"""The same of a mean, in standard deviations of what the others give out: of a batch of 16 samples it is off by a
quarter of one at most by chance, as a rule."""

VARIANCE = 4.0
"""The same of a variance, as a factor: data that were scaled twice or not at all give more."""

SPREAD = 0.2
"""A spread of less than this share of the size, the root of the mean square, is taken for as much: the outputs of a
saturated sigmoid are all the same, and by their own spread nothing is alike."""

RECORDS = 10
"""Records before anything is said."""

MEMORY = 0.1
"""The weight of the newest record in the average, so that a rank which goes astray late is seen, too."""

CERTAINTY = 6.0
"""How many times its standard error an average difference has to be: what goes up and down is noise."""

LIMIT = 8
"""Differences of a rank that are told, the largest first."""


class Outliers:
    """Keeps for each layer and metric how far one rank is from the others, on average over the last records."""

    def __init__(self, rank: int) -> None:
        self._rank = rank
        self._averages: dict[str, _Average] = {}
        self._found: dict[tuple[str, str], RankOutlier] = {}
        self._told: tuple[RankOutlier, ...] = ()
        self._records, self._tell_at = 0, RECORDS

    def see(self, step: int, layers: Sequence[Layer], own: Mapping[str, Floats], others: Mapping[str, Floats]) -> None:
        """Take in a record: by metric what this rank measured, and the others together, float32[layers] each."""
        self._records += 1
        scores = dict(_scores(own, others))
        for metric, score in scores.items():
            average = self._averages.setdefault(metric, _Average())
            average.add(score)
            for row in np.flatnonzero(average.is_far()).tolist():
                if not math.isnan(score[row]):
                    self._find(step, layers[row].name, metric, float(own[metric][row]), float(others[metric][row]))

    def remember(self, outliers: Iterable[RankOutlier]) -> None:
        """Go on from the `outliers` of an earlier fit, as far as they are of this rank."""
        self._found = {(o.layer, o.metric): o for o in outliers if o.rank == self._rank}
        self._told = tuple(self._found.values())

    def told(self, at_last: bool = False) -> tuple[RankOutlier, ...]:
        """Return what is to be told to the other ranks: the same for ever longer, unless it is `at_last`."""
        if at_last or self._records >= self._tell_at:
            self._tell_at = max(self._tell_at, 2 * self._records)
            by_score = sorted(self._found.values(), key=lambda o: -self._score(o))
            self._told = tuple(by_score[:LIMIT])
        return self._told

    def _find(self, step: int, layer: str, metric: str, value: float, others: float) -> None:
        known = self._found.get((layer, metric))
        first = step if known is None else known.first_step
        self._found[layer, metric] = RankOutlier(self._rank, layer, metric, value, others, first, step)

    def _score(self, outlier: RankOutlier) -> float:
        # A fraction of 1 is the worst that can be, and so is a factor of a hundred.
        difference = abs(outlier.value - outlier.others)
        return difference if outlier.metric in FRACTIONS else min(difference / (1 + abs(outlier.others)), 1) / 2


class _Average:
    """Mean and variance over the last records, by row: float64[rows]."""

    def __init__(self) -> None:
        self._number, self._mean, self._variance = np.zeros(0), np.zeros(0), np.zeros(0)

    def add(self, values: Floats) -> None:
        """Take in a record: float[rows], NaN where there is nothing; there may be more rows than before."""
        more = (0, len(values) - len(self._mean))
        self._number, self._mean, self._variance = (np.pad(x, more) for x in (self._number, self._mean, self._variance))
        here = ~np.isnan(values)
        self._number += here
        weight = np.where(here, np.maximum(1 / np.maximum(self._number, 1), MEMORY), 0)
        step = np.where(here, values - self._mean, 0)
        self._mean += weight * step
        self._variance = (1 - weight) * (self._variance + weight * step**2)

    def is_far(self) -> npt.NDArray[np.bool_]:
        """Say which rows are beyond their mark, and certainly so: bool[rows]."""
        error = np.sqrt(self._variance * np.maximum(1 / np.maximum(self._number, 1), MEMORY / (2 - MEMORY)))
        far = np.abs(self._mean)
        return (self._number >= RECORDS) & (far >= 1) & (far >= CERTAINTY * error)


def _scores(own: Mapping[str, Floats], others: Mapping[str, Floats]) -> Iterator[tuple[str, Floats]]:
    """How far this rank is from the others, 1 at the mark: metric → float[rows], NaN where either has nothing."""
    for metric in FRACTIONS:
        if metric in own and metric in others:
            yield metric, (own[metric] - others[metric]) / FRACTION
    if "act_mean" in own and "act_mean" in others:
        with np.errstate(divide="ignore", invalid="ignore"):
            squares = [numbers["act_mean"] ** 2 + numbers["act_var"] for numbers in (own, others)]
            least = SPREAD**2 * np.minimum(*squares)
            own_spread, spread = (np.maximum(numbers["act_var"], least) for numbers in (own, others))
            means = (own["act_mean"] - others["act_mean"]) / (DEVIATIONS * np.sqrt(spread))
            variances = np.log(own_spread / spread) / math.log(VARIANCE)
        yield "act_mean", _bounded(means)
        yield "act_var", _bounded(variances)


def _bounded(scores: npt.NDArray[np.floating]) -> Floats:
    return np.clip(np.where(np.isfinite(scores), scores, np.nan), -100, 100).astype(np.float32)
