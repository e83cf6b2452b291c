"""What the table of layers shows of a run: its columns of numbers, formatted, and which of them fit a width."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from gradscope.records import Floats, Layer, Metric, NonFinite, Run
from gradscope.summary import in_order_shown, last_finite

LONGEST_HEADING = 18


class Cell(NamedTuple):
    """A formatted number, and whether it lies outside the metric's healthy range for its layer."""

    text: str
    outside: bool = False


@dataclass(frozen=True)
class Column:
    """A column of the table: a cell for each row. Of the columns that do not fit, the highest `rank` goes first."""

    name: str
    heading: str
    cells: tuple[Cell, ...]
    rank: int

    @cached_property
    def marked(self) -> bool:
        """Whether any cell lies outside its healthy range: all cells then leave room for a mark."""
        return any(cell.outside for cell in self.cells)

    @cached_property
    def width(self) -> int:
        """Characters that the widest of heading and cells takes, marks included."""
        return max(len(text) for text in (self.heading, *(cell.text for cell in self.cells))) + self.marked


class Known(NamedTuple):
    """How a metric is shown that this version knows. One that is `eventful` is shown only if it is ever not 0."""

    heading: str
    rank: int
    eventful: bool = False


KNOWN = {
    "grad_norm": Known("gradient", 0),
    "update_ratio": Known("update", 3),
    "act_mean": Known("mean", 6),
    "act_var": Known("variance", 5),
    "dead_fraction": Known("dead", 2),
    "zero_fraction": Known("zero", 7),
    "saturated_fraction": Known("saturated", 4),
    "nonfinite": Known("NaN/inf", 1, eventful=True),
    "no_gradient_fraction": Known("no gradient", 10, eventful=True),
    "grad_norm_clipped": Known("clipped", 12),
    "weight_norm": Known("weight", 11),
    "dying_fraction": Known("dying", 13),
    "revived_fraction": Known("revived", 14),
}
"""Metrics that are not listed rank between what a verdict rests on and what explains it."""

FLAG_WORDS = {NonFinite.GRADIENT: "grad", NonFinite.WEIGHT: "weight", NonFinite.OUTPUT: "out"}

UNKNOWN_RANK = 9
TYPE_RANK = 8


def columns_of(run: Run, rows: Sequence[int]) -> tuple[Column, ...]:
    """Return the columns of numbers for the layers at `rows`, in the order shown.

    A metric that is NaN everywhere has no column, nor has one that only tells of events and saw none.
    """
    return tuple(_column(run, metric, rows) for metric in in_order_shown(run.columns) if _is_shown(run, metric))


def fitting(columns: Sequence[Column], room: int, gap: int) -> tuple[Column, ...]:
    """Return those of `columns` that fit in `room` characters, each after a gap of `gap`, in the order given.

    The first by rank always stays. Columns with a cell outside its healthy range go before all others.
    """
    kept: set[str] = set()
    for column in sorted(columns, key=lambda c: (c.rank > 0, not c.marked, c.rank)):
        if not kept or column.width + gap <= room:
            kept.add(column.name)
            room -= column.width + gap
    return tuple(column for column in columns if column.name in kept)


def _is_shown(run: Run, metric: Metric) -> bool:
    values = run.metric(metric.name)
    eventful = metric.name in KNOWN and KNOWN[metric.name].eventful
    return bool((np.nan_to_num(values) != 0).any() if eventful else (~np.isnan(values)).any())


def _column(run: Run, metric: Metric, rows: Sequence[int]) -> Column:
    values = run.metric(metric.name)[:, list(rows)]
    known = KNOWN.get(metric.name, Known(metric.title[:LONGEST_HEADING], UNKNOWN_RANK))
    if metric.unit == "flags":
        cells = [_flags_cell(values[:, i]) for i in range(len(rows))]
    else:
        last = last_finite(values)
        write = _writer(metric)
        cells = [_cell(values[:, i], last[i], metric, run.layers[row], write) for i, row in enumerate(rows)]
    return Column(metric.name, known.heading, tuple(cells), known.rank)


def _cell(series: Floats, last: float, metric: Metric, layer: Layer, write: Callable[[float], str]) -> Cell:
    measured = series[~np.isnan(series)]
    if not measured.size:
        return Cell("")
    if math.isnan(last):
        return Cell(str(measured[-1]), outside=True)
    low, high = metric.healthy.get(layer.kind, (-math.inf, math.inf))
    # The values are float32, so 0.1 is compared as float32 too: the range is closed.
    inside = np.float32(low) <= np.float32(last) <= np.float32(high)
    return Cell(write(last), outside=not inside or bool(np.isinf(measured[-1])))


def _flags_cell(series: Floats) -> Cell:
    flags = NonFinite(0)
    for value in series[np.isfinite(series)]:
        flags |= NonFinite(int(value) & sum(NonFinite))
    return Cell("+".join(word for flag, word in FLAG_WORDS.items() if flag in flags), outside=bool(flags))


def _writer(metric: Metric) -> Callable[[float], str]:
    if metric.unit == "fraction":
        return percent
    if metric.name == "act_mean":
        return lambda value: f"{0.0 if abs(value) < 0.005 else value:.2f}" if abs(value) < 1000 else f"{value:.1e}"
    return plain if metric.unit == "value" or metric.name == "weight_norm" else scientific


def percent(fraction: float) -> str:
    """Return ``"37 %"``. What is neither nothing nor all is never rounded to it: ``"<1 %"``, ``">99 %"``."""
    if abs(fraction) >= 10:
        return f"{100 * fraction:.0e} %"
    if 0 < fraction <= 0.005:
        return "<1 %"
    if 0.995 <= fraction < 1:
        return ">99 %"
    return f"{100 * fraction:.0f} %"


def scientific(value: float) -> str:
    """Return `value` with 3 significant digits, ``"2.31e-05"``; nothing is ``"0"``."""
    return f"{value:.2e}" if value else "0"


def plain(value: float) -> str:
    """Return `value` with 2 decimals, or in scientific notation where those would not do."""
    return f"{value:.2f}" if value == 0 or 0.005 <= abs(value) < 1000 else f"{value:.1e}"
