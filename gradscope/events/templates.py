"""Events that are the same bytes but for their numbers, which are then taken out of all of them at once."""

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from gradscope.records import Floats

# How protobuf writes a field: the lower three bits of its key.
_VARINT, _BYTES = 0, 2
_SIZES = {1: 8, 5: 4}
"""By how a field is written, how many bytes it always has."""

# Keys of fields: number * 8 + how it is written.
_WALL_TIME, _STEP, _SUMMARY = 0x09, 0x10, 0x2A  # of an `Event`
_VALUE = 0x0A  # of a `Summary`
_SIMPLE_VALUE, _TENSOR = 0x15, 0x42  # of a `Summary.Value`
_TENSOR_CONTENT = 0x22  # of a `TensorProto`

Rows = npt.NDArray[np.uint8]
"""Events of the same length: uint8[n, length]."""

_HIGH_BIT = 0x80
"""Of each byte of a varint, whether another one follows."""


class Template:
    """What an event has in common with others of its length: all but its step, its wall time, scalars and tensors.

    Where what is common is the same, protobuf takes an event apart in the same way, and refuses it or not: any bytes
    are a number. That goes for an event as protobuf itself writes it, in which no field stands twice.
    """

    def __init__(self, data: bytes, tags: Sequence[str]) -> None:
        self.tags = tags
        """Of the first values of the summary; each is a tensor."""
        self._contents: list[slice] = []
        self._step = self._wall_time = slice(0, 0)
        self._example = np.frombuffer(data, dtype=np.uint8)
        self._common = np.full(len(data), 0xFF, dtype=np.uint8)
        """By byte, the bits that are common to all."""
        for key, place in _fields(data, slice(0, len(data))):
            if key == _WALL_TIME:
                self._wall_time = self._number(place)
            elif key == _STEP:
                self._step = place
                self._common[place] = _HIGH_BIT
            elif key == _SUMMARY:
                self._contents += [self._content(data, value) for key, value in _fields(data, place) if key == _VALUE]

    def fits(self, rows: Rows) -> npt.NDArray[np.bool_]:
        """Say which of the events have the same in common: bool[n]."""
        if rows.shape[1] != len(self._example):
            return np.zeros(len(rows), dtype=np.bool_)
        differing = rows ^ self._example
        differing &= self._common
        return np.logical_not(differing.any(axis=1))

    def steps(self, rows: Rows) -> npt.NDArray[np.int64]:
        """Return the steps of events that fit: int64[n]."""
        steps = np.zeros(len(rows), dtype=np.uint64)
        for i, byte in enumerate(rows[:, self._step].T):  # of the tenth all but one bit are dropped
            steps |= (byte & ~np.uint8(_HIGH_BIT)).astype(np.uint64) << np.uint64(7 * i)
        return steps.view(np.int64)

    def wall_times(self, rows: Rows) -> npt.NDArray[np.float64]:
        """Return the wall times of events that fit: float64[n]."""
        if self._wall_time == slice(0, 0):
            return np.zeros(len(rows))
        wall_times: npt.NDArray[np.float64] = rows[:, self._wall_time].copy().view("<f8")[:, 0]
        return wall_times

    def floats(self, rows: Rows, value: int) -> Floats:
        """Return the tensors of a value of events that fit: float32[n, k]."""
        floats: Floats = rows[:, self._contents[value]].copy().view("<f4")
        return floats

    def _content(self, data: bytes, value: slice) -> slice:
        content = slice(0, 0)
        for key, place in _fields(data, value):
            if key == _SIMPLE_VALUE:
                self._number(place)
            elif key == _TENSOR:
                parts = dict(_fields(data, place))
                content = self._number(parts.get(_TENSOR_CONTENT, content))
        return content

    def _number(self, place: slice) -> slice:
        self._common[place] = 0
        return place


def _fields(data: bytes, message: slice) -> Iterator[tuple[int, slice]]:
    """Yield of each field of a sound message its key, and where in `data` its content is."""
    at: int = message.start
    while at < message.stop:
        key, start = _varint(data, at)
        written = key & 0b111
        if written == _BYTES:
            size, start = _varint(data, start)
            at = start + size
        elif written in _SIZES:
            at = start + _SIZES[written]
        elif written == _VARINT:
            _, at = _varint(data, start)
        else:
            return  # a group, which nothing of ours is: it and all behind it is common
        yield key, slice(start, at)


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """Return the number that is written at a place, and where it ends."""
    number = shift = 0
    while data[at] & _HIGH_BIT:
        number |= (data[at] & ~_HIGH_BIT) << shift
        at, shift = at + 1, shift + 7
    return number | data[at] << shift, at + 1
