"""TensorBoard's data provider → what runs there are, and the runs themselves."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from tensorboard.data.provider import RunTagFilter

from gradscope.cells import ingredients
from gradscope.events.decoding import GLOBALS_TAG, LAYERS_TAG, PLUGIN_NAME, VERDICTS_TAG, Content, Decoder
from gradscope.events.event_files import natural
from gradscope.records import Metric, Run, Severity
from gradscope.selection import with_records
from gradscope.summary import in_order_shown

_ALL = 1_000_000
"""More than any server keeps of a series: it wants a number."""

Series = Mapping[str, Sequence[Any]]
"""By tag, TensorBoard's data in order: `step`, `wall_time` and the array `numpy` each."""


class ListedRun(NamedTuple):
    """What the server says of a run without reading it."""

    name: str
    version: str
    """Another one exactly when the run has new data."""
    last_step: int
    last_wall_time: float
    descriptions: Mapping[str, bytes]
    """By tag, the content of its metadata."""

    def decoder(self) -> Decoder:
        """Return a new decoder that knows the run's tags."""
        decoder = Decoder()
        for tag, content in self.descriptions.items():
            decoder.describe(tag, content)
        return decoder

    def columns(self) -> tuple[Metric, ...]:
        """Return the metrics that can be read, those known here first."""
        return in_order_shown(self.decoder().columns)


class Sample(NamedTuple):
    """A run with some of its metrics and some of its records; `complete` where no record was left out."""

    run: Run
    complete: bool


def sample_of(run: Run, metric: str, records: int | None) -> Sample:
    """Return `run` with `metric` alone and what its cells need; of at most `records`, evenly spread, with the last."""
    total = len(run.steps)
    chosen = (
        slice(None) if records is None or total <= records else np.linspace(total - 1, 0, records).astype(int)[::-1]
    )
    wanted = (metric, *ingredients(metric))
    part = replace(run, metrics={name: run.metrics[name] for name in wanted if name in run.metrics})
    sample = with_records(part, chosen)
    return Sample(sample, len(sample.steps) == total)


class ProvidedRuns:
    """The runs of an experiment as a data provider holds them, asked for in one request."""

    def __init__(self, provider: Any, context: Any, experiment: str) -> None:
        self._provider, self._context, self.experiment = provider, context, experiment

    def runs(self, name: str | None = None) -> dict[str, ListedRun]:
        """Return the runs with GradScope's data by name, in natural order; only the one called `name` if given."""
        listing = self._provider.list_tensors(
            self._context,
            experiment_id=self.experiment,
            plugin_name=PLUGIN_NAME,
            run_tag_filter=RunTagFilter(runs=None if name is None else [name]),
        )
        return {run: _listed(run, listing[run]) for run in sorted(listing, key=natural) if listing[run]}

    def severities(self) -> dict[str, str]:
        """Return the worst severity that was logged for each run, ``"sound"`` for none; runs without it are absent."""
        try:
            verdicts = self._tensors(None, [VERDICTS_TAG], 1)
        except (TypeError, ValueError):  # of some run, an array that is not what its shape says: each by itself, then
            verdicts = {name: self._read(run, [VERDICTS_TAG], 1, run.decoder()) for name, run in self.runs().items()}
        last = {run: tags[VERDICTS_TAG][-1] for run, tags in verdicts.items() if tags.get(VERDICTS_TAG)}
        return {run: _worst(_content(datum.numpy)) for run, datum in last.items()}

    def read(self, listed: ListedRun) -> Run:
        """Return all that the server has of a run.

        After a resumption one reader keeps the superseded records and the other does not: `Decoder` leaves them out.
        """
        decoder = listed.decoder()
        # One tag a call: a server's answer is bounded by its bytes.
        data: dict[str, Sequence[Any]] = {}
        for tag, series in decoder.series.items():
            if series.kind in ("matrix", "globals", "layers", "status", "resumed"):
                data |= self._read(listed, [tag], _ALL, decoder)
        return _run(listed, decoder, data)

    def read_metric(self, listed: ListedRun, metric: str, records: int | None) -> Sample:
        """Return a run with `metric` alone and what its cells need; of about `records` records, the last among them.

        Without `records`, and where the server would choose other records of one tag than of another, of all.
        """
        decoder = listed.decoder()
        wanted = (metric, *ingredients(metric))
        of_records = [
            tag
            for tag, series in decoder.series.items()
            if series.kind == "globals" or (series.metric is not None and series.metric.name in wanted)
        ]
        tables = [tag for tag, series in decoder.series.items() if series.kind in ("layers", "resumed")]
        data = self._read(listed, of_records, _ALL if records is None else records + 1, decoder)
        if records is not None and not _are_aligned(data.values()):
            return self.read_metric(listed, metric, None)
        complete = records is None or all(len(series) <= records for series in data.values())
        return Sample(_run(listed, decoder, data | self._read(listed, tables, _ALL, decoder)), complete)

    def _read(self, listed: ListedRun, tags: Sequence[str], records: int, decoder: Decoder) -> dict[str, Sequence[Any]]:
        try:
            return dict(self._tensors(listed.name, tags, records).get(listed.name, {})) if tags else {}
        except (TypeError, ValueError):  # an array that is not what its shape says
            decoder.note(f"{', '.join(tags)}: TensorBoard could not read it, so it is left out")
            return {}

    def _tensors(self, run: str | None, tags: Sequence[str], records: int) -> Mapping[str, Series]:
        tensors: Mapping[str, Series] = self._provider.read_tensors(
            self._context,
            experiment_id=self.experiment,
            plugin_name=PLUGIN_NAME,
            downsample=records,
            run_tag_filter=RunTagFilter(runs=None if run is None else [run], tags=tags),
        )
        return tensors


