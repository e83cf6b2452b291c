"""What can be taken along from the tab: the link, the picture, the numbers."""

import csv
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import expect

from tests.end_to_end.gradscope_page import GradScopePage, Pixels
from tests.end_to_end.tab_logs import LAYERS, RECORDS, WEIGHTS, drawn

pytestmark = pytest.mark.slow


def saved(tab: GradScopePage, button: str) -> tuple[str, bytes]:
    """Return the name and the content of what a button saves."""
    with tab.page.expect_download() as download:
        tab.get("button").filter(has_text=button).click()
    return download.value.suggested_filename, Path(download.value.path()).read_bytes()


def test_the_picture_holds_the_heat_maps(tab: GradScopePage) -> None:
    tab.show(runs="cells,calm")
    name, content = saved(tab, "Save PNG")
    assert name == "gradscope_grad_norm.png"
    picture = Image.open(io.BytesIO(content))
    assert picture.format == "PNG"
    maps = [tab.map(i).pixels() for i in range(2)]
    assert picture.width >= maps[0].shape[1]
    assert 150 < picture.height < 400
    pixels = np.asarray(picture.convert("RGB"))
    for shown in maps:
        line = shown[12, -60:-20, :3]
        assert any((pixels[y, x : x + 40] == line).all() for y in range(picture.height) for x in where(pixels[y], line))


def where(row: Pixels, line: Pixels) -> list[int]:
    """Return where in a row of pixels the first of a line's stands."""
    return [int(x) for x in np.flatnonzero((row == line[0]).all(axis=-1)) if x + len(line) <= len(row)]


def test_the_numbers_are_those_of_the_run(tab: GradScopePage) -> None:
    tab.show(runs="cells,calm")
    name, content = saved(tab, "Save CSV")
    assert name == "gradscope_grad_norm.csv"
    head, *rows = csv.reader(io.StringIO(content.decode()))
    assert head == ["run", "layer", "type", "kind", *map(str, range(RECORDS))]
    layers = [LAYERS[i] for i in WEIGHTS]
    expected = [[run, layer.name, layer.type, layer.kind] for run in ("cells", "calm") for layer in layers]
    assert [row[:4] for row in rows] == expected
    numbers = [[float(cell) if cell else np.nan for cell in row[4:]] for row in rows]
    norms = drawn("grad_norm").T
    np.testing.assert_allclose(numbers, np.concatenate([norms, norms * np.float32(1e3)]), rtol=1e-6)


def test_the_link_is_copied(tab: GradScopePage) -> None:
    tab.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    tab.show(runs="cells", search="conv")
    tab.get("button").filter(has_text="Copy link").click()
    expect(tab.get(".actions [role=status]")).to_have_text("Copied.")
    copied = tab.page.evaluate("navigator.clipboard.readText()")
    assert copied == tab.page.url
    assert "p.gradscope.search=conv" in copied
    tab.page.context.clear_permissions()
