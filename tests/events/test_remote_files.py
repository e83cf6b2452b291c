"""Logs that fsspec reaches: in memory, on a disk by its address, and on file systems that refuse."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from gradscope.events.encoding import Encoder
from gradscope.events.event_files import LocalFiles
from gradscope.events.reading import LogReader, load
from gradscope.events.remote_files import files_at
from tests.event_logs import COLUMNS, assert_same, record, write_frames, write_records

CAUSE = re.escape("ConnectionError: no route to host")


@pytest.fixture
def memory() -> Iterator[MemoryFileSystem]:
    system = fsspec.filesystem("memory")
    yield system
    system.store.clear()
    system.pseudo_dirs[:] = [""]


def copy_to(memory: MemoryFileSystem, local: Path, path: str) -> None:
    memory.pipe_file(path, local.read_bytes())


def test_runs_in_memory_are_those_on_a_disk(tmp_path: Path, memory: MemoryFileSystem) -> None:
    for name in ("version_10", "version_2", ".", "sweep/a"):
        path = write_records(tmp_path / name / "events.out.tfevents.1.host", [record(s) for s in range(3)])
        copy_to(memory, path, f"/logs/{name}/{path.name}".replace("/./", "/"))
    copy_to(memory, write_frames(tmp_path / "stock" / "tfevents.1"), "/logs/stock/tfevents.1")
    memory.pipe_file("/logs/version_2/hparams.yaml", b"a: 1")
    runs, local = load("memory://logs"), load(tmp_path)
    assert list(runs) == list(local) == [".", "sweep/a", "version_2", "version_10"]
    for name, run in runs.items():
        assert_same(run, local[name])
    assert list(load("memory://logs/version_2/")) == ["."]
    assert list(load("memory://logs/version_2/events.out.tfevents.1.host")) == ["."]
    assert list(load("memory://")) == [f"logs/{name}".removesuffix("/.") for name in local]


def test_what_tensorboard_writes_to_an_address_is_read(memory: MemoryFileSystem) -> None:
    encoder, writer = Encoder(COLUMNS), EventFileWriter("memory://logs/version_0")
    for step in range(3):
        writer.add_event(Event(step=step, wall_time=1.0 + step, summary=encoder.record(record(step))))
    writer.close()
    assert load("memory://logs")["version_0"].steps.tolist() == [0, 1, 2]


def test_what_grows_in_memory_is_followed(tmp_path: Path, memory: MemoryFileSystem) -> None:
    reader = LogReader("memory://logs")
    assert reader.read() == {}
    copy_to(memory, write_records(tmp_path / "tfevents.1", [record(0)]), "/logs/a/tfevents.1")
    assert reader.read()["a"].steps.tolist() == [0]
    copy_to(memory, write_records(tmp_path / "tfevents.1", [record(0), record(1)]), "/logs/a/tfevents.1")
    copy_to(memory, write_records(tmp_path / "tfevents.2", [record(2)]), "/logs/a/tfevents.2")
    assert reader.read()["a"].steps.tolist() == [0, 1, 2]
    memory.rm("/logs/a/tfevents.1")
    assert reader.read()["a"].steps.tolist() == [2]


def test_listings_are_asked_for_anew(memory: MemoryFileSystem, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = LogReader("memory://logs")
    forgotten: list[None] = []
    monkeypatch.setattr(MemoryFileSystem, "invalidate_cache", lambda self, path=None: forgotten.append(None))
    for reading in (1, 2):
        reader.read()
        assert len(forgotten) == reading


def test_the_address_of_a_disk_is_a_path(tmp_path: Path) -> None:
    write_records(tmp_path / "a b" / "tfevents.1", [record(0)])
    assert isinstance(files_at(f"file://{tmp_path}"), LocalFiles)
    assert list(load(f"file://{tmp_path}")) == list(load(f"local://{tmp_path}")) == ["a b"]


def test_what_is_not_there_is_named(memory: MemoryFileSystem) -> None:
    with pytest.raises(FileNotFoundError, match=r"got 'memory://gone', which does not exist"):
        load("memory://gone")
    memory.pipe_file("/logs/model.ckpt", b"1")
    with pytest.raises(ValueError, match=r"got 'memory://logs' with none in it"):
        load("memory://logs")


def test_an_unknown_protocol_is_named() -> None:
    with pytest.raises(ValueError, match=r"^`logdir` must be .* got 'gopher://x': .*Protocol not known: gopher$"):
        load("gopher://x")


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, "s3", raising=False)
    with pytest.raises(ValueError, match=r"there is a package, got 's3://b/logs': Install s3fs .*; install it"):
        load("s3://b/logs")


def test_without_fsspec_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fsspec.core", None)
    with pytest.raises(ValueError, match=r"got 'memory://logs': .*fsspec.*; install it with pip$"):
        load("memory://logs")


@pytest.mark.parametrize("where", ["info", "find"])
def test_a_network_that_fails_is_one_sentence(
    memory: MemoryFileSystem, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    class ConnectionError(Exception):  # noqa: A001
        """As packages behind fsspec raise: none of Python's own."""

    def fail(*args: Any, **options: Any) -> Any:
        raise ConnectionError("no route\nto host")

    memory.pipe_file("/logs/tfevents.1", b"")
    monkeypatch.setattr(MemoryFileSystem, where, fail)
    with pytest.raises(OSError, match=rf"^`logdir` must be .* got 'memory://logs': {CAUSE}; check .* credentials$"):
        load("memory://logs")


def test_a_file_that_cannot_be_read_is_noted_and_tried_again(
    tmp_path: Path, memory: MemoryFileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy_to(memory, write_records(tmp_path / "tfevents.1", [record(0)]), "/logs/tfevents.1")
    reader = LogReader("memory://logs")

    def fail(*args: Any, **options: Any) -> Any:
        raise RuntimeError("throttled")

    with monkeypatch.context() as patch:
        patch.setattr(MemoryFileSystem, "_open", fail)
        assert reader.read()["."].notes == ("tfevents.1: could not be read (RuntimeError: throttled)",)
    assert reader.read()["."].notes == ()


def test_fsspec_is_imported_for_addresses_alone(tmp_path: Path) -> None:
    write_records(tmp_path / "tfevents.1", [record(0)])
    script = f"import sys; from gradscope import load; load({str(tmp_path)!r}); assert 'fsspec' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], check=True)
