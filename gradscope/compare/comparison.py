"""Where a run parts ways with a sound one: a pure function of two runs."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from gradscope.cells import measured_cells
from gradscope.records import Float64s, Layer, Mask, Run
from gradscope.rules.persistence import median

Steps = npt.NDArray[np.int64]

SPREADS = 4.0
"""How many times the baseline's own spread from record to record a run may be away from it."""

LASTING = 5
"""Records in a row for which it has to be further away: a batch that is odd is no parting."""

PACE = 1.5
"""How many times faster or slower one sound run may learn than another: a run at step 300 is compared with all that the
baseline was between steps 200 and 450."""

NEVER = 2**31
"""The index of a record that there is not."""

_MAD_TO_SIGMA = 1.4826  # of a normal distribution (Rousseeuw, Croux 1993)


class Scale(NamedTuple):
    """How a metric is compared: `decades` apart, or as it is; closer than `least` is together for any baseline."""

    decades: bool
    least: float


SCALES: Mapping[str, Scale] = {
    "grad_norm": Scale(True, 1.0),
    "act_var": Scale(True, 0.7),
    "update_ratio": Scale(True, 1.0),
    "weight_norm": Scale(True, 0.7),
    "dead_fraction": Scale(False, 0.4),
    "saturated_fraction": Scale(False, 0.4),
}
"""By the metrics that are compared. Two seeds of one net lie well within: factors of 10 for what a batch decides, of 5
for what the weights decide, 40 points of a percentage."""


@dataclass(frozen=True)
class Parting:
    """Where and when a run left its baseline."""

    step: int
    """The first step at which any layer did, counted as in `Record.step`."""
    layer: str
    """The first one in depth of those that did at that step."""
    metric: str
    """By which of its metrics, the one that was the furthest away."""
    value: float
    """What it was; infinite where it was no number."""
    bound: float
    """The largest or smallest that it was in the baseline about that step, whichever is nearer."""
    layers: tuple[str, ...]
    """All layers that parted at any step, in order of depth."""


@dataclass(frozen=True)
class Comparison:
    """A run beside a baseline: what could be compared, and where they part, if they do."""

    run: str
    baseline: str
    records: int
    """Records of the run within the steps of the baseline."""
    layers: int
    """Layers of the same name in both."""
    only_in_run: tuple[str, ...]
    only_in_baseline: tuple[str, ...]
    other_types: Mapping[str, tuple[str, str]]
    """By the names of layers that are of another type: that type, and the one in the baseline."""
    parting: Parting | None

    @property
    def has_enough(self) -> bool:
        """Whether there was enough to compare for a parting to be seen."""
        return self.layers > 0 and self.records >= LASTING


def compare(run: Run, baseline: Run) -> Comparison:
    """Return what `run` has in common with `baseline`, and the layer and step at which it parts from it.

    Layers are matched by name and records by step; steps before or after the baseline's are left out. A layer parts
    where for 5 records in a row one of its metrics lies outside of all that it was in the baseline about then (`PACE`),
    on the same side, by more than 4 times the baseline's own spread (as a standard deviation, from the median jump
    between two records) and by more than a fixed least distance (`SCALES`). So does one that is NaN or infinite until
    the run ends, for however short. What was not measured does not part, nor does a layer with fewer than 5 records in
    the baseline.
    """
    of_run, of_baseline = ({layer.name: layer for layer in r.layers} for r in (run, baseline))
    common = [name for name in of_run if name in of_baseline]
    within = _within(run, baseline)
    return Comparison(
        run=run.name,
        baseline=baseline.name,
        records=int(within.sum()),
        layers=len(common),
        only_in_run=tuple(name for name in of_run if name not in of_baseline),
        only_in_baseline=tuple(name for name in of_baseline if name not in of_run),
        other_types=_other_types(common, of_run, of_baseline),
        parting=_parting(run, baseline, common, within) if common and within.any() else None,
    )


def _other_types(
    common: list[str], of_run: Mapping[str, Layer], of_baseline: Mapping[str, Layer]
) -> dict[str, tuple[str, str]]:
    types = {name: (of_run[name].type, of_baseline[name].type) for name in common}
    return {name: pair for name, pair in types.items() if pair[0] != pair[1]}


def _within(run: Run, baseline: Run) -> Mask:
    if not len(baseline.steps):
        return np.zeros(len(run.steps), dtype=bool)
    inside: Mask = (run.steps >= baseline.steps[0]) & (run.steps <= baseline.steps[-1])
    return inside


class _Distance(NamedTuple):
    """One metric over the common layers: all float64[S, L]."""

    metric: str
    values: Float64s
    bounds: Float64s
    """The largest or smallest value that the baseline had about then: the one nearer to the value."""
    tolerances: Float64s
    """How far the value is beyond it, in tolerances: above 1 or below -1 it is too far; NaN is not comparable."""


