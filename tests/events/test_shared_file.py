"""An event file that the user's logger and GradScope share: what fails of ours costs ours alone."""

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from gradscope.events.shared_file import SharedFile


def event(step: int, tag: str = "loss", size: int = 0) -> Event:
    return Event(step=step, summary=Summary(value=[Summary.Value(tag=tag + "x" * size, simple_value=1.0)]))


def steps(folder: Path) -> list[int]:
    """Read by TensorBoard's own reader, which compares the checksums and stops at the first frame that is not whole."""
    (path,) = folder.iterdir()
    return [e.step for e in EventFileLoader(str(path)).Load() if e.HasField("summary")]


@contextmanager
def room(folder: Path, more: int) -> Iterator[None]:
    """Let the file in `folder` grow by so many bytes and no further: the system writes what fits, and then fails."""
    (path,) = folder.iterdir()
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + more, old[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)


def write(writer: EventFileWriter, event: Event) -> None:
    writer.add_event(event)
    writer.flush()


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[EventFileWriter]:
    writer = EventFileWriter(str(tmp_path))
    yield writer
    writer.close()


def test_an_event_of_ours_that_does_not_fit_is_taken_back(writer: EventFileWriter, tmp_path: Path) -> None:
    shared = SharedFile(writer)
    writer.add_event(event(1, "gradscope/grad_norm"))
    writer.flush()
    shared.check()
    with room(tmp_path, 200):
        writer.add_event(event(2, "gradscope/grad_norm", size=1000))
        writer.add_event(event(3))
        writer.flush()
    writer.add_event(event(4, "gradscope/grad_norm"))
    writer.add_event(event(5))
    writer.flush()
    assert steps(tmp_path) == [1, 3, 5], "the user's are whole; of ours none comes after one that is missing"
    with pytest.raises(OSError, match="File too large"):
        shared.check()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_an_event_of_the_users_fails_as_without_us(writer: EventFileWriter, tmp_path: Path) -> None:
    SharedFile(writer)
    with room(tmp_path, 200), pytest.raises(OSError, match="File too large"):
        write(writer, event(1, size=1000))


def test_a_second_fit_with_the_same_logger_tries_again(writer: EventFileWriter, tmp_path: Path) -> None:
    first = SharedFile(writer)
    with room(tmp_path, 10):
        writer.add_event(event(1, "gradscope/grad_norm", size=100))
        writer.flush()
    second = SharedFile(writer)
    second.check()
    first.check()
    writer.add_event(event(2, "gradscope/grad_norm"))
    writer.flush()
    assert steps(tmp_path) == [2], "and is framed once"


def test_a_file_that_was_deleted_is_not_begun_in_the_middle(writer: EventFileWriter, tmp_path: Path) -> None:
    shared = SharedFile(writer)
    next(tmp_path.iterdir()).unlink()
    writer.add_event(event(1, "gradscope/grad_norm"))
    writer.flush()
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(FileNotFoundError):
        shared.check()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_what_cannot_be_taken_back_is_not_hidden_from_tensorboard(
    writer: EventFileWriter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stuck(*_: object) -> None:
        raise PermissionError("stuck")

    SharedFile(writer)
    monkeypatch.setattr(os, "truncate", stuck)
    with room(tmp_path, 200), pytest.raises(PermissionError, match="stuck"):
        write(writer, event(1, "gradscope/grad_norm", size=1000))


@pytest.mark.parametrize("stranger", [object(), SimpleNamespace(_async_writer=None)])
def test_a_writer_that_is_built_in_another_way_is_left_alone(stranger: object) -> None:
    SharedFile(stranger).check()
