"""Events that are alike are read at once, and give what each of them gives when it is taken apart by protobuf."""

import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.compat.proto.tensor_pb2 import TensorProto

from gradscope.events import parsing
from gradscope.events.decoding import Decoder
from gradscope.events.encoding import Encoder
from gradscope.events.parsing import Parser
from gradscope.events.reading import LogReader
from gradscope.events.stock import distribution, layer_scalars, scalar_values, scalars
from gradscope.records import Floats, Layer, Metric, Record, Run
from tests.event_logs import COLUMNS, LAYERS, assert_same, described, event, floats, frame_ends, write_frames

EACH = 1 << 60
"""In place of `parsing.FEW`: every event is taken apart."""

SIGNALLING = np.array([0x7FA00001], dtype=np.uint32).view(np.float32)[0]
"""A NaN that a processor makes another one of as soon as it computes with it."""


def parsed(events: Sequence[bytes], few: int) -> tuple[Run, int, int]:
    """What `events` hold, how many are damaged, and how many records there are."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parsing, "FEW", few)
        parser, decoder = Parser(), Decoder()
        parser.parse(events, decoder)
    return decoder.run("run"), parser.damaged, decoder.count


def assert_read_as_each(events: Sequence[bytes]) -> Run:
    """Assert that it makes no difference from how many on events are read at once."""
    run, *counts = parsed(events, EACH)
    for few in (0, 3):
        at_once, *others = parsed(events, few)
        assert counts == others
        assert_same_bits(at_once, run)
    return run


def assert_same_bits(run: Run, other: Run) -> None:
    assert_same(run, other)
    assert run.wall_times.tobytes() == other.wall_times.tobytes()
    for name, cells in run.metrics.items():
        assert cells.tobytes() == other.metrics[name].tobytes()
    for name, totals in run.globals.items():
        assert totals.tobytes() == other.globals[name].tobytes()


class Fit:
    """Records of `COLUMNS` as a fit writes them, with what is made for TensorBoard's dashboards behind the globals."""

    def __init__(self, columns: Sequence[Metric] = COLUMNS) -> None:
        self.columns = columns
        self.encoder = Encoder(columns)
        self.rng = np.random.default_rng(0)

    def record(self, step: int, layers: tuple[Layer, ...] = LAYERS, numbers: Floats | None = None) -> Record:
        metrics = {c.name: self.rng.random(len(layers), dtype=np.float32) for c in self.columns}
        if numbers is not None:
            metrics[self.columns[0].name] = numbers
        return Record(step, 1000.0 + self.rng.random(), layers, metrics, {"loss": self.rng.random()})

    def summary(self, record: Record) -> Summary:
        summary = self.encoder.record(record)
        curves = scalars(record, self.columns) | layer_scalars(record, self.columns)
        summary.value.extend(scalar_values(curves))
        if (histogram := distribution(record)) is not None:
            summary.value.append(histogram)
        return summary

    def event(self, step: int, layers: tuple[Layer, ...] = LAYERS, numbers: Floats | None = None) -> bytes:
        record = self.record(step, layers, numbers)
        return event(self.summary(record), record.step, record.wall_time)

    def events(self, *steps: int) -> list[bytes]:
        return [self.event(step) for step in steps]


def tensor_of(event: Event, tag: str) -> TensorProto:
    return next(value.tensor for value in event.summary.value if value.tag == tag)


@pytest.fixture
def fit() -> Fit:
    return Fit()


