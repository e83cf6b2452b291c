"""What TensorBoard's stock dashboards show of a run: scalars, a distribution, a heat map and a table of verdicts."""

import math
import re
import textwrap
from collections.abc import Mapping, Sequence
from functools import cache

import numpy as np
import numpy.typing as npt
from tensorboard.compat.proto.summary_pb2 import (
    DATA_CLASS_BLOB_SEQUENCE,
    DATA_CLASS_TENSOR,
    Summary,
    SummaryMetadata,
)
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
from tensorboard.compat.proto.types_pb2 import DT_DOUBLE, DT_STRING

from gradscope.heatmap import heat_map_png
from gradscope.records import CLIP_COEFFICIENT, TOTAL_NORM, TOTAL_NORM_CLIPPED, Finding, Metric, Record, Run
from gradscope.wording import one_line, steps

LAYER_LIMIT = 32
"""Layers up to which each has a chart of its own: beyond a few dozen nobody looks at them."""

NAMED_LAYERS = 3
"""Layers that the table of verdicts names; the others are counted."""

_HISTOGRAM_BINS = 30
_CELL_WIDTH = 30
_CARD_IMAGE_WIDTH = 640  # shrunk to a card of about 350 pixels its text can still be made out

_DEPTH_QUANTILES = {"min": 0.0, "p25": 0.25, "median": 0.5, "p75": 0.75, "max": 1.0}
_STATISTICS = {
    "L2 norm": _DEPTH_QUANTILES,
    "ratio": _DEPTH_QUANTILES,
    "value": {"min": 0.0, "max": 1.0},
    "fraction": {"max": 1.0},
    "flags": {"max": 1.0},
}


def scalars(record: Record, columns: Sequence[Metric]) -> dict[str, float]:
    """Return what a logger can draw as curves of the whole net: tag → number.

    ``gradscope/<metric>/<statistic>`` are quantiles over the layers' finite values, NaN where there are none or the
    record lacks the metric: norms and ratios have min, p25, median, p75 and max, values min and max, fractions and
    flags max. ``gradscope/<total_norm, …>`` are the globals that the record has. The keys depend on the columns and
    the globals alone, not on what was measured.
    """
    tags, rows, shares = _curves(tuple(column.name for column in columns), tuple(column.unit for column in columns))
    curves = dict(zip(tags, _quantiles(_matrix(record, columns), rows, shares).tolist(), strict=True))
    for name in (TOTAL_NORM, TOTAL_NORM_CLIPPED, CLIP_COEFFICIENT):
        if name in record.globals:
            curves[f"gradscope/{name}"] = float(record.globals[name])
    return curves


def layer_scalars(record: Record, columns: Sequence[Metric]) -> dict[str, float]:
    """Return the single cells as curves, ``gradscope_<metric>/<layer>`` → number: none for over `LAYER_LIMIT` layers.

    What was not measured is NaN, so that the keys depend on the columns and the layers alone.
    """
    curves: dict[str, float] = {}
    if len(record.layers) <= LAYER_LIMIT:
        for column in columns:
            curves |= _cells(record, column.name)
    return curves


