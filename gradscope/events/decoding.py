"""From tagged values to a `Run`, wherever they were read: what the tags on disk are called and what they hold."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from gradscope.events.status import DamagedStatusError, fields_of, is_number
from gradscope.records import GLOBALS, Floats, Layer, Metric, Record, Run
from gradscope.stacking import Block, blocks_of, steps_of, wall_times_of, where
from gradscope.wording import counted

PLUGIN_NAME = "gradscope"
FORMAT_VERSION = 1
"""What the descriptions of tags are written in.

The promise: a log of any version up to this one is read, in every release to come, and gives the numbers that were
written. Of a newer one all is read that is described in a version known here; `Run.notes` says that there is more. What
is merely new gets a new name (a tag, a kind, a metric, a global, a field of the status), which older readers leave out;
this number goes up where what has a known name would be misread, and with it comes a log in `tests/logs`.

The globals of a record are the last of its values that are ours: nothing behind them is looked at.
"""

LAYERS_TAG = "gradscope/layers"
GLOBALS_TAG = "gradscope/globals"
STATUS_TAG = "gradscope/status"
RESUMED_TAG = "gradscope/resumed"
VERDICTS_TAG = "gradscope/verdicts"
METRIC_TAG = "gradscope/{}"

_UNITS = ("L2 norm", "ratio", "fraction", "value", "flags")

Steps = npt.NDArray[np.int64]
WallTimes = npt.NDArray[np.float64]
Total = TypeVar("Total", float, npt.NDArray[np.float64])

Content = Floats | Sequence[bytes]
"""What a value holds: float32[n], or strings."""


class Series(NamedTuple):
    """What a tag's description says about its values; `metric` belongs to a matrix, `names` to the globals."""

    kind: str
    metric: Metric | None = None
    names: tuple[str, ...] = ()


