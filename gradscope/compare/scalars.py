"""Scalars that a training logged itself, read from event files: accuracies and losses."""

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from google.protobuf.message import DecodeError
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.util import tensor_util

from gradscope.events.event_files import EventFile, Files
from gradscope.events.frames import MARKER, Frames

WANTED = re.compile("acc|loss", re.IGNORECASE)
_WANTED_BYTES = re.compile(WANTED.pattern.encode(), re.IGNORECASE)
MOST_TAGS = 100


class Curve(NamedTuple):
    """The finite values of a scalar in brief."""

    last: float
    lowest: float
    highest: float


def read_curves(place: Files, files: Sequence[EventFile]) -> dict[str, Curve]:
    """Return the scalars in the event `files` of `place` whose tag has ``acc`` or ``loss``, in order of appearance.

    Those of GradScope itself are left out, and so is what is damaged, or beyond the first 100 tags.
    """
    curves: dict[str, Curve] = {}
    for file in files:
        try:
            with place.open(file) as opened:
                for tag, value in _scalars(Frames(opened, 0, file.size, _find_wanted)):
                    _add(curves, tag, value)
        except OSError:
            continue  # the reader of runs has said so
    return curves


def _add(curves: dict[str, Curve], tag: str, value: float) -> None:
    known = curves.get(tag)
    if known is not None:
        curves[tag] = Curve(value, min(value, known.lowest), max(value, known.highest))
    elif len(curves) < MOST_TAGS:
        curves[tag] = Curve(value, value, value)


def _find_wanted(data: bytes, start: int) -> int:
    found = _WANTED_BYTES.search(data, start)
    return found.start() if found else -1


def _scalars(frames: Frames) -> Iterator[tuple[str, float]]:
    for frame in frames:
        for value in _values(frame):
            number = _number(value)
            if WANTED.search(value.tag) and np.isfinite(number):
                yield value.tag, number


def _values(frame: bytes) -> list[Summary.Value]:
    if MARKER in frame:
        return []
    try:
        return [*Event.FromString(frame).summary.value]
    except DecodeError:
        return []


def _number(value: Summary.Value) -> float:
    if value.HasField("simple_value"):
        return float(value.simple_value)
    if not value.HasField("tensor"):
        return float("nan")
    try:
        numbers = np.asarray(tensor_util.make_ndarray(value.tensor))
    except (TypeError, ValueError):
        return float("nan")
    return float(numbers.reshape(())) if numbers.size == 1 and numbers.dtype.kind in "fiu" else float("nan")
