"""A line chart: what its axis spans and how it is marked, and that no record is left out of its lines."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from tests.dashboard.modules import Module

pytestmark = pytest.mark.slow

NAN, INF = math.nan, math.inf

DRAWN = """(m, view) => {
  document.body.innerHTML = '<div style="width: 458px"></div>';
  const chart = new m.LineChart();
  document.body.firstChild.append(chart.node);
  chart.node.style.margin = 0;
  chart.update({label: '', height: 126, lines: [], ...view});
  const all = (selector, ...names) =>
    [...chart.canvas.querySelectorAll(selector)].map((node) => names.map((name) => Number(node.getAttribute(name))));
  return {
    paths: [...chart.canvas.querySelectorAll('path')].map((path) => path.getAttribute('d')),
    crosses: all('.not-finite', 'x').flat(), zeros: all('.zero', 'x1').flat(), cursors: all('.cursor', 'x1').flat(),
    band: all('.healthy', 'y', 'height'), thresholds: all('.threshold', 'y1').flat(),
  };
}"""


@pytest.fixture(scope="module")
def chart(module_of: Callable[[str], Module]) -> Module:
    return module_of("chart.js")


def view(ys: Sequence[float], extent: tuple[float, float] | None = None, **rest: Any) -> dict[str, Any]:
    series = {"name": "a", "className": "a", "xs": list(range(len(ys))), "ys": list(ys)}
    return {"logarithmic": False, "extent": extent or (0, len(ys) - 1), "series": [series], **rest}


def range_of(chart: Module, given: dict[str, Any]) -> tuple[float, float]:
    low, high = chart.run("(m, view) => Object.assign(new m.LineChart(), {view}).range()", given)
    return low, high


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (view([0, 10]), (-0.6, 10.6)),
        (view([0, 10, 1000], (0, 1)), (-0.6, 10.6)),
        (view([NAN, 0, INF, 10, -INF]), (-0.6, 10.6)),
        (view([5, 5]), (4.9975, 5.0025)),
        (view([0, 0]), (-0.5, 0.5)),
        (view([NAN, INF]), (0, 1)),
        (view([]), (0, 1)),
        (view([0, 1], band=(0, 10)), (-0.6, 10.6)),
        (view([0, 1], range=(0, 7)), (0, 7)),
        (view([1e-3, 1e3, 0, -1], logarithmic=True), (-3.36, 3.36)),
        (view([10, 10], logarithmic=True), (0.75, 1.25)),
        (view([0, NAN], logarithmic=True), (-1, 0)),
        (view([1, 1], logarithmic=True, band=(0, 100)), (-0.12, 2.12)),
    ],
)
def test_the_axis_spans_what_is_in_sight(given: dict[str, Any], expected: tuple[float, float], chart: Module) -> None:
    assert range_of(chart, given) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("logarithmic", "low", "high", "texts"),
    [
        (False, 0, 10, ["0", "5", "10"]),
        (True, -4, 4, ["10⁻⁴", "10⁻²", "10⁰", "10²", "10⁴"]),
        (True, 0, 1, ["5", "10"]),
        (True, -1, -0.5, ["0.1", "0.2", "0.3"]),
    ],
)
def test_the_axis_is_marked_by_decades_or_round_numbers(
    logarithmic: bool, low: float, high: float, texts: list[str], chart: Module
) -> None:
    marks = """(m, logarithmic, low, high) => {
      const chart = Object.assign(new m.LineChart(), {view: {logarithmic}, place: {low, high}});
      return chart.marks(low, high, 4).map((value) => chart.written(value));
    }"""
    assert chart.run(marks, logarithmic, low, high) == texts


def test_a_line_is_drawn_from_edge_to_edge(chart: Module) -> None:
    found = chart.run(DRAWN, view([0, 1, 0], range=(0, 1)))
    assert found["paths"] == ["M48.0,106.0L248.0,6.0L448.0,106.0"]


def test_what_was_not_measured_is_a_gap_and_no_record_is_lost(chart: Module) -> None:
    found = chart.run(DRAWN, view([0, NAN, 1, 1, NAN], range=(0, 1)))
    assert found["paths"] == ["M48.0,106.0h0.01M248.0,6.0L348.0,6.0"]
    assert (found["crosses"], found["zeros"]) == ([], [])


def test_a_record_alone_in_sight_can_be_seen(chart: Module) -> None:
    found = chart.run(DRAWN, view([0, 0.5, 1], (0.5, 1.5), range=(0, 1)))
    assert found["paths"] == ["M248.0,56.0h0.01"]


def test_what_has_no_place_on_the_axis_is_marked(chart: Module) -> None:
    found = chart.run(DRAWN, view([1, INF, 0, -INF, 10], logarithmic=True))
    assert (found["crosses"], found["zeros"]) == ([148, 348], [248])
    found = chart.run(DRAWN, view([1, INF, 0, 2, INF], (1.5, 3), range=(0, 2)))
    assert (found["crosses"], found["zeros"]) == ([], [])


def test_bounds_and_the_cursor_are_drawn_where_they_are(chart: Module) -> None:
    lines = [{"at": 0.25, "text": ""}, {"at": 5, "text": ""}]
    found = chart.run(DRAWN, view([0, 1], range=(0, 1), band=(-3, 0.5), lines=lines, cursor=0.25))
    assert found["band"] == [[56, 50]]
    assert found["thresholds"] == [81]
    assert found["cursors"] == [148]
    assert chart.run(DRAWN, view([0, 1], cursor=7))["cursors"] == []
    assert chart.run(DRAWN, view([0, 1], cursor=None))["cursors"] == []


def test_the_nearest_record_of_any_line_is_pointed_at(chart: Module) -> None:
    nearest = """(m, series, clientX) => {
      const chart = Object.assign(new m.LineChart(), {view: {extent: [0, 10], series}, place: {width: 458}});
      chart.canvas.getBoundingClientRect = () => ({left: 100, width: 458});
      return chart.nearest({clientX});
    }"""
    series = [{"xs": [0, 4, 10]}, {"xs": [5]}, {"xs": []}]
    for x, record in [(-500, 0), (148 + 1.9 * 40, 0), (148 + 2.1 * 40, 4), (148 + 4.6 * 40, 5), (9999, 10)]:
        assert chart.run(nearest, series, x) == record
    assert chart.run(nearest, [{"xs": []}], 200) is None
