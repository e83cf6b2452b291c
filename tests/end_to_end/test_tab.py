"""The GRADSCOPE tab of a real TensorBoard in a real browser: that it is there, its pictures and its findings."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Browser, expect
from tensorboard.compat.proto.summary_pb2 import Summary

from gradscope import cli
from gradscope.grid import EXACT_ZERO, NON_FINITE, NOT_MEASURED
from tests.dashboard.served import Log
from tests.end_to_end import expected_colours
from tests.end_to_end.gradscope_page import GradScopePage, HeatMap, frame_of, opened_tab
from tests.end_to_end.tab_logs import DEAD, LAYERS, drawn
from tests.end_to_end.tensorboard_server import tensorboard

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=["server", "server_in_python"], ids=["rustboard", "python reader"])
def _either_opened(request: pytest.FixtureRequest, browser: Browser) -> Iterator[GradScopePage]:
    with opened_tab(browser, request.getfixturevalue(request.param)) as tab:
        yield tab


@pytest.fixture
def either_tab(_either_opened: GradScopePage) -> Iterator[GradScopePage]:
    """The tab over each of TensorBoard's readers."""
    _either_opened.reset()
    yield _either_opened
    _either_opened.complaints.check()


@pytest.fixture(scope="module")
def told(logdir: Path) -> dict[str, Any]:
    """What ``gradscope summary --json`` prints, by run."""
    with pytest.MonkeyPatch.context() as patch:
        written: list[str] = []
        patch.setattr("gradscope.cli.summary.write", written.append)
        assert cli.main(["summary", str(logdir), "--json"]) == 0
    return {run["name"]: run for run in json.loads("".join(written))["runs"]}


def check_colours(shown: HeatMap, expected: expected_colours.Colours) -> None:
    np.testing.assert_allclose(shown.colours(), expected, atol=3)


def test_the_tab_appears_and_shows_the_newest_run(either_tab: GradScopePage) -> None:
    page = either_tab.page
    page.goto(page.url.partition("#")[0])
    page.get_by_role("tab", name="GradScope").click()
    either_tab.frame = frame_of(page)
    expect(either_tab.get(".run-chooser summary")).to_have_text("Runs: fit/sigmoid of 4")
    expect(either_tab.get(".sentence")).to_contain_text("critical vanishing_gradient in")


def test_there_is_no_tab_without_data(browser: Browser, tmp_path: Path) -> None:
    stock = Summary(value=[Summary.Value(tag="loss", simple_value=1.0)])
    Log(tmp_path / "run" / "events.out.tfevents.1.host").add_summary(stock)
    with tensorboard(tmp_path) as address, browser.new_page() as page:
        page.goto(address)
        expect(page.get_by_role("tab", name="Scalars")).to_be_visible(timeout=20_000)
        expect(page.get_by_role("tab", name="GradScope")).not_to_be_visible()


def test_norms_are_coloured_by_their_decades(either_tab: GradScopePage) -> None:
    either_tab.show(runs="cells")
    check_colours(either_tab.map(), expected_colours.of_norms(drawn("grad_norm")))


def test_the_colours_tell_the_four_kinds_of_cells_apart(tab: GradScopePage) -> None:
    tab.show(runs="cells")
    colours = tab.map().colours()
    for record, row, special in [
        (3, 0, NON_FINITE),
        (4, 1, NON_FINITE),
        (5, 1, EXACT_ZERO),
        (6, 2, NOT_MEASURED),
    ]:
        assert tuple(colours[record, row]) == special


@pytest.mark.parametrize(("metric", "low", "high"), [("act_mean", -0.1, 0.1), ("act_var", 0.8, 1.5)])
def test_bounds_are_quiet_inside_and_loud_outside(tab: GradScopePage, metric: str, low: float, high: float) -> None:
    tab.show(runs="cells", metric=metric)
    cells, colours = drawn(metric), tab.map().colours()
    check_colours(tab.map(), expected_colours.of_bounds(cells, low, high))
    finite = np.isfinite(cells)
    assert (colours[finite & (cells >= low) & (cells <= high)] == expected_colours.INSIDE).all()
    red, blue = colours[..., 0].astype(int), colours[..., 2].astype(int)
    assert (red < blue)[finite & (cells < low)].all()
    assert (red > blue)[finite & (cells > high)].all()
    assert {(cells < low).any(), (finite & (cells > high)).any()} == {True}


def test_a_metric_with_bounds_by_its_values(tab: GradScopePage) -> None:
    tab.show(runs="cells", metric="act_mean")
    tab.control("Colours").select_option("values")
    tab.settle()
    check_colours(tab.map(), expected_colours.of_values(drawn("act_mean")))


