"""Logs that are broken, by accident or on purpose: nothing but the documented errors, soon and in little memory."""

import io
import os
import random
import signal
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from types import FrameType

import numpy as np
import pytest
from tensorboard.compat.proto.summary_pb2 import Summary

from gradscope.events.checksum import RecordWriter
from gradscope.events.encoding import Encoder
from gradscope.events.event_files import LocalFiles
from gradscope.events.reading import load
from gradscope.records import Finding, Layer, Record, Run, Severity
from tests.event_logs import (
    COLUMNS,
    assert_same,
    event,
    frame_ends,
    load_one,
    record,
    write_frames,
    write_records,
)

MUTATIONS = 10_000
PER_TEST = 300
SECONDS = 5
SLACK = 400_000
"""Bytes that are needed whatever the size of the file: imported modules, parsers, the text of notes."""


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Raise where the block takes longer."""

    def ring(number: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"still reading after {seconds} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def a_log(path: Path) -> Path:
    """Write what a short run leaves: records with curves of the user's between them, a status and verdicts."""
    layers = tuple(Layer(f"net.{i}", "Linear", "linear") for i in range(12))
    encoder = Encoder(COLUMNS)
    events = []
    for step in range(20):
        values = {column.name: np.arange(12, dtype=np.float32) + step for column in COLUMNS}
        summary = encoder.record(Record(step, 1000.0 + step, layers[: 12 if step < 15 else 11], values, {"loss": 1.0}))
        if step < 15:
            events.append(event(summary, step, 1000.0 + step))
        events.append(event(Summary(value=[Summary.Value(tag="train_loss", simple_value=1.0 / (step + 1))]), step))
    finding = Finding("dead_relu", Severity.WARNING, ("net.1",), 0, 9, "dead", "lower the rate", {"share": 0.5})
    run = Run.from_records("run", [], COLUMNS)
    events += [event(encoder.status(run), 20), event(encoder.verdicts([finding]), 20)]
    return write_frames(path, *events)


def flip(rng: random.Random, data: bytearray) -> None:
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def flip_several(rng: random.Random, data: bytearray) -> None:
    for _ in range(rng.randrange(2, 20)):
        flip(rng, data)


def overwrite(rng: random.Random, data: bytearray) -> None:
    at, size = rng.randrange(len(data)), rng.randrange(1, 600)
    filling = rng.choice((b"\0", b"\xff", b"\x80", None))
    size = min(size, len(data) - at)
    data[at : at + size] = rng.randbytes(size) if filling is None else filling * size


def delete(rng: random.Random, data: bytearray) -> None:
    at = rng.randrange(len(data))
    del data[at : at + rng.randrange(1, 600)]


def insert(rng: random.Random, data: bytearray) -> None:
    at, start = rng.randrange(len(data)), rng.randrange(len(data))
    data[at:at] = rng.choice((rng.randbytes(20), data[start : start + 300], b"\0" * 5000))


def flip_under_right_checksums(rng: random.Random, data: bytearray) -> None:
    """Change what is in a frame as one would who writes logs by hand."""
    starts = [0, *frame_ends(data)]
    file = io.BytesIO()
    chosen = rng.randrange(len(starts) - 1)
    for i, (start, end) in enumerate(pairwise(starts)):
        content = data[start + 12 : end - 4]
        if i == chosen:
            rng.choice((flip, flip_several, overwrite, delete, insert))(rng, content)
        RecordWriter(file).write(bytes(content))
    data[:] = file.getvalue()


KINDS: tuple[Callable[[random.Random, bytearray], None], ...] = (
    flip, flip_several, overwrite, delete, insert, flip_under_right_checksums,
)  # fmt: skip


