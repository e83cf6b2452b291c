"""Data as the page gets them from the server: asked for, taken apart, put together."""

import json
import struct
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
from playwright.sync_api import Error, Route

from tests.dashboard.modules import Module

pytestmark = pytest.mark.slow

Answer = tuple[int, str | bytes]


@pytest.fixture(scope="module")
def source(module_of: Callable[[str], Module]) -> Module:
    return module_of("source.js")


class Routes:
    """What the plug-in's routes answer, and what they were asked."""

    def __init__(self) -> None:
        self.answer: Answer = 200, "{}"
        self.asked: list[tuple[str, dict[str, str]]] = []

    def __call__(self, route: Route) -> None:
        address = urlsplit(route.request.url)
        self.asked.append((address.path, dict(parse_qsl(address.query))))
        status, body = self.answer
        if status:
            route.fulfill(status=status, body=body)
        else:
            route.abort()


@pytest.fixture
def routes(source: Module) -> Iterator[Routes]:
    routes = Routes()
    pattern = "**/{runs,summary,layer,matrix}*"
    source.page.route(pattern, routes)
    yield routes
    source.page.unroute(pattern)


def matrix(*cells: float, **header: Any) -> bytes:
    text = json.dumps({"steps": [0, 10], "layers": [{"name": "a"}, {"name": "ü"}], **header}).encode()
    text += b" " * (-len(text) % 4)
    return struct.pack("<I", len(text)) + text + struct.pack(f"<{len(cells)}f", *cells)


ASK = "async (m, method, ...given) => new m.Server()[method](...given)"
MATRIX = """async (m, ...given) => {
  const matrix = await new m.Server().matrix(...given);
  return {...matrix, data: Array.from(matrix.data)};
}"""


@pytest.mark.parametrize("run", ["a", "a&b=c/ü +%#", "\U0001f525\u202e"])
def test_names_are_asked_for_as_they_are(run: str, source: Module, routes: Routes) -> None:
    routes.answer = 200, '{"runs": [1]}'
    assert source.run(ASK, "runs") == [1]
    assert source.run(ASK, "summary", run) == {"runs": [1]}
    source.run(ASK, "layer", run, "x&y")
    assert routes.asked == [("/runs", {}), ("/summary", {"run": run}), ("/layer", {"run": run, "layer": "x&y"})]


def test_a_matrix_is_taken_apart(source: Module, routes: Routes) -> None:
    nan, inf = float("nan"), float("inf")
    routes.answer = 200, matrix(1.5, nan, inf, nan, complete=True, token="t")
    found = source.run(MATRIX, "r", "grad_norm", {"records": 250})
    assert found["data"][::2] == [1.5, inf]
    assert found["measured"] == [0]
    assert (found["steps"], found["layers"][1]["name"], found["token"]) == ([0, 10], "ü", "t")
    assert routes.asked == [("/matrix", {"run": "r", "metric": "grad_norm", "records": "250"})]


def test_what_comes_after_is_asked_for_by_token(source: Module, routes: Routes) -> None:
    routes.answer = 200, matrix(steps=[], layers=[])
    assert source.run(MATRIX, "r", "m", {"after": "a+b="})["measured"] == []
    assert routes.asked[0][1] == {"run": "r", "metric": "m", "after": "a+b="}


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        ((404, '{"error": "There is no run `a`."}'), "There is no run `a`."),
        ((500, "<html>Internal Server Error"), "TensorBoard answered with status 500; its own output may say why."),
        ((502, "{}"), "TensorBoard answered with status 502; its own output may say why."),
        ((0, ""), "TensorBoard does not answer; this page goes on trying."),
    ],
)
def test_what_went_wrong_is_said(answer: Answer, says: str, source: Module, routes: Routes) -> None:
    routes.answer = answer
    with pytest.raises(Error) as raised:
        source.run(ASK, "summary", "a")
    assert raised.value.message.splitlines()[0] == f"Page.evaluate: Error: {says}"


def test_what_is_measured_in_any_record_is_measured(source: Module) -> None:
    measured = """(m, cells, width, records) => m.matrixOf(
      {data: Float32Array.from(cells), layers: Array(width).fill({}), steps: Array(records).fill(0)}).measured"""
    nan, inf = float("nan"), float("inf")
    assert source.run(measured, [nan, 0, nan, nan, nan, nan, inf, nan], 4, 2) == [1, 2]
    assert source.run(measured, [], 3, 0) == []


def test_later_records_are_put_behind(source: Module) -> None:
    joined = """(m, earlier, later) => {
      const of = (part) => m.matrixOf({...part, data: Float32Array.from(part.data)});
      const {data, ...rest} = m.joined(of(earlier), of(later));
      return {...rest, data: Array.from(data)};
    }"""
    nan = float("nan")
    layers = [{"name": "a"}, {"name": "b"}]
    earlier = {"steps": [0, 5], "layers": layers, "data": [1, nan, 2, nan], "complete": True, "token": "old"}
    later = {"steps": [9], "layers": layers, "data": [3, 4], "complete": True, "token": "new"}
    found = source.run(joined, earlier, later)
    assert found["steps"] == [0, 5, 9]
    assert found["data"][::2] == [1, 2, 3]
    assert found["data"][5] == 4
    assert (found["measured"], found["token"], found["complete"]) == ([0, 1], "new", True)
    nothing = source.run(joined, earlier, {**later, "steps": [], "data": []})
    assert (nothing["steps"], nothing["data"][::2], nothing["measured"]) == ([0, 5], [1, 2], [0])