def _parting(run: Run, baseline: Run, common: list[str], within: Mask) -> Parting | None:
    steps = run.steps[within]
    distances = [_distance(run, baseline, common, within, metric) for metric in SCALES]
    first = np.array([[_first_lasting(column) for column in d.tolerances.T] for d in distances])
    by_layer = first.min(axis=0)
    at, layer = int(by_layer.min()), int(np.argmin(by_layer))
    if at == NEVER:
        return None
    furthest = max(
        (d for d, when in zip(distances, first[:, layer], strict=True) if when == at),
        key=lambda d: abs(d.tolerances[at, layer]),
    )
    return Parting(
        step=int(steps[at]),
        layer=common[layer],
        metric=furthest.metric,
        value=float(furthest.values[at, layer]),
        bound=float(furthest.bounds[at, layer]),
        layers=tuple(name for name, when in zip(common, by_layer, strict=True) if when != NEVER),
    )


def _distance(run: Run, baseline: Run, common: list[str], within: Mask, metric: str) -> _Distance:
    scale = SCALES[metric]
    values = _cells(run, metric, common)[within]
    scaled = _scaled(values, scale)
    reference = _scaled(_cells(baseline, metric, common), scale)
    reference[~np.isfinite(reference)] = np.nan
    reference[:, (~np.isnan(reference)).sum(axis=0) < LASTING] = np.nan
    low, high = _envelope(run.steps[within], baseline.steps, reference)
    beyond = np.where(scaled > high, scaled - high, np.minimum(scaled - low, 0))
    bounds = np.where(scaled > high, high, low)
    back = np.power(10, bounds) if scale.decades else bounds
    return _Distance(metric, values, back, beyond / np.fmax(scale.least, SPREADS * _spread(reference)))


def _spread(values: Float64s) -> Float64s:
    """Return by how much `values`, float64[T, L], scatter from record to record: float64[L], as a σ.

    From the jumps between two records: what a run has of a slow trend is no scatter.
    """
    return _MAD_TO_SIGMA * median(np.abs(np.diff(values, axis=0))) / math.sqrt(2)


def _cells(run: Run, metric: str, names: list[str]) -> Float64s:
    row = {layer.name: i for i, layer in enumerate(run.layers)}
    return measured_cells(run, metric)[:, [row[name] for name in names]].astype(np.float64)


def _scaled(values: Float64s, scale: Scale) -> Float64s:
    if not scale.decades:
        return np.array(values)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.array(np.log10(values))  # of nothing it is -inf: away from any number


def _envelope(at: Steps, steps: Steps, values: Float64s) -> tuple[Float64s, Float64s]:
    """Return the least and the largest of `values`, float64[T, L] at `steps`, about each step of `at`."""
    # One record more on either side: what lies between two records of the baseline is between their values.
    first = np.maximum(np.searchsorted(steps, at / PACE, side="right") - 1, 0)
    last = np.minimum(np.searchsorted(steps, at * PACE, side="left"), len(steps) - 1)
    return _over_ranges(np.fmin, values, first, last), _over_ranges(np.fmax, values, first, last)


def _over_ranges(extreme: np.ufunc, values: Float64s, first: Steps, last: Steps) -> Float64s:
    """Return `extreme` over the rows first to last of `values`: two powers of two that overlap cover any range."""
    level = np.log2(last - first + 1).astype(np.int64)
    result = np.empty((len(first), values.shape[1]))
    for k in range(int(level.max(initial=-1)) + 1):
        rows = level == k
        result[rows] = extreme(values[first[rows]], values[last[rows] - 2**k + 1])
        values = extreme(values[: -(2**k)], values[2**k :])
    return result


def _first_lasting(distances: Float64s) -> int:
    """Return the index from which a layer, float64[S], is out of bounds for long enough, or `NEVER`."""
    rows = np.flatnonzero(~np.isnan(distances))
    measured = distances[rows]
    if not (np.abs(measured) > 1).any():
        return NEVER
    begins = [_streak(side * measured > 1) for side in (1, -1)]
    lost = np.isposinf(measured)
    if len(lost) and lost[-1]:
        begins.append(int(np.flatnonzero(~lost)[-1]) + 1 if not lost.all() else 0)
    found = [begin for begin in begins if begin != NEVER]
    return int(rows[min(found)]) if found else NEVER


def _streak(condition: Mask) -> int:
    """Return where `condition`, bool[S], begins to hold for `LASTING` records in a row, or `NEVER`."""
    if len(condition) < LASTING:
        return NEVER
    whole = np.lib.stride_tricks.sliding_window_view(condition, LASTING).all(axis=1)
    return int(np.argmax(whole)) if whole.any() else NEVER
