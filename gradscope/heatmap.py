"""A run as a picture: one metric as a heat map, layers downwards and steps to the right."""

import functools
import io
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from gradscope.cells import measured_cells
from gradscope.records import Metric, NonFinite, Run

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw
    from PIL.ImageFont import FreeTypeFont, ImageFont

Values = npt.NDArray[np.float64]
Pixels = npt.NDArray[np.uint8]
Indices = npt.NDArray[np.int64]
Colour = tuple[int, int, int]

# Samples of viridis (Smith and van der Walt 2015): perceptually uniform, and safe for the colour-blind.
_ANCHORS = np.array(
    [
        (68, 1, 84),
        (72, 36, 117),
        (65, 68, 135),
        (53, 95, 141),
        (42, 120, 142),
        (33, 145, 140),
        (34, 168, 132),
        (68, 191, 112),
        (122, 209, 81),
        (189, 223, 38),
        (253, 231, 37),
    ],
    dtype=np.float64,
)
NOT_MEASURED = (222, 222, 226)
NON_FINITE = (230, 30, 60)
EXACT_ZERO = (0, 0, 0)

_INK, _FAINT, _PAPER = (32, 33, 36), (105, 108, 115), (255, 255, 255)
_MAX_GRID_HEIGHT, _MIN_BAND, _MAX_BAND = 600, 2, 26
_MAX_DECADES = 8.0
_TEXT, _TITLE = 14, 18


class HeatMap(NamedTuple):
    """A picture as a PNG file; `width` and `height` in pixels."""

    png: bytes
    width: int
    height: int


class _Scale(NamedTuple):
    """What the colours stand for: `low` and `high` are decades where `logarithmic`, else the values themselves."""

    low: float
    high: float
    logarithmic: bool
    clipped_low: bool
    clipped_high: bool


class _Box(NamedTuple):
    left: int
    top: int
    right: int
    bottom: int


class _Rows(NamedTuple):
    """Layers gathered into bands of `band` pixels: band i holds layers starts[i] up to, not including, stops[i]."""

    starts: Indices
    stops: Indices
    band: int


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
    column = next((c for c in run.columns if c.name == metric), Metric(metric, metric, "value"))
    cells = _cells(run, column)
    measured = np.flatnonzero(~np.isnan(cells).all(axis=0))
    if measured.size == 0:
        return _empty(column, width)
    names = [run.layers[i].name or run.layers[i].type for i in measured]
    return _draw(column, cells[:, measured], names, run.steps, width)


def _cells(run: Run, column: Metric) -> Values:
    """Return what is coloured, float64[S, L]: +inf where not finite, -inf for an exact zero on a logarithmic scale."""
    values = measured_cells(run, column.name).astype(np.float64)
    if not _is_logarithmic(column):
        return values
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.log10(values)


def _is_logarithmic(column: Metric) -> bool:
    return column.unit in ("L2 norm", "ratio")


def _scale(column: Metric, cells: Values) -> _Scale:
    finite = cells[np.isfinite(cells)]
    logarithmic = _is_logarithmic(column)
    if column.unit in ("fraction", "flags") or finite.size == 0:
        high = float(sum(NonFinite)) if column.unit == "flags" else 1.0
        return _Scale(0.0, high, logarithmic, False, False)
    quarter, median, three_quarters = np.quantile(finite, (0.25, 0.5, 0.75))
    # A lone outlier must not squeeze all the others into one colour, and must still differ from them.
    reach = _MAX_DECADES if logarithmic else 10 * (three_quarters - quarter) or math.inf
    low, high = max(finite.min(), median - reach), min(finite.max(), median + reach)
    clipped = (bool(low > finite.min()), bool(high < finite.max()))
    # What varies by less than vanishing (1e-3) is the noise of a sound run and shall look calm.
    least = 3.0 if logarithmic else max(abs(float(median)) * 1e-3, 1e-6)
    margin = max(0.0, (least - (high - low)) / 2)
    return _Scale(float(low) - margin, float(high) + margin, logarithmic, *clipped)


