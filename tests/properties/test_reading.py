"""What is written is read, however it is cut into events, files and readings; and nothing that is read raises."""

import io
import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, fields, is_dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, cast, get_args, get_origin

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import example, given
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
from tensorboard.summary.writer.record_writer import RecordWriter

from gradscope import diagnose
from gradscope.events import parsing
from gradscope.events.encoding import Encoder
from gradscope.events.frames import Frames
from gradscope.events.reading import LogReader, load
from gradscope.events.status import DamagedStatusError, fields_of, status_of
from gradscope.records import GLOBALS, InitialWeights, Layer, Metric, Record, Run, SaturatingStack
from gradscope.thresholds import Thresholds
from tests.event_logs import COLUMNS, assert_same, event, floats, frame_ends, write_frames

NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
NUMBERS = st.floats(width=32)
UNITS = ("L2 norm", "ratio", "fraction", "value", "flags")


@contextmanager
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


@st.composite
def histories(draw: st.DrawFn) -> tuple[list[Record], tuple[Metric, ...]]:
    """Records as a fit takes them, of layers that may change on the way, and the metrics that they hold."""
    columns = tuple(
        Metric(
            f"metric{i}", draw(NAMES), draw(st.sampled_from(UNITS)), draw(st.dictionaries(NAMES, ranges, max_size=2))
        )
        for i in range(draw(st.integers(1, 3)))
    )
    tables = draw(st.lists(st.lists(NAMES, max_size=4, unique=True).map(layers_named), min_size=1, max_size=3))
    steps = sorted(draw(st.sets(st.integers(0, 2**40), max_size=8)))
    return [draw(records(columns, step, 1000.0 + i, tables)) for i, step in enumerate(steps)], columns


ranges = st.tuples(st.floats(-9, 0), st.floats(0, 9))


def layers_named(names: list[str]) -> tuple[Layer, ...]:
    return tuple(Layer(name, f"T{name}", f"k{name}") for name in names)


@st.composite
def records(draw: st.DrawFn, columns: Any, step: int, time: float, tables: list[tuple[Layer, ...]]) -> Record:
    layers = draw(st.sampled_from(tables))
    cells = st.lists(NUMBERS, min_size=len(layers), max_size=len(layers))
    metrics = {c.name: floats(*draw(cells)) for c in columns if draw(st.booleans())}
    return Record(step, time, layers, metrics, draw(st.dictionaries(st.sampled_from(GLOBALS), NUMBERS)))


def events_of(history: list[Record], columns: tuple[Metric, ...]) -> list[bytes]:
    encoder = Encoder(columns)
    return [event(encoder.record(r), r.step, r.wall_time) for r in history]


def expected(history: list[Record], columns: tuple[Metric, ...], name: str = ".") -> Run:
    """What was recorded, of the metrics that occurred, in the order in which they did."""
    seen = dict.fromkeys(name for record in history for name in record.metrics)
    by_name = {column.name: column for column in columns}
    return Run.from_records(name, history, [by_name[name] for name in seen])


@given(histories())
def test_what_is_written_is_read_bit_for_bit(drawn: tuple[list[Record], tuple[Metric, ...]]) -> None:
    history, columns = drawn
    if not history:
        return
    with folder() as path:
        write_frames(path / "tfevents.1", *events_of(history, columns))
        (run,) = load(path).values()
    assert_same(run, expected(history, columns))


@given(histories(), st.data())
def test_files_are_read_as_one_log(drawn: tuple[list[Record], tuple[Metric, ...]], data: st.DataObject) -> None:
    """A logger that was closed goes on in another file, and describes nothing again."""
    history, columns = drawn
    if not history:
        return
    events = events_of(history, columns)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(events)), max_size=3)))
    with folder() as path:
        for i, (start, end) in enumerate(zip([0, *cuts], [*cuts, len(events)], strict=True)):
            write_frames(path / f"tfevents.{i}", *events[start:end])
        (run,) = load(path).values()
    assert_same(run, expected(history, columns))


@given(histories(), st.data())
def test_a_log_may_be_read_at_any_moment(drawn: tuple[list[Record], tuple[Metric, ...]], data: st.DataObject) -> None:
    history, columns = drawn
    with folder() as path:
        file = write_frames(path / "tfevents.1", *events_of(history, columns))
        whole = file.read_bytes()
        ends = frame_ends(whole)
        file.unlink()
        reader = LogReader(path)
        sizes = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=6)))
        for written, size in pairwise([0, *sizes, len(whole)]):
            append(file, whole[written:size])
            there = history[: max(sum(end <= size for end in ends) - 1, 0)]
            runs = reader.read()
            assert list(runs) == ["."] * bool(there)
            if there:
                assert_same(runs["."], expected(there, columns))


