"""Event files as training leaves them, of any size: what readers of logs are measured on."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from torch.utils.tensorboard.summary import histogram

from gradscope.events.checksum import RecordWriter
from gradscope.events.encoding import Encoder
from gradscope.records import Layer, Metric, Record

IMAGE_BYTES = 100_000


def write(path: Path, events: Iterable[Event]) -> Path:
    """Write an event file, and return where."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        writer = RecordWriter(file)
        writer.write(Event(wall_time=1.0, file_version="brain.Event:2").SerializeToString())
        for event in events:
            writer.write(event.SerializeToString())
    return path


def scalars(number: int) -> Iterable[Event]:
    """Two of the user's curves, one point an event."""
    for i in range(number):
        value = Summary.Value(tag=("train_loss", "lr-Adam")[i % 2], simple_value=1 / (i + 1))
        yield Event(step=i // 2, wall_time=1e9 + i, summary=Summary(value=[value]))


def records(number: int, layers: int, metrics: int) -> Iterable[Event]:
    """GradScope's own events."""
    others = (Metric(f"metric_{i}", f"metric {i}", "ratio") for i in range(1, metrics))
    columns = (Metric("grad_norm", "gradient norm", "L2 norm"), *others)
    rows = tuple(Layer(f"net.{i}", "Linear", "linear") for i in range(layers))
    encoder, rng = Encoder(columns), np.random.default_rng(0)
    for step in range(number):
        values = {column.name: rng.random(layers, dtype=np.float32) for column in columns}
        record = Record(step, 1e9 + step, rows, values, {"loss": 1.0})
        yield Event(step=step, wall_time=record.wall_time, summary=encoder.record(record))


def mixed(size: int, layers: int, metrics: int) -> Iterable[Event]:
    """About `size` bytes: for each record ten scalars, a histogram and an image of the user's, which take the most."""
    rng, image = np.random.default_rng(0), np.random.default_rng(1).bytes(IMAGE_BYTES)
    number = size // IMAGE_BYTES
    for ours, step in zip(records(number, layers, metrics), range(number), strict=True):
        yield from scalars(10)
        weights = histogram("weights", rng.standard_normal(1000), "auto")  # type: ignore[no-untyped-call]  # untyped
        yield Event(step=step, wall_time=1e9 + step, summary=weights)
        picture = Summary.Image(height=1, width=1, colorspace=3, encoded_image_string=image)
        yield Event(step=step, wall_time=1e9, summary=Summary(value=[Summary.Value(tag="batch", image=picture)]))
        yield ours