def _rows(layers: int) -> _Rows:
    bands = min(layers, _MAX_GRID_HEIGHT // _MIN_BAND)
    edges = np.arange(bands + 1) * layers // bands
    return _Rows(edges[:-1], edges[1:], min(_MAX_BAND, max(_MIN_BAND, _MAX_GRID_HEIGHT // bands)))


def _records_of_pixels(steps: npt.NDArray[np.int64], width: int) -> tuple[Indices, Indices]:
    """Return which records fall on each pixel column: first and one past the last, int64[width] each."""
    edges = np.linspace(steps[0], _end(steps), width + 1)
    starts = np.searchsorted(steps, edges[:-1], side="right") - 1
    stops = np.searchsorted(steps, edges[1:], side="left")
    return np.maximum(starts, 0), np.maximum(stops, starts + 1)


def _end(steps: npt.NDArray[np.int64]) -> int:
    # The last record is drawn as wide as the one before.
    return int(steps[-1] + (steps[-1] - steps[-2] if len(steps) > 1 else 1))


def _worst(cells: Values, starts: Indices, stops: Indices, axis: int, centre: float) -> Values:
    """Reduce each slice [start, stop) along `axis` to its element farthest from `centre`; NaN only if all are."""
    slices = np.stack([starts, np.minimum(stops, cells.shape[axis])], axis=1).ravel()
    padding = [(0, 1) if i == axis else (0, 0) for i in range(cells.ndim)]  # `reduceat` takes no end as an index
    padded = np.pad(cells, padding, constant_values=np.nan)
    every_second = [slice(None)] * cells.ndim
    every_second[axis] = slice(None, None, 2)
    high = np.fmax.reduceat(padded, slices, axis=axis)[tuple(every_second)]
    low = np.fmin.reduceat(padded, slices, axis=axis)[tuple(every_second)]
    worst: Values = np.where(high - centre >= centre - low, high, low)
    return worst


def _grid(column: Metric, cells: Values, steps: npt.NDArray[np.int64], rows: _Rows, width: int) -> Values:
    """Return the cells gathered for drawing, float64[bands, width]."""
    finite = cells[np.isfinite(cells)]
    largest_is_worst = column.unit in ("fraction", "flags") or finite.size == 0
    centre = -1e300 if largest_is_worst else float(np.median(finite))
    by_band = _worst(cells, rows.starts, rows.stops, 1, centre)
    return np.transpose(_worst(by_band, *_records_of_pixels(steps, width), 0, centre))


def _colours(grid: Values, scale: _Scale) -> Pixels:
    """Return uint8[..., 3] for values on `scale`."""
    with np.errstate(invalid="ignore"):
        position = np.clip((grid - scale.low) / (scale.high - scale.low), 0, 1) * (len(_ANCHORS) - 1)
    position = np.nan_to_num(position)
    anchors = np.arange(len(_ANCHORS))
    colours = np.stack([np.interp(position, anchors, channel) for channel in _ANCHORS.T], axis=-1).round()
    colours[np.isnan(grid)] = NOT_MEASURED
    colours[np.isposinf(grid)] = NON_FINITE
    colours[np.isneginf(grid)] = EXACT_ZERO
    pixels: Pixels = colours.astype(np.uint8)
    return pixels


def _draw(column: Metric, cells: Values, names: Sequence[str], steps: npt.NDArray[np.int64], width: int) -> HeatMap:
    from PIL import Image, ImageDraw

    rows = _rows(len(names))
    every = max(1, math.ceil((_TEXT + 3) / rows.band))
    labels = [_shortened(_printable(names[i]), width * 0.3) for i in rows.starts[::every]]
    left = 18 + math.ceil(max(_font(_TEXT).getlength(label) for label in labels))
    box = _Box(left, 66, width - 96, 66 + rows.band * len(rows.starts))
    scale = _scale(column, cells)
    grid = _grid(column, cells, steps, rows, box.right - box.left)

    legend = _legend(grid)
    image = Image.new("RGB", (width, box.bottom + (86 if legend else 56)), _PAPER)
    draw = ImageDraw.Draw(image)
    pixels = np.repeat(_colours(grid, scale), rows.band, axis=0)
    if rows.band >= 8:
        pixels[rows.band - 1 :: rows.band] = _PAPER
    image.paste(Image.fromarray(pixels), (box.left, box.top))
    bar = _Box(box.right + 18, box.top, box.right + 34, max(box.bottom, box.top + 60))
    shades = np.linspace(scale.high, scale.low, bar.bottom - bar.top)[:, None].repeat(bar.right - bar.left, axis=1)
    image.paste(Image.fromarray(_colours(shades, scale)), (bar.left, bar.top))

    _draw_title(draw, column, len(names), steps, math.ceil(len(names) / len(rows.starts)))
    for i, label in enumerate(labels):
        middle = box.top + (i * every + 0.5) * rows.band
        draw.text((box.left - 8, middle), label, _INK, _font(_TEXT), anchor="rm")
    _draw_steps(draw, box, steps)
    _draw_bar_numbers(draw, bar, scale)
    _draw_legend(draw, box, legend)
    return _encoded(image)


def _draw_title(
    draw: "ImageDraw", column: Metric, layers: int, steps: npt.NDArray[np.int64], layers_per_band: int
) -> None:
    scale = ", logarithmic" if _is_logarithmic(column) else ""
    draw.text((12, 10), f"{_printable(column.title)} ({column.unit}{scale})", _INK, _font(_TITLE))
    shared = f", up to {layers_per_band} share a line and the worst is drawn" if layers_per_band > 1 else ""
    records = f"{len(steps)} record{'s' * (len(steps) != 1)}"
    text = f"{layers} layer{'s' * (layers != 1)}, the input's on top{shared}; {records}"
    draw.text((12, 36), text, _FAINT, _font(_TEXT))


def _draw_steps(draw: "ImageDraw", box: _Box, steps: npt.NDArray[np.int64]) -> None:
    first, end = int(steps[0]), _end(steps)
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


def _draw_bar_numbers(draw: "ImageDraw", bar: _Box, scale: _Scale) -> None:
    for value, label in _bar_numbers(scale):
        y = bar.bottom - (value - scale.low) / (scale.high - scale.low) * (bar.bottom - bar.top)
        draw.line([(bar.right, y), (bar.right + 4, y)], _FAINT)
        draw.text((bar.right + 7, y), label, _INK, _font(_TEXT), anchor="lm")


def _bar_numbers(scale: _Scale) -> list[tuple[float, str]]:
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


def _number(position: float, scale: _Scale) -> str:
    if not scale.logarithmic:
        return f"{position:.3g}"
    return f"1e{round(position)}"


def _legend(grid: Values) -> list[tuple[Colour, str]]:
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
