"""Runs as text for other programs, CSV or JSON, row by row: nothing but the standard library and numpy."""

import csv
import io
import json
from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt

from gradscope.export.tidy import FIELDS, Rows, Table
from gradscope.wording import escaped

_FORMULA = tuple("=+-@＝＋－＠")
"""What a formula begins with (OWASP, CSV Injection; the last four where the keyboard is Japanese)."""


def csv_lines(tables: Iterable[Table]) -> Iterator[str]:
    """Yield a head and a line for each row, in chunks of many lines (RFC 4180, but for line ends of LF).

    Control characters in a name are written as escapes, so that whoever prints the file is safe. Before a name that a
    spreadsheet would take for a formula stands an apostrophe, by which it takes it for text.
    """
    yield ",".join(FIELDS) + "\n"
    for table in tables:
        run = _text(table.run.name)
        layers = [tuple(map(_text, (layer.name, layer.type, layer.kind))) for layer in table.layers]
        metrics = [_text(metric) for metric in table.metrics]
        for rows in table.rows():
            text = io.StringIO()
            lines = ((run, step, time, *layers[la], metrics[m], value) for step, time, la, m, value in _cells(rows))
            csv.writer(text, lineterminator="\n").writerows(lines)
            yield text.getvalue()


def json_lines(tables: Iterable[Table]) -> Iterator[str]:
    """Yield one JSON object, ``{"rows": […]}``, with a line for each row, in chunks of many lines.

    A number that is none is a string: ``"inf"``, ``"-inf"``, ``"nan"``.
    """
    yield '{"rows": ['
    separator = "\n"
    for table in tables:
        layers = [
            f'"layer": {json.dumps(la.name)}, "type": {json.dumps(la.type)}, "kind": {json.dumps(la.kind)}'
            for la in table.layers
        ]
        metrics = [json.dumps(metric) for metric in table.metrics]
        head = f'{{"run": {json.dumps(table.run.name)}, "step": '
        for rows in table.rows():
            lines = [
                f'{head}{step}, "wall_time": {json.dumps(time)}, {layers[la]}, "metric": {metrics[m]}, '
                f'"value": {value if value[-1].isdigit() else json.dumps(value)}}}'
                for step, time, la, m, value in _cells(rows)
            ]
            if lines:
                yield separator + ",\n".join(lines)
                separator = ",\n"
    yield "\n]}\n"


def shortest(values: npt.NDArray[np.float64]) -> list[str]:
    """Return `values` as the shortest texts that give them back; one that is a float32 as one that gives that back."""
    with np.errstate(over="ignore", invalid="ignore"):
        single = values.astype(np.float32)
    texts: list[str] = np.where(single == values, single.astype(str), values.astype(str)).tolist()
    return texts


def _cells(rows: Rows) -> Iterator[tuple[int, float, int, int, str]]:
    steps, times, layers, metrics = (column.tolist() for column in rows[:4])
    return zip(steps, times, layers, metrics, shortest(rows.values), strict=True)


def _text(name: str) -> str:
    visible = escaped(name)
    return f"'{visible}" if visible.lstrip(" '").startswith(_FORMULA) else visible
