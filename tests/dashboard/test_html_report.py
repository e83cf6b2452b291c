"""The report as one file: what stands in it, how large it is, and that nothing in a log can leave its place in it."""

import base64
import gzip
import hashlib
import html
import json
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from gradscope.cells import measured_cells
from gradscope.dashboard.html_report import RECORDS, html_report
from gradscope.records import Floats, Layer, Run
from gradscope.rules import diagnose
from gradscope.summary import as_json
from tests.hand_written_runs import COLUMNS, empty_run, run_of, sick_run, sound_run

HOSTILE = "</script><script>alert('\"&\u202e\u0000" + "x" * 300


def content_of(page: str) -> dict[str, Any]:
    (text,) = re.findall(r'<script type="application/json" id="gradscope-data">(.*?)</script>', page, re.DOTALL)
    content: dict[str, Any] = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    return content


def unpacked(records: dict[str, Any], metric: str) -> Floats:
    """Return float32[S, L]: what the page makes of what stands in the file."""
    values = np.full((len(records["steps"]), len(records["layers"])), np.nan, dtype=np.float32)
    if metric in records["metrics"]:
        rows, packed = records["metrics"][metric]["rows"], records["metrics"][metric]["packed"]
        planes = np.frombuffer(gzip.decompress(base64.b64decode(packed)), dtype=np.uint8).reshape(4, -1)
        values[:, rows] = np.ascontiguousarray(planes.T).view("<f4").reshape(len(rows), -1).T
    return values


@pytest.mark.parametrize("run", [sick_run(), sound_run()], ids=["sick", "sound"])
def test_every_metric_is_in_the_file_to_four_digits(run: Run) -> None:
    content = content_of(html_report({run.name: run}))
    records = content["records"][run.name]
    assert records["steps"] == run.steps.tolist()
    assert [layer["name"] for layer in records["layers"]] == [layer.name for layer in run.layers]
    for metric in run.metrics:
        np.testing.assert_allclose(unpacked(records, metric), measured_cells(run, metric), rtol=2**-13)


def test_numbers_that_are_none_and_extremes_survive() -> None:
    layers = [Layer("a", "Linear", "linear"), Layer("b", "Linear", "linear"), Layer("c", "Linear", "linear")]
    greatest = np.finfo(np.float32).max
    cells = np.array([[0.0, np.inf, np.nan], [greatest, -0.0, np.nan], [1e-45, np.nan, np.nan]], dtype=np.float32)
    run = run_of("odd", layers, {"grad_norm": cells}, records=3)
    records = content_of(html_report({"odd": run}))["records"]["odd"]
    found = unpacked(records, "grad_norm")
    assert records["metrics"]["grad_norm"]["rows"] == [0, 1]
    np.testing.assert_array_equal(np.isnan(found), np.isnan(cells))
    np.testing.assert_array_equal(np.isinf(found), np.isinf(cells))
    assert found[1, 0] == greatest
    assert found[0, 0] == found[1, 1] == 0
    assert found[2, 0] == cells[2, 0] > 0


def test_the_verdict_is_that_of_the_rules() -> None:
    run = sick_run()
    content = content_of(html_report({"a": run}))
    findings = diagnose(run)
    assert len(findings) >= 1
    assert content["summaries"]["a"]["summary"] == json.loads(json.dumps(as_json(run, findings)))
    worst = str(max(finding.severity for finding in findings))
    assert content["summaries"]["a"]["severity"] == content["runs"][0]["severity"] == worst


def test_a_hundred_layers_by_a_thousand_records_stay_below_five_megabytes() -> None:
    rng = np.random.default_rng(0)
    layers = [Layer(f"blocks.{i}.part", "Linear", "linear") for i in range(100)]
    # Numbers without any pattern in every cell of every metric: nothing packs worse.
    metrics = {column.name: rng.lognormal(0, 3, (1000, 100)).astype(np.float32) for column in COLUMNS}
    page = html_report({"run": run_of("run", layers, metrics, records=1000)})
    assert len(page.encode()) <= 5e6


def test_of_a_long_run_a_choice_of_records_is_drawn() -> None:
    run = sound_run(records=5000)
    content = content_of(html_report({"long": run}))
    steps = content["records"]["long"]["steps"]
    assert len(steps) <= RECORDS
    assert steps[0] == 0
    assert steps[-1] == run.steps[-1]
    assert content["summaries"]["long"]["steps"] == steps
    assert content["summaries"]["long"]["summary"]["records"] == 5000


def test_no_run_and_an_empty_run_give_a_page() -> None:
    assert content_of(html_report({}))["runs"] == []
    content = content_of(html_report({"empty": empty_run()}))
    assert content["records"]["empty"] == {"steps": [], "layers": [], "metrics": {}}
    assert content["summaries"]["empty"]["severity"] == "unjudged"


def test_names_from_a_log_stay_within_their_script() -> None:
    run = replace(run_of(HOSTILE, [Layer(HOSTILE, HOSTILE, "linear")], {"grad_norm": 1.0}), notes=(HOSTILE,))
    page = html_report({HOSTILE: run})
    assert page.lower().count("<script") == page.lower().count("</script") == 2
    assert "alert('\"" not in page
    content = content_of(page)
    assert content["records"][HOSTILE]["layers"][0]["name"] == HOSTILE
    assert content["summaries"][HOSTILE]["summary"]["notes"] == [HOSTILE]


def test_the_file_holds_all_modules_and_names_no_other_place() -> None:
    page = html_report({"run": sound_run()})
    (script,) = re.findall(r'<script type="module">(.*?)</script>', page, re.DOTALL)
    assert script.count("gradscopeModules['app.js'] = ") == 1
    assert not re.findall(r"^(?:import|export)\b", script, re.MULTILINE)
    assert not re.findall(r"""(?:src|href|url)\s*[=(]\s*["']?https?:""", page)


def test_its_policy_knows_one_style_and_one_script() -> None:
    page = html_report({"run": sound_run()})
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)
    rules = dict(rule.strip().split(" ", 1) for rule in html.unescape(policy).split(";"))
    for element, kind in (("style", "style-src"), ('script type="module"', "script-src")):
        (text,) = re.findall(f"<{element}>(.*?)</{element.split()[0]}>", page, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert rules[kind] == f"'sha256-{digest}'"
    assert rules["default-src"] == "'none'"