def append(file: Path, content: bytes) -> None:
    with file.open("ab") as opened:
        opened.write(content)


@given(histories(), st.data())
def test_what_was_taken_back_is_gone(drawn: tuple[list[Record], tuple[Metric, ...]], data: st.DataObject) -> None:
    """A fit that goes on from a checkpoint takes the steps from there on once more."""
    history, columns = drawn
    if not history:
        return
    step = data.draw(st.sampled_from([r.step for r in history]) | st.integers(0, 2**40))
    again = Record(step, 5000.0, history[-1].layers, {"metric0": floats(*[7] * len(history[-1].layers))})
    with folder() as path:
        write_frames(path / "tfevents.1", *events_of(history, columns))
        encoder = Encoder(columns)
        resumed = event(encoder.resumed(), step, 5000.0)
        write_frames(path / "tfevents.2", resumed, event(encoder.record(again), step, 5000.0))
        (run,) = load(path).values()
        (path / "tfevents.2").unlink()
        write_frames(path / "tfevents.3", event(Encoder(columns).resumed(), step, 5000.0))
        (stopped,) = load(path).values()
    kept = [r.step for r in history if r.step < step]
    assert (run.steps.tolist(), stopped.steps.tolist()) == ([*kept, step], kept)
    assert run.notes == ()


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | NAMES,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(NAMES | st.sampled_from(sorted(asdict(Thresholds()))), inner, max_size=3)
    ),
    max_leaves=8,
)
FIELDS = st.sampled_from(
    ["v", "kind", "metric", "title", "unit", "healthy", "names", "thresholds", "coverage", "unseen", "measured",
     "setup", "overhead", "ledger", "origin", "flights", "stop", "rank_outliers", "selu_weights", "step", "module"]
)  # fmt: skip
KINDS = st.sampled_from(["matrix", "globals", "layers", "status", "resumed", "verdicts", "of tomorrow", ""])
TAGS = st.sampled_from(["layers", "globals", "status", "resumed", "verdicts", "grad_norm", "act_mean", "", "x/y"]).map(
    "gradscope/{}".format
)
statuses = st.dictionaries(FIELDS, json_values | st.dictionaries(FIELDS, json_values, max_size=4), max_size=6)


@st.composite
def descriptions(draw: st.DrawFn) -> bytes:
    if draw(st.booleans()):
        return draw(st.binary(max_size=40))
    stated = draw(st.dictionaries(FIELDS, json_values, max_size=4))
    return json.dumps({**stated, "kind": draw(KINDS), "v": draw(st.sampled_from([1, 1, 1, 2, "1"]))}).encode()


@st.composite
def tensor_protos(draw: st.DrawFn) -> TensorProto:
    sizes = draw(st.lists(st.integers(-1, 5), max_size=3))
    return TensorProto(
        dtype=draw(st.sampled_from([0, 1, 2, 7, 7, 1, 19])),
        tensor_shape=TensorShapeProto(dim=[TensorShapeProto.Dim(size=size) for size in sizes]),
        tensor_content=draw(st.binary(max_size=24)),
        float_val=draw(st.lists(NUMBERS, max_size=3)),
        string_val=draw(st.lists(st.binary(max_size=9) | statuses.map(lambda s: json.dumps(s).encode()), max_size=4)),
    )


@st.composite
def values(draw: st.DrawFn) -> Summary.Value:
    value = Summary.Value(tag=draw(TAGS), tensor=draw(tensor_protos()))
    if draw(st.booleans()):
        plugin = SummaryMetadata.PluginData(plugin_name="gradscope", content=draw(descriptions()))
        value.metadata.CopyFrom(SummaryMetadata(plugin_data=plugin))
    return value


@st.composite
def strange_events(draw: st.DrawFn) -> bytes:
    """What is sound as protobuf, and of which nothing else need be so."""
    summary = Summary(value=draw(st.lists(values(), max_size=4)))
    step, time = draw(st.integers(-(2**63), 2**63 - 1)), draw(st.floats())
    encoded: bytes = Event(step=step, wall_time=time, summary=summary).SerializeToString()
    return encoded


