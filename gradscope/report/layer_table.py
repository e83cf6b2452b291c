"""The table of layers, which fits any width: columns go, names shorten, nothing wraps."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from rich.cells import cell_len
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from gradscope.records import Finding, Floats, Run, Severity
from gradscope.report.columns import TYPE_RANK, Cell, Column, columns_of, fitting
from gradscope.report.page import SHORTEST_NAME, STYLES, Page
from gradscope.report.sparkline import sparkline
from gradscope.summary import last_finite, layer_severity
from gradscope.wording import counted

LONGEST_TYPE = 18
SHORTEST_HISTORY, LONGEST_HISTORY = 8, 32
HISTORY_RANK = 1
GRAD_NORM, HISTORY, TYPE = "grad_norm", "history", "type"

MODEL_ORDER, BY_SEVERITY, BY_NAME = "model", "severity", "name"
SORTS = (MODEL_ORDER, BY_SEVERITY, BY_NAME)
"""Orders of the rows: as the layers run, the sick ones first, by the alphabet. The name of any metric is one more: by
its last value, the largest first."""


def layer_table(
    page: Page, run: Run, findings: Sequence[Finding], max_layers: int | None, sort: str = MODEL_ORDER
) -> Iterator[RenderableType]:
    """Yield the table of `run`'s layers, then what it left out and what its marks mean.

    Layers that `findings` flag have the sign of the worst severity. With `max_layers` there are at most that many
    rows: the flagged ones before all others. `sort` is one of `SORTS` or the name of a metric; layers that do not have
    it come last. A run without layers gives a table without rows.
    """
    severities = layer_severity(findings)
    rows = _sorted(run, _rows(run, severities, max_layers), severities, sort)
    layout = _layout(page, run, rows, bool(severities))
    table = layout.empty_table(page)
    for i, row in enumerate(rows):
        table.add_row(*layout.row(page, run, i, row, severities.get(run.layers[row].name)))
    yield table
    if len(rows) < len(run.layers):
        yield Text(f"and {counted(len(run.layers) - len(rows), 'more layer')}", style="dim")
    if any(column.marked for column in layout.columns):
        yield Text("! outside the healthy range for its kind of layer", style="dim")
    if layout.left_out:
        yield page.text(f"no room at this width for: {', '.join(layout.left_out)}", "dim")


def _rows(run: Run, severities: Mapping[str, Severity], max_layers: int | None) -> list[int]:
    """Return the indices of the layers to show, in model order: when there are too many, the flagged ones first."""
    order = sorted(range(len(run.layers)), key=lambda i: -severities.get(run.layers[i].name, 0))
    return sorted(order[:max_layers])


def _sorted(run: Run, rows: list[int], severities: Mapping[str, Severity], sort: str) -> list[int]:
    if sort == MODEL_ORDER:
        return rows
    if sort == BY_SEVERITY:
        return sorted(rows, key=lambda i: -severities.get(run.layers[i].name, 0))
    if sort == BY_NAME:
        return sorted(rows, key=lambda i: run.layers[i].name)
    last = last_finite(run.metric(sort))
    return sorted(rows, key=lambda i: -last[i] if np.isfinite(last[i]) else np.inf)


class Layout(NamedTuple):
    """How the table of layers uses its width; `left_out` holds the headings for which there was none."""

    signs: bool
    name_width: int
    columns: tuple[Column, ...]
    history_width: int
    left_out: tuple[str, ...]

    def empty_table(self, page: Page) -> Table:
        """Return the table without rows: the widths are fixed, so that no console wraps a cell."""
        table = Table(box=None, pad_edge=False, padding=(0, page.gap, 0, 0), header_style="dim")
        if self.signs:
            table.add_column("", width=1)
        table.add_column("layer", width=self.name_width, no_wrap=True, overflow="crop")
        for column in self.columns:
            width = self.history_width if column.name == HISTORY else column.width
            heading = page.visible(column.heading)
            heading = heading if column.name in (TYPE, HISTORY) else _right(heading, " ", column)
            table.add_column(Text(heading), width=width, no_wrap=True, overflow="crop")
        return table

    def row(self, page: Page, run: Run, i: int, row: int, severity: Severity | None) -> list[Text]:
        """Return row `i` of the table, which shows layer `row` of `run`."""
        style = STYLES[severity] if severity else ""
        cells = [Text(page.glyphs.signs[severity] if severity else "", style)] if self.signs else []
        cells.append(Text(page.name(run.layers[row].name, self.name_width), style))
        for column in self.columns:
            if column.name == HISTORY:
                cells.append(_history(page, run.metric(GRAD_NORM)[:, row], self.history_width))
            else:
                cells.append(_cell(column, column.cells[i]))
        return cells


def _layout(page: Page, run: Run, rows: Sequence[int], signs: bool) -> Layout:
    columns = _columns(page, run, rows)
    natural = max((cell_len(page.visible(run.layers[row].name)) for row in rows), default=0)
    reserved = max(len("layer"), min(natural, max(SHORTEST_NAME, page.width * 3 // 10)))
    room = page.width - reserved - (1 + page.gap) * signs
    shown = fitting(columns, room, page.gap)
    spare = max(0, room - sum(column.width + page.gap for column in shown))
    longer = min(spare, max(0, natural - reserved), page.width // 5)
    history = next((column.width for column in shown if column.name == HISTORY), 0)
    return Layout(
        signs=signs,
        name_width=reserved + longer,
        columns=shown,
        history_width=max(history, min(LONGEST_HISTORY, len(run.steps), history + spare - longer)),
        left_out=tuple(column.heading for column in columns if column not in shown),
    )


def _columns(page: Page, run: Run, rows: Sequence[int]) -> list[Column]:
    types = tuple(Cell(page.name(run.layers[row].type, LONGEST_TYPE)) for row in rows)
    columns = [Column(TYPE, TYPE, types, TYPE_RANK)]
    for column in columns_of(run, rows):
        columns.append(column)
        if column.name == GRAD_NORM and len(run.steps) > 1:
            blank = Cell(" " * min(SHORTEST_HISTORY, len(run.steps)))
            columns.append(Column(HISTORY, HISTORY, (blank,) * len(rows), HISTORY_RANK))
    return columns


def _cell(column: Column, cell: Cell) -> Text:
    if column.name == TYPE:
        return Text(cell.text, style="dim")
    return Text(_right(cell.text, "!" if cell.outside else " ", column), style="yellow" if cell.outside else "")


def _right(text: str, mark: str, column: Column) -> str:
    # rich drops trailing blanks when it justifies, and so would move what has no mark under what has one.
    padded = " " * (column.width - column.marked - cell_len(text)) + text
    return padded + mark if column.marked else padded


def _history(page: Page, values: Floats, width: int) -> Text:
    measured = not np.isnan(values).all()
    return Text(sparkline(values, width, page.glyphs.ramp) if measured else "", style="cyan")
