"""A metric of a run as a heat map of characters: layers downwards in model order, steps to the right."""

from collections.abc import Iterator
from itertools import groupby

import numpy as np
import numpy.typing as npt
from rich.color import Color
from rich.console import RenderableType
from rich.style import Style
from rich.text import Text

from gradscope.grid import Measured, Scale, bands_of, colours_of, gathered, measured_of
from gradscope.records import Float64s, Metric, Run
from gradscope.report.page import SHORTEST_NAME, Page
from gradscope.report.sparkline import Ramp
from gradscope.wording import counted

MOST_LINES = 24
LEAST_CELLS, MOST_CELLS = 8, 100
BLOCK = "█"


def terminal_map(page: Page, run: Run, column: Metric, coloured: bool) -> Iterator[RenderableType]:
    """Yield the heat map of `column`: where several layers or records share a character, the worst is drawn.

    `coloured` draws blocks of colour, else characters of growing height. A metric that was never measured gives a
    sentence that says so.
    """
    measured = measured_of(run, column)
    title = page.visible(column.title)
    if not measured.names:
        yield Text(f"{title}: not measured in any layer", style="dim")
        return
    bands = bands_of(len(measured.names), MOST_LINES)
    names = [measured.names[i] for i in bands.starts]
    name_width = max(SHORTEST_NAME, min(max(len(page.visible(name)) for name in names), page.width * 3 // 10))
    width = max(LEAST_CELLS, min(MOST_CELLS, page.width - name_width - 2))
    grid = gathered(measured, bands, width)
    yield _heading(measured, title, len(bands.starts))
    for name, row in zip(names, grid, strict=True):
        label = page.name(name, name_width)
        padding = " " * (name_width - Text(label).cell_len + 2)
        yield Text.assemble(label, padding, _line(page, row, measured.scale, coloured))
    yield Text(f"{' ' * (name_width + 2)}{_steps_below(measured, width)}", style="dim")
    yield _legend(page, grid, measured.scale, coloured)


def _heading(measured: Measured, title: str, lines: int) -> Text:
    how = " (log10)" if measured.scale.logarithmic else ""
    shared = f", {lines} lines for {counted(len(measured.names), 'layer')}" if lines < len(measured.names) else ""
    return Text.assemble((f"{title}{how}", "bold"), (f", from input to loss{shared}", "dim"))


def _line(page: Page, row: Float64s, scale: Scale, coloured: bool) -> Text:
    if not coloured:
        return Text("".join(_character(value, scale, page.glyphs.ramp) for value in row))
    text = Text()
    colours = [tuple(colour) for colour in colours_of(row, scale).tolist()]
    for (colour, sign), cells in groupby(zip(colours, map(_sign, row), strict=True)):
        # A style of its own each time: rich keeps the codes of one that it parsed, for whichever terminal came first.
        style = Style(dim=True) if sign == "·" else Style(color=Color.from_rgb(*colour))
        text.append((sign or BLOCK) * len(list(cells)), style)
    return text


def _sign(value: float) -> str:
    """Return what stands for a value that has no place on the scale, which its colour alone would not tell."""
    if np.isnan(value):
        return "·"
    return "!" if value == np.inf else "0" if value == -np.inf else ""


def _character(value: float, scale: Scale, ramp: Ramp) -> str:
    if np.isnan(value):
        return ramp.absent
    if np.isinf(value):
        return ramp.infinite if value > 0 else "0"
    share = (value - scale.low) / (scale.high - scale.low)
    return ramp.levels[int(min(max(share, 0.0), 1.0) * (len(ramp.levels) - 1) + 0.5)]


def _steps_below(measured: Measured, width: int) -> str:
    first, last = f"step {measured.steps[0]}", f"{measured.steps[-1]}"
    return first + last.rjust(width - len(first)) if len(first) + len(last) < width else first


def _legend(page: Page, grid: Float64s, scale: Scale, coloured: bool) -> Text:
    low, high = (_written(value, scale) for value in (scale.low, scale.high))
    ramp = page.glyphs.ramp
    bar = Text(ramp.levels)
    if coloured:
        shades: npt.NDArray[np.float64] = np.linspace(scale.low, scale.high, 16)
        bar = _line(page, shades, scale, True)
    special = [("!", "NaN or infinite", np.isposinf(grid)), ("0", "exactly zero", np.isneginf(grid))]
    absent = "·" if coloured else ramp.absent
    if absent.strip():
        special.append((absent, "not measured", np.isnan(grid)))
    words = "".join(f"   {sign} {meaning}" for sign, meaning, present in special if present.any())
    return Text.assemble((f"{low} ", "dim"), bar, (f" {high}{words}", "dim"))


def _written(value: float, scale: Scale) -> str:
    return f"{10.0**value:.0e}" if scale.logarithmic else f"{value:.3g}"
