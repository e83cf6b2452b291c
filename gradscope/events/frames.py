"""The frames that an event file is made of, and how those that hold our values are found among them."""

import re
from collections.abc import Callable, Iterator, Sequence
from typing import BinaryIO

from gradscope.events.checksum import masked_crc

MARKER = b"gradscope"
"""All our tags begin with it, so that a frame without it need not be looked at."""

Find = Callable[[bytes, int], int]
"""Where in some bytes, from a place on, something stands that is looked for: -1 where it does not."""

CHUNK = 1 << 20
"""How many bytes are read at a time."""

REACH = 1 << 24
"""How many bytes behind a damaged length are searched for the next frame."""

_HEADER, _FOOTER = 12, 4
_ZEROS = re.compile(rb"\0{5,}")
"""What ends the length of every frame of less than 2**24 bytes: searched for at the speed of C."""
_BEYOND_ANY_FILE = 1 << 65
"""In place of the size of a frame whose header is wrong or not there."""


def find_marker(data: bytes, start: int) -> int:
    """Find `MARKER`."""
    return data.find(MARKER, start)


class Frames:
    """The data of the frames that hold what `find` finds, from `position` on: gone through once, from chunk to chunk.

    A frame is a u64 length, the u32 checksum of that, data, and the u32 checksum of the data, all little-endian
    (TFRecord). The checksum of every length is compared, so that a damaged one cannot hide what follows, and that of
    the data of those that are given. Behind a damaged length it goes on at the next frame both of whose checksums are
    right: by chance they are in one of 2**64 places.
    """

    def __init__(self, file: BinaryIO, position: int, size: int, find: Find = find_marker) -> None:
        self.position = position
        """Where the first frame begins that was not gone through: `size` after the last, less where that is not
        whole or where no frame is."""
        self.damaged = 0
        """How many frames held what is looked for and were left out, because their checksum is wrong."""
        self.skipped = 0
        """How many bytes were passed over between a damaged length and the next frame."""
        self.is_damaged = False
        """Whether what is at `position` is no frame, and not even the beginning of one."""
        self._file = file
        self._find = find
        self._end = size
        self._sizes = _Sizes()

    @property
    def unread(self) -> int:
        """How many bytes lie behind `position`."""
        return self._end - self.position

    def __iter__(self) -> Iterator[bytes]:
        for batch in self.batches():
            yield from batch

    def batches(self) -> Iterator[list[bytes]]:
        """Yield the same data, that of a chunk together."""
        while self.position < self._end:
            chunk = self._read(self.position, CHUNK)
            size = self._sizes[chunk[:_HEADER]]
            if size <= len(chunk):
                yield list(self._in_chunk(chunk))
            elif size <= self.unread:
                yield list(self._larger_than_chunk(size))
            elif size < _BEYOND_ANY_FILE or len(chunk) < _HEADER:
                return  # the file ends within this frame
            elif not self._resume():
                self.is_damaged = True
                return

    def _in_chunk(self, chunk: bytes) -> Iterator[bytes]:
        """Go through the frames that lie in `chunk` as a whole."""
        sizes, offset = self._sizes, self.position
        start = end = 0
        while end < len(chunk):
            hit = self._find(chunk, end)
            stop = hit + 1 if hit >= 0 else len(chunk)
            while end < stop:  # once for each frame of a log: nothing is as short as this
                start = end
                end += sizes[chunk[end : end + _HEADER]]
            if end > len(chunk):
                self.position = offset + start
                return
            self.position = offset + end
            if hit >= 0:
                yield from self._checked(chunk[start + _HEADER : end - _FOOTER], chunk[end - _FOOTER : end])

    def _larger_than_chunk(self, size: int) -> Iterator[bytes]:
        start, reach = self.position, CHUNK + len(MARKER) - 1
        pieces = (self._read(start + i, min(reach, size - i)) for i in range(0, size, CHUNK))
        holds_marker = any(self._find(piece, 0) >= 0 for piece in pieces)
        frame = self._read(start, size) if holds_marker else b""
        if start + size <= self._end:  # else the file became shorter meanwhile
            self.position = start + size
            if frame:
                yield from self._checked(frame[_HEADER:-_FOOTER], frame[-_FOOTER:])

    def _resume(self) -> bool:
        for start, size in self._candidates():
            frame = self._read(start, size)
            if masked_crc(frame[_HEADER:-_FOOTER]) == frame[-_FOOTER:]:
                self.skipped += start - self.position
                self.position = start
                return True
        return False

    def _candidates(self) -> Iterator[tuple[int, int]]:
        """Yield where frames may begin behind a damaged length, and how long they are by a checksum that is right."""
        for offset in range(self.position + 1, min(self.position + REACH, self._end), CHUNK):
            chunk = self._read(offset, CHUNK + _HEADER)
            for zeros in _ZEROS.finditer(chunk):
                for start in range(max(zeros.start() - 3, 0), zeros.start()):  # from the first zero on it would be 0
                    size = self._sizes[chunk[start : start + _HEADER]]
                    if offset + start + size <= self._end:
                        yield offset + start, size

    def _checked(self, data: bytes, checksum: bytes) -> Sequence[bytes]:
        if masked_crc(data) == checksum:
            return (data,)
        self.damaged += 1
        return ()

    def _read(self, position: int, size: int) -> bytes:
        self._file.seek(position)
        wanted = max(min(size, self._end - position), 0)  # a negative number would read all
        read = self._file.read(wanted)
        if len(read) < wanted:
            self._end = position + len(read)
        return read


class _Sizes(dict[bytes, int]):
    """By its header, how many bytes a frame takes: the frames of a log share a few lengths, each is checked once."""

    def __missing__(self, header: bytes) -> int:
        if len(header) < _HEADER or masked_crc(header[:8]) != header[8:]:
            return _BEYOND_ANY_FILE
        size = self[header] = _HEADER + int.from_bytes(header[:8], "little") + _FOOTER
        return size