@pytest.fixture
def taken_apart(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The events that protobuf took apart."""
    events: list[bytes] = []

    class Spied:
        @staticmethod
        def FromString(data: bytes) -> Event:  # noqa: N802  # protobuf's own name
            events.append(data)
            return Event.FromString(data)

    monkeypatch.setattr(parsing, "Event", Spied)
    return events


def test_the_events_of_a_long_fit_are_not_taken_apart(fit: Fit, taken_apart: list[bytes]) -> None:
    events = fit.events(*range(1000))
    run, damaged, count = parsed(events, parsing.FEW)
    assert (damaged, count, run.steps.tolist()) == (0, 1000, list(range(1000)))
    # The first two, which describe, or have no step; one of those of each length.
    assert len(taken_apart) <= 5


def test_what_was_learnt_is_known_in_the_next_reading(fit: Fit, tmp_path: Path, taken_apart: list[bytes]) -> None:
    path = write_frames(tmp_path / "tfevents.1", *fit.events(*range(200, 240)))
    data = path.read_bytes()
    path.write_bytes(data[: frame_ends(data)[20]])
    reader = LogReader(tmp_path)
    reader.read()
    taken_apart.clear()
    path.write_bytes(data)
    assert reader.read()["."].steps.tolist() == list(range(200, 240))
    assert taken_apart == []


@pytest.mark.parametrize("start", [0, 120, 16_380, 2**21 - 5, 2**28 - 5, 2**56 - 5, 2**63 - 20, -(2**63), -12])
def test_steps_of_any_length(fit: Fit, start: int) -> None:
    run = assert_read_as_each(fit.events(*range(start, start + 20)))
    assert run.steps.tolist() == list(range(start, start + 20))


def test_a_step_of_more_bits_than_there_are(fit: Fit) -> None:
    first, *events = fit.events(*range(-30, -10))
    for last in (0x00, 0x02, 0x03, 0x7F):
        events[7] = events[7][:19] + bytes([last]) + events[7][20:]
        assert_read_as_each([first, *events])


def test_steps_in_any_order(fit: Fit) -> None:
    steps = [*range(300, 330), *range(310, 320), 5, 2**40, *range(-5, 200, 3)]
    assert assert_read_as_each(fit.events(*steps)).steps.tolist() == sorted(set(steps))


def test_layers_that_change_on_the_way(fit: Fit) -> None:
    tables = (LAYERS, LAYERS[:2], (*LAYERS, Layer("new", "Linear", "linear")), LAYERS[::-1], LAYERS, ())
    events = [fit.event(200 + i, tables[i // 15]) for i in range(15 * len(tables))]
    run = assert_read_as_each(events)
    assert (len(run.steps), len(run.layers)) == (90, 4)


def test_numbers_that_are_none(fit: Fit) -> None:
    strange = [floats(np.nan, -np.nan, np.inf), np.array([SIGNALLING] * 3), floats(-0.0, 1e-45, -np.inf)]
    events = []
    for i, data in enumerate(fit.events(*range(199, 260))):
        changed = Event.FromString(data)
        tensor_of(changed, "gradscope/grad_norm").tensor_content = strange[i % 3].tobytes()
        events.append(changed.SerializeToString())
    run = assert_read_as_each(events)
    assert run.metrics["grad_norm"][1].view(np.uint32).tolist() == [0x7FA00001] * 3


def test_totals_and_times_that_are_no_numbers(fit: Fit) -> None:
    events = []
    for i, data in enumerate(fit.events(*range(200, 240))):
        strange = Event.FromString(data)
        time = struct.pack("<Q", 0x7FF0000000000001 if i % 7 == 0 else 0x7FF8000000000000)
        strange.wall_time = struct.unpack("<d", time)[0] if i % 3 else 1000.0 - i
        tensor_of(strange, "gradscope/globals").tensor_content = np.full(
            7, SIGNALLING if i % 2 else np.inf, dtype="<f4"
        ).tobytes()
        events.append(strange.SerializeToString())
    for first in range(5):
        assert_read_as_each([*fit.events(1), *events[first:], *events[::-1]])


def test_what_a_resumed_fit_took_back(fit: Fit) -> None:
    before = fit.events(*range(200, 240))
    resumed = event(fit.encoder.resumed(), 225, 1002.0)
    after = [event(fit.summary(r), r.step, r.wall_time + 5.0) for r in map(fit.record, range(225, 250))]
    again = event(fit.encoder.resumed(), 230, 1010.0)
    for events in ([resumed, *after], [*after[:15], resumed, *after[15:]], [resumed, *after, again]):
        assert_read_as_each(before + events)
    assert assert_read_as_each([*before, resumed, *after, again]).steps.tolist() == list(range(200, 230))


def test_events_of_the_same_length_that_are_not_alike() -> None:
    """A tag as long as another, the layers of as many bytes, a curve in place of another: all in turn."""
    other = Metric("grad_morn", "Another", "ratio")
    fit = Fit((*COLUMNS, other))
    events = [fit.event(199)]
    for i in range(60):
        record = fit.record(200 + i)
        metrics = {"grad_morn" if i % 4 == 1 else "grad_norm": record.metrics["grad_norm"]}
        summary = fit.encoder.record(Record(record.step, record.wall_time, LAYERS, metrics, record.globals))
        if i % 4 == 2:
            summary.value[0].tag = "gradscope/Grad_norm"
        if i % 4 == 3:
            summary.value[-1].tag = "gradscope/Globals"
        events.append(event(summary, record.step, record.wall_time))
    assert len({len(data) for data in events[1:]}) == 1
    run = assert_read_as_each(events)
    measured = ~np.isnan(run.metrics["grad_norm"][:, 0]), ~np.isnan(run.metrics["grad_morn"][:, 0])
    assert [cells.sum() for cells in measured] == [31, 16]


def test_a_tag_that_is_described_anew_between_them(fit: Fit) -> None:
    plain = fit.events(*range(200, 220))
    for content in (b'{"v":1,"kind":"resumed"}', b'{"v":1,"kind":"layers"}', b'{"v":9}', b'{"v":1,"kind":"status"}'):
        for tag in ("gradscope/grad_norm", "gradscope/globals"):
            again = event(described(content, tag), 220)
            assert_read_as_each([*plain, again, *plain[1:]])
            assert_read_as_each([*plain, again, *plain[1:], *plain])
    assert_read_as_each(plain[1:])  # the first of which described all


def test_events_without_totals(fit: Fit) -> None:
    without = []
    for data in fit.events(*range(199, 240)):
        changed = Event.FromString(data)
        del changed.summary.value[3 if changed.step == 199 else 2 :]
        without.append(changed.SerializeToString())
    assert assert_read_as_each(without).steps.tolist() == list(range(199, 240))
    assert (
        assert_read_as_each([event(described(b"{}")), *without[1:]]).notes
        == parsed([event(described(b"{}"))], 0)[0].notes
    )


def test_events_without_a_step_or_a_time(fit: Fit) -> None:
    first, *summaries = (fit.summary(fit.record(0)) for _ in range(20))
    for step, wall_time in ((0, 0.0), (5, 0.0), (0, 3.0)):
        events = [event(summary, step, wall_time) for summary in summaries]
        run = assert_read_as_each([event(first, 9, 9.0), *events])
        assert (run.steps.tolist(), run.wall_times.tolist()) == ([step, 9], [wall_time, 9.0])


def test_a_description_in_each_of_them() -> None:
    events = [Fit().event(200 + i) for i in range(20)]
    assert len(assert_read_as_each(events).steps) == 20


def test_a_number_of_values_that_is_not_that_of_the_layers(fit: Fit) -> None:
    first = fit.event(199)
    events = fit.events(*range(200, 230))
    fewer = Fit()
    fewer.event(199, LAYERS[:2])
    run = assert_read_as_each([first, *events[:15], *(fewer.event(s, LAYERS[:2]) for s in range(215, 240)), *events])
    assert run.steps.tolist() == list(range(199, 240))
    assert [note.partition(":")[0] for note in run.notes] == ["grad_norm", "act_mean"]
    assert all("left out of 25 records from step 215 on" in note for note in run.notes)


def written_otherwise(data: bytes, step: int) -> list[bytes]:
    """The same event as others would write it: fields twice, unknown ones, groups, numbers longer than they need be."""
    plain = Event.FromString(data)
    rest = Event(summary=plain.summary).SerializeToString()
    time, number = data[:9], bytes([0x10, 0x80 | step & 0x7F, step >> 7])
    later = Event(wall_time=2000.0 + step, step=step + 1000).SerializeToString()
    group = b"\xa3\x06\x08\x01\xa4\x06"
    tensor = plain.summary.value[0].tensor
    tensors = tensor.SerializeToString() + TensorProto(tensor_content=floats(*[step] * 3).tobytes()).SerializeToString()
    value = Summary.Value(tag="gradscope/grad_norm").SerializeToString()
    both = value + b"\x15" + struct.pack("<f", step) + b"\x42" + bytes([len(tensors)]) + tensors
    summary = b"\x0a" + bytes([len(both)]) + both
    return [
        time + number + rest,
        number + time + rest,
        rest + number + time,
        time + number + later + rest,
        time + number + rest + rest,
        time + number + group + rest,
        group + time + number + rest,
        time + number + rest + group,
        time + number[:-1] + bytes([number[-1] | 0x80, 0x80, 0x00]) + rest,
        time + number + b"\x08\x05" + rest,
        time + number + b"\x2a" + bytes([len(summary)]) + summary,
        time + number + b"\x2a" + bytes([len(summary)]) + summary + rest,
        time + b"\x10" + b"\xff" * 9 + bytes([step % 4]) + rest,
    ]


def test_events_that_protobuf_would_write_otherwise(fit: Fit) -> None:
    first = event(fit.encoder.record(fit.record(199)), 199)
    plain = [event(fit.encoder.record(fit.record(s)), s, 1000.0 + s) for s in range(200, 220)]
    written = list(map(written_otherwise, plain, range(200, 220)))
    assert written[0][0] == plain[0]
    for strange in zip(*written, strict=True):
        run = assert_read_as_each([first, *strange])
        assert len(run.steps) > 1
        assert_read_as_each([first, *plain, *strange, *plain])


def short(fit: Fit, step: int) -> bytes:
    """An event that holds one of each: a metric, the globals, a curve and a histogram."""
    summary = fit.encoder.record(fit.record(step, LAYERS[:2]))
    summary.value.add(tag="a", simple_value=step)
    summary.value.add(tag="b", tensor=TensorProto(dtype=2, tensor_content=struct.pack("<d", step)))
    summary.value[-1].metadata.plugin_data.plugin_name = "c"
    return event(summary, step, 1000.0 + step)


@pytest.mark.parametrize("place", [0, 5])
def test_a_bit_that_is_flipped_under_a_right_checksum(place: int) -> None:
    """Every bit of an event once: of what is common to all, of numbers, and of what is not ours."""
    fit = Fit(COLUMNS[:1])
    first, *events = (short(fit, step) for step in range(199, 206))
    for bit in range(8 * len(events[place])):
        flipped = bytearray(events[place])
        flipped[bit // 8] ^= 1 << bit % 8
        assert_read_as_each([first, *events[:place], bytes(flipped), *events[place + 1 :]])


@pytest.mark.parametrize("layers", [10, 60, 1500, 6000])
def test_however_long_an_event_is(layers: int, fit: Fit, taken_apart: list[bytes]) -> None:
    """So that lengths within it are written in one to three bytes."""
    wide = tuple(Layer(f"layer{i}", "Linear", "linear") for i in range(layers))
    events = [fit.event(step, wide) for step in range(200, 230)]
    run, *_ = parsed(events, EACH)
    taken_apart.clear()
    at_once, *_ = parsed(events, 0)
    assert len(taken_apart) < 5, "all but the first are read at once"
    assert_same_bits(at_once, run)
    assert at_once.metrics[COLUMNS[0].name].shape == (30, layers)
    assert len(events[0]) > 2**14 or layers < 1500


@pytest.mark.parametrize("few", [0, EACH])
def test_every_damaged_event_is_counted(few: int, fit: Fit) -> None:
    no_protobuf = b"\xff" * 300
    run, damaged, count = parsed([*fit.events(1, 2), no_protobuf, *fit.events(3), no_protobuf, no_protobuf], few)
    assert (damaged, count, run.steps.tolist()) == (3, 3, [1, 2, 3])


def test_numbers_of_another_kind_are_no_numbers(fit: Fit) -> None:
    """Also in a fit of a single layer, where one number would do."""
    one = LAYERS[:1]
    sound, broken = fit.event(1, one), Event.FromString(fit.event(2, one))
    tensor = tensor_of(broken, f"gradscope/{COLUMNS[0].name}")
    tensor.dtype = 2  # DT_DOUBLE
    run = assert_read_as_each([sound, broken.SerializeToString()])
    assert np.isfinite(run.metrics[COLUMNS[0].name][0]).all()
    assert np.isnan(run.metrics[COLUMNS[0].name][1]).all()


def test_what_another_plug_in_says_of_our_tags_describes_nothing(fit: Fit) -> None:
    first, second = fit.events(1, 2)
    other = Event.FromString(first)
    for value in other.summary.value:
        value.metadata.plugin_data.plugin_name = "scalars"
    run = assert_read_as_each([other.SerializeToString(), second])
    assert (run.columns, len(run.steps)) == ((), 0)
    assert any("their description is missing" in note for note in run.notes)
