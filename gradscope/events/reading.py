"""Event files → runs: all at once (`load`), or again and again while they are written (`LogReader`)."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import BinaryIO

from gradscope.events.decoding import Decoder
from gradscope.events.event_files import EventFile, Files, reason
from gradscope.events.frames import Frames
from gradscope.events.parsing import Parser
from gradscope.events.remote_files import files_under
from gradscope.records import Run
from gradscope.wording import counted


def load(logdir: str | os.PathLike[str]) -> dict[str, Run]:
    """Read every run with GradScope data at or under `logdir`, in natural order of their names.

    `logdir` is a directory or one event file, on a disk or, as for Lightning's loggers, wherever fsspec reaches:
    ``s3://bucket/logs``. A run is a directory that holds event files, its name that directory relative to `logdir`
    with forward slashes, "." for `logdir` itself. What is damaged is left out and said in `Run.notes`; nothing in a
    file makes this raise.

    Raises:
        FileNotFoundError: `logdir` does not exist.
        OSError: `logdir` cannot be read: permissions, the network, credentials.
        ValueError: there is no event file at or under `logdir`, or none with GradScope data; or it is an address of a
            protocol that fsspec does not know, or that needs a package which is not installed.
    """
    reader = LogReader(logdir)
    runs = reader.read(live=False)
    if not runs:
        raise reader._nothing_found()
    return runs


class LogReader:
    """Reads the runs at or under `logdir` again and again; of each file it reads only what is new.

    `logdir` is what `gradscope.load` takes, but it need not exist yet. Files may grow, come and go, be cut or be
    replaced between two readings: what is returned is always what is there now.

    Raises:
        OSError: `logdir` is an address, and its file system refuses.
        ValueError: `logdir` is an address of a protocol that fsspec does not know, or that needs a package which is
            not installed.
    """

    def __init__(self, logdir: str | os.PathLike[str]) -> None:
        self._logdir = os.fspath(logdir)
        self._files = files_under(self._logdir)
        self._runs: dict[str, _RunReader] = {}

    def read(self, *, live: bool = True) -> dict[str, Run]:
        """Return every run with GradScope data, in natural order; one without news is the same object as before.

        While a run is `live` its last file may end inside a record, which is then waited for; else that is said in
        `Run.notes`. Nothing there yet gives an empty dict.

        Raises:
            OSError: `logdir` cannot be read: permissions, the network, credentials.
        """
        listed = self._files.runs()
        self._runs = {name: self._runs.get(name) or _RunReader(name, self._files) for name in listed}
        runs = {name: self._runs[name].read(files, live) for name, files in listed.items()}
        return {name: run for name, run in runs.items() if run is not None}

    def _nothing_found(self) -> ValueError | FileNotFoundError:
        """Return an error that says why there were no runs in the last reading, and what to do."""
        if not self._files.exists():
            return FileNotFoundError(
                f"`logdir` must be a directory of TensorBoard logs or an event file, got {self._logdir!r}, which does "
                "not exist; Lightning writes to 'lightning_logs' in the directory where the training was started"
            )
        if not self._runs:
            return ValueError(
                f"`logdir` must hold TensorBoard event files, got {self._logdir!r} with none in it; "
                "give the directory that the Trainer's TensorBoardLogger writes to"
            )
        return ValueError(
            f"`logdir` must hold runs recorded by GradScope, got {self._logdir!r} with event files but none of its "
            "data; add `GradScope()` to the Trainer's callbacks and log with a TensorBoardLogger"
        )


class _RunReader:
    """One run: its files in order, and how far each was read."""

    def __init__(self, name: str, files: Files) -> None:
        self._name, self._files = name, files
        self._start_over()
        self._shown: tuple[object, Run | None] = (None, None)

    def read(self, listed: Sequence[EventFile], live: bool) -> Run | None:
        if [reader.file for reader in self._readers] != list(listed):
            if not self._is_continued_by(listed):
                self._start_over()
            # The decoder outlives a file: a logger that was closed and reopened goes on in a new one without metadata.
            self._readers += [_FileReader(file, self._files) for file in listed[len(self._readers) :]]
            for reader, file in zip(self._readers, listed, strict=True):
                reader.read(file, self._decoder)
        state = (*(reader.file for reader in self._readers), live)
        if self._shown[0] != state:
            self._shown = (state, self._run(live))
        return self._shown[1]

    def _start_over(self) -> None:
        self._decoder = Decoder()
        self._readers: list[_FileReader] = []

    def _is_continued_by(self, listed: Sequence[EventFile]) -> bool:
        """Say whether what is new comes after what was read: a decoder reads events in the order of the files."""
        if not self._readers:
            return True
        *earlier, last = self._readers
        *before, now = listed[: len(self._readers)]
        return [reader.file for reader in earlier] == before and last.is_continued_by(now)

    def _run(self, live: bool) -> Run | None:
        notes: list[str] = []
        for reader in self._readers:
            notes += reader.notes(not self._decoder.is_empty, live and reader is self._readers[-1])
        return None if self._decoder.is_empty and not notes else self._decoder.run(self._name, notes)


class _FileReader:
    """One file, and how far it was read."""

    def __init__(self, file: EventFile, files: Files) -> None:
        self.file = file
        self._files = files
        self._parser = Parser()
        self._position = self._unread = self._records = self._damaged = self._skipped = 0
        self._is_damaged = self._is_listed = False
        self._ends = b""

    def is_continued_by(self, file: EventFile) -> bool:
        """Say whether `file` begins with what was read of this one."""
        if file == self.file:
            return True
        if file.problem or (file.path, file.identity) != (self.file.path, self.file.identity):
            return False
        try:
            with self._files.open(file) as opened:
                return _ends(opened, self._position) == self._ends
        except OSError:
            return False

    def read(self, file: EventFile, decoder: Decoder) -> None:
        """Read what is new in `file`, which this one is continued by."""
        if file == self.file and self._is_listed:
            return
        self.file, self._is_listed = file, True
        if file.problem:
            return
        try:
            with self._files.open(file) as opened:
                self._read(opened, decoder)
                self._ends = _ends(opened, self._position)
        except OSError as error:
            self.file = replace(file, problem=reason(error))

    def notes(self, has_data: bool, is_awaited: bool) -> Iterator[str]:
        """Yield what is wrong; `has_data` where the run is one of ours, `is_awaited` where the file may still grow."""
        if self.file.problem:
            yield f"{self.file.name}: could not be read ({self.file.problem})"
        if damaged := self._damaged + self._parser.damaged:
            yield f"{self.file.name}: {counted(damaged, 'damaged event')} left out"
        if has_data and self._skipped:
            yield f"{self.file.name}: {counted(self._skipped, 'byte')} left out that are no TensorBoard event"
        if has_data and self._unread and (self._is_damaged or not is_awaited):
            why = "what follows is no TensorBoard event" if self._is_damaged else "the file ends inside a record"
            records, size = counted(self._records, "record"), counted(self._unread, "byte")
            yield f"{self.file.name}: cut off after {records} ({why}, {size} not read); everything before is shown"

    def _read(self, opened: BinaryIO, decoder: Decoder) -> None:
        frames = Frames(opened, self._position, self.file.size)
        before = decoder.count
        try:
            for events in frames.batches():
                self._parser.parse(events, decoder)
        finally:
            self._position, self._unread, self._is_damaged = frames.position, frames.unread, frames.is_damaged
            self._damaged += frames.damaged
            self._skipped += frames.skipped
            self._records += decoder.count - before


def _ends(file: BinaryIO, position: int) -> bytes:
    """Return how the part of `file` up to `position` begins and ends: with times, so that another one differs."""
    size = min(position, 64)
    file.seek(0)
    first = file.read(size)
    file.seek(position - size)
    return first + file.read(size)
