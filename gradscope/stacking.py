"""Records → columns: what single records and whole blocks of them hold, one below the other."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple, cast

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from gradscope.records import Floats, Layer, Record


@dataclass(frozen=True, eq=False)
class Block:
    """Records that were taken one after the other, of the same layers: n of them over L layers."""

    steps: npt.NDArray[np.int64]
    """int64[n], in any order."""
    wall_times: npt.NDArray[np.float64]
    """float64[n]."""
    layers: "tuple[Layer, ...]"
    """The rows of the metrics of each of them."""
    metrics: Mapping[str, npt.NDArray[np.float32]]
    """By name, float32[n, L]; NaN where a record has no such metric."""
    globals: Mapping[str, npt.NDArray[np.float64]]
    """By name, float64[n]; NaN where a record has no such global."""


class Stack(NamedTuple):
    """Records one below the other, in order of steps: S of them over L layers."""

    steps: npt.NDArray[np.int64]
    """int64[S], strictly increasing."""
    wall_times: npt.NDArray[np.float64]
    """float64[S]."""
    layers: "tuple[Layer, ...]"
    """Those of the last record, then those that only earlier records have."""
    metrics: "dict[str, Floats]"
    """By name, float32[S, L]; NaN where a record has no such metric or no such layer."""
    globals: dict[str, npt.NDArray[np.float64]]
    """By name, float64[S]; NaN where a record has no such global."""


def blocks_of(records: "Sequence[Record | Block]") -> list[Block]:
    """Return the same records in the same order in blocks; single ones in a row of the same layers become one."""
    return [
        first if isinstance(first, Block) else _block([first, *cast("list[Record]", others)])
        for first, *others in (list(alike) for _, alike in groupby(records, key=_held))
    ]


def steps_of(blocks: Sequence[Block]) -> npt.NDArray[np.int64]:
    """Return the steps of all records."""
    return np.concatenate([np.empty(0, dtype=np.int64), *(block.steps for block in blocks)])


def wall_times_of(blocks: Sequence[Block]) -> npt.NDArray[np.float64]:
    """Return the wall times of all records."""
    return np.concatenate([np.empty(0, dtype=np.float64), *(block.wall_times for block in blocks)])


def where(blocks: Sequence[Block], kept: npt.NDArray[np.bool_]) -> list[Block]:
    """Return the records for which `kept`, one for each of all of them, is true."""
    if kept.all():
        return list(blocks)
    ends = np.cumsum([len(block.steps) for block in blocks])
    parts = zip(blocks, np.split(kept, ends[:-1]), strict=True)
    return [_part(block, rows) for block, rows in parts if rows.any()]


def stacked(records: "Sequence[Record | Block]", metrics: Iterable[str], totals: Iterable[str]) -> Stack:
    """Stack `records` with `metrics`, and those of their globals that are among `totals`.

    Of two with the same step the later wall time wins.

    Raises:
        KeyError: one of them holds a metric that is not among `metrics`.
    """
    blocks = _latest(blocks_of(records))
    steps = steps_of(blocks)
    order = np.argsort(steps)
    layers = _layers(blocks, order)
    cells = {name: np.full((len(steps), len(layers)), np.nan, dtype=np.float32) for name in metrics}
    series = {name: np.full(len(steps), np.nan) for name in totals}
    _fill(cells, series, layers, blocks)
    for name, unordered in cells.items():  # one after the other, so that no two of each are held
        cells[name] = unordered[order]
    in_order = {name: unordered[order] for name, unordered in series.items()}
    return Stack(steps[order], wall_times_of(blocks)[order], layers, cells, in_order)


def _held(record: "Record | Block") -> int:
    # By identity: records share a tuple while their layers are the same, and comparing it costs more than reading.
    return id(record if isinstance(record, Block) else record.layers)


def _block(records: "Sequence[Record]") -> Block:
    layers = records[0].layers
    metrics = dict.fromkeys(name for record in records for name in record.metrics)
    totals = dict.fromkeys(name for record in records for name in record.globals)
    absent = np.full(len(layers), np.nan, dtype=np.float32)
    return Block(
        np.array([r.step for r in records], dtype=np.int64),
        np.array([r.wall_time for r in records], dtype=np.float64),
        layers,
        {name: np.array([r.metrics.get(name, absent) for r in records]) for name in metrics},
        {name: np.array([r.globals.get(name, math.nan) for r in records], dtype=np.float64) for name in totals},
    )


def _part(block: Block, rows: npt.NDArray[np.bool_]) -> Block:
    return Block(
        block.steps[rows],
        block.wall_times[rows],
        block.layers,
        {name: values[rows] for name, values in block.metrics.items()},
        {name: values[rows] for name, values in block.globals.items()},
    )


def _latest(blocks: Sequence[Block]) -> list[Block]:
    """Leave out records whose step another one has that was taken later."""
    steps, times = steps_of(blocks).tolist(), wall_times_of(blocks).tolist()
    # As a list: where a damaged time is no number, what is later is what has always been shown.
    latest = {steps[i]: i for i in sorted(range(len(times)), key=times.__getitem__)}
    kept = np.zeros(len(steps), dtype=np.bool_)
    kept[list(latest.values())] = True
    return where(blocks, kept)


def _layers(blocks: Sequence[Block], order: npt.NDArray[np.intp]) -> "tuple[Layer, ...]":
    owners = np.repeat(np.arange(len(blocks)), [len(block.steps) for block in blocks])[order]
    last_first = [blocks[i].layers for i in dict.fromkeys(owners[::-1].tolist())]
    union: dict[str, Layer] = {}
    for layers in {id(layers): layers for layers in last_first}.values():
        for layer in layers:
            union.setdefault(layer.name, layer)
    return tuple(union.values())


def _fill(
    cells: "Mapping[str, Floats]",
    series: Mapping[str, npt.NDArray[np.float64]],
    layers: "tuple[Layer, ...]",
    blocks: Sequence[Block],
) -> None:
    """Write what the blocks hold into matrices and series of all records."""
    place = {layer.name: i for i, layer in enumerate(layers)}
    places: dict[int, slice | npt.NDArray[np.int64]] = {}
    first = 0
    for block in blocks:
        rows = slice(first, first := first + len(block.steps))
        if id(block.layers) not in places:
            places[id(block.layers)] = _as_slice([place[layer.name] for layer in block.layers])
        for name, values in block.metrics.items():
            cells[name][rows, places[id(block.layers)]] = values
        for name in series.keys() & block.globals.keys():
            series[name][rows] = block.globals[name]


def _as_slice(places: Sequence[int]) -> slice | npt.NDArray[np.int64]:
    """Return `places` as what numpy copies fastest."""
    is_whole = places == list(range(len(places)))
    return slice(0, len(places)) if is_whole else np.array(places, dtype=np.int64)
