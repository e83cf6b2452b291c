"""Keyboard, mouse, search and folding on the tab's heat map, in a real browser."""

import numpy as np
import pytest
from playwright.sync_api import expect

from tests.end_to_end import expected_colours
from tests.end_to_end.gradscope_page import GradScopePage
from tests.end_to_end.tab_logs import drawn

pytestmark = pytest.mark.slow


@pytest.fixture
def cells(tab: GradScopePage) -> GradScopePage:
    tab.show(runs="cells")
    return tab


def rows(tab: GradScopePage) -> int:
    return tab.map().label()[0]


def readout(tab: GradScopePage) -> str:
    return tab.get("figure > [aria-live=polite]").inner_text()


class TestKeyboard:
    def test_arrows_move_and_the_cell_is_read_out(self, cells: GradScopePage) -> None:
        cells.map().area.focus()
        cells.press("ArrowLeft")
        assert readout(cells) == f"encoder.0.conv. Conv2d, step 10. gradient norm: {10**-3.9:.3e}".replace("e-0", "e-")
        cells.press("ArrowDown", "ArrowDown", "ArrowDown", "End")
        assert readout(cells) == f"head. Linear, step 11. gradient norm: {10**0.71:.4g}"
        cells.press("Home", "ArrowUp", "ArrowRight")
        assert readout(cells) == f"encoder.1.conv. Conv2d, step 1. gradient norm: {10**-2.89:.4g}"

    def test_enter_opens_and_escape_closes(self, cells: GradScopePage) -> None:
        cells.map().area.focus()
        cells.press("ArrowDown", "Home", "ArrowRight", "Enter")
        expect(cells.get(".layer-panel h2")).to_have_text("encoder.1.conv")
        assert (cells.link()["layer"], cells.link()["step"]) == ("encoder.1.conv", "1")
        cells.press("Escape")
        expect(cells.get(".layer-panel")).to_be_hidden()
        assert "layer" not in cells.link()

    def test_a_slash_leads_to_the_search_and_escape_empties_it(self, cells: GradScopePage) -> None:
        cells.map().area.focus()
        cells.press("/", *"head")
        expect(cells.control("Layers")).to_be_focused()
        assert rows(cells) == 1
        cells.press("Escape")
        assert (rows(cells), cells.control("Layers").input_value()) == (3, "")

    def test_shift_with_arrows_folds_and_unfolds(self, cells: GradScopePage) -> None:
        cells.map().area.focus()
        cells.press("Shift+ArrowLeft")
        assert (rows(cells), cells.link()["fold"]) == (2, "0,encoder")
        cells.press("Shift+ArrowRight")
        assert (rows(cells), cells.link().get("fold")) == (3, None)

    def test_the_cursor_stays_on_the_map_when_its_rows_are_folded_away(self, cells: GradScopePage) -> None:
        cells.control("Layers").fill("encoder")
        cells.map().area.focus()
        cells.press("ArrowDown", "Home", "Shift+ArrowLeft")
        assert rows(cells) == 1
        cells.press("Enter")
        assert rows(cells) == 2

    def test_plus_and_minus_zoom_and_0_shows_all(self, cells: GradScopePage) -> None:
        cells.map().area.focus()
        cells.press("Home", "+")
        assert cells.link()["zoom"] == "0-6"
        cells.press("-")
        assert "zoom" not in cells.link()
        cells.press("+", "0")
        assert "zoom" not in cells.link()


class TestSearch:
    @pytest.mark.parametrize(
        ("search", "found"),
        [
            ("encoder.*", [0, 1]),
            ("*.conv !*1*", [0]),
            ("!encoder", [2]),
            ("HEAD, *0.conv", [0, 2]),
            ("enc?der.1.c*", [1]),
        ],
    )
    def test_patterns_choose_the_rows(self, cells: GradScopePage, search: str, found: list[int]) -> None:
        cells.control("Layers").fill(search)
        cells.settle()
        expected = expected_colours.of_norms(drawn("grad_norm"))[:, found]
        np.testing.assert_allclose(cells.map().colours(), expected, atol=3)
        assert cells.link()["search"] == search

    def test_nothing_found_is_said(self, cells: GradScopePage) -> None:
        cells.control("Layers").fill("decoder.*")
        cells.settle()
        assert cells.map().area.get_attribute("data-empty") == "No layer has a name like that."
        expect(cells.map().area.locator("canvas.cells")).to_be_hidden()


class TestFolding:
    def test_modules_show_their_worst_layer_and_unfold_by_a_click(self, cells: GradScopePage) -> None:
        cells.control("Rows").select_option("1")
        cells.settle()
        assert rows(cells) == 2
        values = drawn("grad_norm")
        decades = np.log10(values, where=values > 0, out=np.full_like(values, -np.inf))
        median = np.quantile(decades[np.isfinite(decades)], 0.5, method="lower")
        away = np.abs(decades[:, :2] - median)
        worst = np.argmax(away, axis=1)
        all_colours = expected_colours.of_norms(values)
        expected = np.stack([all_colours[np.arange(len(worst)), worst], all_colours[:, 2]], axis=1)
        np.testing.assert_allclose(cells.map().colours(), expected, atol=3)

        cells.map().area.click(position={"x": 20, "y": cells.map().grid().y(0)})
        cells.settle()
        assert (rows(cells), cells.link()["fold"]) == (3, "1,encoder")
        np.testing.assert_allclose(cells.map().colours(), all_colours, atol=3)

    def test_a_name_of_a_layer_opens_it(self, cells: GradScopePage) -> None:
        cells.map().area.click(position={"x": 20, "y": cells.map().grid().y(2)})
        expect(cells.get(".layer-panel h2")).to_have_text("head")


class TestZoom:
    def test_dragging_zooms_and_a_double_click_shows_all(self, cells: GradScopePage) -> None:
        box = cells.map().area.bounding_box()
        assert box
        grid = cells.map().grid()
        cells.page.mouse.move(box["x"] + grid.x(2.9 / 12), box["y"] + 20)
        cells.page.mouse.down()
        cells.page.mouse.move(box["x"] + grid.x(4.1 / 12), box["y"] + 20, steps=3)
        cells.page.mouse.move(box["x"] + grid.x(5.9 / 12), box["y"] + 20, steps=3)
        cells.page.mouse.up()
        cells.settle()
        assert cells.link()["zoom"] == "2-6"
        shown = cells.map().pixels()[12, [int(grid.x((i + 0.5) / 4)) for i in range(4)], :3]
        np.testing.assert_allclose(shown, expected_colours.of_norms(drawn("grad_norm"))[2:6, 0], atol=3)
        expect(cells.get("button").filter(has_text="Whole run")).to_be_visible()

        cells.map().area.dblclick(position=cells.map().cell(0, 6))
        cells.settle()
        assert "zoom" not in cells.link()
        np.testing.assert_allclose(cells.map().colours(), expected_colours.of_norms(drawn("grad_norm")), atol=3)

    def test_the_wheel_zooms_with_control_and_scrolls_without(self, cells: GradScopePage) -> None:
        cells.map().area.hover(position=cells.map().cell(0, 6))
        cells.page.mouse.wheel(0, -100)
        cells.settle()
        assert "zoom" not in cells.link()
        cells.page.keyboard.down("Control")
        cells.map().area.hover(position=cells.map().cell(0, 6))
        cells.page.mouse.wheel(0, -100)
        cells.page.keyboard.up("Control")
        cells.frame.wait_for_function("!document.querySelector('.bar > button').hidden")
        first, end = map(int, cells.link()["zoom"].split("-"))
        assert 0 < first < 6 < end <= 12
