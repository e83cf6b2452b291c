"""Frames are gone through as a loop over each of them would, whatever their sizes and whatever is damaged."""

import io
import random
import struct

import pytest

from gradscope.events import frames
from gradscope.events.checksum import RecordWriter, masked_crc
from gradscope.events.frames import MARKER, Frames


def framed(*data: bytes) -> bytes:
    file = io.BytesIO()
    for each in data:
        RecordWriter(file).write(each)
    return file.getvalue()


def read(content: bytes, position: int = 0, size: int | None = None) -> tuple[list[bytes], Frames]:
    reader = Frames(io.BytesIO(content), position, len(content) if size is None else size)
    return list(reader), reader


def flipped(content: bytes, at: int) -> bytes:
    return content[:at] + bytes([content[at] ^ 0x10]) + content[at + 1 :]


@pytest.fixture(params=[16, 64, 1000, 1 << 20])
def chunk(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(frames, "CHUNK", request.param)
    return int(request.param)


def some_data(seed: int) -> list[bytes]:
    rng = random.Random(seed)
    data = [rng.randbytes(rng.choice((1, 5, 40, 300, 2000))) for _ in range(60)]
    for i in rng.sample(range(60), 20):
        at = rng.randrange(len(data[i]) + 1)
        data[i] = data[i][:at] + MARKER + data[i][at:]
    return data


@pytest.mark.parametrize("seed", range(5))
def test_those_with_the_marker_are_found(chunk: int, seed: int) -> None:
    data = some_data(seed)
    found, reader = read(framed(*data))
    assert found == [each for each in data if MARKER in each]
    assert (reader.unread, reader.damaged, reader.skipped, reader.is_damaged) == (0, 0, 0, False)


def test_a_cut_anywhere_leaves_what_is_whole_and_is_gone_on_from(chunk: int) -> None:
    data = [b"a", MARKER, b"x" * 70 + MARKER, b"b" * 30, MARKER + b"!"]
    content = framed(*data)
    for size in range(len(content) + 1):
        found, reader = read(content[:size])
        ends = [len(framed(*data[:i])) for i in range(len(data) + 1)]
        whole = max(i for i, end in enumerate(ends) if end <= size)
        assert found == [each for each in data[:whole] if MARKER in each]
        assert (reader.position, reader.unread, reader.is_damaged) == (ends[whole], size - ends[whole], False)
        rest, _ = read(content, reader.position)
        assert found + rest == [each for each in data if MARKER in each]


def test_a_flipped_bit_costs_one_frame(chunk: int) -> None:
    data = [b"a" * 9, MARKER + b"1", MARKER + b"2" * 90, b"b", MARKER + b"3"]
    starts = [len(framed(*data[:i])) for i in range(len(data))]
    content = framed(*data)
    for at in range(starts[-1]):
        hit = max(i for i, start in enumerate(starts) if start <= at)
        found, reader = read(flipped(content, at))
        assert found == [each for i, each in enumerate(data) if MARKER in each and i != hit]
        in_header = at < starts[hit] + 12
        assert reader.skipped == (starts[hit + 1] - starts[hit] if in_header else 0)
        loses_marker = MARKER in data[hit] and 12 <= at - starts[hit] < 12 + len(MARKER)
        assert reader.damaged == (MARKER in data[hit] and not in_header and not loses_marker)
        assert (reader.unread, reader.is_damaged) == (0, False)


@pytest.mark.parametrize("length", [0, 1 << 24, 2**63, 2**64 - 1])
@pytest.mark.parametrize("follows", [0, 1, 4096])
def test_a_length_with_a_wrong_checksum_and_nothing_behind_it_is_damage(length: int, follows: int) -> None:
    content = framed(MARKER) + struct.pack("<QI", length, 7) + b"\0" * follows
    found, reader = read(content)
    assert (found, reader.unread, reader.is_damaged) == ([MARKER], 12 + follows, True)


def test_a_length_beyond_the_file_is_one_that_is_waited_for() -> None:
    content = framed(MARKER) + struct.pack("<Q", 2**63) + masked_crc(struct.pack("<Q", 2**63)) + b"\0" * 99
    found, reader = read(content)
    assert (found, reader.unread, reader.is_damaged) == ([MARKER], 111, False)


def test_no_frame_is_seen_inside_of_another() -> None:
    inner = framed(MARKER + b" as data")
    found, _ = read(framed(b"a copy of a log: " + inner + b"."))
    assert [each[:6] for each in found] == [b"a copy"]


def test_a_header_that_is_right_by_chance_is_none() -> None:
    lone_header = framed(b"12345")[:12]
    found, reader = read(b"\1" * 30 + lone_header + b"no such data" + framed(MARKER))
    assert (found, reader.skipped) == ([MARKER], 54)


@pytest.mark.parametrize("before", [[], [b"a" * 30], [b"a" * 30, MARKER]])
def test_a_marker_where_a_frame_should_begin_is_damage(chunk: int, before: list[bytes]) -> None:
    """As where some bytes were cut out of a file."""
    lost = MARKER + b" and what was behind it"
    found, reader = read(framed(*before) + lost + framed(MARKER + b"!"))
    assert found == [*(data for data in before if MARKER in data), MARKER + b"!"]
    assert (reader.skipped, reader.damaged, reader.unread) == (len(lost), 0, 0)


@pytest.mark.parametrize("length", [9, 255, 256, 257, 65535, 65536, 65537, 1 << 20])
def test_it_goes_on_at_a_frame_of_any_length(length: int) -> None:
    data = MARKER.ljust(length, b"x")
    found, reader = read(b"\1" * 50 + framed(data))
    assert (found, reader.skipped) == ([data], 50)


def test_the_search_behind_damage_reads_no_more_than_it_looks_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "CHUNK", 64)
    sizes: list[int] = []

    class Measured(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            content = super().read(size)
            sizes.append(len(content))
            return content

    content = b"\1\0\0\0\0\0\0" * 300 + framed(MARKER)
    assert list(Frames(Measured(content), 0, len(content))) == [MARKER]
    assert max(sizes) <= 64 + 12


def test_the_search_behind_damage_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "REACH", 100)
    monkeypatch.setattr(frames, "CHUNK", 16)
    assert read(b"\1" * 100 + framed(MARKER))[0] == [MARKER]
    found, reader = read(b"\1" * 200 + framed(MARKER))
    assert (found, reader.position, reader.is_damaged) == ([], 0, True)