@given(st.lists(strange_events(), max_size=8), st.booleans())
def test_whatever_stands_under_our_tags_is_read_or_noted(events: list[bytes], sound_first: bool) -> None:
    sound = [Record(s, 1000.0 + s, (Layer("a", "Linear", "linear"),), {"grad_norm": floats(s)}) for s in range(3)]
    first = events_of(sound, COLUMNS) if sound_first else []
    with folder() as path:
        write_frames(path / "tfevents.1", *first, *events)
        try:
            runs = load(path)
        except ValueError as error:
            assert "none of its data" in str(error)  # noqa: PT017
            assert not sound_first
            return
    (run,) = runs.values()
    shape = (len(run.steps), len(run.layers))
    assert (run.steps[1:] > run.steps[:-1]).all()
    assert {column.name for column in run.columns} == set(run.metrics)
    assert all(cells.shape == shape and cells.dtype == np.float32 for cells in run.metrics.values())
    assert all(series.shape == shape[:1] for series in run.globals.values())
    assert all(unit.unit in UNITS for unit in run.columns)
    assert isinstance(run.thresholds, Thresholds)


@st.composite
def repeated(draw: st.DrawFn, events: st.SearchStrategy[bytes]) -> list[bytes]:
    """Events, each of them several times with other numbers: one kind after the other, or mixed."""
    repeated = []
    for data in draw(st.lists(events, min_size=1, max_size=3)):
        for _ in range(draw(st.integers(1, 9))):
            again = Event.FromString(data)
            again.step = draw(st.sampled_from([again.step, 7, 127, 128, 300, 16_384, -2]))
            again.wall_time = draw(st.sampled_from([again.wall_time, 3.0, 5.0, 1e9]))
            for value in again.summary.value:
                size = len(value.tensor.tensor_content)
                value.tensor.tensor_content = draw(st.binary(min_size=size, max_size=size))
            repeated.append(again.SerializeToString())
    return draw(st.permutations(repeated)) if draw(st.booleans()) else repeated


@st.composite
def plain_records(draw: st.DrawFn) -> bytes:
    layers = layers_named(draw(st.sampled_from([["a"], ["a", "b"], ["b", "a"]])))
    encoder, numbers = Encoder(COLUMNS), {draw(st.sampled_from(COLUMNS)).name: floats(*range(len(layers)))}
    first, second = (encoder.record(Record(1, 1.0, layers, numbers)) for _ in range(2))
    second.value.add(tag="curve", simple_value=1.0)
    return event(draw(st.sampled_from([first, second, second, encoder.resumed()])), 200)


@given(repeated(plain_records() | strange_events()), st.data())
def test_events_are_read_as_if_each_were_taken_apart(events: list[bytes], data: st.DataObject) -> None:
    """However many are alike, in two files that grow, with damage in them."""
    first = events_of([Record(0, 1.0, layers_named(["a"]), {c.name: floats(1) for c in COLUMNS})], COLUMNS)
    half = data.draw(st.integers(0, len(events)))
    with folder() as path:
        files = [
            write_frames(path / "tfevents.1", *first, *events[:half]),
            write_frames(path / "tfevents.2", *events[half:]),
        ]
        whole = [bytearray(file.read_bytes()) for file in files]
        for content in whole:
            for at in data.draw(st.lists(st.integers(0, len(content) - 1), max_size=1)):
                content[at] ^= 4
        cut = data.draw(st.integers(0, len(whole[1])))
        readings = []
        for few in (10**9, 0, 2):
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(parsing, "FEW", few)
                files[0].write_bytes(whole[0])
                files[1].write_bytes(whole[1][:cut])
                reader = LogReader(path)
                before = reader.read()
                append(files[1], bytes(whole[1][cut:]))
                readings.append([*before.values(), *reader.read(live=False).values()])
    for reading in readings[1:]:
        for run, expected in zip(reading, readings[0], strict=True):
            assert_same(run, expected)


