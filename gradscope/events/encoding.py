"""Records → TensorBoard summaries: the on-disk format, which `gradscope.events.reading` reads."""

import json
import math
from collections.abc import Mapping, Sequence
from functools import cache

import numpy as np
from tensorboard.compat.proto.summary_pb2 import DATA_CLASS_TENSOR, Summary, SummaryMetadata
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
from tensorboard.compat.proto.types_pb2 import DT_FLOAT, DT_STRING

from gradscope.events.decoding import (
    FORMAT_VERSION,
    GLOBALS_TAG,
    LAYERS_TAG,
    METRIC_TAG,
    PLUGIN_NAME,
    RESUMED_TAG,
    STATUS_TAG,
    VERDICTS_TAG,
)
from gradscope.events.status import status_of
from gradscope.records import GLOBALS, Finding, Floats, Layer, Metric, Record, Run


class Encoder:
    """Turns records into TensorBoard summaries; one for each fit.

    A tag's metadata goes with its first value only, because readers keep no other. Each summary belongs into one
    event with the record's step and wall time.
    """

    def __init__(self, columns: Sequence[Metric]) -> None:
        self._descriptions = {column.name: _described(column) for column in columns}
        self._described: set[str] = set()
        self._layers: tuple[Layer, ...] | None = None

    def record(self, record: Record) -> Summary:
        """Return the layers (string[L, 3], only when they changed), each metric (float32[L]) and last the globals.

        NaN, infinities and zeros are kept bit for bit. A global beyond float32 becomes an infinity.

        Raises:
            ValueError: the record holds a metric that is not among the encoder's columns.
        """
        values = []
        if record.layers != self._layers:
            cells = [cell for layer in record.layers for cell in (layer.name, layer.type, layer.kind)]
            values.append(self._value(LAYERS_TAG, _strings(cells, (len(record.layers), 3)), {"kind": "layers"}))
            self._layers = record.layers
        for name, numbers in record.metrics.items():
            values.append(self._value(METRIC_TAG.format(name), _floats(numbers), self._description(name)))
        with np.errstate(over="ignore"):
            totals = np.array([record.globals.get(name, math.nan) for name in GLOBALS]).astype("<f4")
        values.append(self._value(GLOBALS_TAG, _floats(totals), {"kind": "globals", "names": GLOBALS}))
        return Summary(value=values)

    def status(self, run: Run) -> Summary:
        """Return what `run` knows about itself as one JSON object; the last one written is the one read."""
        return Summary(value=[self._value(STATUS_TAG, _strings([_json(status_of(run))], (1,)), {"kind": "status"})])

    def resumed(self) -> Summary:
        """Return the mark of a fit that goes on from a checkpoint, for the event of its first step.

        Records of that step or a later one that were taken before the event are no part of the run any more.
        """
        return Summary(value=[self._value(RESUMED_TAG, _strings(["resumed"], (1,)), {"kind": "resumed"})])

    def verdicts(self, findings: Sequence[Finding]) -> Summary:
        """Return all findings so far, one JSON object each: string[len(findings)], shape [0] where there are none."""
        objects = [_json(finding.as_dict()) for finding in findings]
        return Summary(value=[self._value(VERDICTS_TAG, _strings(objects, (len(objects),)), {"kind": "verdicts"})])

    def _description(self, metric: str) -> Mapping[str, object]:
        if metric not in self._descriptions:
            raise ValueError(
                f"`record.metrics` must hold metrics among the columns {sorted(self._descriptions)}, got {metric!r}; "
                "give its `Metric` to `Encoder`"
            )
        return self._descriptions[metric]

    def _value(self, tag: str, tensor: TensorProto, content: Mapping[str, object]) -> Summary.Value:
        if tag in self._described:
            return Summary.Value(tag=tag, tensor=tensor)
        self._described.add(tag)
        plugin_data = SummaryMetadata.PluginData(
            plugin_name=PLUGIN_NAME, content=_json({"v": FORMAT_VERSION, **content}).encode()
        )
        # Without a data class rustboard drops the series.
        metadata = SummaryMetadata(plugin_data=plugin_data, data_class=DATA_CLASS_TENSOR)
        return Summary.Value(tag=tag, tensor=tensor, metadata=metadata)


def _described(column: Metric) -> dict[str, object]:
    healthy = {kind: list(limits) for kind, limits in column.healthy.items()}
    return {
        "kind": "matrix",
        "metric": column.name,
        "title": column.title,
        "unit": column.unit,
        "healthy": healthy,
    }


def _json(content: object) -> str:
    return json.dumps(content, separators=(",", ":"))


@cache
def _shape(sizes: tuple[int, ...]) -> TensorShapeProto:
    return TensorShapeProto(dim=[TensorShapeProto.Dim(size=size) for size in sizes])


def _strings(strings: Sequence[str], shape: tuple[int, ...]) -> TensorProto:
    encoded = [string.encode(errors="replace") for string in strings]
    return TensorProto(dtype=DT_STRING, tensor_shape=_shape(shape), string_val=encoded)


def _floats(numbers: Floats) -> TensorProto:
    little_endian = np.asarray(numbers, dtype="<f4")
    return TensorProto(dtype=DT_FLOAT, tensor_shape=_shape(little_endian.shape), tensor_content=little_endian.tobytes())
