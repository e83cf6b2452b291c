"""Scalars that a training logged itself, read from event files: accuracies and losses."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from google.protobuf.message import DecodeError
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.util import tensor_util

from gradscope import event_files

WANTED = re.compile("acc|loss", re.IGNORECASE)
_WANTED_BYTES = re.compile(WANTED.pattern.encode(), re.IGNORECASE)
MOST_TAGS = 100


class Curve(NamedTuple):
    """The finite values of a scalar in brief."""

    last: float
    lowest: float
    highest: float


def read_curves(files: Sequence[Path]) -> dict[str, Curve]:
    """Return the scalars in event `files` whose tag contains ``acc`` or ``loss``, by tag, in order of appearance.

    Those of GradScope itself are left out, and so is what is damaged, or beyond the first 100 tags.
    """
    curves: dict[str, Curve] = {}
    for path in files:
        try:
            for tag, value in _scalars(path):
                known = curves.get(tag)
                if known is not None:
                    curves[tag] = Curve(value, min(value, known.lowest), max(value, known.highest))
                elif len(curves) < MOST_TAGS:
                    curves[tag] = Curve(value, value, value)
        except (OSError, event_files.DamagedFileError, DecodeError):
            continue  # the reader of runs has said so
    return curves


def _scalars(path: Path) -> Iterator[tuple[str, float]]:
    for frame in event_files.frames(path):
        if b"gradscope" in frame or not _WANTED_BYTES.search(frame):
            continue
        for value in Event.FromString(frame).summary.value:
            number = _number(value)
            if WANTED.search(value.tag) and np.isfinite(number):
                yield value.tag, number


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
