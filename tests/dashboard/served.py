"""TensorBoard in this process, with its Python reader and the tab alone: what a route answers, without a server."""

import argparse
import json
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tensorboard.backend.application import TensorBoardWSGIApp
from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter
from werkzeug.test import Client, TestResponse

from gradscope.dashboard.entry import GradScopeLoader
from gradscope.events.encoding import Encoder
from gradscope.records import Floats, Layer, Metric, Record

GRAD_NORM = Metric("grad_norm", "gradient norm", "L2 norm")
ACT_MEAN = Metric("act_mean", "activation mean", "value", {"self_normalizing": (-0.1, 0.1)})
NONFINITE = Metric("nonfinite", "non-finite values", "flags")
COLUMNS = (NONFINITE, ACT_MEAN, GRAD_NORM)
LAYERS = (
    Layer("features.0", "Conv2d", "convolution"),
    Layer("act", "SELU", "self_normalizing"),
    Layer("fc", "Linear", "linear"),
)


def floats(*values: float) -> Floats:
    return np.array(values, dtype=np.float32)


def record(
    step: int, *norms: float, at: float = 1000.0, layers: Sequence[Layer] = LAYERS, **metrics: Sequence[float]
) -> Record:
    """Return a record of `step`, taken `step` seconds after `at`; its norms are around `step` unless given."""
    values = {"grad_norm": floats(*(norms or [step + i / 4 for i in range(len(layers))]))}
    others = {name: floats(*numbers) for name, numbers in metrics.items()}
    return Record(step, at + step, tuple(layers), {**values, **others}, {"loss": 1.0 / (step + 1), "skipped": 0.0})


class Log:
    """An event file that grows: each has an encoder of its own, as each fit has."""

    def __init__(self, path: Path, columns: Sequence[Metric] = COLUMNS) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self.encoder = Encoder(columns)
        self._write(Event(wall_time=1.0, file_version="brain.Event:2"))

    def add(self, *records: Record) -> "Log":
        for r in records:
            self.add_summary(self.encoder.record(r), r.step, r.wall_time)
        return self

    def add_summary(self, summary: Summary, step: int = 0, wall_time: float = 5000.0) -> "Log":
        self._write(Event(step=step, wall_time=wall_time, summary=summary))
        return self

    def _write(self, event: Event) -> None:
        with self.path.open("ab") as file:
            RecordWriter(file).write(event.SerializeToString())


class Matrix(NamedTuple):
    header: dict[str, Any]
    cells: Floats


class Tab:
    """The tab's routes over the logs in a directory, as TensorBoard serves them."""

    def __init__(self, logdir: Path, records_kept: int = 1000) -> None:
        self._logdir = str(logdir)
        self.multiplexer = EventMultiplexer(tensor_size_guidance={"gradscope": records_kept})
        self.provider = MultiplexerDataProvider(self.multiplexer, self._logdir)
        flags = argparse.Namespace(logdir=self._logdir, samples_per_plugin={}, window_title="", path_prefix="")
        self.client = Client(TensorBoardWSGIApp(flags, [GradScopeLoader], self.provider))
        self.reload()

    def reload(self) -> "Tab":
        self.multiplexer.AddRunsFromDirectory(self._logdir)
        self.multiplexer.Reload()
        return self

    def get(self, route: str, headers: Mapping[str, str] | None = None, **query: Any) -> TestResponse:
        return self.client.get(f"/data/plugin/gradscope/{route}", query_string=query, headers=headers)

    def json(self, route: str, **query: Any) -> Any:
        response = self.get(route, **query)
        assert response.status_code == 200, response.get_data()
        assert response.content_type == "application/json"
        return strict_json(response.get_data())

    def matrix(self, run: str, metric: str = "grad_norm", **query: Any) -> Matrix:
        response = self.get("matrix", run=run, metric=metric, **query)
        assert response.status_code == 200, response.get_data()
        assert response.content_type == "application/octet-stream"
        return unpacked(response.get_data())

    def error(self, code: int, route: str, headers: Mapping[str, str] | None = None, **query: Any) -> str:
        """Return the sentence with which a request is refused."""
        response = self.get(route, headers, **query)
        assert response.status_code == code
        return refusal(response)


def refusal(response: TestResponse) -> str:
    assert response.content_type == "application/json"
    answer = strict_json(response.get_data())
    assert list(answer) == ["error"]
    sentence: str = answer["error"]
    return sentence


def strict_json(text: bytes) -> Any:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(text, parse_constant=refuse)


def unpacked(content: bytes) -> Matrix:
    """Take an answer of ``./matrix`` apart, as the page does."""
    (length,) = struct.unpack("<I", content[:4])
    assert (4 + length) % 4 == 0
    header = strict_json(content[4 : 4 + length])
    cells = np.frombuffer(content, "<f4", offset=4 + length)
    return Matrix(header, cells.reshape(len(header["steps"]), len(header["layers"])))
