"""A run as a picture: one metric as a heat map, layers downwards and steps to the right."""

import functools
import io
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from gradscope.grid import (
    EXACT_ZERO,
    NON_FINITE,
    NOT_MEASURED,
    Measured,
    Scale,
    bands_of,
    colours_of,
    end_of,
    gathered,
    is_logarithmic,
    measured_of,
)
from gradscope.records import Float64s, Metric, Run
from gradscope.wording import counted

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw
    from PIL.ImageFont import FreeTypeFont, ImageFont

Colour = tuple[int, int, int]

_INK, _FAINT, _PAPER = (32, 33, 36), (105, 108, 115), (255, 255, 255)
_MAX_GRID_HEIGHT, _MIN_BAND, _MAX_BAND = 600, 2, 26
_TEXT, _TITLE = 14, 18


class HeatMap(NamedTuple):
    """A picture as a PNG file; `width` and `height` in pixels."""

    png: bytes
    width: int
    height: int


class _Box(NamedTuple):
    left: int
    top: int
    right: int
    bottom: int


def heat_map_png(run: Run, metric: str, width: int = 900) -> HeatMap:
    """Draw `metric` of `run`, the input's layer on top, each record from its step up to the next one's.

    Norms and ratios are drawn by their decadic logarithm, everything else linearly. A layer that was never measured
    has no row. Where several layers or records share a pixel, the worst is drawn: for norms, ratios and values the
    one farthest from the run's median, for fractions and flags the largest. NaN and infinities, exact zeros and
    cells without a measurement have colours of their own, named in the legend. A run without any measurement of
    `metric` gives a picture that says so. `width` is in pixels; the height follows from the number of layers.

    Raises:
        ValueError: `width` is below 400.
    """
    if width < 400:
        raise ValueError(f"`width` must be at least 400 pixels, got {width}; names and colour bar need room")
    column = run.column(metric)
    measured = measured_of(run, column)
    return _draw(column, measured, width) if measured.names else _empty(column, width)