def _listed(name: str, tags: Mapping[str, Any]) -> ListedRun:
    ends = {tag: (series.max_step, series.max_wall_time) for tag, series in sorted(tags.items())}
    # Every record has globals; what is written at the end of a fit may stand at a step without one.
    of_records = [ends[GLOBALS_TAG]] if GLOBALS_TAG in ends else ends.values()
    steps = [step for step, _ in of_records if step is not None]
    return ListedRun(
        name,
        hashlib.blake2b(repr(ends).encode(errors="backslashreplace"), digest_size=12).hexdigest(),
        max(steps, default=0),
        max((time for _, time in ends.values() if time is not None), default=0.0),
        {tag: series.plugin_content for tag, series in sorted(tags.items())},
    )


def _are_aligned(data: Iterable[Sequence[Any]]) -> bool:
    return len({tuple((datum.step, datum.wall_time) for datum in series) for series in data}) <= 1


def _run(listed: ListedRun, decoder: Decoder, data: Series) -> Run:
    events: dict[tuple[float, int], list[tuple[str, Content]]] = {}
    for tag in sorted(data, key=lambda tag: tag != LAYERS_TAG):  # the layers come before what belongs to them
        for datum in data[tag]:
            events.setdefault((datum.wall_time, datum.step), []).append((tag, _content(datum.numpy)))
    for (wall_time, step), values in sorted(events.items(), key=lambda event: event[0]):
        decoder.read(step, wall_time, values)
    return decoder.run(listed.name)


def _content(array: npt.NDArray[Any]) -> Content:
    if array.dtype == np.float32:
        numbers: npt.NDArray[np.float32] = array.reshape(-1)
        return numbers
    if array.dtype.kind not in "OSU":
        return np.empty(0, dtype=np.float32)
    return [x if isinstance(x, bytes) else str(x).encode(errors="replace") for x in array.reshape(-1).tolist()]


def _worst(verdicts: Content) -> str:
    severities = {str(severity): severity for severity in Severity}
    found = [severities[name] for name in map(_severity, verdicts) if name in severities]
    return str(max(found)) if found else "sound"


def _severity(verdict: Any) -> str:
    try:
        return str(json.loads(verdict)["severity"])
    except (KeyError, RecursionError, TypeError, ValueError):
        return ""
