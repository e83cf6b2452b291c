"""What a report is set with: signs, styles, and text that no name from a log can break out of."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from rich.cells import cell_len, set_cell_size
from rich.console import ConsoleOptions, RenderableType
from rich.constrain import Constrain
from rich.table import Table
from rich.text import Text

from gradscope.records import Severity
from gradscope.report.sparkline import ASCII, BLOCKS, Ramp
from gradscope.wording import escaped, steps

STYLES = {None: "green", Severity.INFO: "cyan", Severity.WARNING: "yellow", Severity.CRITICAL: "bold red"}
LONGEST_PROSE = 100
NAMES_LISTED = 6
SHORTEST_NAME = 10


class Glyphs(NamedTuple):
    """The signs of a report. Severity is told by its sign and word, never by colour alone."""

    signs: dict[Severity | None, str]
    unjudged: str
    ramp: Ramp
    ellipsis: str
    arrow: str
    dash: str
    rule: str


UNICODE_GLYPHS = Glyphs(
    {None: "✔", Severity.INFO: "●", Severity.WARNING: "▲", Severity.CRITICAL: "✖"}, "○", BLOCKS, "…", "→", "–", "─"
)
ASCII_GLYPHS = Glyphs(
    {None: "+", Severity.INFO: "i", Severity.WARNING: "!", Severity.CRITICAL: "X"}, "?", ASCII, "~", ">", "-", "-"
)


@dataclass(frozen=True)
class Page:
    """What a console can show: its `width` in cells, and its `encoding`."""

    width: int
    encoding: str

    @classmethod
    def of(cls, options: ConsoleOptions) -> "Page":
        """Return the page that `options` describe."""
        return cls(options.max_width, options.encoding)

    @property
    def glyphs(self) -> Glyphs:
        """The signs that the encoding has."""
        return UNICODE_GLYPHS if self.encoding.lower().startswith("utf") else ASCII_GLYPHS

    @property
    def gap(self) -> int:
        """Spaces between two columns."""
        return 2 if self.width >= 60 else 1

    def visible(self, text: str) -> str:
        """Return `text` with what could steer a terminal, or lacks in its encoding, written as an escape."""
        return escaped(text).encode(self.encoding, "backslashreplace").decode(self.encoding)

    def text(self, text: str, style: str = "") -> Text:
        """Return `text` as itself: nothing in it is markup, nothing steers the terminal."""
        return Text(self.visible(text), style=style)

    def name(self, name: str, width: int) -> str:
        """Return `name` in at most `width` cells: a long one loses its middle."""
        return shortened(self.visible(name), width, self.glyphs.ellipsis)

    def names(self, names: Iterable[str]) -> str:
        """Return the first few of `names`, then how many more there are."""
        listed = list(names)
        first = ", ".join(self.name(name, max(SHORTEST_NAME, self.width // 2)) for name in listed[:NAMES_LISTED])
        rest = len(listed) - NAMES_LISTED
        return f"{first} +{rest:,} more" if rest > 0 else first

    def steps(self, first: int, last: int) -> str:
        """Return ``"step 7"`` or ``"steps 0–560"``."""
        return steps(first, last, self.glyphs.dash)

    def item(self, bullet: str, lines: Iterable[Text], style: str = "") -> RenderableType:
        """Return `lines` as paragraphs that hang beside `bullet`."""
        grid = Table.grid(padding=(0, 1))
        grid.add_column(width=1)
        grid.add_column(overflow="fold")
        for line in lines:
            grid.add_row(Text(bullet, style=style), line)
            bullet = ""
        return Constrain(grid, LONGEST_PROSE)


def shortened(name: str, width: int, ellipsis: str) -> str:
    """Return `name` in at most `width` cells: ``encoder.layers.11.attention.query`` as ``encoder.….11.….query``.

    Components in the middle go first, then the first one; numbers and the last stay, since they tell siblings apart.
    Where that is not enough the middle is cut out wherever it falls, the end keeping twice as much as the beginning.
    """
    if cell_len(name) <= width:
        return name
    for elided in _elisions(name.split("."), ellipsis):
        if cell_len(elided) <= width:
            return elided
    room = width - cell_len(ellipsis)
    if room <= 0:
        return ellipsis[: max(0, width)]
    head = set_cell_size(name, room // 3).rstrip()
    tail = set_cell_size(name[::-1], room - room // 3).rstrip()[::-1]
    return head + ellipsis + tail


def _elisions(parts: list[str], ellipsis: str) -> Iterator[str]:
    middle = [i for i in range(1, len(parts) - 1) if not parts[i].isdigit()]
    for i in [*middle, 0] if len(parts) > 1 else []:
        parts[i] = ellipsis
        yield ".".join(part for i, part in enumerate(parts) if i == 0 or not part == parts[i - 1] == ellipsis)
