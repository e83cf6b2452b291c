import json
import math
from dataclasses import replace

import numpy as np
import pytest

from gradscope.records import Coverage, Finding, Flight, Layer, Ledger, Origin, Overhead, Severity, Stop
from gradscope.summary import as_json, last_finite, layer_severity, verdict, worst_severity
from tests.hand_written_runs import empty_run, run_of, sick_findings, sick_run, sound_run

REMARK, WARNING, CRITICAL = sick_findings()


def test_last_finite_skips_nan_and_inf() -> None:
    values = np.array([[1, 2, math.nan], [3, math.inf, math.nan], [math.nan, -math.inf, math.nan]], dtype=np.float32)
    np.testing.assert_array_equal(last_finite(values), [3, 2, math.nan])
    assert last_finite(np.zeros((0, 2), dtype=np.float32)).shape == (2,)
    assert np.isnan(last_finite(np.zeros((0, 2), dtype=np.float32))).all()


def test_json_has_the_documented_shape() -> None:
    flight = Flight(np.array([7]), np.array([math.nan]), ("fc",), np.full((1, 1), np.inf, np.float32))
    run = replace(
        run_of("a", [Layer("fc", "Linear", "linear")], {"grad_norm": [[0.5], [math.inf]]}, records=2),
        coverage=Coverage({"decoder": "it never ran"}, {"activation modules": 1}),
        overhead=Overhead(2, 0.5, 10.0, 5),
        ledger=Ledger(20, 1),
        origin=Origin(7, "fc", "forward", "log", 3),
        flights={"non_finite": flight},
        stop=Stop(7, "non_finite"),
        notes=("cut short",),
    )
    metrics = dict.fromkeys([column.name for column in run.columns])
    assert as_json(run, [WARNING]) == {
        "name": "a",
        "records": 2,
        "first_step": 0,
        "last_step": 10,
        "layers": [{"name": "fc", "type": "Linear", "kind": "linear", "metrics": {**metrics, "grad_norm": 0.5}}],
        "findings": [WARNING.as_dict()],
        "coverage": {"unseen": {"decoder": "it never ran"}, "measured": {"activation modules": 1}},
        "overhead": {"records": 2, "gradscope_seconds": 0.5, "fit_seconds": 10.0, "every_n_steps": 5},
        "ledger": {"steps": 20, "skipped": 1},
        "origin": {"step": 7, "module": "fc", "direction": "forward", "operation": "log", "rank": 3},
        "flights": {"non_finite": {"steps": [7], "loss": [None], "layers": ["fc"], "grad_norm": [[None]]}},
        "stop": {"step": 7, "code": "non_finite"},
        "notes": ["cut short"],
    }


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_json_survives_numbers_that_are_none(value: float) -> None:
    layers = [Layer('"\x1b\udcff\u202e', "T", "linear")]
    run = run_of(
        "run", layers, {c.name: value for c in sound_run().columns}, overhead=Overhead(3, value, value), records=3
    )
    finding = replace(WARNING, evidence={"x": value, "y": np.float32(0.5)}, first_step=np.int64(3))
    restored = json.loads(json.dumps(as_json(run, [finding]), allow_nan=False))
    assert restored == as_json(run, [finding])
    assert set(restored["layers"][0]["metrics"].values()) == {None}
    assert restored["overhead"] == {
        "records": 3,
        "gradscope_seconds": None,
        "fit_seconds": None,
        "every_n_steps": 0,
    }
    assert restored["findings"][0]["evidence"] == {"x": str(value), "y": 0.5}


def test_json_of_nothing() -> None:
    summary = as_json(empty_run(), ())
    assert (summary["records"], summary["first_step"], summary["last_step"], summary["layers"]) == (0, None, None, [])


@pytest.mark.parametrize(
    ("findings", "sentence"),
    [
        ((), "no disease found in 12 layers over 57 records"),
        ((REMARK,), "no disease found in 12 layers over 57 records; 1 remark: clipping_dominates in the whole net"),
        ((WARNING,), "1 finding: warning dead_relu in 2 layers"),
        ((REMARK, WARNING, CRITICAL), "3 findings: critical vanishing_gradient in 7 layers"),
        ((replace(CRITICAL, layers=("fc",)),), "1 finding: critical vanishing_gradient in 1 layer"),
    ],
)
def test_verdict(findings: tuple[Finding, ...], sentence: str) -> None:
    assert verdict(sick_run(), findings) == sentence


def test_a_run_too_short_to_judge_is_not_called_sound() -> None:
    assert verdict(empty_run(), ()) == "nothing was recorded"
    assert verdict(sound_run(1), ()).endswith("in 5 layers over 1 record, too few to tell how they develop")
    assert verdict(sound_run(5), ()).endswith("over 5 records")


def test_a_layer_has_its_worst_severity_whatever_the_order() -> None:
    for findings in (sick_findings(), sick_findings()[::-1]):
        severities = layer_severity(findings)
        assert severities["encoder.blocks.0.relu"] is Severity.CRITICAL
        assert severities["encoder.blocks.1.relu"] is Severity.WARNING
    assert layer_severity([replace(REMARK, layers=("fc",))]) == {}
    assert worst_severity(()) is None
    assert worst_severity(sick_findings()) is Severity.CRITICAL
