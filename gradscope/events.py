"""The on-disk format, both ways: records → TensorBoard summaries (`Encoder`), event files → runs (`load`)."""

import dataclasses
import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from google.protobuf.message import DecodeError
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import DATA_CLASS_TENSOR, Summary, SummaryMetadata
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
from tensorboard.compat.proto.types_pb2 import DT_FLOAT, DT_STRING

from gradscope import event_files
from gradscope.records import (
    GLOBALS,
    Coverage,
    Finding,
    Flight,
    Floats,
    Layer,
    Ledger,
    Metric,
    Origin,
    Overhead,
    Record,
    Run,
    Stop,
)
from gradscope.thresholds import Thresholds
from gradscope.wording import counted

PLUGIN_NAME = "gradscope"
FORMAT_VERSION = 1

LAYERS_TAG = "gradscope/layers"
GLOBALS_TAG = "gradscope/globals"
STATUS_TAG = "gradscope/status"
VERDICTS_TAG = "gradscope/verdicts"
METRIC_TAG = "gradscope/{}"

_UNITS = ("L2 norm", "ratio", "fraction", "value", "flags")


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
        status = {
            "thresholds": run.thresholds.changed(),
            "coverage": {"unseen": dict(run.coverage.unseen), "measured": dict(run.coverage.measured)},
            "overhead": dataclasses.asdict(run.overhead),
            "ledger": dataclasses.asdict(run.ledger),
            "origin": dataclasses.asdict(run.origin) if run.origin is not None else None,
            "flights": {code: _flight_as_json(flight) for code, flight in run.flights.items()},
            "stop": dataclasses.asdict(run.stop) if run.stop is not None else None,
        }
        return Summary(value=[self._value(STATUS_TAG, _strings([_json(status)], (1,)), {"kind": "status"})])

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


def _flight_as_json(flight: Flight) -> dict[str, object]:
    return {
        "steps": flight.steps.tolist(),
        "loss": flight.loss.tolist(),
        "layers": list(flight.layers),
        "grad_norm": [[float(f"{x:.6g}") for x in row] for row in flight.grad_norm.tolist()],
    }


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


class _Series(NamedTuple):
    """What a tag's metadata says about its values; `metric` belongs to a matrix, `names` to the globals."""

    kind: str
    metric: Metric | None = None
    names: tuple[str, ...] = ()


@dataclass
class _Reading:
    """What is known of a run while its files are read, in order."""

    series: dict[str, _Series] = field(default_factory=dict)
    layers: tuple[Layer, ...] = ()
    records: list[Record] = field(default_factory=list)
    columns: dict[str, Metric] = field(default_factory=dict)
    thresholds: Thresholds = field(default_factory=Thresholds)
    coverage: Coverage = field(default_factory=Coverage)
    overhead: Overhead = field(default_factory=Overhead)
    ledger: Ledger = field(default_factory=Ledger)
    origin: Origin | None = None
    flights: Mapping[str, Flight] = field(default_factory=dict)
    stop: Stop | None = None
    notes: dict[str, None] = field(default_factory=dict)
    misfits: dict[str, list[int]] = field(default_factory=dict)

    def note(self, sentence: str) -> None:
        self.notes[sentence] = None

    def run(self, name: str) -> Run:
        for metric, steps in self.misfits.items():
            self.note(
                f"{metric}: left out of {counted(len(steps), 'record')} from step {steps[0]} on, "
                "because the number of values is not that of the layers"
            )
        return Run.from_records(
            name,
            self.records,
            tuple(self.columns.values()),
            thresholds=self.thresholds,
            coverage=self.coverage,
            overhead=self.overhead,
            ledger=self.ledger,
            origin=self.origin,
            flights=self.flights,
            stop=self.stop,
            notes=tuple(self.notes),
        )


def _read_run(name: str, files: Sequence[Path]) -> Run | None:
    # The state outlives a file: a logger that was closed and reopened goes on in a new one without metadata.
    reading = _Reading()
    for path in files:
        _read_file(path, reading)
    return reading.run(name) if reading.series or reading.notes else None


def _read_file(path: Path, reading: _Reading) -> None:
    before = len(reading.records)
    try:
        for frame in event_files.frames(path):
            # All our tags begin with it, so most events of a training log need no parsing.
            if b"gradscope" in frame:
                _read_event(Event.FromString(frame), reading)
    except OSError as error:
        reading.note(f"{path.name}: could not be read ({error.strerror})")
    except (event_files.DamagedFileError, DecodeError) as error:
        if reading.series:
            why = "what follows is no TensorBoard event" if isinstance(error, DecodeError) else error
            records = counted(len(reading.records) - before, "record")
            reading.note(f"{path.name}: cut off after {records} ({why}); everything before is shown")


def _read_event(event: Event, reading: _Reading) -> None:
    metrics: dict[str, Floats] = {}
    totals: dict[str, float] | None = None
    for value in event.summary.value:
        if value.HasField("metadata") and value.metadata.plugin_data.plugin_name == PLUGIN_NAME:
            _describe(value, reading)
        series = reading.series.get(value.tag)
        if series is None:
            continue
        if series.metric is not None:
            numbers = _numbers(value.tensor)
            if len(numbers) == len(reading.layers):
                metrics[series.metric.name] = numbers
            else:
                reading.misfits.setdefault(series.metric.name, []).append(event.step)
        elif series.kind == "layers":
            _read_layers(value.tensor, reading)
        elif series.kind == "globals":
            totals = _totals(series.names, _numbers(value.tensor))
        elif series.kind == "status":
            _read_status(value.tensor, reading)
    if metrics or totals is not None:
        reading.records.append(Record(event.step, event.wall_time, reading.layers, metrics, totals or {}))


