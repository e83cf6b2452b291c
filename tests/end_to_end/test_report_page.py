"""The file that ``gradscope report`` writes, opened from disk in a real browser without a network."""

import html
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
from playwright.sync_api import Browser, expect

from tests.end_to_end import expected_colours
from tests.end_to_end.gradscope_page import HEIGHT, WIDTH, GradScopePage
from tests.end_to_end.hostile_logs import NAMES, SCRIPT, write_hostile, write_odd
from tests.end_to_end.report_page import ReportPage, opened_report, write_report
from tests.end_to_end.tab_logs import drawn

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def path(logdir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(logdir, tmp_path_factory.mktemp("report") / "ein Bericht #1.html")


@pytest.fixture
def report(browser: Browser, path: Path) -> Iterator[ReportPage]:
    with opened_report(browser, path) as page:
        yield page


def test_it_shows_all_runs_and_their_verdicts(report: ReportPage) -> None:
    captions = report.get(".maps > figure figcaption")
    expect(captions).to_have_count(4)
    assert {text.strip() for text in captions.all_inner_texts()} == {"calm", "cells", "fit/selu", "fit/sigmoid"}
    severities = [card.get_attribute("class") or "" for card in report.get(".verdict").all()]
    ranks = [["verdict critical", "verdict warning", "verdict info", "verdict sound"].index(s) for s in severities]
    assert ranks == sorted(ranks), "the sickest come first"
    assert ranks[0] < ranks[-1]
    sigmoid = report.get(".verdict").filter(has_text="fit/sigmoid")
    expect(sigmoid.locator(".sentence")).to_contain_text("critical vanishing_gradient in")
    assert report.page.title() == "GradScope: 4 runs"


@pytest.mark.parametrize("metric", ["grad_norm", "act_mean", "dead_fraction"])
def test_its_heat_map_is_that_of_the_tab(report: ReportPage, tab: GradScopePage, metric: str) -> None:
    tab.show(runs="cells", metric=metric)
    report.show(runs="cells", metric=metric)
    in_tab = tab.map().pixels()
    width = report.map().pixels().shape[1]
    report.page.set_viewport_size({"width": WIDTH + in_tab.shape[1] - width, "height": HEIGHT})
    report.frame.wait_for_function(
        "width => document.querySelector('canvas.cells').width === width", arg=in_tab.shape[1]
    )
    report.settle()
    assert report.map().grid() == tab.map().grid()
    # Numbers in a file have four digits: here and there a colour is the next one of 256.
    np.testing.assert_allclose(report.map().pixels().astype(int), in_tab.astype(int), atol=3)


def test_its_findings_are_those_of_the_tab(report: ReportPage, tab: GradScopePage) -> None:
    for run in ("fit/sigmoid", "cells"):
        tab.show(runs=run.replace("/", "%2F"))
        report.show(runs=run.replace("/", "%2F"))
        in_tab = tab.get(".finding").all_inner_texts()
        assert in_tab
        assert report.get(".finding").all_inner_texts() == in_tab


def test_a_layer_opens_and_the_slider_moves_through_the_steps(report: ReportPage) -> None:
    report.show(runs="cells")
    report.map().area.click(position=report.map().cell(2, 4))
    report.settle()
    panel = report.get(".layer-panel")
    expect(panel.locator("h2")).to_have_text("head")
    expect(panel.locator("figcaption")).to_have_text(["gradient norm", "non-finite values", "loss"])
    bold = report.get("section[aria-label='Over depth'] path.bold")
    before = bold.get_attribute("d")
    slider = report.get("input[type=range]")
    assert slider.get_attribute("aria-valuetext") == "step 4"
    slider.focus()
    report.press("ArrowRight", "ArrowRight", "ArrowRight")
    assert slider.get_attribute("aria-valuetext") == "step 7"
    expect(report.get(".slider output")).to_have_text("7")
    assert bold.get_attribute("d") != before
    assert report.link()["step"] == "7"


def test_a_link_into_the_file_survives_a_reload(report: ReportPage) -> None:
    report.show(runs="cells", search="conv", layer="encoder.1.conv")
    report.page.reload()
    report.settle()
    assert report.map().label() == (2, 12)
    expect(report.get(".layer-panel h2")).to_have_text("encoder.1.conv")


def test_the_theme_is_that_of_the_system(report: ReportPage) -> None:
    report.show(runs="cells")
    report.page.emulate_media(color_scheme="dark")
    expect(report.get("body")).to_have_css("background-color", "rgb(48, 48, 48)")
    report.settle()
    expected = expected_colours.of_norms(drawn("grad_norm"), dark=True)
    np.testing.assert_allclose(report.map().colours(), expected, atol=3)


@pytest.mark.parametrize("system", ["light", "dark"])
def test_on_paper_there_are_pictures_and_no_controls(browser: Browser, path: Path, system: str) -> None:
    with opened_report(browser, path, color_scheme=system) as report:
        report.show(runs="fit/sigmoid".replace("/", "%2F"))
        report.page.emulate_media(media="print")
        for control in (".bar", ".slider", ".hint"):
            expect(report.get(control).first).to_be_hidden()
        for content in (".sentence", "canvas.cells", ".finding", ".strip"):
            expect(report.get(content).first).to_be_visible()
        # Browsers leave backgrounds out: ink must be dark, on whatever screen it was.
        expect(report.get("body")).to_have_css("color", "rgb(33, 33, 33)")
        report.settle()
        names = report.map().pixels()[:100, :60]
        assert names[names[..., 3] > 200][:, :3].max() < 200
        assert report.page.pdf().startswith(b"%PDF-")


def test_a_dark_page_is_printed_as_a_light_one_and_is_dark_again(browser: Browser, path: Path) -> None:
    with opened_report(browser, path, color_scheme="dark") as report:
        report.evaluate("""() => {
          const isDark = () => document.documentElement.classList.contains('dark');
          window.seen = [isDark()];
          const look = () => window.seen.push(isDark());
          for (const moment of ['beforeprint', 'afterprint']) addEventListener(moment, look);
        }""")
        report.page.pdf()
        assert report.evaluate("window.seen") == [True, False, True]


def test_names_from_a_log_stay_names(browser: Browser, tmp_path: Path) -> None:
    write_hostile(tmp_path / "logs")
    with opened_report(browser, write_report(tmp_path / "logs", tmp_path / "hostile.html")) as report:
        assert report.map().label() == (len(NAMES), 60)
        expect(report.get(".finding .layer-link").first).to_have_text(SCRIPT)
        for row in range(len(NAMES)):
            report.map().area.click(position=report.map().cell(row, 3))
            report.settle()
            expect(report.get(".layer-panel path.line").first).to_be_attached()
        report.open_link(f"layer={quote(NAMES[1], safe='')}")
        expect(report.get(".layer-panel h2")).to_have_text(NAMES[1])
        assert report.evaluate("window.harmed") is None
        assert report.get("img").count() == 0
        assert report.page.title() == f"GradScope: {SCRIPT}"


def test_what_is_wrong_with_a_log_is_told(browser: Browser, tmp_path: Path) -> None:
    write_odd(tmp_path / "logs")
    with opened_report(browser, write_report(tmp_path / "logs", tmp_path / "odd.html")) as report:
        expect(report.get(".verdict")).to_have_count(6)
        for run, words in (("half", "the file ends inside a record"), ("newer", "written by a newer GradScope")):
            report.show(runs=run)
            expect(report.get(".about .note")).to_contain_text(words)


INJECTED = (
    "<script>window.harmed=1</script><script type=module>window.harmed=1</script>"
    "<script src='data:text/javascript,window.harmed=1'></script><img src=x onerror='window.harmed=1'>"
    "<style>body{display:none}</style><base href='https://example.com/'>"
)


def test_it_stands_a_policy_that_lets_nothing_run_but_its_own(browser: Browser, path: Path, tmp_path: Path) -> None:
    page = path.read_text(encoding="utf-8")
    policy = page.partition('http-equiv="Content-Security-Policy" content="')[2].partition('"')[0]
    assert "unsafe" not in policy
    assert "default-src 'none'" in html.unescape(policy)
    spoilt = tmp_path / "spoilt.html"
    spoilt.write_text(page.replace("<noscript>", f"{INJECTED}<noscript>"), encoding="utf-8")
    with browser.new_page() as opened:
        refused: list[str] = []
        opened.on("console", lambda message: refused.append(message.text))
        opened.goto(spoilt.as_uri())
        opened.wait_for_selector("canvas.cells")
        assert opened.evaluate("window.harmed") is None
        assert opened.evaluate("document.baseURI") == spoilt.as_uri()
        expect(opened.locator(".verdict").first).to_be_visible()
    assert sum("Content Security Policy" in text for text in refused) >= 5, refused