def _draw(column: Metric, measured: Measured, width: int) -> HeatMap:
    from PIL import Image, ImageDraw

    names, steps, scale = measured.names, measured.steps, measured.scale
    bands = bands_of(len(names), _MAX_GRID_HEIGHT // _MIN_BAND)
    band = min(_MAX_BAND, max(_MIN_BAND, _MAX_GRID_HEIGHT // len(bands.starts)))
    every = max(1, math.ceil((_TEXT + 3) / band))
    labels = [_shortened(_printable(names[i]), width * 0.3) for i in bands.starts[::every]]
    left = 18 + math.ceil(max(_font(_TEXT).getlength(label) for label in labels))
    box = _Box(left, 66, width - 96, 66 + band * len(bands.starts))
    grid = gathered(measured, bands, box.right - box.left)

    legend = _legend(grid)
    image = Image.new("RGB", (width, box.bottom + (86 if legend else 56)), _PAPER)
    draw = ImageDraw.Draw(image)
    pixels = np.repeat(colours_of(grid, scale), band, axis=0)
    if band >= 8:
        pixels[band - 1 :: band] = _PAPER
    image.paste(Image.fromarray(pixels), (box.left, box.top))
    bar = _Box(box.right + 18, box.top, box.right + 34, max(box.bottom, box.top + 60))
    shades = np.linspace(scale.high, scale.low, bar.bottom - bar.top)[:, None].repeat(bar.right - bar.left, axis=1)
    image.paste(Image.fromarray(colours_of(shades, scale)), (bar.left, bar.top))

    _draw_title(draw, column, len(names), steps, math.ceil(len(names) / len(bands.starts)))
    for i, label in enumerate(labels):
        middle = box.top + (i * every + 0.5) * band
        draw.text((box.left - 8, middle), label, _INK, _font(_TEXT), anchor="rm")
    _draw_steps(draw, box, steps)
    _draw_bar_numbers(draw, bar, scale)
    _draw_legend(draw, box, legend)
    return _encoded(image)


def _draw_title(
    draw: "ImageDraw", column: Metric, layers: int, steps: npt.NDArray[np.int64], layers_per_band: int
) -> None:
    scale = ", logarithmic" if is_logarithmic(column) else ""
    draw.text((12, 10), f"{_printable(column.title)} ({column.unit}{scale})", _INK, _font(_TITLE))
    shared = f", up to {layers_per_band} share a line and the worst is drawn" if layers_per_band > 1 else ""
    text = f"{counted(layers, 'layer')}, the input's on top{shared}; {counted(len(steps), 'record')}"
    draw.text((12, 36), text, _FAINT, _font(_TEXT))


def _draw_steps(draw: "ImageDraw", box: _Box, steps: npt.NDArray[np.int64]) -> None:
    first, end = int(steps[0]), end_of(steps)
    spacing = max(1, int(_round_spacing((end - first) / max(2, (box.right - box.left) // 90))))
    for step in range(math.ceil(first / spacing) * spacing, end, spacing):
        x = box.left + (step - first) / (end - first) * (box.right - box.left)
        draw.line([(x, box.bottom), (x, box.bottom + 5)], _FAINT)
        draw.text((x, box.bottom + 8), f"{step}", _INK, _font(_TEXT), anchor="ma")
    draw.text((box.right, box.bottom + 28), "step", _FAINT, _font(_TEXT), anchor="ra")


def _round_spacing(least: float) -> float:
    """Return the smallest of … 0.5, 1, 2, 5, 10, 20 … that is at least `least`."""
    decade = 10.0 ** math.floor(math.log10(least))
    return next(factor * decade for factor in (1, 2, 5, 10, 20) if factor * decade >= least)


def _draw_bar_numbers(draw: "ImageDraw", bar: _Box, scale: Scale) -> None:
    for value, label in _bar_numbers(scale):
        y = bar.bottom - (value - scale.low) / (scale.high - scale.low) * (bar.bottom - bar.top)
        draw.line([(bar.right, y), (bar.right + 4, y)], _FAINT)
        draw.text((bar.right + 7, y), label, _INK, _font(_TEXT), anchor="lm")


def _bar_numbers(scale: Scale) -> list[tuple[float, str]]:
    """Return positions on `scale` and their labels; an end beyond which values lie has a "<" or ">"."""
    spacing = _round_spacing((scale.high - scale.low) / 6)
    if scale.logarithmic:
        spacing = max(1.0, spacing)
    multiples = np.arange(math.ceil(scale.low / spacing), math.floor(scale.high / spacing) + 1) * spacing
    marks = [(float(mark), _number(float(mark), scale)) for mark in multiples]
    room = (scale.high - scale.low) / 12
    for clipped, end, sign in ((scale.clipped_low, scale.low, "<"), (scale.clipped_high, scale.high, ">")):
        if clipped:
            marks = [mark for mark in marks if abs(mark[0] - end) > room] + [(end, f"{sign} {_number(end, scale)}")]
    return marks


def _number(position: float, scale: Scale) -> str:
    if not scale.logarithmic:
        return f"{position:.3g}"
    return f"1e{round(position)}"


def _legend(grid: Float64s) -> list[tuple[Colour, str]]:
    """Return the special colours that occur in `grid`, and what they mean."""
    meanings = [
        (NON_FINITE, "NaN or infinite", np.isposinf(grid)),
        (EXACT_ZERO, "exactly zero", np.isneginf(grid)),
        (NOT_MEASURED, "not measured", np.isnan(grid)),
    ]
    return [(colour, meaning) for colour, meaning, present in meanings if present.any()]


def _draw_legend(draw: "ImageDraw", box: _Box, legend: Sequence[tuple[Colour, str]]) -> None:
    x, y = float(box.left), box.bottom + 54
    for colour, meaning in legend:
        draw.rectangle([(x, y), (x + 14, y + 14)], colour)
        draw.text((x + 21, y + 7), meaning, _INK, _font(_TEXT), anchor="lm")
        x += 45 + _font(_TEXT).getlength(meaning)


def _empty(column: Metric, width: int) -> HeatMap:
    from PIL import Image, ImageDraw

    image = Image.new("RGB", (width, 80), _PAPER)
    draw = ImageDraw.Draw(image)
    draw.text((12, 10), _printable(column.title), _INK, _font(_TITLE))
    draw.text((12, 40), "Not measured in any layer.", _FAINT, _font(_TEXT))
    return _encoded(image)


def _encoded(image: "Image") -> HeatMap:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return HeatMap(buffer.getvalue(), *image.size)


@functools.cache
def _font(size: int) -> "FreeTypeFont | ImageFont":
    from PIL import ImageFont

    return ImageFont.load_default(size)


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text)


def _shortened(name: str, width: float) -> str:
    """Return the end of `name` that fits into `width` pixels: the end tells layers apart."""
    font = _font(_TEXT)
    if font.getlength(name) <= width:
        return name
    name = name[-200:]
    while name and font.getlength(f"...{name}") > width:
        name = name[1:]
    return f"...{name}"