def damage(tmp_path: Path, seeds: range) -> None:
    whole = a_log(tmp_path / "whole" / "tfevents.1")
    sound, data = load_one(whole), whole.read_bytes()
    path = tmp_path / "damaged" / "tfevents.1"
    path.parent.mkdir()
    tracemalloc.start()
    try:
        for seed in seeds:
            rng = random.Random(seed)
            damaged = bytearray(data)
            kind = rng.choice(KINDS)
            kind(rng, damaged)
            path.write_bytes(damaged)
            tracemalloc.reset_peak()
            before, _ = tracemalloc.get_traced_memory()
            run = load_within_limits(path, f"seed {seed}")
            assert tracemalloc.get_traced_memory()[1] - before < 2 * len(damaged) + SLACK, f"seed {seed}"
            if run is not None and kind is not flip_under_right_checksums:
                assert_part_of(run, sound, f"seed {seed}")
                # A record that was overwritten as a whole cannot be told from an event of the user's.
                if kind in (flip, flip_several) and len(run.steps) < len(sound.steps):
                    assert run.notes, f"seed {seed}"
            if kind is flip and damaged != data:
                assert run is not None, f"seed {seed}"
                others = len(sound.steps) - len(run.steps) - 1
                assert others < 1 or any(f"{others} records left out" in note for note in run.notes), f"seed {seed}"
    finally:
        tracemalloc.stop()


def load_within_limits(path: Path, case: str) -> Run | None:
    try:
        with within(SECONDS):
            (run,) = load(path).values()
    except ValueError as error:
        assert str(error).startswith("`logdir` must hold runs recorded by GradScope"), case  # noqa: PT017
        return None
    return run


def assert_part_of(run: Run, sound: Run, case: str) -> None:
    """Assert that what was read is what was written."""
    kept = {step: i for i, step in enumerate(sound.steps.tolist())}
    rows = [kept[step] for step in run.steps.tolist()]
    for name, values in run.metrics.items():
        if run.layers == sound.layers:
            np.testing.assert_array_equal(values, sound.metrics[name][rows], case)


def test_damage(tmp_path: Path) -> None:
    damage(tmp_path, range(PER_TEST))


@pytest.mark.slow
@pytest.mark.parametrize("start", range(PER_TEST, MUTATIONS, 970))
def test_more_damage(tmp_path: Path, start: int) -> None:
    damage(tmp_path, range(start, min(start + 970, MUTATIONS)))


def test_every_prefix_gives_the_whole_records_in_it(tmp_path: Path) -> None:
    whole = write_records(tmp_path / "whole" / "tfevents.1", [record(s) for s in range(3)])
    data, sound = whole.read_bytes(), load_one(whole)
    ends = frame_ends(data)
    path = tmp_path / "cut" / "tfevents.1"
    path.parent.mkdir()
    for size in range(len(data) + 1):
        path.write_bytes(data[:size])
        records = sum(end <= size for end in ends[1:])
        run = load_within_limits(path, f"{size} bytes")
        assert (run is None) == (records == 0)
        if run is not None:
            assert run.steps.tolist() == list(range(records))
            assert run.metric("grad_norm").tolist() == sound.metric("grad_norm")[:records].tolist()
            assert bool(run.notes) == (size not in ends)


class TestNotes:
    """What is left out is counted, and the rest is shown."""

    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        return write_records(tmp_path / "tfevents.1", [record(s) for s in range(5)])

    def spoil(self, path: Path, frame: int, offset: int) -> Run:
        data = bytearray(path.read_bytes())
        data[frame_ends(data)[frame - 1] + offset] ^= 1
        path.write_bytes(data)
        return load_one(path)

    def test_of_a_record_with_a_wrong_checksum(self, path: Path) -> None:
        self.spoil(path, frame=3, offset=60)
        run = self.spoil(path, frame=4, offset=60)
        assert (run.steps.tolist(), run.notes) == ([0, 1, 4], ("tfevents.1: 2 damaged events left out",))

    def test_of_a_record_with_a_wrong_length(self, path: Path) -> None:
        ends = frame_ends(path.read_bytes())
        run = self.spoil(path, frame=3, offset=1)
        assert run.steps.tolist() == [0, 1, 3, 4]
        assert run.notes == (f"tfevents.1: {ends[3] - ends[2]} bytes left out that are no TensorBoard event",)

    def test_of_records_whose_description_is_damaged(self, path: Path) -> None:
        run = self.spoil(path, frame=1, offset=60)
        assert run.steps.size == 0
        assert run.notes == (
            "tfevents.1: 1 damaged event left out",
            "4 records left out, because their description is missing",
        )

    def test_of_no_protobuf_under_a_right_checksum(self, path: Path) -> None:
        with path.open("ab") as file:
            RecordWriter(file).write(b"gradscope: no event")
        run = load_one(path)
        assert (run.steps.tolist(), run.notes) == (list(range(5)), ("tfevents.1: 1 damaged event left out",))

    def test_of_a_log_without_our_data_there_is_none(self, tmp_path: Path) -> None:
        path = write_frames(tmp_path / "tfevents.1", *[event(Summary(), 5)] * 5)
        data = bytearray(path.read_bytes()[:-3])
        data[frame_ends(path.read_bytes())[1]] ^= 1  # a length in the middle, and the last event is cut
        path.write_bytes(data)
        with pytest.raises(ValueError, match="none of its data"):
            load(tmp_path)