class Decoder:
    """Makes a run of tagged values: tags are described first, then events are read in the order they were written.

    Nothing in them makes it raise: what is damaged is left out and said in `Run.notes`.
    """

    def __init__(self) -> None:
        self.series: dict[str, Series] = {}
        """By tag, what is known of it; a tag that this version cannot read has no entry."""
        self.records: list[Record | Block] = []
        """What was read so far."""
        self.count = 0
        """How many records these are."""
        self._layers: tuple[Layer, ...] = ()
        self._columns: dict[str, Metric] = {}
        self._status: dict[str, Any] = {}
        self._resumed: list[tuple[int, float]] = []
        self._notes: dict[str, None] = {}
        self._misfits: dict[str, list[int]] = {}
        self._described: set[str] = set()
        self._undescribed = 0

    @property
    def is_empty(self) -> bool:
        """Whether there was nothing of GradScope, not even something to note."""
        return not self.series and not self._notes and not self._undescribed

    @property
    def columns(self) -> tuple[Metric, ...]:
        """The metrics described so far, in that order."""
        return tuple(self._columns.values())

    def note(self, sentence: str) -> None:
        """Add to `Run.notes`, once."""
        self._notes[sentence] = None

    def describe(self, tag: str, content: bytes) -> None:
        """Enter what the `content` of the plug-in's metadata says about `tag`, in place of what was known."""
        stated = _parsed(content)
        version, kind = stated.get("v"), stated.get("kind")
        self.series.pop(tag, None)
        self._described.add(tag)
        if isinstance(version, int) and version > FORMAT_VERSION:
            self.note(
                f"written by a newer GradScope (format {version}, this one reads up to {FORMAT_VERSION}): "
                "update lightning-gradscope to see all of it"
            )
        elif kind == "matrix":
            metric = self._metric(stated, tag)
            self._columns[metric.name] = metric
            self.series[tag] = Series("matrix", metric)
        elif kind == "globals":
            names = stated.get("names")
            self.series[tag] = Series("globals", names=tuple(map(str, names if isinstance(names, list) else ())))
        elif isinstance(kind, str):
            self.series[tag] = Series(kind)
        else:
            self.note(f"{tag}: its description could not be read, so it is left out")

    def read(self, step: int, wall_time: float, values: Iterable[tuple[str, Content]]) -> None:
        """Read an event: tags and what they hold. Its layers are those of its metrics. Unknown tags are left out."""
        measured: list[tuple[str, Floats]] = []
        totals: dict[str, float] | None = None
        for tag, content in values:
            series = self.series.get(tag)
            if series is None:
                continue
            if series.metric is not None:
                measured.append((series.metric.name, _numbers(content)))
            elif series.kind == "layers":
                self._read_layers(_strings(content))
            elif series.kind == "globals":
                totals = _totals(series.names, _numbers(content).tolist())
            elif series.kind == "resumed":
                self._resumed.append((step, wall_time))
            elif series.kind == "status":
                self._read_status(_strings(content))
        metrics = self._fitting(measured, [step])
        if metrics or totals is not None:
            self.records.append(Record(step, wall_time, self._layers, metrics, totals or {}))
            self.count += 1

    def are_measurements(self, tags: Iterable[str]) -> bool:
        """Say whether all the values of `tags` are what records are made of, as far as they are read."""
        known = (self.series[tag] for tag in tags if tag in self.series)
        return all(series.metric is not None or series.kind == "globals" for series in known)

    def read_many(self, steps: Steps, wall_times: WallTimes, values: Iterable[tuple[str, Floats]]) -> None:
        """Read n events as `read` would: int64[n], float64[n], and by tag, all of measurements, float32[n, k]."""
        measured: list[tuple[str, Floats]] = []
        totals: dict[str, npt.NDArray[np.float64]] | None = None
        for tag, numbers in values:
            series = self.series.get(tag)
            if series is None:
                continue
            if series.metric is not None:
                measured.append((series.metric.name, numbers))
            else:
                with np.errstate(invalid="ignore"):  # of a NaN that signals
                    totals = _totals(series.names, numbers.T.astype(np.float64))
        metrics = self._fitting(measured, steps.tolist())
        if metrics or totals is not None:
            self.records.append(Block(steps, wall_times, self._layers, metrics, totals or {}))
            self.count += len(steps)

    def miss(self, count: int = 1) -> None:
        """Count records that cannot be read, because what describes their tags was not."""
        self._undescribed += count * (GLOBALS_TAG not in self._described)

    def run(self, name: str, notes: Iterable[str] = ()) -> Run:
        """Return what was read so far, called `name`, with further `notes`: without records a run with S = L = 0."""
        missing = [
            f"{metric}: left out of {counted(len(steps), 'record')} from step {steps[0]} on, "
            "because the number of values is not that of the layers"
            for metric, steps in self._misfits.items()
        ]
        if self._undescribed:
            missing.append(f"{counted(self._undescribed, 'record')} left out, because their description is missing")
        everything = (*self._notes, *notes, *missing)
        return Run.from_records(name, self._timeline(), self.columns, **self._status, notes=everything)

    def _timeline(self) -> Sequence[Record | Block]:
        """The records without those that training took back: from where it was resumed on, taken before that."""
        if not self._resumed:
            return self.records
        blocks = blocks_of(self.records)
        steps, wall_times = steps_of(blocks), wall_times_of(blocks)
        kept = np.ones(len(steps), dtype=np.bool_)
        for step, wall_time in self._resumed:
            kept &= (steps < step) | (wall_times >= wall_time)
        return where(blocks, kept)

    def _fitting(self, measured: Iterable[tuple[str, Floats]], steps: Sequence[int]) -> dict[str, Floats]:
        """Return the metrics that have a number for each layer; the `steps` of the others are noted."""
        fitting = {}
        for name, numbers in measured:
            if numbers.shape[-1] == len(self._layers):
                fitting[name] = numbers
            else:
                self._misfits.setdefault(name, []).extend(steps)
        return fitting

    def _metric(self, stated: Mapping[str, Any], tag: str) -> Metric:
        name, title, unit, healthy = (stated.get(key) for key in ("metric", "title", "unit", "healthy"))
        name = name if isinstance(name, str) and name else tag.removeprefix("gradscope/")
        by_kind = healthy if isinstance(healthy, dict) else {}
        ranges = {kind: limits for kind, limits in by_kind.items() if _is_range(limits)}
        if not isinstance(title, str) or unit not in _UNITS or ranges != healthy:
            self.note(f"{tag}: its title, unit or healthy range could not be read, so a plain one stands in")
        return Metric(
            name=name,
            title=title if isinstance(title, str) else name,
            unit=unit if unit in _UNITS else "value",
            healthy={kind: (float(low), float(high)) for kind, (low, high) in ranges.items()},
        )

    def _read_layers(self, strings: Sequence[bytes]) -> None:
        if len(strings) % 3:
            self.note(f"{LAYERS_TAG}: {len(strings)} strings are no table of name, type and kind, so it is left out")
            return
        cells = [cell.decode(errors="replace") for cell in strings]
        layers = tuple(Layer(*row) for row in zip(cells[::3], cells[1::3], cells[2::3], strict=True))
        # The same object for the same layers: stacking then compares them by identity first.
        self._layers = layers if layers != self._layers else self._layers

    def _read_status(self, strings: Sequence[bytes]) -> None:
        try:
            self._status = fields_of(_parsed(strings[0] if strings else b""))
        except DamagedStatusError:
            self.note(f"{STATUS_TAG}: could not be read, so the thresholds are the defaults or those written before")


def _numbers(content: Content) -> Floats:
    return content if isinstance(content, np.ndarray) else np.empty(0, dtype=np.float32)


def _strings(content: Content) -> Sequence[bytes]:
    return content if not isinstance(content, np.ndarray) else ()


def _totals(names: Sequence[str], totals: Iterable[Total]) -> dict[str, Total]:
    return {name: total for name, total in zip(names, totals, strict=False) if name in GLOBALS}


def _parsed(text: bytes) -> dict[str, Any]:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _is_range(value: object) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(map(is_number, value))
