"""Logs that are looked at again and again while they change: what is returned is what reading them anew would give."""

import os
import random
import shutil
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import BinaryIO

import pytest

from gradscope.events.encoding import Encoder
from gradscope.events.event_files import EventFile, LocalFiles
from gradscope.events.reading import LogReader
from gradscope.records import Layer, Run
from tests.event_logs import COLUMNS, LAYERS, assert_same, event, frame_ends, record, write_frames, write_records


def assert_up_to_date(reader: LogReader, logdir: Path) -> Mapping[str, Run]:
    runs, anew = reader.read(live=False), LogReader(logdir).read(live=False)
    assert list(runs) == list(anew)
    for name, run in runs.items():
        assert_same(run, anew[name])
    return runs


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that were opened, in order."""
    names: list[str] = []
    original = LocalFiles.open

    def spied(self: LocalFiles, file: EventFile) -> AbstractContextManager[BinaryIO]:
        names.append(file.name)
        return original(self, file)

    monkeypatch.setattr(LocalFiles, "open", spied)
    return names


def steps(reader: LogReader) -> dict[str, list[int]]:
    return {name: run.steps.tolist() for name, run in reader.read().items()}


def test_a_file_that_grows_byte_by_byte(tmp_path: Path) -> None:
    whole = write_records(tmp_path / "whole.tfevents", [record(s) for s in range(3)]).read_bytes()
    ends, path, reader = frame_ends(whole), tmp_path / "log" / "tfevents.1", LogReader(tmp_path / "log")
    path.parent.mkdir()
    for size in range(len(whole) + 1):
        path.write_bytes(whole[:size])  # the same file: only its end is new
        runs = reader.read()
        records = sum(end <= size for end in ends[1:])
        assert [run.steps.tolist() for run in runs.values()] == ([list(range(records))] if records else [])
        assert all(run.notes == () for run in runs.values()), "a half-written record is waited for"


def test_only_what_is_new_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = write_records(tmp_path / "tfevents.1", [record(s) for s in range(40)]).read_bytes()
    half = frame_ends(data)[20]
    (tmp_path / "tfevents.1").write_bytes(data[:half])
    reader = LogReader(tmp_path)
    assert steps(reader) == {".": list(range(20))}
    read: list[int] = []
    original = LocalFiles.open

    @contextmanager
    def counting(self: LocalFiles, file: EventFile) -> Iterator[BinaryIO]:
        with original(self, file) as opened:
            inner = opened.read

            class Counting:
                seek = opened.seek

                def read(self, size: int) -> bytes:
                    content = inner(size)
                    read.append(len(content))
                    return content

            yield Counting()  # type: ignore[misc]

    monkeypatch.setattr(LocalFiles, "open", counting)
    (tmp_path / "tfevents.1").write_bytes(data)
    assert steps(reader) == {".": list(range(40))}
    assert len(data) - half <= sum(read) <= len(data) - half + 1000


def test_a_run_without_news_is_the_same_object_and_not_opened(tmp_path: Path, opened: list[str]) -> None:
    write_records(tmp_path / "a" / "tfevents.1", [record(0)])
    write_records(tmp_path / "b" / "tfevents.2", [record(0)])
    reader = LogReader(tmp_path)
    before = reader.read()
    opened.clear()
    assert all(before[name] is run for name, run in reader.read().items())
    assert opened == []
    write_records(tmp_path / "b" / "tfevents.3", [record(1)])
    after = reader.read()
    assert (after["a"] is before["a"], after["b"] is before["b"]) == (True, False)
    assert opened == ["tfevents.3"]


def test_a_directory_that_comes_and_goes(tmp_path: Path) -> None:
    logdir = tmp_path / "lightning_logs"
    reader = LogReader(logdir)
    assert reader.read() == {}
    logdir.mkdir()
    assert reader.read() == {}
    write_frames(logdir / "version_0" / "tfevents.1")
    assert reader.read() == {}
    write_records(logdir / "version_0" / "tfevents.1", [record(0)])
    write_records(logdir / "version_1" / "tfevents.1", [record(7)])
    assert steps(reader) == {"version_0": [0], "version_1": [7]}
    shutil.rmtree(logdir / "version_0")
    assert steps(reader) == {"version_1": [7]}
    shutil.rmtree(logdir)
    assert reader.read() == {}


def test_a_tail_that_is_never_finished_is_noted_once_a_later_file_is_there(tmp_path: Path) -> None:
    data = write_records(tmp_path / "tfevents.1", [record(0), record(1)]).read_bytes()
    (tmp_path / "tfevents.1").write_bytes(data[:-5])
    reader = LogReader(tmp_path)
    assert reader.read()["."].notes == ()
    assert "cut off after 1 record" in reader.read(live=False)["."].notes[0]
    write_records(tmp_path / "tfevents.2", [record(1)])
    run = reader.read()["."]
    assert run.steps.tolist() == [0, 1]
    assert len(run.notes) == 1
    assert run.notes[0].startswith("tfevents.1: cut off after 1 record (the file ends inside a record, ")


def test_damage_that_heals_is_forgotten(tmp_path: Path) -> None:
    data = write_records(tmp_path / "tfevents.1", [record(0), record(1)]).read_bytes()
    end = frame_ends(data)[1]
    (tmp_path / "tfevents.1").write_bytes(data[:end] + b"\0" * (len(data) - end))  # as over a network, now and then
    reader = LogReader(tmp_path)
    assert "no TensorBoard event" in reader.read()["."].notes[0]
    (tmp_path / "tfevents.1").write_bytes(data)
    run = reader.read()["."]
    assert (run.steps.tolist(), run.notes) == ([0, 1], ())


def test_a_file_that_became_readable_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_records(tmp_path / "tfevents.1", [record(0)])
    reader = LogReader(tmp_path)

    def refused(self: LocalFiles, file: EventFile) -> AbstractContextManager[BinaryIO]:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(LocalFiles, "open", refused)
        assert reader.read()["."].notes == ("tfevents.1: could not be read (Permission denied)",)
    run = reader.read()["."]
    assert (run.steps.tolist(), run.notes) == ([0], ())


def test_another_file_in_the_place_of_one(tmp_path: Path) -> None:
    path = write_records(tmp_path / "tfevents.1", [record(0), record(1)])
    reader = LogReader(tmp_path)
    assert steps(reader) == {".": [0, 1]}
    write_records(tmp_path / "other", [record(s) for s in range(5, 9)])
    (tmp_path / "other").replace(path)
    assert steps(reader) == {".": [5, 6, 7, 8]}
    size = path.stat().st_size
    write_records(path, [record(s) for s in range(1, 5)])  # written over: the same file, the same size
    assert path.stat().st_size == size
    os.utime(path, ns=(1, 1))
    assert steps(reader) == {".": [1, 2, 3, 4]}
    write_records(path, [record(3)])  # shorter
    assert steps(reader) == {".": [3]}


@pytest.mark.parametrize("seed", range(8))
def test_whatever_happens_to_the_files_it_is_as_read_anew(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    logdir = tmp_path / "logs"
    reader, encoder = LogReader(logdir), Encoder(COLUMNS)
    write_records(logdir / "0" / "tfevents.1", [record(0)])
    for step in range(1, 40):
        _change(rng, logdir, encoder, step)
        if rng.random() < 0.7:
            assert_up_to_date(reader, logdir)
    assert_up_to_date(reader, logdir)


def _change(rng: random.Random, logdir: Path, encoder: Encoder, step: int) -> None:
    """Do one of the things that happen to logs."""
    files = sorted(logdir.rglob("tfevents*"))
    path = rng.choice(files)
    data = path.read_bytes()
    layers = (*LAYERS, Layer("head", "Linear", "linear")) if rng.random() < 0.3 else LAYERS
    new = write_frames(logdir.parent / "new", event(encoder.record(record(step, layers=layers)), step, 1000.0 + step))
    match rng.choice(["append", "append", "append", "half", "file", "run", "delete", "truncate", "replace", "damage"]):
        case "append":
            path.write_bytes(data + new.read_bytes())
        case "half":
            path.write_bytes(data + new.read_bytes()[: rng.randrange(100)])
        case "file":
            write_records(path.parent / f"tfevents.{rng.randrange(99)}", [record(step, layers=layers)])
        case "run":
            write_records(logdir / str(rng.randrange(4)) / "tfevents.50", [record(step)])
        case "delete" if len(files) > 1:
            path.unlink()
        case "truncate":
            path.write_bytes(data[: rng.randrange(len(data) + 1)])
        case "replace":
            write_records(logdir.parent / "other", [record(s) for s in range(step)]).replace(path)
        case "damage" if data:
            at = rng.randrange(len(data))
            other = data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]
            new.write_bytes(other)
            new.replace(path)
