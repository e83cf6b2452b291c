"""The tab and the page around it: the link that brings a view back, the address bar, the theme."""

import re
from urllib.parse import quote

import numpy as np
import pytest
from playwright.sync_api import expect

from tests.end_to_end import expected_colours
from tests.end_to_end.gradscope_page import GradScopePage, frame_of
from tests.end_to_end.tab_logs import drawn

pytestmark = pytest.mark.slow


def test_a_view_survives_a_reload(tab: GradScopePage) -> None:
    tab.show(runs="cells,calm")
    tab.control("Metric").select_option("act_mean")
    tab.control("Colours").select_option("values")
    tab.control("Rows").select_option("2")
    tab.control("Layers").fill("encoder.* !nothing")
    tab.map().area.focus()
    tab.press("Home", "+")
    tab.get(".layer-link").first.click()
    tab.settle()
    link = tab.link()
    assert {"runs", "metric", "colours", "fold", "search", "zoom", "layer"} <= set(link)
    picture = tab.map().pixels()

    tab.page.reload()
    tab.frame = frame_of(tab.page)
    tab.settle()
    assert tab.link() == link
    assert tab.control("Metric").input_value() == "act_mean"
    assert tab.control("Colours").input_value() == "values"
    assert tab.control("Rows").input_value() == "2"
    assert tab.control("Layers").input_value() == "encoder.* !nothing"
    assert tab.get(".layer-panel h2").inner_text() == link["layer"]
    assert (tab.map().pixels() == picture).all()


def test_a_link_to_a_run_that_is_gone_says_so(tab: GradScopePage) -> None:
    tab.show(runs="cells,gone")
    sentence = "There is no run of this name: choose another above."
    expect(tab.get(".verdict")).to_have_count(2)
    expect(tab.get(".verdict").filter(has_text="gone").locator(".sentence")).to_contain_text(sentence)
    expect(tab.get(".heatmap canvas.cells")).to_have_count(1)

    tab.show(runs="gone")
    expect(tab.get(".sentence")).to_contain_text(sentence)
    tab.get(".run-chooser summary").click()
    tab.get(".run-chooser label").filter(has_text="calm").click()
    tab.settle()
    assert tab.link()["runs"] == "calm"
    expect(tab.get(".sentence")).not_to_contain_text(sentence)


MANGLED = [
    "gradscope&p.gradscope.runs=%",
    "gradscope&p.gradscope.runs=cells&p.gradscope.metric=nothing&p.gradscope.layer=%E0%A4",
    "gradscope&p.gradscope.runs=cells&p.gradscope.step=-1e9&p.gradscope.zoom=9-3&p.gradscope.fold=x,%25",
    "gradscope&p.gradscope.runs=cells&p.gradscope.zoom=900-999&p.gradscope.step=99999&p.gradscope.search=%5B(%2B",
    "gradscope&p.gradscope.runs=cells&p.gradscope.finding=" + quote("<img src=x onerror=alert(1)>"),
    "gradscope&&&=&p.gradscope.=&p.gradscope.__proto__=x&p.gradscope.runs=cells," + "x," * 500,
]


@pytest.mark.parametrize("fragment", MANGLED)
def test_a_mangled_link_does_no_harm(tab: GradScopePage, fragment: str) -> None:
    tab.complaints.expect("status of 404")  # of a metric that no run has
    tab.open_link(fragment)
    tab.get(".run-chooser summary").click()
    tab.get(".run-chooser button").filter(has_text="All").click()
    tab.settle()
    expect(tab.get(".verdict")).to_have_count(4)
    tab.control("Layers").fill("")
    tab.control("Metric").select_option("grad_norm")
    tab.settle()
    expect(tab.map().area.locator("canvas.cells")).to_be_visible()
    assert (tab.map().pixels()[..., 3] == 255).any()


def test_the_address_of_another_dashboard_is_not_taken(tab: GradScopePage) -> None:
    tab.show(runs="cells", search="conv")
    assert "p.gradscope" in tab.page.url
    tab.page.get_by_role("tab", name="Scalars").click()
    tab.page.wait_for_url(re.compile("#scalars"))
    address = tab.page.url
    tab.page.set_viewport_size({"width": 1000, "height": 700})
    tab.evaluate("""() => {
      dispatchEvent(new Event('resize'));
      const search = document.querySelector('input[type=search][placeholder^=encoder]');
      search.value = 'head';
      search.dispatchEvent(new Event('input'));
    }""")
    tab.page.wait_for_function("innerWidth === 1000")
    # In a frame that nobody sees the browser may never be idle by itself.
    tab.evaluate("new Promise(done => requestIdleCallback(done, { timeout: 2000 }))")
    assert tab.page.url == address
    tab.page.get_by_role("tab", name="GradScope").click()
    expect(tab.get(".heatmap canvas.cells")).to_be_visible()
    tab.settle()
    assert tab.control("Layers").input_value() == "head"
    assert tab.map().label() == (1, 12)


def test_the_theme_is_that_of_tensorboard(tab: GradScopePage) -> None:
    tab.show(runs="cells")
    cells = drawn("grad_norm")
    for name, paper in (("Dark", "rgb(48, 48, 48)"), ("Light", "rgb(255, 255, 255)")):
        tab.page.get_by_label(re.compile("light or dark theme")).click()
        tab.page.get_by_role("menuitem", name=name, exact=True).click()
        expect(tab.get("body")).to_have_css("background-color", paper)
        tab.settle()
        np.testing.assert_allclose(tab.map().colours(), expected_colours.of_norms(cells, dark=name == "Dark"), atol=3)


def test_another_link_put_into_the_address_is_followed(tab: GradScopePage) -> None:
    tab.show(runs="cells")
    other = tab.page.url.replace("p.gradscope.runs=cells", "p.gradscope.runs=calm&p.gradscope.metric=act_mean")
    assert other != tab.page.url
    tab.page.evaluate("address => { location.href = address; }", other)
    expect(tab.get(".verdict .run-name")).to_have_text("calm")
    expect(tab.get(".map-section h2")).to_have_text("activation mean")
