"""Damaged, odd and malicious logs in the tab: no script runs, the page says what it can, and TensorBoard stays up."""

import json
import urllib.request
from collections.abc import Iterator

import numpy as np
import pytest
from playwright.sync_api import expect

from gradscope.grid import NON_FINITE, NOT_MEASURED
from tests.end_to_end.gradscope_page import GradScopePage
from tests.end_to_end.hostile_logs import NAMES, SCRIPT, write_hostile, write_odd
from tests.end_to_end.tensorboard_server import listed_runs, tensorboard, wait_until

pytestmark = pytest.mark.slow

ODD = ["all lost", "changing", "extremes", "half", "newer", "no layers", "nothing measured", "one step"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    logdir = tmp_path_factory.mktemp("bad")
    write_hostile(logdir)
    write_odd(logdir)
    with tensorboard(logdir) as address:
        wait_until(lambda: sorted(listed_runs(address)) == sorted([SCRIPT, *ODD]))
        wait_until(lambda: listed_runs(address)[SCRIPT]["last_step"] == 59)
        yield address


@pytest.fixture(autouse=True)
def _no_harm(tab: GradScopePage, server: str) -> Iterator[None]:
    """After each test nothing of a log has run as a script, and TensorBoard still answers."""
    yield
    for frame in tab.page.frames:
        assert frame.evaluate("window.harmed") is None
        assert frame.locator("img[src=x], script:text('harmed')").count() == 0
    with urllib.request.urlopen(f"{server}/data/plugins_listing", timeout=20) as answer:
        assert json.load(answer)["gradscope"]["enabled"]


def test_names_are_text_wherever_they_stand(tab: GradScopePage) -> None:
    tab.show(runs=SCRIPT.replace("/", "%2F"))
    assert tab.map().label() == (len(NAMES), 60)
    tab.get(".run-chooser summary").click()
    expect(tab.get(".run-chooser li").filter(has_text=SCRIPT)).to_have_count(1)
    tab.page.keyboard.press("Escape")
    expect(tab.get(".finding").first).to_contain_text("vanishing_gradient")
    expect(tab.get(".finding .layer-link").first).to_have_text(SCRIPT)
    for button in tab.get(".finding-head").all():
        button.click()
        tab.settle()


@pytest.mark.parametrize("row", range(len(NAMES)))
def test_a_layer_with_a_hostile_name_opens(tab: GradScopePage, row: int) -> None:
    tab.show(runs=SCRIPT.replace("/", "%2F"))
    shown = tab.map()
    shown.area.hover(position=shown.cell(row, 3))
    assert "step 3" in tab.get(".tooltip").inner_text()
    shown.area.click(position=shown.cell(row, 3))
    tab.settle()
    panel = tab.get(".layer-panel")
    expect(panel.locator("path.line").first).to_be_attached()
    assert tab.link()["layer"] == (NAMES[row] or ".")  # the model itself
    words = panel.inner_text() + tab.get(".tooltip").inner_text()
    assert not any(mark in words for mark in "\u202e\u200b\u2066\x00\x1b")


def test_values_that_were_lost_are_red(tab: GradScopePage) -> None:
    tab.show(runs="all lost")
    assert (tab.map().colours() == NON_FINITE).all()
    expect(tab.get(".finding").first).to_contain_text("non_finite")


@pytest.mark.parametrize(
    ("run", "words"),
    [
        ("nothing measured", "No layer of this run has the metric “gradient norm”."),
        ("no layers", "No layer of this run has the metric “gradient norm”."),
        ("newer", "Nothing was recorded yet."),
    ],
)
def test_a_map_without_cells_says_why(tab: GradScopePage, run: str, words: str) -> None:
    tab.show(runs=run)
    assert tab.map().area.get_attribute("data-empty") == words
    expect(tab.map().area.locator("canvas.cells")).to_be_hidden()


def test_a_newer_format_is_told(tab: GradScopePage) -> None:
    tab.show(runs="newer")
    note = (
        "written by a newer GradScope (format 2, this one reads up to 1): update lightning-gradscope to see all of it"
    )
    expect(tab.get(".about .note")).to_contain_text(note)


def test_a_single_step_is_drawn_and_not_judged(tab: GradScopePage) -> None:
    tab.show(runs="one step")
    assert tab.map().label() == (3, 1)
    assert (tab.map().colours() != NOT_MEASURED).any(axis=-1).all()
    expect(tab.get(".verdict.unjudged")).to_have_count(1)


def test_a_layer_that_came_later_was_not_measured_before(tab: GradScopePage) -> None:
    tab.show(runs="changing")
    rows, records = tab.map().label()
    assert (rows, records) == (4, 4)
    missing = (tab.map().colours() == NOT_MEASURED).all(axis=-1)
    assert missing.sum(axis=1).tolist() == [1, 1, 0, 2]


def test_a_log_that_ends_within_a_record_is_shown_up_to_it(tab: GradScopePage) -> None:
    tab.show(runs="half")
    assert tab.map().label() == (3, 4)


def test_extreme_numbers_are_drawn(tab: GradScopePage) -> None:
    tab.show(runs="extremes")
    pixels, grid = tab.map().pixels(), tab.map().grid()
    columns = [pixels[int(grid.y(row)), grid.left + 2, :3] for row in range(3)]
    assert len(np.unique(columns, axis=0)) == 3
    assert tuple(columns[2]) == (0, 0, 0)
    tab.map().area.hover(position={"x": grid.left + 2, "y": grid.y(1)})
    assert "gradient norm: 1.401e-45" in tab.get(".tooltip").inner_text()


def test_all_of_them_side_by_side(tab: GradScopePage) -> None:
    tab.show()
    tab.get(".run-chooser summary").click()
    tab.get(".run-chooser button").filter(has_text="All").click()
    tab.settle()
    expect(tab.get(".maps > figure")).to_have_count(len(ODD) + 1)
    expect(tab.get(".verdict")).to_have_count(len(ODD) + 1)
