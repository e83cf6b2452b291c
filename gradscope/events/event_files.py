"""Event files under a log directory: which there are, of which run, and what shows that one has changed."""

import os
import re
import stat
from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol


@dataclass(frozen=True)
class EventFile:
    """An event file as it was when it was listed; two that are equal hold the same."""

    path: str
    """What it is opened by."""
    name: str
    """Without the directory."""
    size: int = 0
    """In bytes."""
    identity: object = None
    """Another one where another file has taken its place."""
    version: object = None
    """Another one where it was written to."""
    problem: str = ""
    """Why it cannot be read; empty where it can."""


class Files(Protocol):
    """A place that logs lie in."""

    def exists(self) -> bool:
        """Say whether there is such a place."""

    def runs(self) -> dict[str, list[EventFile]]:
        """Return the event files at or under the place by run, the runs in natural order, their files in that of time.

        A run is a directory that holds event files; its name is relative to the place, with forward slashes, "." for
        the place itself. Where the place is one event file, that file is the run ".". Nothing found, and no such
        place, give an empty dict.

        Raises:
            OSError: the place cannot be read.
        """

    def open(self, file: EventFile) -> AbstractContextManager[BinaryIO]:
        """Open a file for reading, until the context ends.

        Raises:
            OSError: the file cannot be opened, or, within the context, cannot be read.
        """


class LocalFiles:
    """A directory, or one event file. Links are followed, each directory is entered once."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def exists(self) -> bool:
        """Say whether there is such a file or directory."""
        return self._root.exists()

    def runs(self) -> dict[str, list[EventFile]]:
        """Return the event files by run; see `Files.runs`. Of directories that cannot be entered only `root` raises."""
        if self._root.is_file():
            return {".": [_local(self._root)]} if is_event_file(self._root.name) else {}
        runs = {}
        visited: set[Path] = set()
        for directory, subdirectories, names in os.walk(self._root, onerror=self._raise_for_root, followlinks=True):
            path = Path(directory)
            if path.resolve() in visited:  # a link that leads back
                subdirectories.clear()
                continue
            visited.add(path.resolve())
            if events := [path / name for name in filter(is_event_file, names)]:
                runs[path.relative_to(self._root).as_posix()] = in_order_of_time(map(_local, events))
        return {name: runs[name] for name in sorted(runs, key=natural)}

    def open(self, file: EventFile) -> AbstractContextManager[BinaryIO]:
        """Open a file; see `Files.open`."""
        return open(file.path, "rb", buffering=0, opener=_opened_at_once)

    def _raise_for_root(self, error: OSError) -> None:
        if error.filename == os.fspath(self._root) and self._root.is_dir():
            raise OSError(
                f"`logdir` must be a directory that can be read, got {error.filename!r}: {error.strerror}; give "
                "another, or ask for the right to read it"
            )


def _opened_at_once(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))  # a pipe may have taken the place of the file


def _local(path: Path) -> EventFile:
    try:
        status = path.stat()
    except OSError as error:
        return EventFile(str(path), path.name, problem=reason(error))
    if not stat.S_ISREG(status.st_mode):  # a pipe would keep us waiting, a device has no end
        return EventFile(str(path), path.name, problem="not a regular file")
    identity = (status.st_dev, status.st_ino)
    return EventFile(str(path), path.name, status.st_size, identity, (status.st_mtime_ns, status.st_ctime_ns))


def reason(error: OSError) -> str:
    """Return in a few words why a file could not be read."""
    return error.strerror or str(error).partition("\n")[0] or type(error).__name__


def is_event_file(name: str) -> bool:
    """Say whether TensorBoard would take a file of that name for one of its own."""
    return "tfevents" in name


def in_order_of_time(files: Iterable[EventFile]) -> list[EventFile]:
    """Return the files of a run in the order in which they were begun, as far as their names tell it."""
    return sorted(files, key=lambda file: (_time_in(file.name), natural(file.name)))


def _time_in(name: str) -> int:
    match = re.search(r"tfevents\.([0-9]+)", name)
    return int(match[1]) if match else 0


def natural(name: str) -> list[tuple[int, int, str]]:
    """Return what names of runs and files are sorted by: numbers in them count as numbers, 2 before 10."""
    parts = re.split(r"([0-9]+)", name)
    return [(0, int(part), part) if part.isdecimal() else (1, 0, part) for part in parts if part]
