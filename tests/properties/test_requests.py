"""Whatever is asked of the tab's routes is answered or refused in a sentence: never a traceback, never a 5xx."""

import gzip
import logging
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given
from werkzeug.test import EnvironBuilder, TestResponse

from gradscope.dashboard.content import STATIC
from tests.dashboard.served import Log, Tab, record, refusal, strict_json, unpacked

ROUTES = ("runs", "matrix", "summary", "layer")
RUNS = ("first", "nested/second", "Ünïcode <b>")
METHODS = ("GET", "GET", "GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH", "get", "BREW")
TEXTS = st.text(max_size=12)
VALUES = {
    "run": st.sampled_from(RUNS) | TEXTS,
    "metric": st.sampled_from(["grad_norm", "act_mean", "nonfinite"]) | TEXTS,
    "layer": st.sampled_from(["features.0", "act", "fc"]) | TEXTS,
    "records": st.integers(-3, 12).map(str) | TEXTS | st.sampled_from(["1e3", "٣", "9" * 30, " 7", "1_0"]),
    "after": TEXTS | st.from_regex(r"-?[0-9]{1,25}_[0-9a-f]{16}", fullmatch=True),
}
QUERIES = st.dictionaries(
    st.sampled_from([*VALUES, *VALUES, "experiment", ""]), st.sampled_from([""]) | TEXTS, max_size=4
) | st.fixed_dictionaries({}, optional=VALUES)
HEADERS = st.fixed_dictionaries(
    {},
    optional={
        "Origin": st.sampled_from(["http://localhost", "http://elsewhere", "null", "http://[", ""]),
        "Sec-Fetch-Site": st.sampled_from(["same-origin", "cross-site", "none", ""]),
        "Accept-Encoding": st.sampled_from(["gzip", "identity", "gzip;q=0, *", "br", ";;;"]),
        "Range": st.sampled_from(["bytes=0-1", "bytes=-", "lines=1"]),
    },
)


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Tab:
    """Three runs, and beside them a secret that is no log."""
    folder: Path = tmp_path_factory.mktemp("logs")
    (folder / "secret.txt").write_text("SECRET")
    for name in RUNS:
        Log(folder / name / "tfevents.1").add(*(record(s, act_mean=[0.0, 1.0, 2.0]) for s in range(9)))
    logging.getLogger("werkzeug").setLevel(logging.CRITICAL)
    return Tab(folder)


def asked(tab: Tab, path: str, method: str = "GET", **options: Any) -> TestResponse:
    return tab.client.open(EnvironBuilder(f"/data/plugin/gradscope/{path}", method=method, **options))


def assert_sound(response: TestResponse, method: str) -> None:
    if response.headers.get("Content-Encoding") == "gzip" and method != "HEAD":
        response.set_data(gzip.decompress(response.get_data()))
    content = response.get_data()
    assert response.status_code in (200, 400, 403, 404, 405), content
    assert b"Traceback" not in content
    assert b"SECRET" not in content
    if response.status_code != 200 and method != "HEAD":
        sentence = refusal(response)
        assert sentence
        assert len(sentence) < 400
    assert (response.status_code == 405) <= (response.headers.get("Allow") == "GET")


@given(route=st.sampled_from(ROUTES), method=st.sampled_from(METHODS), query=QUERIES, headers=HEADERS)
def test_every_request_is_answered_or_refused(
    tab: Tab, route: str, method: str, query: dict[str, str], headers: dict[str, str]
) -> None:
    response = asked(tab, route, method, query_string=query, headers=headers)
    assert_sound(response, method)
    if method.upper() != "GET":  # Werkzeug writes it so itself
        assert response.status_code == 405
    elif (
        headers.get("Sec-Fetch-Site") == "cross-site" or headers.get("Origin", "http://localhost") != "http://localhost"
    ):
        assert response.status_code == 403
    elif route == "runs":
        assert response.status_code == 200
    elif query.get("run") not in RUNS:
        assert response.status_code in (400, 404)


@given(records=VALUES["records"], after=VALUES["after"])
def test_what_is_no_number_of_records_is_refused(tab: Tab, records: str, after: str) -> None:
    query = {"run": RUNS[0], "metric": "grad_norm", "records": records, "after": after}
    response = asked(tab, "matrix", query_string=query)
    assert_sound(response, "GET")
    number = records.isascii() and records.isdigit() and records[0] != "0" and len(records) < 10
    assert number or response.status_code == 400


@given(run=st.sampled_from(RUNS), metric=st.sampled_from(["grad_norm", "act_mean"]), records=st.integers(1, 12))
def test_a_matrix_is_what_was_asked_for_and_goes_on_from_its_token(
    tab: Tab, run: str, metric: str, records: int
) -> None:
    matrix = tab.matrix(run, metric, records=records)
    steps = matrix.header["steps"]
    assert min(records, 9) <= len(steps) <= min(records + 1, 9), "TensorBoard keeps the last one beside its choice"
    assert steps == sorted(set(steps))
    assert steps[-1] == 8
    assert matrix.header["complete"] == (records >= 9)
    later = tab.matrix(run, metric, records=records, after=matrix.header["token"])
    assert (later.header["steps"], later.header["appended"]) == ([], True)


@given(name=st.text(st.characters(codec="utf-8", exclude_characters="?#"), max_size=20) | st.sampled_from(
    ["../plugin.py", "..%2fplugin.py", "%2e%2e/secret.txt", "/etc/passwd", ".hidden", "index.js/", "plugin.py", "",
     "a\0.js", "..\\web.py"]
))  # fmt: skip
def test_nothing_but_the_files_of_the_page_is_served(tab: Tab, name: str) -> None:
    response = asked(tab, f"static/{name}")
    served = {p.name for p in STATIC.iterdir()}
    if response.status_code == 200 and name in served:
        assert response.get_data() == (STATIC / name).read_bytes()
    else:
        assert response.status_code in (301, 308, 404), (name, response.status_code)
        assert b"SECRET" not in response.get_data()


@given(run=TEXTS, method=st.sampled_from(["POST", "GET"]), body=st.binary(max_size=200))
def test_a_body_is_no_answer(tab: Tab, run: str, method: str, body: bytes) -> None:
    for content_type in ("application/json", "multipart/form-data; boundary=x", "application/x-www-form-urlencoded"):
        response = asked(tab, "summary", method, query_string={"run": run}, data=body, content_type=content_type)
        assert_sound(response, method)
        assert (response.status_code == 405) == (method == "POST")


@given(st.sampled_from(ROUTES), st.binary(max_size=30))
def test_a_query_need_not_be_text(tab: Tab, route: str, raw: bytes) -> None:
    environ = EnvironBuilder(f"/data/plugin/gradscope/{route}").get_environ()
    environ["QUERY_STRING"] = "run=" + raw.decode("latin-1")
    assert_sound(tab.client.open(environ), "GET")


def test_what_is_answered_is_what_the_page_reads(tab: Tab) -> None:
    for name in RUNS:
        assert strict_json(asked(tab, "summary", query_string={"run": name}).get_data())["steps"] == list(range(9))
        content = asked(tab, "matrix", query_string={"run": name, "metric": "grad_norm"}).get_data()
        assert unpacked(content).header["run"] == name
