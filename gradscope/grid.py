"""One metric of a run gathered for drawing: bands of layers by columns of steps, and the colours that they have."""

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from gradscope.cells import measured_cells
from gradscope.records import Float64s, Metric, NonFinite, Run

Pixels = npt.NDArray[np.uint8]
Indices = npt.NDArray[np.int64]

# Samples of viridis (Smith and van der Walt 2015): perceptually uniform, and safe for the colour-blind.
_VIRIDIS = np.array(
    [
        (68, 1, 84),
        (72, 36, 117),
        (65, 68, 135),
        (53, 95, 141),
        (42, 120, 142),
        (33, 145, 140),
        (34, 168, 132),
        (68, 191, 112),
        (122, 209, 81),
        (189, 223, 38),
        (253, 231, 37),
    ],
    dtype=np.float64,
)
NOT_MEASURED = (222, 222, 226)
NON_FINITE = (230, 30, 60)
EXACT_ZERO = (0, 0, 0)


_MAX_DECADES = 8.0


class Scale(NamedTuple):
    """What the colours stand for: `low` and `high` are decades where `logarithmic`, else the values themselves."""

    low: float
    high: float
    logarithmic: bool
    clipped_low: bool
    clipped_high: bool


class Bands(NamedTuple):
    """Layers gathered into bands: band i holds layers starts[i] up to, not including, stops[i]."""

    starts: Indices
    stops: Indices


class Measured(NamedTuple):
    """What is drawn of a metric: `cells` float64[S, n] of the n layers that have it, as `cells_of` gives them."""

    cells: Float64s
    names: tuple[str, ...]
    steps: npt.NDArray[np.int64]
    scale: Scale
    centre: float


def measured_of(run: Run, column: Metric) -> Measured:
    """Return what was measured of `column`, on a scale of its own: n = 0 where nothing was.

    Norms and ratios are on a scale of their decadic logarithm, everything else on a linear one.
    """
    cells = cells_of(run, column)
    layers = np.flatnonzero(~np.isnan(cells).all(axis=0))
    cells = cells[:, layers]
    names = tuple(run.layers[i].name or run.layers[i].type for i in layers)
    return Measured(cells, names, run.steps, _scale(column, cells), _centre(column, cells))


def bands_of(layers: int, most: int) -> Bands:
    """Return `layers` in at most `most` bands of equal size, but for one layer."""
    bands = min(layers, most)
    edges = np.arange(bands + 1) * layers // bands
    return Bands(edges[:-1], edges[1:])


def gathered(measured: Measured, bands: Bands, width: int) -> Float64s:
    """Return float64[bands, width]: each record from its step up to the next one's, the worst where several share one.

    For norms, ratios and values that is the one farthest from the median, for fractions and flags the largest.
    """
    by_band = _worst(measured.cells, bands.starts, bands.stops, 1, measured.centre)
    return np.transpose(_worst(by_band, *_records_of_columns(measured.steps, width), 0, measured.centre))


def cells_of(run: Run, column: Metric) -> Float64s:
    """Return what is coloured, float64[S, L]: +inf where not finite, -inf for an exact zero on a logarithmic scale."""
    values = measured_cells(run, column.name).astype(np.float64)
    if not is_logarithmic(column):
        return values
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.log10(values)


def is_logarithmic(column: Metric) -> bool:
    """Say whether `column` is drawn by its decadic logarithm."""
    return column.unit in ("L2 norm", "ratio")


def _scale(column: Metric, cells: Float64s) -> Scale:
    finite = cells[np.isfinite(cells)]
    logarithmic = is_logarithmic(column)
    if column.unit in ("fraction", "flags") or finite.size == 0:
        high = float(sum(NonFinite)) if column.unit == "flags" else 1.0
        return Scale(0.0, high, logarithmic, False, False)
    quarter, median, three_quarters = np.quantile(finite, (0.25, 0.5, 0.75))
    # A lone outlier must not squeeze all the others into one colour, and must still differ from them.
    reach = _MAX_DECADES if logarithmic else 10 * (three_quarters - quarter) or math.inf
    low, high = max(finite.min(), median - reach), min(finite.max(), median + reach)
    clipped = (bool(low > finite.min()), bool(high < finite.max()))
    # What varies by less than vanishing (1e-3) is the noise of a sound run and shall look calm.
    least = 3.0 if logarithmic else max(abs(float(median)) * 1e-3, 1e-6)
    margin = max(0.0, (least - (high - low)) / 2)
    return Scale(float(low) - margin, float(high) + margin, logarithmic, *clipped)


def _records_of_columns(steps: npt.NDArray[np.int64], width: int) -> tuple[Indices, Indices]:
    """Return which records fall on each column: first and one past the last, int64[width] each."""
    edges = np.linspace(steps[0], end_of(steps), width + 1)
    starts = np.searchsorted(steps, edges[:-1], side="right") - 1
    stops = np.searchsorted(steps, edges[1:], side="left")
    return np.maximum(starts, 0), np.maximum(stops, starts + 1)


def end_of(steps: npt.NDArray[np.int64]) -> int:
    """Return the step up to which the last record is drawn: it is as wide as the one before."""
    return int(steps[-1] + (steps[-1] - steps[-2] if len(steps) > 1 else 1))


def _worst(cells: Float64s, starts: Indices, stops: Indices, axis: int, centre: float) -> Float64s:
    """Reduce each slice [start, stop) along `axis` to its element farthest from `centre`; NaN only if all are."""
    slices = np.stack([starts, np.minimum(stops, cells.shape[axis])], axis=1).ravel()
    padding = [(0, 1) if i == axis else (0, 0) for i in range(cells.ndim)]  # `reduceat` takes no end as an index
    padded = np.pad(cells, padding, constant_values=np.nan)
    every_second = [slice(None)] * cells.ndim
    every_second[axis] = slice(None, None, 2)
    high = np.fmax.reduceat(padded, slices, axis=axis)[tuple(every_second)]
    low = np.fmin.reduceat(padded, slices, axis=axis)[tuple(every_second)]
    worst: Float64s = np.where(high - centre >= centre - low, high, low)
    return worst


def _centre(column: Metric, cells: Float64s) -> float:
    finite = cells[np.isfinite(cells)]
    if column.unit in ("fraction", "flags") or finite.size == 0:
        return -1e300
    return float(np.median(finite))


def colours_of(grid: Float64s, scale: Scale) -> Pixels:
    """Return uint8[..., 3] for values on `scale`."""
    with np.errstate(invalid="ignore"):
        position = np.clip((grid - scale.low) / (scale.high - scale.low), 0, 1) * (len(_VIRIDIS) - 1)
    position = np.nan_to_num(position)
    anchors = np.arange(len(_VIRIDIS))
    colours = np.stack([np.interp(position, anchors, channel) for channel in _VIRIDIS.T], axis=-1).round()
    colours[np.isnan(grid)] = NOT_MEASURED
    colours[np.isposinf(grid)] = NON_FINITE
    colours[np.isneginf(grid)] = EXACT_ZERO
    pixels: Pixels = colours.astype(np.uint8)
    return pixels
