"""GradScope's page in a browser, as a person uses it: pointed at something, looked at, clicked."""

import base64
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple
from urllib.parse import parse_qs, quote, urlsplit

import numpy as np
import numpy.typing as npt
from playwright.sync_api import Browser, Frame, Locator, Page, Position

from tests.end_to_end.complaints import Complaints

Pixels = npt.NDArray[np.uint8]

WIDTH, HEIGHT = 1280, 900
_TOP, _RIGHT, _GREATEST_BAND, _GREATEST_HEIGHT = 4, 14, 22, 560

_READ = """canvas => {
  const {width, height} = canvas;
  const copy = new OffscreenCanvas(width, height).getContext('2d', {willReadFrequently: true});
  copy.drawImage(canvas, 0, 0);
  const {data} = copy.getImageData(0, 0, width, height);
  let text = '';
  for (let i = 0; i < data.length; i += 8192) text += String.fromCharCode(...data.subarray(i, i + 8192));
  return {width, height, data: btoa(text)};
}"""

_SETTLE = """async () => {
  // Playwright has no limit for this, and a frame that nobody sees draws no frames.
  const until = performance.now() + 60000;
  const frame = () => new Promise(done => { requestAnimationFrame(done); setTimeout(done, 1000); });
  do {
    await frame();
    await frame();
    if (performance.now() > until) throw new Error('the page is busy for ever');
  } while (document.querySelector('main')?.getAttribute('aria-busy') !== 'false');
}"""


class Grid(NamedTuple):
    """Where the cells of a heat map lie on its canvas, in pixels of the page."""

    left: int
    right: int
    rows: int
    band: int

    def y(self, row: int) -> float:
        """Return the middle of a row."""
        return _TOP + (row + 0.5) * self.band

    def x(self, place: float) -> float:
        """Return what is at `place` from 0, the left edge of the cells, to 1."""
        return self.left + place * (self.right - self.left)


class HeatMap:
    """One of the heat maps, in the order of the page."""

    def __init__(self, frame: Frame, index: int) -> None:
        self.figure = frame.locator(".maps > figure").nth(index)
        self.area = self.figure.locator(".heatmap")

    def pixels(self, canvas: str = "cells") -> Pixels:
        """Return uint8[height, width, 4] of the cells, or of what is drawn `above` them."""
        return read_canvas(self.figure.locator(f"canvas.{canvas}"))

    def label(self) -> tuple[int, int]:
        """Return how many rows and records the page says there are."""
        found = re.search(r": (\d+) rows?, (\d+) records?\.", self.area.get_attribute("aria-label") or "")
        assert found
        return int(found[1]), int(found[2])

    def grid(self, pixels: Pixels | None = None) -> Grid:
        """Return where the cells are: they begin behind the gap that follows the names."""
        pixels = self.pixels() if pixels is None else pixels
        rows, right = self.label()[0], pixels.shape[1] - _RIGHT
        band = min(_GREATEST_BAND, _GREATEST_HEIGHT // rows)
        (empty,) = np.nonzero(pixels[_TOP + band // 2, :right, 3] == 0)
        return Grid(int(empty[-1]) + 1, right, rows, band)

    def colours(self) -> Pixels:
        """Return uint8[records, rows, 3]: what stands in the middle of each cell, of a whole run with even records."""
        pixels = self.pixels()
        grid, records = self.grid(pixels), self.label()[1]
        ys = [int(grid.y(row)) for row in range(grid.rows)]
        xs = [int(grid.x((record + 0.5) / records)) for record in range(records)]
        assert (pixels[ys][:, xs, 3] == 255).all()
        colours: Pixels = pixels[ys][:, xs, :3].transpose(1, 0, 2)
        return colours

    def cell(self, row: int, record: int) -> Position:
        """Return the middle of a cell, as the position that the mouse takes."""
        grid, records = self.grid(), self.label()[1]
        return {"x": grid.x((record + 0.5) / records), "y": grid.y(row)}


class GradScopePage:
    """The page, in a tab of TensorBoard or standing alone."""

    def __init__(self, page: Page, frame: Frame, complaints: Complaints) -> None:
        self.page, self.frame, self.complaints = page, frame, complaints

    def reset(self) -> None:
        """Leave nothing of the test before: mouse, size and theme are as at first."""
        self.page.mouse.move(0, 0)
        self.page.set_viewport_size({"width": WIDTH, "height": HEIGHT})
        self.page.emulate_media(media=None, color_scheme="light")

    def show(self, **link: object) -> None:
        """Open the page anew, by a link with these parameters."""
        self.open_link("&".join(["gradscope", *(f"p.gradscope.{k}={quote(str(v), safe='')}" for k, v in link.items())]))

    def open_link(self, fragment: str) -> None:
        """Open the page anew with this behind the # of the address."""
        self.page.evaluate("hash => history.replaceState(history.state, '', '#' + hash)", fragment)
        self.frame.goto(self.frame.url)
        self.settle()

    def settle(self) -> None:
        """Wait until all that the page has asked for has come and is drawn."""
        self.frame.wait_for_selector("main[aria-busy]", state="attached")
        self.frame.evaluate(_SETTLE)

    def link(self) -> dict[str, str]:
        """Return what the address says of the page."""
        words = parse_qs(urlsplit(self.page.url).fragment)
        return {key.removeprefix("p.gradscope."): value[0] for key, value in words.items()}

    def get(self, selector: str) -> Locator:
        """Return what `selector` finds in the page."""
        return self.frame.locator(selector)

    def map(self, index: int = 0) -> HeatMap:
        """Return one of the heat maps."""
        return HeatMap(self.frame, index)

    def control(self, label: str) -> Locator:
        """Return the control with this word beside it."""
        return self.frame.locator(f"label:has(> span:text-is('{label}')) > :is(select, input)")

    def press(self, *keys: str) -> None:
        """Type, and wait for what comes of it."""
        for key in keys:
            self.page.keyboard.press(key)
        self.settle()

    def evaluate(self, script: str, argument: Any = None) -> Any:
        """Run a script in the page."""
        return self.frame.evaluate(script, argument)


def read_canvas(canvas: Locator) -> Pixels:
    """Return uint8[height, width, 4]."""
    read = canvas.evaluate(_READ)
    flat = np.frombuffer(base64.b64decode(read["data"]), dtype=np.uint8)
    return flat.reshape(read["height"], read["width"], 4)


@contextmanager
def opened_tab(browser: Browser, address: str, **context: Any) -> Iterator[GradScopePage]:
    """Open TensorBoard with the tab in front."""
    options = {"viewport": {"width": WIDTH, "height": HEIGHT}, "color_scheme": "light", **context}
    with browser.new_context(**options) as opened:
        complaints = Complaints(opened, urlsplit(address).netloc)
        page = opened.new_page()
        page.goto(f"{address}/#gradscope")
        yield GradScopePage(page, frame_of(page), complaints)
        complaints.check()


def frame_of(page: Page) -> Frame:
    """Return the frame of the tab, once it is there."""
    handle = page.wait_for_selector("iframe[src*='plugin_entry']", state="attached")
    frame = handle.content_frame() if handle else None
    assert frame
    frame.wait_for_selector("main[aria-busy]", state="attached")
    return frame
