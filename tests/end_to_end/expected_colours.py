"""Which colour a cell must have, worked out from the formulas alone: the oracle of the heat maps in the browser."""

import numpy as np
import numpy.typing as npt

from gradscope.grid import _VIRIDIS, EXACT_ZERO, NON_FINITE, NOT_MEASURED
from gradscope.records import Floats

Colours = npt.NDArray[np.float64]
Values = npt.NDArray[np.float64]

NOT_MEASURED_IN_THE_DARK = (78, 78, 84)
INSIDE = (203, 228, 206)
_BELOW = np.array([(158, 202, 225), (66, 146, 198), (8, 69, 148)], dtype=np.float64)
_ABOVE = np.array([(253, 187, 108), (232, 112, 20), (140, 45, 4)], dtype=np.float64)


def of_norms(cells: Floats, *others: Floats, dark: bool = False) -> Colours:
    """Decades from the least to the greatest over all runs: at least three, none more than eight from the median."""
    with np.errstate(divide="ignore"):
        decades, *parts = (np.log10(part.astype(np.float64)) for part in (cells, *others))
    finite = np.concatenate([part[np.isfinite(part)] for part in (decades, *parts)])
    middle = np.quantile(finite, 0.5, method="lower")
    low, high = max(finite.min(), middle - 8), min(finite.max(), middle + 8)
    margin = max(0.0, (3 - (high - low)) / 2)
    return _with_specials(_viridis(decades, low - margin, high + margin), decades, dark)


def of_values(cells: Floats) -> Colours:
    """Values that are neither norms nor fractions, from the least to the greatest, without outliers."""
    values = cells.astype(np.float64)
    finite = values[np.isfinite(values)]
    return _with_specials(_viridis(values, finite.min(), finite.max()), values)


def of_shares(cells: Floats, whole: float = 1.0) -> Colours:
    """Fractions from 0 to 1, flags from 0 to 7."""
    values = cells.astype(np.float64)
    return _with_specials(_viridis(values, 0, whole), values)


def of_bounds(cells: Floats, low: float, high: float) -> Colours:
    """Quiet within the bounds, blue below and orange above, to the farthest but at least 3 and at most 12 of them."""
    with np.errstate(invalid="ignore"):
        values = cells.astype(np.float64)
        if low > 0:
            distance = np.where(values >= 1, np.log(values) / np.log(high), -np.log(values) / np.log(low))
        else:
            distance = (values - (low + high) / 2) / ((high - low) / 2)
    reach = np.clip(np.abs(distance[np.isfinite(distance)]).max(), 3, 12)
    outside = np.nan_to_num((np.abs(distance) - 1) / (reach - 1))
    sides = np.where((distance < 0)[..., None], _between(_BELOW, outside), _between(_ABOVE, outside))
    return _with_specials(np.where((np.abs(distance) <= 1)[..., None], INSIDE, sides), values)


def _viridis(values: Values, low: float, high: float) -> Colours:
    return _between(_VIRIDIS, np.nan_to_num((values - low) / (high - low)))


def _between(anchors: Colours, position: Values) -> Colours:
    at = np.clip(position, 0, 1) * (len(anchors) - 1)
    return np.stack([np.interp(at, np.arange(len(anchors)), channel) for channel in anchors.T], axis=-1)


def _with_specials(colours: Colours, shown: Values, dark: bool = False) -> Colours:
    colours[np.isnan(shown)] = NOT_MEASURED_IN_THE_DARK if dark else NOT_MEASURED
    colours[np.isposinf(shown)] = NON_FINITE
    colours[np.isneginf(shown)] = EXACT_ZERO
    return colours