@cache
def _curves(
    metrics: tuple[str, ...], units: tuple[str, ...]
) -> tuple[list[str], npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """The tags of all curves over layers, and of each which of the metrics it is of, and at which share of the layers.

    int64[curves] and float64[curves].
    """
    all_of_them = [
        (f"gradscope/{metric}/{name}", row, share)
        for row, (metric, unit) in enumerate(zip(metrics, units, strict=True))
        for name, share in _STATISTICS[unit].items()
    ]
    return (
        [tag for tag, _, _ in all_of_them],
        np.array([row for _, row, _ in all_of_them], dtype=np.int64),
        np.array([share for _, _, share in all_of_them], dtype=np.float64),
    )


def _matrix(record: Record, columns: Sequence[Metric]) -> npt.NDArray[np.float64]:
    """All metrics of a record: float64[columns, layers], NaN where it lacks one."""
    matrix = np.full((len(columns), len(record.layers)), np.nan)
    for row, column in zip(matrix, columns, strict=True):
        if column.name in record.metrics:
            row[:] = record.metrics[column.name]
    return matrix


def _quantiles(
    matrix: npt.NDArray[np.float64], rows: npt.NDArray[np.int64], shares: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """The quantiles at `shares` of the finite values in `rows` of `matrix`, NaN where there is none: float64[rows].

    All at once, and not by numpy's own, which are ten times as slow for so few numbers.
    """
    if not matrix.size:
        return np.full(len(rows), np.nan)
    values = np.sort(np.where(np.isfinite(matrix), matrix, np.nan), axis=1)  # which puts NaN last
    last = np.maximum(np.isfinite(values).sum(axis=1) - 1, 0)[rows]
    places = shares * last
    below = places.astype(np.int64)
    low, high = values[rows, below], values[rows, np.minimum(below + 1, last)]
    quantiles: npt.NDArray[np.float64] = low + (high - low) * (places - below)
    return quantiles


def _cells(record: Record, metric: str) -> dict[str, float]:
    values = record.metrics.get(metric, np.full(len(record.layers), np.nan, dtype=np.float32))
    names = [layer.name or layer.type for layer in record.layers]
    return {f"gradscope_{metric}/{name}": value for name, value in zip(names, values.tolist(), strict=True)}


def scalar_values(scalars: Mapping[str, float]) -> list[Summary.Value]:
    """Return `scalars` for the Time Series and Scalars dashboards; NaN, which was not measured, is left out."""
    return [Summary.Value(tag=tag, simple_value=x) for tag, x in scalars.items() if not math.isnan(x)]


def distribution(record: Record) -> Summary.Value | None:
    """Return log10 of the gradient norms as one histogram over layers: in a vanishing net the fan widens.

    Zeros and what is not finite have no logarithm and are left out; None where nothing remains.
    """
    norms = record.metrics.get("grad_norm", np.empty(0, dtype=np.float32)).astype(np.float64)
    norms = norms[np.isfinite(norms) & (norms > 0)]
    if norms.size == 0:
        return None
    logs = np.log10(norms)
    low, high = (logs.min(), logs.max()) if logs.min() < logs.max() else (logs.min() - 0.5, logs.max() + 0.5)
    # numpy's own histogram is five times as slow for so few numbers.
    counts = np.bincount(
        ((logs - low) / (high - low) * (_HISTOGRAM_BINS - 1e-9)).astype(np.int64), minlength=_HISTOGRAM_BINS
    )
    edges = low + (high - low) * np.arange(_HISTOGRAM_BINS + 1) / _HISTOGRAM_BINS
    buckets = np.stack([edges[:-1], edges[1:], counts], axis=1).astype("<f8")
    tensor = TensorProto(dtype=DT_DOUBLE, tensor_shape=_shape(*buckets.shape), tensor_content=buckets.tobytes())
    metadata = _metadata("histograms", DATA_CLASS_TENSOR)
    return Summary.Value(tag="gradscope/log10_grad_norm_over_layers", tensor=tensor, metadata=metadata)


def heat_map(run: Run, metric: str = "grad_norm") -> Summary.Value | None:
    """Return `metric` as an image, layers downwards and steps to the right; None where it was never measured."""
    if np.isnan(run.metric(metric)).all():
        return None
    picture = heat_map_png(run, metric, _CARD_IMAGE_WIDTH)
    parts = [str(picture.width).encode(), str(picture.height).encode(), picture.png]
    tensor = TensorProto(dtype=DT_STRING, tensor_shape=_shape(len(parts)), string_val=parts)
    metadata = _metadata("images", DATA_CLASS_BLOB_SEQUENCE)
    return Summary.Value(tag=f"gradscope/heat_map/{metric}", tensor=tensor, metadata=metadata)


def verdict_table(findings: Sequence[Finding]) -> Summary.Value:
    """Return the findings as a Markdown table for the Text dashboard; none gives a sentence that says so."""
    tensor = TensorProto(dtype=DT_STRING, tensor_shape=_shape(), string_val=[_table(findings).encode(errors="replace")])
    return Summary.Value(tag="gradscope/verdict", tensor=tensor, metadata=_metadata("text", DATA_CLASS_TENSOR))


def _table(findings: Sequence[Finding]) -> str:
    if not findings:
        return "**Sound.** GradScope found nothing wrong with the gradients and activations that it measured."
    lines = ["| finding | where | what happened | what to change |", "|---|---|---|---|"]
    for f in findings:
        follows = [f"follows from {f.cause}"] if f.cause else []
        where = [_named(f.layers), steps(f.first_step, f.last_step)]
        cells = ([str(f.severity), f.code, *follows], where, [f.message], [f.hint])
        lines.append(f"| {' | '.join(map(_cell, cells))} |")
    return "\n".join(lines)


def _cell(paragraphs: Sequence[str]) -> str:
    # TensorBoard lets a long line squeeze its neighbours until they break inside words.
    lines = [line for text in paragraphs for line in textwrap.wrap(one_line(text), _CELL_WIDTH, break_long_words=False)]
    return "<br>".join(map(_escaped, lines))


def _named(layers: Sequence[str]) -> str:
    if not layers:
        return "the whole net"
    more = len(layers) - NAMED_LAYERS
    return ", ".join(layers[:NAMED_LAYERS]) + (f", +{more} more" if more > 0 else "")


def _escaped(text: str) -> str:
    """Return `text` so that neither Markdown nor HTML sees anything but letters in it."""
    return re.sub(r"[^\w\s.,:;()=%/+'\"-]|_", lambda match: f"&#{ord(match[0])};", text)


@cache
def _metadata(plugin: str, data_class: int) -> SummaryMetadata:
    return SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name=plugin), data_class=data_class)


@cache
def _shape(*sizes: int) -> TensorShapeProto:
    return TensorShapeProto(dim=[TensorShapeProto.Dim(size=size) for size in sizes])
