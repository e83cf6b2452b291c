"""A run and its findings → rich renderables: they yield, and only a console prints."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderResult
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from gradscope.records import Finding, Run
from gradscope.report.layer_table import MODEL_ORDER, layer_table
from gradscope.report.page import SHORTEST_NAME, Page
from gradscope.report.parts import (
    coverage_items,
    finding_item,
    flight_item,
    has_colour,
    head,
    last_loss,
    note_items,
    overhead_line,
)
from gradscope.report.sign import sign_of
from gradscope.report.terminal_map import terminal_map
from gradscope.rules.causes import in_order
from gradscope.summary import verdict

__all__ = ["Overview", "Report", "Reports"]


@dataclass(frozen=True)
class Report:
    """The report of a run: a head, a table of its layers, a heat map, the findings, and what was not seen.

    `findings` are shown the most severe first. With `max_layers` the table has at most that many rows: those that
    findings name before all others. `sort` is their order, as in `layer_table`; `heat_map` is the name of the metric to
    draw, if any. Any run renders: one without records, without layers, with any names.
    """

    run: Run
    findings: Sequence[Finding]
    max_layers: int | None = None
    sort: str = MODEL_ORDER
    heat_map: str | None = None

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        page = Page.of(options)
        yield from head(page, self.run, self.findings)
        if self.run.layers:
            yield ""
            yield from layer_table(page, self.run, self.findings, self.max_layers, self.sort)
        if self.heat_map is not None and len(self.run.steps):
            yield ""
            yield from terminal_map(page, self.run, self.run.column(self.heat_map), has_colour(console))
        for finding in in_order(self.findings):
            yield ""
            yield finding_item(page, finding)
            if finding.code in self.run.flights:
                yield flight_item(page, self.run.flights[finding.code])
        if footer := [
            *coverage_items(page, self.run.coverage),
            *note_items(page, self.run),
            *overhead_line(self.run.overhead),
        ]:
            yield ""
            yield from footer


@dataclass(frozen=True)
class Overview:
    """Several reports, a line each: the run, its verdict, its records and its last loss.

    A verdict that is too long is `folded`, or cut.
    """

    reports: Sequence[Report]
    folded: bool = True

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        page = Page.of(options)
        table = Table(box=None, pad_edge=False, padding=(0, page.gap, 0, 0), header_style="dim")
        table.add_column("", width=1)
        table.add_column("run", no_wrap=True)
        table.add_column("verdict", overflow="fold" if self.folded else "crop", no_wrap=not self.folded)
        numbers = ("records", "loss") if page.width >= 60 else ()
        for heading in numbers:
            table.add_column(heading, justify="right", no_wrap=True)
        for report in self.reports:
            table.add_row(
                sign_of(page, report.run, report.findings),
                Text(page.name(report.run.name, max(SHORTEST_NAME, page.width // 4)), style="bold"),
                page.text(verdict(report.run, report.findings)),
                *(f"{len(report.run.steps):,}", last_loss(report.run))[: len(numbers)],
            )
        yield table


@dataclass(frozen=True)
class Reports:
    """All reports of a log directory: a single one alone, several after an overview, with a rule before each."""

    reports: Sequence[Report]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if len(self.reports) == 1:
            yield self.reports[0]
            return
        yield Overview(self.reports)
        for report in self.reports:
            yield ""
            yield Rule(characters=Page.of(options).glyphs.rule, style="dim")
            yield report
