"""Frames that are written with a fast checksum are those that TensorBoard writes."""

import io
from pathlib import Path
from types import SimpleNamespace

import pytest
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.summary.writer.event_file_writer import EventFileWriter
from tensorboard.summary.writer.record_writer import RecordWriter

from gradscope.events import checksum


@pytest.mark.parametrize("data", [b"", b"\x00", b"123456789", bytes(range(256)) * 33])
def test_frames_are_those_of_tensorboard(data: bytes) -> None:
    theirs, ours = io.BytesIO(), io.BytesIO()
    RecordWriter(theirs).write(data)
    checksum.RecordWriter(ours).write(data)
    assert ours.getvalue() == theirs.getvalue()


def test_a_writer_goes_on_where_it_was(tmp_path: Path) -> None:
    writer = EventFileWriter(str(tmp_path))
    writer.add_event(Event(step=1))
    assert checksum.speed_up(writer)
    assert checksum.speed_up(writer), "a second fit with the same logger"
    writer.add_event(Event(step=2))
    writer.flush()
    worker = writer._async_writer._worker
    assert isinstance(worker._record_writer, checksum.RecordWriter), "what the thread writes with"
    assert not worker._record_writer.closed
    writer.close()
    assert worker._record_writer.closed
    assert _steps(next(tmp_path.iterdir())) == [0, 1, 2]


def test_a_writer_that_is_built_in_another_way_is_left_alone() -> None:
    file = io.BytesIO()
    strangers = [
        object(),
        SimpleNamespace(_async_writer=None),
        SimpleNamespace(_async_writer=SimpleNamespace(_writer=file, _worker=SimpleNamespace(_record_writer=file))),
    ]
    for stranger in strangers:
        assert not checksum.speed_up(stranger)


def test_without_c_code_nothing_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checksum, "_BY_C", False)
    writer = EventFileWriter(str(tmp_path))
    assert not checksum.speed_up(writer)
    assert isinstance(writer._async_writer._worker._record_writer, RecordWriter)
    writer.close()


def _steps(path: Path) -> list[int]:
    """Read the file by TensorBoard's own reader, which compares the checksums."""
    return [event.step for event in EventFileLoader(str(path)).Load()]
