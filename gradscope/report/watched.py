"""What ``gradscope watch`` shows: all runs in a line each, and the one that is looked at as far as the screen goes."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from gradscope.report import Overview, Report
from gradscope.report.page import Page
from gradscope.report.parts import finding_item, has_colour, head, note_items
from gradscope.report.terminal_map import terminal_map
from gradscope.rules.causes import in_order
from gradscope.wording import counted

LISTED = 6
"""Runs that are listed at most: those around the one that is looked at."""


@dataclass(frozen=True)
class Watched:
    """The screen of a watch: `reports`, the one at `chosen` in full, with its `metric` as a heat map; `status` on top.

    It is as long as it needs to be, what matters most first: a screen cuts it off. No reports give `waiting`.
    """

    reports: Sequence[Report]
    chosen: int
    metric: str
    status: str
    waiting: str

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        page = Page.of(options)
        yield Text(page.visible(self.status), style="reverse", no_wrap=True, overflow="crop")
        if not self.reports:
            yield page.text(self.waiting)
            return
        if len(self.reports) > 1:
            yield from self._listed()
            yield ""
        report = self.reports[self.chosen]
        yield from head(page, report.run, report.findings)
        for finding in in_order(report.findings):
            yield ""
            yield finding_item(page, finding)
        if len(report.run.steps):
            yield ""
            yield from terminal_map(page, report.run, report.run.column(self.metric), has_colour(console))
        yield from note_items(page, report.run)

    def _listed(self) -> RenderResult:
        first = max(0, min(self.chosen - LISTED // 2, len(self.reports) - LISTED))
        yield Overview(self.reports[first : first + LISTED], folded=False)
        others = len(self.reports) - LISTED
        if others > 0:
            yield Text(f"and {counted(others, 'other run')}: n and p go through them", style="dim")