@pytest.mark.parametrize(("metric", "whole"), [(DEAD.name, 1.0), ("nonfinite", 7.0)])
def test_fractions_and_flags_have_a_scale_of_their_own(tab: GradScopePage, metric: str, whole: float) -> None:
    tab.show(runs="cells", metric=metric)
    check_colours(tab.map(), expected_colours.of_shares(drawn(metric), whole))


def test_runs_side_by_side_share_a_scale(tab: GradScopePage) -> None:
    tab.show(runs="cells,calm")
    low, high = drawn("grad_norm"), drawn("grad_norm") * np.float32(1e3)
    assert tab.get(".maps > figure").count() == 2
    check_colours(tab.map(0), expected_colours.of_norms(low, high))
    check_colours(tab.map(1), expected_colours.of_norms(high, low))


@pytest.mark.parametrize("name", ["fit/sigmoid", "cells"])
def test_the_findings_are_those_of_the_command(either_tab: GradScopePage, told: dict[str, Any], name: str) -> None:
    either_tab.show(runs=name)
    cards = either_tab.get(".finding").all()
    findings = told[name]["findings"]
    assert findings
    assert len(cards) == len(findings)
    for card, finding in zip(cards, findings, strict=True):
        words = card.inner_text()
        assert f"{finding['severity']} {finding['code']} · " in words
        assert (
            f"{finding['first_step']} to {finding['last_step']}" in words
            or finding["first_step"] == finding["last_step"]
        )
        assert finding["message"] in words
        assert f"What to change: {finding['hint']}" in words
        shown = card.locator(".layer-link").all_inner_texts()
        assert shown == finding["layers"][:6]
        more = len(finding["layers"]) - 6
        assert (f"and {more} more" in words) == (more > 0)


def test_a_finding_leads_to_its_metric_and_marks_its_cells(tab: GradScopePage, told: dict[str, Any]) -> None:
    (finding,) = (one for one in told["fit/sigmoid"]["findings"] if one["code"] == "vanishing_gradient")
    tab.show(runs="fit/sigmoid", metric="act_var")
    assert tab.control("Metric").input_value() == "act_var"
    tab.get(".finding").filter(has_text="vanishing_gradient").locator("button").first.click()
    tab.settle()
    assert tab.control("Metric").input_value() == "grad_norm"
    assert tab.link()["finding"] == f"fit/sigmoid:vanishing_gradient:{finding['first_step']}"
    expect(tab.get(".finding[aria-current]")).to_contain_text("vanishing_gradient")
    assert marked_rows(tab.map()) == {row for row in range(9) if f"net.{2 * row}" in finding["layers"]}


def marked_rows(shown: HeatMap) -> set[int]:
    """Return the rows that an upright edge in the marks' colour, #d100a8, goes through."""
    above, grid = shown.pixels("above").astype(int), shown.grid()
    is_mark = (np.abs(above[..., :3] - (209, 0, 168)).max(axis=-1) < 80) & (above[..., 3] > 150)
    return {row for row in range(grid.rows) if is_mark[int(grid.y(row))].any()}


def test_a_cell_opens_its_layer(tab: GradScopePage) -> None:
    tab.show(runs="cells")
    tab.map().area.click(position=tab.map().cell(1, 2))
    tab.settle()
    panel = tab.get(".layer-panel")
    assert panel.locator("h2").inner_text() == "encoder.1.conv"
    assert "Conv2d, convolution" in panel.inner_text()
    assert panel.locator("figcaption").all_inner_texts() == ["gradient norm", "non-finite values", "loss"]
    assert all("M" in (path.get_attribute("d") or "") for path in panel.locator("path.line").all())
    assert (tab.link()["layer"], tab.link()["step"]) == ("encoder.1.conv", "2")
    panel.get_by_role("button", name="Close").click()
    tab.settle()
    expect(panel).to_be_hidden()


@pytest.mark.parametrize(
    ("record", "row", "words"),
    [
        (0, 0, "gradient norm: 1e-5"),
        (11, 2, f"gradient norm: {10**0.71:.4g}"),
        (7, 1, f"gradient norm: {10**-2.23:.4g}"),
        (3, 0, "gradient norm: NaN or infinite"),
        (5, 1, "gradient norm: 0"),
        (6, 2, "gradient norm: not measured"),
    ],
)
def test_the_pointer_tells_the_exact_value(tab: GradScopePage, record: int, row: int, words: str) -> None:
    tab.show(runs="cells")
    tab.map().area.hover(position=tab.map().cell(row, record))
    layer = LAYERS[[0, 2, 5][row]]
    assert tab.get(".tooltip > div").all_inner_texts() == [layer.name, f"{layer.type}, step {record}", words]
