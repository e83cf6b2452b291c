"""Event files as files: where they lie under a log directory, and the frames that each of them is made of."""

import os
import re
import struct
from collections.abc import Iterator
from pathlib import Path


class DamagedFileError(Exception):
    """The file cannot be read any further; the text says why."""


def find(root: Path) -> dict[str, list[Path]]:
    """Return the event files at or under `root` by run, names and files in natural order: 2 before 10.

    A run is a directory that holds event files; its name is relative to `root`, with forward slashes, "." for
    `root` itself. Where `root` is one event file, that file is the run ".". Links are followed, each directory is
    entered once. Nothing found gives an empty dict.
    """
    if root.is_file():
        return {".": [root]} if _is_event_file(root.name) else {}
    runs = {}
    visited: set[Path] = set()
    for directory, subdirectories, names in os.walk(root, followlinks=True):
        path = Path(directory)
        if path.resolve() in visited:  # a link that leads back
            subdirectories.clear()
            continue
        visited.add(path.resolve())
        if events := sorted(filter(_is_event_file, names), key=natural):
            runs[path.relative_to(root).as_posix()] = [path / name for name in events]
    return {name: runs[name] for name in sorted(runs, key=natural)}


def frames(path: Path) -> Iterator[bytes]:
    """Yield the data of each TFRecord frame of `path`: u64 length, u32 crc, data, u32 crc, little-endian.

    The checksums are not compared: in Python that would take longer than all the rest. An empty file yields nothing.

    Raises:
        DamagedFileError: a frame does not end within the file, or is empty, which TensorBoard never writes.
        OSError: the file cannot be read.
    """
    position, size = 0, path.stat().st_size
    with path.open("rb") as file:
        while position < size:
            header = file.read(12)
            length = struct.unpack("<Q", header[:8])[0] if len(header) == 12 else size
            position += 16 + length
            if position > size:
                raise DamagedFileError("the file ends inside a record")
            if length == 0:
                raise DamagedFileError("what follows is no TensorBoard event")
            yield file.read(length + 4)[:-4]


def _is_event_file(name: str) -> bool:
    return "tfevents" in name


def natural(name: str) -> list[tuple[int, int, str]]:
    """Return what names of runs and files are sorted by: numbers in them count as numbers, 2 before 10."""
    parts = re.split(r"([0-9]+)", name)
    return [(0, int(part), part) if part.isdecimal() else (1, 0, part) for part in parts if part]
