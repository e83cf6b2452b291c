"""A series as a row of characters."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt


class Ramp(NamedTuple):
    """The characters of a sparkline: `levels` from low to high, then those for not measured and for infinite."""

    levels: str
    absent: str
    infinite: str


BLOCKS = Ramp("▁▂▃▄▅▆▇█", "·", "!")
ASCII = Ramp("_.-~=+*#", " ", "!")


def sparkline(values: npt.ArrayLike, width: int, ramp: Ramp = BLOCKS, least_decades: float = 1.0) -> str:
    """Draw `values`, float[S], with at most `width` characters, each the mean of equally many neighbours.

    The scale is log10 where no value is negative (a zero is then drawn like the smallest positive value), else
    linear. It spans the series, but at least `least_decades` decades, so that the noise of a steady series stays
    flat. NaN is not measured and drawn apart; a character that covers an infinity shows that. No values give ``""``.
    """
    series = np.asarray(values, dtype=np.float64)
    if not series.size or width < 1:
        return ""
    heights, floor = _heights(series, least_decades)
    bins = np.array_split(np.arange(series.size), min(width, series.size))
    means = [_mean(heights[b]) for b in bins]
    low, high = _span(heights[np.isfinite(heights)], floor)
    return "".join(_character(mean, low, high, ramp) for mean in means)


def _heights(series: npt.NDArray[np.float64], least_decades: float) -> tuple[npt.NDArray[np.float64], float]:
    finite = series[np.isfinite(series)]
    positive = finite[finite > 0]
    if not positive.size or (finite < 0).any():
        return series, 0.0
    heights = series.copy()
    measured = np.isfinite(heights)
    heights[measured] = np.log10(np.maximum(heights[measured], positive.min()))
    return heights, least_decades


def _mean(heights: npt.NDArray[np.float64]) -> float:
    if np.isinf(heights).any():
        return float("inf")
    finite = heights[np.isfinite(heights)]
    with np.errstate(over="ignore"):
        return float(finite.mean()) if finite.size else float("nan")


def _span(finite: npt.NDArray[np.float64], floor: float) -> tuple[float, float]:
    if not finite.size:
        return 0.0, 0.0
    low, high = float(finite.min()), float(finite.max())
    missing = max(0.0, floor - (high - low))
    return low - missing / 2, high + missing / 2


def _character(height: float, low: float, high: float, ramp: Ramp) -> str:
    if np.isnan(height):
        return ramp.absent
    if np.isinf(height):
        return ramp.infinite
    if high == low:
        return ramp.levels[0]
    # Halved first: the range of a series of float64 may itself be infinite.
    share = (height / 2 - low / 2) / (high / 2 - low / 2)
    return ramp.levels[min(int(share * len(ramp.levels)), len(ramp.levels) - 1)]