SIMPLE: dict[Any, st.SearchStrategy[Any]] = {
    int: st.integers(0, 2**53),
    float: st.floats(allow_nan=False, allow_infinity=False),
    str: NAMES,
    Mapping[str, str]: st.dictionaries(NAMES, NAMES, max_size=2),
    Mapping[str, int]: st.dictionaries(NAMES, st.integers(0, 2**53), max_size=2),
    Mapping[str, float]: st.dictionaries(NAMES, st.floats(0, 1), max_size=2),
}
# What is empty has no initial weights.
WEIGHTS = st.builds(InitialWeights, NAMES, SIMPLE[float], SIMPLE[float], st.integers(1, 2**53), st.integers(1, 2**53))
SIMPLE[InitialWeights] = WEIGHTS
SIMPLE[SaturatingStack] = st.builds(SaturatingStack, st.lists(NAMES, min_size=1, max_size=3).map(tuple), SIMPLE[float])


def of_type(hint: Any) -> st.SearchStrategy[Any]:
    """Any value of a type that a field of `Run` has."""
    if hint in SIMPLE:
        return SIMPLE[hint]
    if is_dataclass(hint):
        parts = {f.name: of_type(f.type) for f in fields(hint)}
        return st.builds(cast("type[Any]", hint), **parts)
    inner = of_type(get_args(hint)[0])
    return st.lists(inner, max_size=2).map(tuple) if get_origin(hint) is tuple else st.none() | inner


KNOWN = ("coverage", "overhead", "ledger", "setup", "origin", "stop", "rank_outliers")
knowledge = st.fixed_dictionaries({f.name: of_type(f.type) for f in fields(Run) if f.name in KNOWN})
thresholds = st.builds(Thresholds, dead_fraction=st.floats(0.01, 1), selu_mean=ranges.filter(lambda r: r[0] < r[1]))


def parsed(run: Run) -> Any:
    return json.loads(json.dumps(status_of(run)))


@given(knowledge, thresholds)
def test_what_a_run_knows_is_read_as_it_was_written(known: dict[str, Any], by: Thresholds) -> None:
    run = Run.from_records("run", [], COLUMNS, thresholds=by, **known)
    assert repr(Run.from_records("run", [], COLUMNS, **fields_of(parsed(run)))) == repr(run)


@given(knowledge, st.lists(st.tuples(st.integers(0, 99), json_values), min_size=1, max_size=3))
def test_a_damaged_status_is_refused_or_can_be_judged_by(known: dict[str, Any], damage: list[tuple[int, Any]]) -> None:
    status = parsed(Run.from_records("run", [], COLUMNS, **known))
    for place, value in damage:
        spots = list(spots_in(status))
        container, key = spots[place % len(spots)]
        container[key] = value
    try:
        taken = fields_of(status)
    except DamagedStatusError:
        return
    run = Run.from_records("run", [], COLUMNS, **taken)
    diagnose(run)
    assert repr(Run.from_records("run", [], COLUMNS, **fields_of(parsed(run)))) == repr(run)


def spots_in(content: Any) -> Iterator[tuple[Any, Any]]:
    """Where a value may be put in the place of another."""
    keys = list(content) if isinstance(content, dict) else range(len(content)) if isinstance(content, list) else ()
    for key in keys:
        yield content, key
        yield from spots_in(content[key])


@given(
    st.just(b"") | st.binary(min_size=12, max_size=60),
    st.lists(st.binary(max_size=40), min_size=1, max_size=6),
    st.binary(max_size=60),
    st.booleans(),
)
@example(b"no frame at all", [b"content"], b"", True)
def test_frames_lose_nothing_behind_rubbish(before: bytes, contents: list[bytes], after: bytes, ours: bool) -> None:
    file = io.BytesIO()
    writer = RecordWriter(file)
    written = [content + b"gradscope" * ours for content in contents]
    for content in written:
        writer.write(content)
    framed = file.getvalue()
    data = before + framed + after
    frames = Frames(io.BytesIO(data), 0, len(data))
    given_out = list(frames)
    assert frames.position + frames.unread == len(data)
    assert frames.skipped <= frames.position
    whole = [content for content in written if b"gradscope" in content]
    if not before:
        assert given_out[: len(whole)] == whole
        assert frames.position >= len(framed)
    elif frames.skipped:
        assert frames.skipped >= len(before)
        assert given_out[-len(whole) :] == whole or not whole
    assert set(given_out) <= set(whole)
    if before == b"no frame at all":
        assert (given_out, frames.skipped) == (whole, len(before))


@pytest.mark.parametrize("size", range(12))
def test_less_than_a_header_is_waited_for(size: int) -> None:
    frames = Frames(io.BytesIO(bytes(size)), 0, size)
    assert list(frames) == []
    assert (frames.unread, frames.is_damaged) == (size, False)
