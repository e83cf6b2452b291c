"""Events → decoder: each taken apart by protobuf, but those that are alike all at once."""

from collections.abc import Iterator, Sequence
from itertools import groupby

import numpy as np
from google.protobuf.message import DecodeError
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.types_pb2 import DT_FLOAT, DT_STRING

from gradscope.events.decoding import GLOBALS_TAG, PLUGIN_NAME, Content, Decoder
from gradscope.events.templates import Rows, Template

FEW = 8
"""Up to how many events of one length are sooner taken apart than compared."""


class Parser:
    """Hands the events of a file on to a decoder, and knows what many of them have in common."""

    def __init__(self) -> None:
        self.damaged = 0
        """How many events were no protobuf, and were left out."""
        self._template: Template | None = None

    def parse(self, events: Sequence[bytes], decoder: Decoder) -> None:
        """Hand on `events`, in this order."""
        for size, group in groupby(events, key=len):
            of_one_length = list(group)
            if len(of_one_length) <= FEW:
                self._parse_each(of_one_length, decoder)
            else:
                rows = np.frombuffer(b"".join(of_one_length), dtype=np.uint8).reshape(-1, size)
                self._parse_alike(of_one_length, rows, decoder)

    def _parse_each(self, events: Sequence[bytes], decoder: Decoder) -> None:
        for data in events:
            try:
                event = Event.FromString(data)
            except DecodeError:
                self.damaged += 1
            else:
                _hand_on(event, decoder)

    def _parse_alike(self, events: Sequence[bytes], rows: Rows, decoder: Decoder) -> None:
        """Hand on events of the same length, uint8[n, length] `rows`: together those that are like the first."""
        if self._template is None or not self._template.fits(rows[:1]).all():
            self._template = _template_of(events[0])
        template = self._template
        if template is None:
            self._parse_each(events, decoder)
            return
        end = 0
        for fits, alike in groupby(template.fits(rows).tolist()):
            start, end = end, end + len(list(alike))
            # Asked each time: an event between may have said otherwise of a tag.
            if fits and decoder.are_measurements(template.tags):
                _hand_on_alike(template, rows[start:end], decoder)
            else:
                self._parse_each(events[start:end], decoder)


def _hand_on(event: Event, decoder: Decoder) -> None:
    values = []
    for value in _own(event):
        tag = value.tag
        if _is_described(value):
            decoder.describe(tag, value.metadata.plugin_data.content)
        if tag in decoder.series:
            values.append((tag, _content(value.tensor)))
        elif tag == GLOBALS_TAG:  # of every record
            decoder.miss()
    decoder.read(event.step, event.wall_time, values)


def _hand_on_alike(template: Template, rows: Rows, decoder: Decoder) -> None:
    if GLOBALS_TAG in template.tags and GLOBALS_TAG not in decoder.series:
        decoder.miss(len(rows))
    values = [(tag, template.floats(rows, i)) for i, tag in enumerate(template.tags)]
    decoder.read_many(template.steps(rows), template.wall_times(rows), values)


def _template_of(data: bytes) -> Template | None:
    """Return what events like `data` have in common; None for one that holds more than measurements."""
    try:
        event = Event.FromString(data)
    except DecodeError:
        return None
    own = list(_own(event))
    are_floats = all(_are_floats(value.tensor) and not _is_described(value) for value in own)
    # What protobuf would write otherwise may hold a field twice, of which the last one counts.
    return Template(data, [value.tag for value in own]) if are_floats and event.SerializeToString() == data else None


def _own(event: Event) -> Iterator[Summary.Value]:
    for value in event.summary.value:
        yield value
        if value.tag == GLOBALS_TAG:
            return  # what follows it is made for TensorBoard's own dashboards, often a hundred curves


def _is_described(value: Summary.Value) -> bool:
    return bool(value.HasField("metadata")) and value.metadata.plugin_data.plugin_name == PLUGIN_NAME


def _content(tensor: TensorProto) -> Content:
    if tensor.dtype == DT_STRING:
        return list(tensor.string_val)
    return np.frombuffer(tensor.tensor_content if _are_floats(tensor) else b"", dtype="<f4")


def _are_floats(tensor: TensorProto) -> bool:
    return tensor.dtype == DT_FLOAT and len(tensor.tensor_content) % 4 == 0