class TestFilesThatAreNone:
    @pytest.fixture(autouse=True)
    def _soon(self) -> Iterator[None]:
        with within(SECONDS):
            yield

    @pytest.fixture
    def sound(self, tmp_path: Path) -> Run:
        return load_one(write_records(tmp_path / "tfevents.1", [record(0)]))

    def test_a_pipe_is_not_waited_for(self, tmp_path: Path, sound: Run) -> None:
        os.mkfifo(tmp_path / "tfevents.2")
        assert load_one(tmp_path).notes == ("tfevents.2: could not be read (not a regular file)",)
        with pytest.raises(ValueError, match="with none in it"):
            load(tmp_path / "tfevents.2")

    def test_a_pipe_that_takes_the_place_of_a_file_is_not_waited_for(self, tmp_path: Path, sound: Run) -> None:
        files = LocalFiles(tmp_path)
        ((listed,),) = files.runs().values()
        (tmp_path / "tfevents.1").unlink()
        os.mkfifo(tmp_path / "tfevents.1")
        with files.open(listed) as opened, pytest.raises(OSError, match="Illegal seek"):
            opened.seek(0)

    def test_a_device_without_end_is_not_read(self, tmp_path: Path, sound: Run) -> None:
        (tmp_path / "tfevents.2").symlink_to("/dev/zero")
        assert load_one(tmp_path).notes == ("tfevents.2: could not be read (not a regular file)",)

    def test_a_link_to_itself_is_noted(self, tmp_path: Path, sound: Run) -> None:
        (tmp_path / "tfevents.2").symlink_to("tfevents.2")
        assert load_one(tmp_path).notes == ("tfevents.2: could not be read (Too many levels of symbolic links)",)
        with pytest.raises(FileNotFoundError, match="does not exist"):
            load(tmp_path / "tfevents.2")

    def test_a_directory_with_the_name_of_a_file_is_a_directory(self, tmp_path: Path, sound: Run) -> None:
        write_records(tmp_path / "tfevents.2" / "tfevents.3", [record(7)])
        runs = load(tmp_path)
        assert [run.steps.tolist() for run in runs.values()] == [[0], [7]]
        assert_same(runs["."], sound)

    def test_an_empty_file_is_none(self, tmp_path: Path, sound: Run) -> None:
        (tmp_path / "tfevents.0").touch()
        assert_same(load_one(tmp_path), sound)

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
    def test_without_permission_it_is_noted(self, tmp_path: Path, sound: Run) -> None:
        (tmp_path / "tfevents.2").touch()
        (tmp_path / "tfevents.2").chmod(0)
        assert load_one(tmp_path).notes == ("tfevents.2: could not be read (Permission denied)",)

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
    def test_a_directory_without_permission_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "secret").mkdir(mode=0)
        with pytest.raises(OSError, match=r"a directory that can be read, got '.*secret': Permission denied"):
            load(tmp_path / "secret")


def test_names_that_steer_a_terminal_are_data(tmp_path: Path) -> None:
    layers = (Layer("\x1b[31mred\x1b[0m", "a\0b", "linear"), Layer("\r\n\t\u202e", "Linear", "linear"))
    assert load_one(write_records(tmp_path / "tfevents.1", [record(0, layers=layers)])).layers == layers
