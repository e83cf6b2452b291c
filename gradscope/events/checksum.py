"""Gives a TensorBoard writer a checksum that is computed by a C library in place of a loop in Python.

TensorBoard frames each event with CRC-32C, byte by byte in Python: 0.1 to 0.3 ms a kilobyte, in a thread that holds up
the training while it counts. The bytes in the file are the same.
"""

import struct
import warnings
from typing import Any, Protocol

with warnings.catch_warnings():
    warnings.simplefilter("ignore", RuntimeWarning)  # of one without C code, which is not used then
    import google_crc32c

_BY_C = google_crc32c.implementation == "c"


class Writer(Protocol):
    """A file, or what writes to one."""

    def write(self, data: bytes) -> object:
        """Write some bytes."""

    def flush(self) -> object:
        """Hand on what has been written."""

    def close(self) -> object:
        """Close it."""

    @property
    def closed(self) -> bool:
        """Whether it is closed."""


class Before:
    """Stands before another writer, to which it leaves all but what is written."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer

    def flush(self) -> None:
        """Hand on to the system what has been written."""
        self._writer.flush()

    def close(self) -> None:
        """Close the file."""
        self._writer.close()

    @property
    def closed(self) -> bool:
        """Whether the file is."""
        return self._writer.closed


class RecordWriter(Before):
    """Writes TFRecord frames, as `tensorboard.summary.writer.record_writer.RecordWriter` does."""

    def write(self, data: bytes) -> None:
        """Write one frame: u64 length, u32 crc, data, u32 crc, little-endian."""
        length = struct.pack("<Q", len(data))
        self._writer.write(length + masked_crc(length) + data + masked_crc(data))


def speed_up(event_writer: Any) -> bool:
    """Make `event_writer`, an `EventFileWriter` of TensorBoard, compute checksums fast. Returns whether it does.

    It is left as it is where it is built in another way than expected, or the library has no C code for this machine.
    """
    try:
        asynchronous = event_writer._async_writer
        worker, writer = asynchronous._worker, asynchronous._writer
        file, is_shared = writer._writer, worker._record_writer is writer
    except AttributeError:
        return False
    if _BY_C and is_shared and not isinstance(writer, RecordWriter):
        asynchronous._writer = worker._record_writer = RecordWriter(file)
    return _BY_C and is_shared


def masked_crc(data: bytes) -> bytes:
    """The CRC-32C of `data`, rotated by 15 bits and moved by a constant as TFRecord files want it."""
    crc = int(google_crc32c.value(data))
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)