@pytest.mark.parametrize("left", [0, 5, 30, 100])
def test_a_file_that_became_shorter_meanwhile_ends_there(chunk: int, left: int) -> None:
    content = framed(MARKER, b"x" * 200 + MARKER)
    found, reader = read(content[:left], size=len(content))
    assert found == ([MARKER] if left >= 25 else [])
    assert reader.position == (25 if left >= 25 else 0)
    assert not reader.is_damaged


class Shrinking(io.BytesIO):
    """A file that is cut while it is read, for good or, as when it is written anew, only for a moment."""

    def __init__(self, content: bytes, lost: int) -> None:
        super().__init__(content)
        self._reads_left = 2
        self._lost = lost

    def read(self, size: int | None = -1) -> bytes:
        assert size is not None
        assert size >= 0, "all of a file is never read"
        self._reads_left -= 1
        content = super().read(size)
        return content[: -self._lost] if self._reads_left == 0 else content


@pytest.mark.parametrize("lost", [1, 10, 16])
def test_a_file_that_is_cut_within_a_large_frame_ends_before_it(monkeypatch: pytest.MonkeyPatch, lost: int) -> None:
    monkeypatch.setattr(frames, "CHUNK", 16)
    content = framed(b"x" * 100 + MARKER)
    reader = Frames(Shrinking(content, lost), 0, len(content))
    assert list(reader) == []
    assert (reader.position, reader.is_damaged) == (0, False)