def _describe(value: Summary.Value, reading: _Reading) -> None:
    """Enter what the metadata of `value` says about its tag; a tag that this version cannot read has no entry."""
    content = _parsed(value.metadata.plugin_data.content)
    version = content.get("v")
    kind = content.get("kind")
    reading.series.pop(value.tag, None)
    if isinstance(version, int) and version > FORMAT_VERSION:
        reading.note(
            f"written by a newer GradScope (format {version}, this one reads up to {FORMAT_VERSION}): "
            "update lightning-gradscope to see all of it"
        )
    elif kind == "matrix":
        metric = _metric(content, value.tag, reading)
        reading.columns[metric.name] = metric
        reading.series[value.tag] = _Series("matrix", metric)
    elif kind == "globals":
        names = content.get("names")
        reading.series[value.tag] = _Series("globals", names=tuple(map(str, names if isinstance(names, list) else ())))
    elif isinstance(kind, str):
        reading.series[value.tag] = _Series(kind)
    else:
        reading.note(f"{value.tag}: its description could not be read, so it is left out")


def _metric(content: Mapping[str, Any], tag: str, reading: _Reading) -> Metric:
    name, title, unit, healthy = (content.get(key) for key in ("metric", "title", "unit", "healthy"))
    name = name if isinstance(name, str) and name else tag.removeprefix("gradscope/")
    stated = healthy if isinstance(healthy, dict) else {}
    ranges = {kind: limits for kind, limits in stated.items() if _is_range(limits)}
    if not isinstance(title, str) or unit not in _UNITS or ranges != healthy:
        reading.note(f"{tag}: its title, unit or healthy range could not be read, so a plain one stands in")
    return Metric(
        name=name,
        title=title if isinstance(title, str) else name,
        unit=unit if unit in _UNITS else "value",
        healthy={kind: (float(low), float(high)) for kind, (low, high) in ranges.items()},
    )


def _read_layers(tensor: TensorProto, reading: _Reading) -> None:
    cells = [cell.decode(errors="replace") for cell in tensor.string_val]
    if len(cells) % 3:
        reading.note(f"{LAYERS_TAG}: {len(cells)} strings are no table of name, type and kind, so it is left out")
        return
    layers = tuple(Layer(*row) for row in zip(cells[::3], cells[1::3], cells[2::3], strict=True))
    # The same object for the same layers: stacking then compares them by identity first.
    reading.layers = layers if layers != reading.layers else reading.layers


def _read_status(tensor: TensorProto, reading: _Reading) -> None:
    status = _parsed(tensor.string_val[0] if tensor.string_val else b"")
    try:
        thresholds, coverage, overhead = status["thresholds"], status["coverage"], status["overhead"]
        measured = coverage.get("measured", {})
        numbers = (*overhead.values(), *measured.values())
        if not all(map(_is_threshold, thresholds.values())) or not all(map(_is_number, numbers)):
            raise ValueError
        reading.thresholds = Thresholds.restored(thresholds)
        unseen = {str(what): str(why) for what, why in coverage["unseen"].items()}
        reading.coverage = Coverage(unseen, {str(what): int(number) for what, number in measured.items()})
        known = {f.name for f in dataclasses.fields(Overhead)}
        reading.overhead = Overhead(**{name: value for name, value in overhead.items() if name in known})
        ledger, origin = status.get("ledger", {}), status.get("origin")
        reading.ledger = Ledger(int(ledger.get("steps", 0)), int(ledger.get("skipped", 0)))
        reading.origin = _origin(origin) if origin is not None else None
        stop = status.get("stop")
        reading.stop = Stop(int(stop["step"]), str(stop["code"])) if stop is not None else None
        reading.flights = {str(code): _flight(flight) for code, flight in status.get("flights", {}).items()}
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError):
        reading.note(f"{STATUS_TAG}: could not be read, so the thresholds are the defaults or those written before")


def _origin(content: Mapping[str, Any]) -> Origin:
    return Origin(int(content["step"]), *(str(content[name]) for name in ("module", "direction", "operation")))


def _flight(content: Mapping[str, Any]) -> Flight:
    steps, layers = np.array(content["steps"], dtype=np.int64), tuple(map(str, content["layers"]))
    return Flight(
        steps,
        np.array(content["loss"], dtype=np.float64).reshape(len(steps)),
        layers,
        np.array(content["grad_norm"], dtype=np.float32).reshape(len(steps), len(layers)),
    )


def _totals(names: Sequence[str], numbers: Floats) -> dict[str, float]:
    return {name: total for name, total in zip(names, numbers.tolist(), strict=False) if name in GLOBALS}


def _numbers(tensor: TensorProto) -> Floats:
    content = tensor.tensor_content
    if tensor.dtype != DT_FLOAT or len(content) % 4:
        return np.empty(0, dtype=np.float32)
    return np.frombuffer(content, dtype="<f4")


def _parsed(text: bytes) -> dict[str, Any]:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _is_number(value: object) -> bool:
    # An integer that no float can hold would raise much later.
    return (isinstance(value, int) and abs(value) < 2**63) or (isinstance(value, float) and not math.isnan(value))


def _is_range(value: object) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(map(_is_number, value))


def _is_threshold(value: object) -> bool:
    return _is_number(value) or _is_range(value)
