"""Where records go: TensorBoard in full, any other logger as scalars, and verdicts to those that can show them."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from tensorboard.compat.proto.summary_pb2 import Summary

from gradscope.events import stock
from gradscope.events.encoding import Encoder
from gradscope.events.event_files import is_event_file
from gradscope.events.shared_file import SharedFile
from gradscope.records import Finding, Metric, Record, Run

HEAT_MAPS = ("grad_norm",)

Say = Callable[[str], None]


class Resumption(NamedTuple):
    """How a fit goes on from a checkpoint."""

    step: int
    """The first that it takes."""
    wall_time: float
    """When, in seconds since 1970: before its first record."""
    records: Sequence[Record]
    """Those before it, or a choice of them."""
    logs: Collection[str]
    """Where these were written to."""


class Sink(Protocol):
    """A place that records go to."""

    log: str
    """Where it is; empty where that is not known."""

    def resume(self, resumption: Resumption) -> None:
        """Make what comes the continuation of what came before the resumption, and of nothing later."""

    def flush(self) -> None:
        """Have what was written so far outlast this process."""

    def record(self, record: Record) -> None:
        """Write one record."""

    def verdicts(self, run: Run, findings: Sequence[Finding], final: bool) -> None:
        """Write what is found so far; `final` at the end of the fit."""


class TensorBoardSink:
    """Writes events through a logger's own `torch.utils.tensorboard.SummaryWriter`: one for each record."""

    def __init__(self, writer: Any, columns: Sequence[Metric], parts: frozenset[str]) -> None:
        self.log = _absolute(str(writer.log_dir))
        self._writer = writer
        self._columns = columns
        self._parts = parts
        self._encoder = Encoder(columns)
        self._file = SharedFile(self._file_writer().event_writer)

    def resume(self, resumption: Resumption) -> None:
        """Mark it; in a log of its own repeat the records before, without which rules would judge half a training.

        Repeated are tensors alone. TensorBoard's own mark of a restart would hide the user's curves, too, and those
        may count by something else than steps.
        """
        if "tensors" in self._parts:
            self._write(self._encoder.resumed(), resumption.step, resumption.wall_time)
            for record in resumption.records if not self._has_what_came_before(resumption) else ():
                self._write(self._encoder.record(record), record.step, record.wall_time)

    def _has_what_came_before(self, resumption: Resumption) -> bool:
        """Whether there is an earlier file in the same place: in a container the place may be the same, and empty."""
        if self.log not in resumption.logs or not Path(self.log).is_dir():
            return self.log in resumption.logs
        return sum(is_event_file(path.name) for path in Path(self.log).iterdir()) > 1

    def flush(self) -> None:
        """Write to the disk: a process that is killed loses what it still holds."""
        self._file.check()
        self._file_writer().flush()
        self._file.check()

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
        if final:
            self.flush()  # what fails now is to be told, too

    def _write(self, summary: Summary, step: int, wall_time: float | None = None) -> None:
        self._file.check()
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
        self.log = ""
        self._log_metrics = log_metrics
        self._columns = columns
        self._parts = parts

    def resume(self, resumption: Resumption) -> None:
        """A curve goes on as its logger has it."""

    def flush(self) -> None:
        """The logger's own affair."""

    def record(self, record: Record) -> None:
        if scalars := _scalars(record, self._columns, self._parts):
            self._log_metrics(scalars, record.step)

    def verdicts(self, run: Run, findings: Sequence[Finding], final: bool) -> None:
        """Scalars hold no verdicts."""


class VerdictSink:
    """Gives verdicts alone, to a `show` of `gradscope.lightning.verdicts`."""

    def __init__(self, show: Callable[[Run, Sequence[Finding], bool], None]) -> None:
        self._show = show
        self.log = ""

    def resume(self, resumption: Resumption) -> None:
        """A verdict is of the whole run anyway."""

    def flush(self) -> None:
        """It is written at once."""

    def record(self, record: Record) -> None:
        """A verdict is more than one record."""

    def verdicts(self, run: Run, findings: Sequence[Finding], final: bool) -> None:
        self._show(run, findings, final)


def _absolute(place: str) -> str:
    return place if "://" in place else str(Path(place).absolute())


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

    @property
    def logs(self) -> tuple[str, ...]:
        """Where the records go, as far as it is known."""
        return tuple(sink.log for _, sink in self._sinks if sink.log)

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
