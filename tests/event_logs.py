"""Event files written by hand, sound and damaged, for whatever reads them."""

import struct
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import DATA_CLASS_TENSOR, Summary, SummaryMetadata
from tensorboard.summary.writer.record_writer import RecordWriter
from tensorboard.util import tensor_util

from gradscope.events.encoding import Encoder
from gradscope.events.reading import load
from gradscope.records import Floats, Layer, Metric, Record, Run

GRAD_NORM = Metric("grad_norm", "Gradient norm", "L2 norm")
ACT_MEAN = Metric("act_mean", "Mean of the outputs", "value", {"self_normalizing": (-0.1, 0.1)})
COLUMNS = (GRAD_NORM, ACT_MEAN)
LAYERS = (
    Layer("features.0", "Conv2d", "convolution"),
    Layer("act", "SELU", "self_normalizing"),
    Layer("fc", "Linear", "linear"),
)


def floats(*values: float) -> Floats:
    return np.array(values, dtype=np.float32)


def record(step: int, *norms: float, wall_time: float | None = None, layers: tuple[Layer, ...] = LAYERS) -> Record:
    norms = norms or tuple(step + i + 0.5 for i in range(len(layers)))
    return Record(step, 1000.0 + step if wall_time is None else wall_time, layers, {"grad_norm": floats(*norms)})


def event(summary: Summary, step: int = 0, wall_time: float = 1000.0) -> bytes:
    encoded: bytes = Event(step=step, wall_time=wall_time, summary=summary).SerializeToString()
    return encoded


def write_frames(path: Path, *events: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        writer = RecordWriter(file)
        for data in (Event(wall_time=1.0, file_version="brain.Event:2").SerializeToString(), *events):
            writer.write(data)
    return path


def frame_ends(data: bytes | bytearray) -> list[int]:
    ends = [0]
    while ends[-1] < len(data):
        ends.append(ends[-1] + 16 + struct.unpack_from("<Q", data, ends[-1])[0])
    return ends[1:]


def write_records(
    path: Path, records: Sequence[Record], columns: Sequence[Metric] = COLUMNS, *more: Callable[[Encoder], Summary]
) -> Path:
    encoder = Encoder(columns)
    events = [event(encoder.record(r), r.step, r.wall_time) for r in records]
    return write_frames(path, *events, *[event(make(encoder)) for make in more])


def load_one(path: Path) -> Run:
    (run,) = load(path).values()
    return run


def described(content: bytes, tag: str = "gradscope/grad_norm", values: Sequence[float] = ()) -> Summary:
    plugin_data = SummaryMetadata.PluginData(plugin_name="gradscope", content=content)
    tensor = tensor_util.make_tensor_proto(floats(*values))
    metadata = SummaryMetadata(plugin_data=plugin_data, data_class=DATA_CLASS_TENSOR)
    return Summary(value=[Summary.Value(tag=tag, tensor=tensor, metadata=metadata)])


def assert_same(run: Run, other: Run) -> None:
    """Assert that two runs hold the same, NaN for NaN."""
    assert (run.name, run.layers, run.columns, run.notes) == (other.name, other.layers, other.columns, other.notes)
    np.testing.assert_array_equal(run.steps, other.steps)
    np.testing.assert_array_equal(run.wall_times, other.wall_times)
    assert run.metrics.keys() == other.metrics.keys()
    for name, values in run.metrics.items():
        np.testing.assert_array_equal(values, other.metrics[name])
    for name, totals in run.globals.items():
        np.testing.assert_array_equal(totals, other.globals[name])
    assert repr((run.thresholds, run.coverage, run.ledger)) == repr((other.thresholds, other.coverage, other.ledger))
