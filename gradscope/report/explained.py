"""What a finding is → rich renderables."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.constrain import Constrain
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from gradscope.explanations import Explanation, values_of
from gradscope.report.page import LONGEST_PROSE, Page
from gradscope.thresholds import Thresholds


@dataclass(frozen=True)
class Explained:
    """One finding: what it is, its mathematics, how it is measured, by what it is judged, its cures, its sources."""

    explanation: Explanation

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        page, explanation = Page.of(options), self.explanation
        yield Text.assemble((explanation.code, "bold"), "  ", (page.visible(explanation.title), "dim"))
        yield from _section("What it is", [_indented(page, explanation.what)])
        yield from _section("The mathematics", [_indented(page, line) for line in explanation.mathematics])
        yield from _section("How it is measured", [_indented(page, explanation.measured)])
        if explanation.thresholds:
            yield from _section("Judged by, at their defaults", [_thresholds(explanation)])
        yield from _section(
            "What to do, most likely to help first", [_item(page, page.glyphs.arrow, c) for c in explanation.cures]
        )
        yield from _section("Sources", [_item(page, page.glyphs.dash, s) for s in explanation.sources])


@dataclass(frozen=True)
class Index:
    """Several explanations, a line each."""

    explanations: Sequence[Explanation]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        page = Page.of(options)
        table = Table.grid(padding=(0, page.gap, 0, 0))
        table.add_column(no_wrap=True, style="bold")
        table.add_column(overflow="fold")
        for explanation in self.explanations:
            table.add_row(explanation.code, page.text(explanation.title))
        yield table


def _section(heading: str, body: Sequence[RenderableType]) -> Iterator[RenderableType]:
    yield ""
    yield Text(heading, style="bold")
    yield from body


def _indented(page: Page, text: str) -> RenderableType:
    # What begins with spaces is a formula: it goes on in the line below where it has no room, as far in.
    inset = len(text) - len(text.lstrip(" "))
    return Constrain(Padding(page.text(text.strip()), (0, 0, 0, 2 + inset)), LONGEST_PROSE)


def _item(page: Page, bullet: str, text: str) -> RenderableType:
    return Padding(page.item(bullet, [page.text(text)], "green"), (0, 0, 0, 2))


def _thresholds(explanation: Explanation) -> RenderableType:
    table = Table.grid(padding=(0, 2, 0, 0))
    for name, value in values_of(explanation, Thresholds()).items():
        table.add_row(Text(name), Text(f"[{value[0]:g}, {value[1]:g}]" if isinstance(value, tuple) else f"{value:g}"))
    return Padding(table, (0, 0, 0, 2))
