"""Where records go: TensorBoard in full, any other logger as scalars, and verdicts to those that can show them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

from tensorboard.compat.proto.summary_pb2 import Summary

from gradscope import checksum, stock
from gradscope.encoding import Encoder
from gradscope.records import Finding, Metric, Record, Run

HEAT_MAPS = ("grad_norm",)

Say = Callable[[str], None]


class Sink(Protocol):
    """A place that records go to."""

    def record(self, record: Record) -> None:
        """Write one record."""

    def verdicts(self, run: Run, findings: Sequence[Finding], final: bool) -> None:
        """Write what is found so far; `final` at the end of the fit."""


class TensorBoardSink:
    """Writes events through a logger's own `torch.utils.tensorboard.SummaryWriter`: one for each record."""

    def __init__(self, writer: Any, columns: Sequence[Metric], parts: frozenset[str]) -> None:
        self._writer = writer
        self._columns = columns
        self._parts = parts
        self._encoder = Encoder(columns)
        checksum.speed_up(self._file_writer().event_writer)

    def record(self, record: Record) -> None:
        summary = self._encoder.record(record) if "tensors" in self._parts else Summary()
        summary.value.extend(stock.scalar_values(_scalars(record, self._columns, self._parts)))
        if "distribution" in self._parts and (distribution := stock.distribution(record)) is not None:
            summary.value.append(distribution)
        self._write(summary, record.step, record.wall_time)

    def verdicts(self, run: Run, findings: Sequence[Finding], final: bool) -> None:
        summary = Summary()
        if "tensors" in self._parts:
            summary.MergeFrom(self._encoder.status(run))
            summary.MergeFrom(self._encoder.verdicts(findings))
        if "verdicts" in self._parts:
            summary.value.append(stock.verdict_table(findings))
        if final and "heat_map" in self._parts:
            images = [stock.heat_map(run, metric) for metric in HEAT_MAPS]
            summary.value.extend(image for image in images if image is not None)
        self._write(summary, int(run.steps[-1]) if len(run.steps) else 0)

    def _write(self, summary: Summary, step: int, wall_time: float | None = None) -> None:
        if summary.value:
            self._file_writer().add_summary(summary, step, wall_time)

    def _file_writer(self) -> Any:
        # The writer's own file: a second event file beside it would hide the user's curves from some readers.
        return self._writer.file_writer or self._writer._get_file_writer()


class ScalarSink:
    """Gives scalars to any logger's `log_metrics(metrics, step)`."""

    def __init__(
        self, log_metrics: Callable[[Mapping[str, float], int], None], columns: Sequence[Metric], parts: frozenset[str]
    ) -> None:
        self._log_metrics = log_metrics
        self._columns = columns
        self._parts = parts

    def record(self, record: Record) -> None:
        if scalars := _scalars(record, self._columns, self._parts):
            self._log_metrics(scalars, record.step)

    def verdicts(self, run: Run, findings: Sequence[Finding], final: bool) -> None:
        """Scalars hold no verdicts."""


class VerdictSink:
    """Gives verdicts alone, to a `show` of `gradscope.verdicts`."""

    def __init__(self, show: Callable[[Run, Sequence[Finding], bool], None]) -> None:
        self._show = show

    def record(self, record: Record) -> None:
        """A verdict is more than one record."""

    def verdicts(self, run: Run, findings: Sequence[Finding], final: bool) -> None:
        self._show(run, findings, final)


def _scalars(record: Record, columns: Sequence[Metric], parts: frozenset[str]) -> dict[str, float]:
    over_layers = stock.scalars(record, columns) if "scalars" in parts else {}
    return over_layers | (stock.layer_scalars(record, columns) if "layers" in parts else {})


class Sinks:
    """All places that records go to: one that fails is left alone, and said to be, and the others go on."""

    def __init__(self, sinks: Sequence[tuple[str, Callable[[], Sink]]], say: Say) -> None:
        self._sinks: list[tuple[str, Sink]] = []
        self._say = say
        for name, make in sinks:
            with self._telling_failures_of(name):
                self._sinks.append((name, make()))

    def tell(self, what: Callable[[Sink], None]) -> None:
        """Tell each sink."""
        working = []
        for name, sink in self._sinks:
            with self._telling_failures_of(name):
                what(sink)
                working.append((name, sink))
        self._sinks = working

    @contextmanager
    def _telling_failures_of(self, name: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            self._say(f"no longer writes to {name} after {type(error).__name__}: {error}. Everything else goes on.")
