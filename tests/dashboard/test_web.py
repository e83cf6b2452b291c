"""What every route has in common, through TensorBoard's own application: refusals, and the files of the page."""

import io
from pathlib import Path
from typing import Any

import pytest

from gradscope.records import Run
from tests.dashboard.served import Log, Tab, record, refusal


class TestRefusals:
    @pytest.fixture
    def tab(self, tmp_path: Path) -> Tab:
        Log(tmp_path / "run" / "tfevents").add(record(0))
        return Tab(tmp_path)

    @pytest.mark.parametrize(
        ("route", "query", "missing"),
        [
            ("matrix", {"metric": "grad_norm"}, "run"),
            ("matrix", {"run": "run"}, "metric"),
            ("summary", {}, "run"),
            ("layer", {"run": "run"}, "layer"),
            ("layer", {"layer": "act"}, "run"),
        ],
    )
    def test_a_missing_parameter_is_named(self, tab: Tab, route: str, query: dict[str, Any], missing: str) -> None:
        assert tab.error(400, route, **query) == f"the parameter `{missing}` is missing; give it in the address"

    @pytest.mark.parametrize("run", ["", "gone", "../run", "run/", "\x00", "r" * 5000, "run\\", "<script>"])
    @pytest.mark.parametrize("route", ["matrix", "summary", "layer"])
    def test_an_unknown_run_is_named_shortly(self, tab: Tab, route: str, run: str) -> None:
        sentence = tab.error(404, route, run=run, metric="grad_norm", layer="act")
        assert sentence.startswith("there is no run '")
        assert sentence.endswith(" with GradScope's data; reload the page")
        assert len(sentence) < 200

    def test_an_unknown_metric_or_layer_is_named(self, tab: Tab) -> None:
        assert tab.error(404, "matrix", run="run", metric="x" * 999).startswith("no run has a metric 'xxx")
        assert tab.error(404, "layer", run="run", layer="gone").startswith("the run has no layer 'gone'; choose")

    @pytest.mark.parametrize("records", ["", "0", "-1", "1.5", "many", "1e3", "٣", "9" * 400, " 1"])
    def test_records_must_be_a_count(self, tab: Tab, records: str) -> None:
        sentence = tab.error(400, "matrix", run="run", metric="grad_norm", records=records)
        assert sentence.startswith("`records` must be an integer of at least 1, got '")
        assert len(sentence) < 200

    @pytest.mark.parametrize("after", ["x", "1", "1_", "_", "nan_0123456789abcdef", "0_0123456789abcdeF", "9" * 999])
    def test_after_must_be_a_token(self, tab: Tab, after: str) -> None:
        sentence = tab.error(400, "matrix", run="run", metric="grad_norm", after=after)
        assert sentence.startswith("`after` must be the token of an earlier answer, got '")
        assert sentence.endswith("; leave it out")

    @pytest.mark.parametrize("step", ["0", "7", "-9999999999999999999", "9999999999999999999"])
    def test_a_token_of_nothing_gives_everything(self, tab: Tab, step: str) -> None:
        header = tab.matrix("run", after=f"{step}_0123456789abcdef").header
        assert (header["steps"], header["appended"]) == ([0], False)

    def test_a_huge_query_is_answered(self, tab: Tab) -> None:
        assert tab.get("runs", junk="x" * 1_000_000).status_code == 200

    @pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS"])
    @pytest.mark.parametrize("route", ["runs", "matrix", "summary", "layer", "static/index.js"])
    def test_only_get_is_answered(self, tab: Tab, method: str, route: str) -> None:
        response = tab.client.open(
            f"/data/plugin/gradscope/{route}", method=method, data=b"x" if method == "POST" else b""
        )
        assert response.status_code == 405
        assert response.headers["Allow"] == "GET"
        if method != "HEAD":
            assert refusal(response).startswith("only GET is answered here")

    @pytest.mark.parametrize(
        "headers",
        [
            {"Origin": "http://evil.example"},
            {"Origin": "null"},
            {"Origin": "http://localhost:6007"},
            {"Origin": "http://["},
            {"Origin": ""},
            {"Sec-Fetch-Site": "cross-site"},
        ],
    )
    @pytest.mark.parametrize("route", ["runs", "matrix", "static/index.js"])
    def test_a_foreign_page_is_refused(self, tab: Tab, route: str, headers: dict[str, str]) -> None:
        assert tab.error(403, route, headers).startswith("only TensorBoard's own page is answered")

    @pytest.mark.parametrize("site", ["same-origin", "none"])
    def test_the_own_page_is_answered(self, tab: Tab, site: str) -> None:
        assert tab.get("runs", {"Origin": "http://LOCALHOST", "Sec-Fetch-Site": site}).status_code == 200

    def test_a_failure_inside_is_logged_and_told(
        self, tab: Tab, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        def fail(run: Run) -> None:
            raise RuntimeError("a bug")

        monkeypatch.setattr("gradscope.dashboard.cache.diagnose", fail)
        assert tab.error(500, "summary", run="run").startswith("GradScope failed to answer; reload the page")
        assert "RuntimeError: a bug" in caplog.text
        assert "/data/plugin/gradscope/summary could not be answered" in caplog.text
        assert tab.get("runs").status_code == 200
        assert tab.matrix("run").header["steps"] == [0]


class TestStaticFiles:
    @pytest.fixture
    def tab(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tab:
        static = tmp_path / "package" / "static"
        (static / "sub").mkdir(parents=True)
        (static / "folder.js").mkdir()
        for name in (
            "index.js",
            "style.css",
            "sign.svg",
            "page.html",
            "index.js.map",
            ".hidden.js",
            "sub/deep.js",
            "a.JS",
        ):
            (static / name).write_text(f"content of {name}")
        (static.parent / "plugin.py").write_text("secret")
        (static.parent / "outside.js").write_text("secret")
        monkeypatch.setattr("gradscope.dashboard.web.STATIC", static)
        return Tab(tmp_path / "logs")

    @pytest.mark.parametrize(
        ("name", "content_type"),
        [("index.js", "text/javascript"), ("style.css", "text/css"), ("sign.svg", "image/svg+xml")],
    )
    def test_a_file_of_the_page(self, tab: Tab, name: str, content_type: str) -> None:
        response = tab.get(f"static/{name}")
        assert (response.status_code, response.text) == (200, f"content of {name}")
        assert response.content_type == f"{content_type}; charset=utf-8"
        assert response.headers["X-Content-Type-Options"] == "nosniff"

    @pytest.mark.parametrize(
        "path",
        [
            "", ".", "..", "gone.js", "page.html", "index.js.map", ".hidden.js", "sub/deep.js", "sub%2fdeep.js", "a.JS",
            "folder.js", "../outside.js", "..%2foutside.js", "%2e%2e/outside.js", "%2e%2e%2foutside.js",
            "..%5coutside.js", "..\\outside.js", "sub/../index.js", "./index.js", "/index.js", "index.js%00",
            "index.js%00.css", "%00", "static/index.js", "../plugin.py", "../../../../etc/passwd", "C:%5cindex.js",
            "%252e%252e%252foutside.js", "index.js%20", "x" * 3000 + ".js",
        ],
    )  # fmt: skip
    def test_nothing_else(self, tab: Tab, path: str) -> None:
        response = tab.client.get(f"/data/plugin/gradscope/static/{path}")
        assert response.status_code == 404
        assert "secret" not in response.text
        assert "content of" not in response.text
        assert len(response.text) < 300

    def test_compressed_where_the_browser_takes_it(self, tab: Tab) -> None:
        response = tab.get("static/index.js", {"Accept-Encoding": "gzip"})
        assert response.headers["Content-Encoding"] == "gzip"


def test_a_body_that_cannot_be_read_does_no_harm(tmp_path: Path) -> None:
    Log(tmp_path / "run" / "tfevents").add(record(0))
    response = Tab(tmp_path).client.get("/data/plugin/gradscope/runs", input_stream=io.BytesIO(b"junk"))
    assert response.status_code == 200
