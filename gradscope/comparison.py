"""Where a run parts ways with a sound one: a pure function of two runs."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from gradscope.cells import measured_cells
from gradscope.records import Layer, Run
from gradscope.rules.persistence import Mask, median

Doubles = npt.NDArray[np.float64]

SPREADS = 4.0
"""How many times the baseline's own spread a run may be away from it."""

LASTING = 5
"""Records in a row for which it has to be further away: a batch that is odd is no parting."""

NEVER = 2**31
"""The index of a record that there is not."""

_MAD_TO_SIGMA = 1.4826  # of a normal distribution (Rousseeuw, Croux 1993)


class Scale(NamedTuple):
    """How a metric is compared: `decades` apart, or as it is; closer than `least` is together for any baseline."""

    decades: bool
    least: float


SCALES: Mapping[str, Scale] = {
    "grad_norm": Scale(True, 1.0),
    "act_var": Scale(True, 0.5),
    "update_ratio": Scale(True, 1.0),
    "weight_norm": Scale(True, 0.5),
    "dead_fraction": Scale(False, 0.4),
    "saturated_fraction": Scale(False, 0.4),
}
"""By the metrics that are compared. Two seeds of one net lie well within: factors of 10 for what a batch decides, of 3
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
    expected: float
    """What it is in the baseline at that step."""
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

    Layers are matched by name, steps by linear interpolation between the baseline's records, in decades for
    quantities with a scale; steps outside of the baseline's are left out. A layer parts where for 5 records in a row
    one of its metrics is further from the baseline's than 4 times the baseline's own spread over its records (1.4826
    times the median absolute deviation), and than a fixed least distance (`SCALES`), on the same side. So
    does one that is NaN or infinite until the run ends, for however short. Metrics that were not measured, and layers
    with fewer than 5 records in the baseline, do not part.
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
    values: Doubles
    expected: Doubles
    tolerances: Doubles
    """How far the value may be from what is expected: +1 and -1 are its bounds, NaN is not comparable."""


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
        expected=float(furthest.expected[at, layer]),
        layers=tuple(name for name, when in zip(common, by_layer, strict=True) if when != NEVER),
    )


def _distance(run: Run, baseline: Run, common: list[str], within: Mask, metric: str) -> _Distance:
    scale = SCALES[metric]
    values = _cells(run, metric, common)[within]
    reference = _scaled(_cells(baseline, metric, common), scale)
    reference[~np.isfinite(reference)] = np.nan
    expected = _interpolated(run.steps[within], baseline.steps, reference)
    spread = _MAD_TO_SIGMA * median(np.abs(reference - median(reference)))
    away = _scaled(values, scale) - expected
    back = np.power(10, expected) if scale.decades else expected
    return _Distance(metric, values, back, away / np.maximum(scale.least, SPREADS * spread))


def _cells(run: Run, metric: str, names: list[str]) -> Doubles:
    row = {layer.name: i for i, layer in enumerate(run.layers)}
    return measured_cells(run, metric)[:, [row[name] for name in names]].astype(np.float64)


def _scaled(values: Doubles, scale: Scale) -> Doubles:
    if not scale.decades:
        return values.copy()
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.log10(values), dtype=np.float64)  # of nothing it is -inf: away from any number


def _interpolated(at: npt.NDArray[np.int64], steps: npt.NDArray[np.int64], values: Doubles) -> Doubles:
    """Return `values`, float64[T, L] at `steps`, as they are `at` other steps: NaN outside of what was measured."""
    result = np.full((len(at), values.shape[1]), np.nan)
    for layer, column in enumerate(values.T):
        known = ~np.isnan(column)
        if known.sum() >= LASTING:
            result[:, layer] = np.interp(at, steps[known], column[known], left=np.nan, right=np.nan)
    return result


def _first_lasting(distances: Doubles) -> int:
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
