"""The frames that an event file is made of, and how those that hold our values are found among them."""

from collections.abc import Iterator
from typing import BinaryIO

from gradscope.checksum import masked_crc

MARKER = b"gradscope"
"""All our tags begin with it, so that a frame without it need not be looked at."""

CHUNK = 1 << 20
"""How many bytes are read at a time."""

_HEADER, _FOOTER = 12, 4
_BEYOND_ANY_FILE = 1 << 65
"""In place of the size of a frame whose header is wrong or not there."""


class Frames:
    """The data of the frames that hold `MARKER`, from `position` on: a file is gone through once, from chunk to chunk.

    A frame is a u64 length, the u32 checksum of that, data, and the u32 checksum of the data, all little-endian
    (TFRecord). The checksum of every length is compared, so that a damaged one cannot hide what follows, and that of
    the data where they hold `MARKER`.
    """

    def __init__(self, file: BinaryIO, position: int, size: int) -> None:
        self.position = position
        """Where the first frame begins that was not gone through: `size` after the last, less where that is not
        whole or where no frame is."""
        self.damaged = 0
        """How many frames held `MARKER` and were left out, because their checksum is wrong."""
        self.is_damaged = False
        """Whether what is at `position` is no frame, and not even the beginning of one."""
        self._file = file
        self._end = size
        self._sizes = _Sizes()

    @property
    def unread(self) -> int:
        """How many bytes lie behind `position`."""
        return self._end - self.position

    def __iter__(self) -> Iterator[bytes]:
        while self.position < self._end:
            chunk = self._read(self.position, CHUNK)
            size = self._sizes[chunk[:_HEADER]]
            if size <= len(chunk):
                yield from self._in_chunk(chunk)
            elif size <= self.unread:
                yield from self._larger_than_chunk(size)
            else:
                self.is_damaged = size == _BEYOND_ANY_FILE and len(chunk) >= _HEADER
                return

    def _in_chunk(self, chunk: bytes) -> Iterator[bytes]:
        """Go through the frames that lie in `chunk` as a whole."""
        sizes, offset = self._sizes, self.position
        start = end = 0
        while end < len(chunk):
            hit = chunk.find(MARKER, end)
            stop = hit if hit >= 0 else len(chunk)
            while end < stop:  # once for each frame of a log: nothing is as short as this
                start = end
                end += sizes[chunk[end : end + _HEADER]]
            if end > len(chunk):
                self.position = offset + start
                return
            self.position = offset + end
            if hit >= 0:
                yield from self._checked(chunk[start + _HEADER : end])

    def _larger_than_chunk(self, size: int) -> Iterator[bytes]:
        start, reach = self.position, CHUNK + len(MARKER) - 1
        pieces = (self._read(start + i, min(reach, size - i)) for i in range(0, size, CHUNK))
        holds_marker = any(MARKER in piece for piece in pieces)
        frame = self._read(start, size) if holds_marker else b""
        if start + size <= self._end:  # else the file became shorter meanwhile
            self.position = start + size
            if frame:
                yield from self._checked(frame[_HEADER:])

    def _checked(self, data_and_checksum: bytes) -> Iterator[bytes]:
        data = data_and_checksum[:-_FOOTER]
        if masked_crc(data) == data_and_checksum[-_FOOTER:]:
            yield data
        else:
            self.damaged += 1

    def _read(self, position: int, size: int) -> bytes:
        self._file.seek(position)
        wanted = min(size, self._end - position)
        read = self._file.read(wanted)
        if len(read) < wanted:
            self._end = position + len(read)
        return read


class _Sizes(dict[bytes, int]):
    """By its header, how many bytes a frame takes: the frames of a log share a few lengths, each is checked once."""

    def __missing__(self, header: bytes) -> int:
        length = int.from_bytes(header[:8], "little")
        # TensorBoard never writes an empty frame, and zeros are what a lost block of a file looks like.
        if len(header) < _HEADER or length == 0 or masked_crc(header[:8]) != header[8:]:
            return _BEYOND_ANY_FILE
        size = self[header] = _HEADER + length + _FOOTER
        return size
