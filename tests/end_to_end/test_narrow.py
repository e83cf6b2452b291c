"""The page on a wide screen and on a telephone: nothing sticks out, and every control can be reached."""

import pytest
from playwright.sync_api import Browser, Locator, expect

from tests.end_to_end.gradscope_page import GradScopePage
from tests.end_to_end.hostile_logs import SCRIPT, write_hostile
from tests.end_to_end.report_page import opened_report, write_report

pytestmark = pytest.mark.slow

WIDTHS = pytest.mark.parametrize("width", [1280, 390])

# Whether what one would touch in the middle of a control is the control.
IN_REACH = """node => {
  node.scrollIntoView({block: 'center'});
  const {left, right, top, bottom} = node.getBoundingClientRect();
  const hit = document.elementFromPoint((left + right) / 2, (top + bottom) / 2);
  return left >= 0 && right <= innerWidth && (node.contains(hit) || node.closest('label')?.contains(hit));
}"""


def check_width(page: GradScopePage, width: int) -> None:
    assert page.evaluate("[innerWidth, document.documentElement.scrollWidth, document.body.scrollWidth]") == [width] * 3


def controls(page: GradScopePage) -> list[Locator]:
    return page.get("button:visible, select:visible, input:visible, summary:visible, .heatmap:visible").all()


def check_reach(page: GradScopePage) -> None:
    found = controls(page)
    assert len(found) > 12
    for control in found:
        assert control.evaluate(IN_REACH), control.evaluate("node => node.outerHTML.slice(0, 200)")


@WIDTHS
@pytest.mark.parametrize("runs", ["fit%2Fsigmoid", "cells,calm"])
def test_the_tab(tab: GradScopePage, width: int, runs: str) -> None:
    tab.page.set_viewport_size({"width": width, "height": 800})
    tab.show(runs=runs, layer="net.2" if "fit" in runs else "head", zoom="2-6")
    check_width(tab, width)
    check_reach(tab)
    tab.get(".run-chooser summary").click()
    expect(tab.get(".popover")).to_be_visible()
    check_width(tab, width)
    for choice in tab.get(".popover :is(input, button)").all():
        assert choice.evaluate(IN_REACH)


@WIDTHS
def test_the_report(browser: Browser, tmp_path_factory: pytest.TempPathFactory, width: int) -> None:
    directory = tmp_path_factory.mktemp("hostile")
    write_hostile(directory / "logs")
    path = write_report(directory / "logs", directory / "report.html")
    with opened_report(browser, path, viewport={"width": width, "height": 800}) as report:
        report.show(layer="x" * 300)
        for details in report.get("details:not(.run-chooser)").all():
            details.evaluate("node => { node.open = true; }")
        check_width(report, width)
        check_reach(report)
        report.map().area.hover(position=report.map().cell(3, 30))
        expect(report.get(".tooltip")).to_be_visible()
        check_width(report, width)
        assert SCRIPT in report.get(".verdict").inner_text()
