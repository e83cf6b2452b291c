"""What a check found → rich renderables: one line each."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.text import Text

from gradscope.check.baseline import Judged, Known, verdict
from gradscope.records import Finding, Severity
from gradscope.report.page import STYLES, Page
from gradscope.wording import counted


@dataclass(frozen=True)
class Checked:
    """The findings, one line each, then what is gone, then remarks, then the verdict: one line as well."""

    judged: Judged
    runs: int
    fail_on: Severity
    remarks: Sequence[str] = ()

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        page = Page.of(options)
        for index, (run, finding) in enumerate(self.judged.findings):
            yield _cut(page, _finding(page, run, finding, index in self.judged.known))
        for entry in self.judged.gone:
            yield _cut(page, _gone(page, entry))
        for run in self.judged.missing_runs:
            yield _cut(page, page.text(f"{page.glyphs.unjudged} {run}: in the baseline, but not here", "dim"))
        for remark in self.remarks:
            yield page.item(page.glyphs.unjudged, [page.text(remark)])
        style = STYLES[Severity.CRITICAL] if self.judged.fails else STYLES[None]
        yield Text(verdict(self.judged, self.runs, self.fail_on), style=style)


def _finding(page: Page, run: str, finding: Finding, known: bool) -> Text:
    style = "dim" if known else STYLES[finding.severity]
    return Text.assemble(
        (f"{page.glyphs.signs[finding.severity]} ", style),
        ("known " if known else "", "dim"),
        (f"{finding.severity} {page.visible(finding.code)}", style),
        "  ",
        (page.visible(run), "bold"),
        f"  {page.steps(finding.first_step, finding.last_step)}  ",
        (_layers(page, finding.layers), "dim"),
    )


def _gone(page: Page, entry: Known) -> Text:
    what = f"{page.glyphs.signs[None]} gone {page.visible(entry.code)}  {page.visible(entry.run)}  "
    return Text.assemble((what, STYLES[None]), (_layers(page, entry.layers), "dim"))


def _layers(page: Page, layers: tuple[str, ...]) -> str:
    return f"{counted(len(layers), 'layer')}: {page.names(layers)}" if layers else "the whole net"


def _cut(page: Page, line: Text) -> RenderableType:
    # rich's own ellipsis is no ASCII.
    cut = line.copy()
    if cut.cell_len > page.width:
        cut.truncate(max(0, page.width - len(page.glyphs.ellipsis)))
        cut.append(page.glyphs.ellipsis, "dim")
    cut.no_wrap, cut.overflow = True, "crop"
    return cut
