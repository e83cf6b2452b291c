"""The on-disk format, both ways: records → TensorBoard summaries (`Encoder`), event files → runs (`load`)."""

import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from google.protobuf.message import DecodeError
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import DATA_CLASS_TENSOR, Summary, SummaryMetadata
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
from tensorboard.compat.proto.types_pb2 import DT_FLOAT, DT_STRING

from gradscope import event_files
from gradscope.decoding import (
    FORMAT_VERSION,
    GLOBALS_TAG,
    LAYERS_TAG,
    METRIC_TAG,
    PLUGIN_NAME,
    STATUS_TAG,
    VERDICTS_TAG,
    Content,
    Decoder,
)
from gradscope.records import GLOBALS, Finding, Floats, Layer, Metric, Record, Run
from gradscope.status import status_of
from gradscope.wording import counted


class Encoder:
    """Turns records into TensorBoard summaries; one for each fit.

    A tag's metadata goes with its first value only, because readers keep no other. Each summary belongs into one
    event with the record's step and wall time.
    """

    def __init__(self, columns: Sequence[Metric]) -> None:
        self._columns = {column.name: column for column in columns}
        self._described: set[str] = set()
        self._layers: tuple[Layer, ...] | None = None

    def record(self, record: Record) -> Summary:
        """Return the layers (string[L, 3], only when they changed), each metric (float32[L]) and the globals.

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
            column = self._column(name)
            values.append(self._value(METRIC_TAG.format(name), _floats(numbers), _described(column)))
        with np.errstate(over="ignore"):
            totals = np.array([record.globals.get(name, math.nan) for name in GLOBALS]).astype("<f4")
        values.append(self._value(GLOBALS_TAG, _floats(totals), {"kind": "globals", "names": GLOBALS}))
        return Summary(value=values)

    def status(self, run: Run) -> Summary:
        """Return what `run` knows about itself as one JSON object; the last one written is the one read."""
        return Summary(value=[self._value(STATUS_TAG, _strings([_json(status_of(run))], (1,)), {"kind": "status"})])

    def verdicts(self, findings: Sequence[Finding]) -> Summary:
        """Return all findings so far, one JSON object each: string[len(findings)], shape [0] where there are none."""
        objects = [_json(finding.as_dict()) for finding in findings]
        return Summary(value=[self._value(VERDICTS_TAG, _strings(objects, (len(objects),)), {"kind": "verdicts"})])

    def _column(self, name: str) -> Metric:
        if name not in self._columns:
            raise ValueError(
                f"`record.metrics` must hold metrics among the columns {sorted(self._columns)}, got {name!r}; "
                "give its `Metric` to `Encoder`"
            )
        return self._columns[name]

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
    return json.dumps(content, separators=(",", ":"), default=float)


def _shape(sizes: Iterable[int]) -> TensorShapeProto:
    return TensorShapeProto(dim=[TensorShapeProto.Dim(size=size) for size in sizes])


def _strings(strings: Sequence[str], shape: tuple[int, ...]) -> TensorProto:
    encoded = [string.encode(errors="replace") for string in strings]
    return TensorProto(dtype=DT_STRING, tensor_shape=_shape(shape), string_val=encoded)


def _floats(numbers: Floats) -> TensorProto:
    little_endian = np.asarray(numbers, dtype="<f4")
    return TensorProto(dtype=DT_FLOAT, tensor_shape=_shape(little_endian.shape), tensor_content=little_endian.tobytes())


def load(logdir: str | os.PathLike[str]) -> dict[str, Run]:
    """Read every run with GradScope data at or under `logdir`, in natural order of their names.

    `logdir` is a directory or one event file. A run is a directory that holds event files, its name that
    directory relative to `logdir` with forward slashes, "." for `logdir` itself. What is damaged is left out and
    said in `Run.notes`; nothing in a file makes this raise.

    Raises:
        FileNotFoundError: `logdir` does not exist.
        ValueError: there is no event file at or under `logdir`, or none with GradScope data.
    """
    root = Path(logdir)
    if not root.exists():
        raise FileNotFoundError(
            f"`logdir` must be a directory of TensorBoard logs or an event file, got {str(root)!r}, which does not "
            "exist; Lightning writes to 'lightning_logs' in the directory where the training was started"
        )
    files = event_files.find(root)
    if not files:
        raise ValueError(
            f"`logdir` must hold TensorBoard event files, got {str(root)!r} with none in it; "
            "give the directory that the Trainer's TensorBoardLogger writes to"
        )
    runs = {name: run for name, paths in files.items() if (run := _read_run(name, paths)) is not None}
    if not runs:
        raise ValueError(
            f"`logdir` must hold runs recorded by GradScope, got {str(root)!r} with event files but none of its data; "
            "add `GradScope()` to the Trainer's callbacks and log with a TensorBoardLogger"
        )
    return runs


def _read_run(name: str, files: Sequence[Path]) -> Run | None:
    # The state outlives a file: a logger that was closed and reopened goes on in a new one without metadata.
    decoder = Decoder()
    for path in files:
        _read_file(path, decoder)
    return None if decoder.is_empty else decoder.run(name)


def _read_file(path: Path, decoder: Decoder) -> None:
    before = len(decoder.records)
    try:
        for frame in event_files.frames(path):
            # All our tags begin with it, so most events of a training log need no parsing.
            if b"gradscope" in frame:
                _read_event(Event.FromString(frame), decoder)
    except OSError as error:
        decoder.note(f"{path.name}: could not be read ({error.strerror})")
    except (event_files.DamagedFileError, DecodeError) as error:
        if decoder.series:
            why = "what follows is no TensorBoard event" if isinstance(error, DecodeError) else error
            records = counted(len(decoder.records) - before, "record")
            decoder.note(f"{path.name}: cut off after {records} ({why}); everything before is shown")


def _read_event(event: Event, decoder: Decoder) -> None:
    values = []
    for value in event.summary.value:
        if value.HasField("metadata") and value.metadata.plugin_data.plugin_name == PLUGIN_NAME:
            decoder.describe(value.tag, value.metadata.plugin_data.content)
        if value.tag in decoder.series:
            values.append((value.tag, _content(value.tensor)))
    decoder.read(event.step, event.wall_time, values)


def _content(tensor: TensorProto) -> Content:
    if tensor.dtype == DT_STRING:
        return list(tensor.string_val)
    content = tensor.tensor_content
    if tensor.dtype != DT_FLOAT or len(content) % 4:
        return np.empty(0, dtype=np.float32)
    return np.frombuffer(content, dtype="<f4")
