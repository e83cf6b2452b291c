"""Several experiments → rich renderables: a line each, in as many tables as the width demands."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from gradscope.compare.comparison import Comparison
from gradscope.compare.experiments import Experiment, settings_that_differ
from gradscope.compare.key_numbers import KeyNumbers
from gradscope.records import Severity
from gradscope.report.columns import percent, scientific
from gradscope.report.page import SHORTEST_NAME, STYLES, Page
from gradscope.report.sign import sign_of
from gradscope.rules.causes import in_order
from gradscope.summary import verdict, worst_severity
from gradscope.wording import brief, counted

LONGEST_CELL = 24
MOST_SCALARS = 6
MOST_SETTINGS = 12


class Column(NamedTuple):
    """A heading and a cell for each run, all of them safe to print."""

    heading: str
    cells: tuple[str, ...]

    @property
    def width(self) -> int:
        """The cells that the widest takes."""
        return max(cell_len(text) for text in (self.heading, *self.cells))


@dataclass(frozen=True)
class SideBySide:
    """Experiments compared: their verdicts, their numbers, where their settings differ, and where they part.

    At any width everything is shown: columns that find no room go into a further table with the same lines.
    """

    experiments: Sequence[Experiment]
    comparisons: Sequence[Comparison] = ()

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        page = Page.of(options)
        yield _verdicts(page, self.experiments)
        for table in _tables(page, self.experiments, _number_columns(page, self.experiments)):
            yield ""
            yield table
        yield from _settings(page, self.experiments)
        for experiment in self.experiments:
            for note in experiment.run.notes:
                yield page.item(page.glyphs.signs[Severity.WARNING], [page.text(f"{experiment.name}: {note}")])
            if experiment.hparams.note:
                yield page.item(page.glyphs.dash, [page.text(f"{experiment.name}: {experiment.hparams.note}")], "dim")
        if self.comparisons:
            yield ""
            yield from _against(page, self.experiments, self.comparisons)


def _verdicts(page: Page, experiments: Sequence[Experiment]) -> RenderableType:
    table = Table.grid(padding=(0, page.gap, 0, 0))
    table.add_column(width=1)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for experiment in experiments:
        others = [f.code for f in in_order(experiment.findings)[1:] if f.severity > Severity.INFO]
        also = f"; also {', '.join(dict.fromkeys(others))}" if others else ""
        table.add_row(
            sign_of(page, experiment.run, experiment.findings),
            Text(_name(page, experiment.name), style="bold"),
            page.text(verdict(experiment.run, experiment.findings) + also),
        )
    return table


def _name(page: Page, name: str) -> str:
    return page.name(name, max(SHORTEST_NAME, page.width // 4))


def _tables(page: Page, experiments: Sequence[Experiment], columns: Sequence[Column]) -> Iterator[RenderableType]:
    names = Column("run", tuple(_name(page, e.name) for e in experiments))
    for group in _groups(columns, page.width - names.width, page.gap):
        table = Table(box=None, pad_edge=False, padding=(0, page.gap, 0, 0), header_style="dim")
        table.add_column("run", no_wrap=True, style="bold")
        for column in group:
            table.add_column(Text(column.heading), justify="right", overflow="fold")
        for name, *cells in zip(names.cells, *(column.cells for column in group), strict=True):
            table.add_row(Text(name), *map(Text, cells))
        yield table


def _groups(columns: Sequence[Column], room: int, gap: int) -> Iterator[list[Column]]:
    group: list[Column] = []
    left = room
    for column in columns:
        if group and column.width + gap > left:
            yield group
            group, left = [], room
        group.append(column)
        left -= column.width + gap
    if group:
        yield group


def _number_columns(page: Page, experiments: Sequence[Experiment]) -> list[Column]:
    numbers = [experiment.numbers for experiment in experiments]
    columns = [Column(heading, tuple(map(write, numbers))) for heading, write in WRITERS.items()]
    scalars = _scalar_columns(page, experiments)
    return [column for column in (columns[0], *scalars, *columns[1:]) if any(column.cells)]


def _with_best(last: float, best: float) -> str:
    return f"{last:.3g} ({best:.3g})" if math.isfinite(last) else ""


def _range(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.2g}" if value < 100 else f"{value:.1e}"


def _duration(seconds: float) -> str:
    if math.isnan(seconds):
        return ""
    if seconds < 100:
        return f"{brief(seconds)} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60:,} h {minutes % 60:02} min" if minutes >= 60 else f"{minutes} min"


def _share(value: float) -> str:
    return percent(value) if math.isfinite(value) else ""


WRITERS: dict[str, Callable[[KeyNumbers], str]] = {
    "loss (lowest)": lambda n: _with_best(n.last_loss, n.lowest_loss),
    "gradient range": lambda n: _range(n.gradient_range),
    "dead": lambda n: _share(n.dead_fraction),
    "update": lambda n: scientific(n.update_ratio) if math.isfinite(n.update_ratio) else "",
    "records": lambda n: f"{n.records:,}",
    "last step": lambda n: f"{n.last_step:,}" if n.last_step is not None else "",
    "time": lambda n: _duration(n.seconds),
    "GradScope": lambda n: _share(n.cost),
}
"""By heading, how each of the key numbers is shown."""


def _scalar_columns(page: Page, experiments: Sequence[Experiment]) -> Iterator[Column]:
    tags = dict.fromkeys(tag for experiment in experiments for tag in experiment.curves)
    # What was reached counts first, and the loss of the training stands beside it already.
    for tag in sorted(tags, key=lambda tag: "acc" not in tag.lower())[:MOST_SCALARS]:
        rises = "acc" in tag.lower()
        curves = [experiment.curves.get(tag) for experiment in experiments]
        heading = page.name(tag, LONGEST_CELL) + (" (best)" if rises else " (lowest)")
        cells = (_with_best(c.last, c.highest if rises else c.lowest) if c else "" for c in curves)
        yield Column(heading, tuple(cells))


def _settings(page: Page, experiments: Sequence[Experiment]) -> Iterator[RenderableType]:
    differ = settings_that_differ(experiments)
    if not differ:
        return
    yield ""
    more = f", the first {MOST_SETTINGS} of {len(differ):,}" if len(differ) > MOST_SETTINGS else ""
    yield Text(f"where hparams.yaml differs{more}", style="dim")
    longest = min(LONGEST_CELL, max(1, page.width // 3))
    columns = [
        Column(
            page.name(name, longest),
            tuple(page.name(e.hparams.settings.get(name, page.glyphs.dash), longest) for e in experiments),
        )
        for name in differ[:MOST_SETTINGS]
    ]
    yield from _tables(page, experiments, columns)


def _against(
    page: Page, experiments: Sequence[Experiment], comparisons: Sequence[Comparison]
) -> Iterator[RenderableType]:
    baseline = next(e for e in experiments if e.name == comparisons[0].baseline)
    yield Text(page.name(f"against {baseline.name}", page.width), style="dim")
    worst = worst_severity(baseline.findings)
    if worst is not None and worst > Severity.INFO:
        sick = f"{baseline.name} itself has findings: what parts from it may be the sounder one"
        yield page.item(page.glyphs.signs[Severity.WARNING], [page.text(sick)], STYLES[Severity.WARNING])
    for comparison in comparisons:
        yield from _comparison(page, comparison)


def _comparison(page: Page, comparison: Comparison) -> Iterator[RenderableType]:
    parting = comparison.parting
    if parting is not None:
        sign, style = page.glyphs.signs[Severity.CRITICAL], STYLES[Severity.CRITICAL]
    elif comparison.has_enough:
        sign, style = page.glyphs.signs[None], STYLES[None]
    else:
        sign, style = page.glyphs.unjudged, "dim"
    lines = [page.text(_where(comparison)), *(Text(page.visible(line), "dim") for line in _unlike(page, comparison))]
    yield page.item(sign, lines, style)


def _where(comparison: Comparison) -> str:
    compared = f"{counted(comparison.layers, 'layer')} over {counted(comparison.records, 'record')}"
    parting = comparison.parting
    if parting is None and comparison.has_enough:
        return f"{comparison.run} does not part from it: {compared} compared"
    if parting is None:
        return f"{comparison.run} has too little in common with it to tell: {compared}"
    above = parting.value > parting.bound
    return (
        f"{comparison.run} parts at step {parting.step} in {parting.layer}: {parting.metric} is "
        f"{_plain(parting.value)}, there {'at most' if above else 'at least'} {_plain(parting.bound)}; "
        f"in all, {len(parting.layers):,} of {counted(comparison.layers, 'layer')} part"
    )


def _plain(value: float) -> str:
    return "NaN or infinite" if not np.isfinite(value) else f"{value:.3g}"


def _unlike(page: Page, comparison: Comparison) -> Iterator[str]:
    if comparison.only_in_run:
        yield f"only in {comparison.run}: {page.names(comparison.only_in_run)}"
    if comparison.only_in_baseline:
        yield f"only in {comparison.baseline}: {page.names(comparison.only_in_baseline)}"
    if comparison.other_types:
        pairs = [f"{name} ({mine}, there {theirs})" for name, (mine, theirs) in comparison.other_types.items()]
        yield f"of another type: {page.names(pairs)}"
