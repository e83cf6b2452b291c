import json
import math
from dataclasses import replace

import numpy as np
import pytest

from gradscope import Finding, Layer, Metric, NonFinite, Record, Run, Severity

GRAD_NORM = Metric("grad_norm", "gradient norm", "L2 norm")
A, B, C = (Layer(name, "Linear", "linear") for name in "abc")


def record(step: int, wall_time: float, layers: tuple[Layer, ...], *norms: float, **totals: float) -> Record:
    return Record(step, wall_time, layers, {"grad_norm": np.array(norms, dtype=np.float32)}, totals)


def test_records_are_stacked_in_order_of_steps_and_the_later_wall_time_wins() -> None:
    layers = (A, B)
    resumed = [record(1, 20.0, layers, 5, 6), record(2, 21.0, layers, 7, 8)]
    before = [record(0, 10.0, layers, 1, 2), record(1, 11.0, layers, 3, 4)]
    run = Run.from_records("run", [*resumed, *before], [GRAD_NORM])
    assert run.steps.tolist() == [0, 1, 2]
    assert run.wall_times.tolist() == [10.0, 20.0, 21.0]
    assert run.metrics["grad_norm"].tolist() == [[1, 2], [5, 6], [7, 8]]
    assert run.steps.dtype == np.int64
    assert run.metrics["grad_norm"].dtype == np.float32


def test_layers_are_those_of_the_last_record_then_those_of_earlier_ones() -> None:
    run = Run.from_records("run", [record(0, 0.0, (A, B), 1, 2), record(1, 1.0, (C, A), 3, 4)], [GRAD_NORM])
    assert run.layers == (C, A, B)
    np.testing.assert_array_equal(run.metrics["grad_norm"], [[math.nan, 1, 2], [3, 4, math.nan]])


def test_what_a_record_lacks_is_absent() -> None:
    with_loss = record(0, 0.0, (A,), 1, loss=2.5)
    without = replace(record(1, 1.0, (A,)), metrics={})
    run = Run.from_records("run", [with_loss, without], [GRAD_NORM])
    np.testing.assert_array_equal(run.series("loss"), [2.5, math.nan])
    np.testing.assert_array_equal(run.metric("grad_norm"), [[1], [math.nan]])
    assert np.isnan(run.metric("unheard_of")).all()
    assert run.metric("unheard_of").shape == (2, 1)


def test_no_records_are_an_empty_run() -> None:
    run = Run.from_records("run", [], [GRAD_NORM])
    assert (len(run.steps), run.layers, run.metric("grad_norm").shape) == (0, (), (0, 0))
    assert run.rows("linear").tolist() == []


def test_what_a_run_did_not_measure_is_nan_and_has_its_name_for_a_title() -> None:
    run = Run.from_records("run", [record(0, 1.0, (A, B), 1, 2)], [GRAD_NORM])
    assert run.column("grad_norm") == GRAD_NORM
    assert run.column("act_mean") == Metric("act_mean", "act_mean", "value")
    assert np.isnan(run.metric("act_mean")).all()


def test_severities_are_ordered_and_flags_add_up() -> None:
    assert Severity.INFO < Severity.WARNING < Severity.CRITICAL
    assert str(Severity.WARNING) == "warning"
    assert NonFinite(5) == NonFinite.GRADIENT | NonFinite.OUTPUT


@pytest.mark.parametrize(("value", "shown"), [(math.nan, "nan"), (math.inf, "inf"), (-math.inf, "-inf"), (0.5, 0.5)])
def test_a_finding_is_what_json_can_hold(value: float, shown: object) -> None:
    steps, evidence = np.arange(2), {"share": np.float32(value)}  # rules compute with numpy, which json refuses
    finding = Finding("dead_relu", Severity.WARNING, ("a",), steps[0], steps[1], "message", "hint", evidence)
    content = json.loads(json.dumps(finding.as_dict(), allow_nan=False))
    assert (content["first_step"], content["last_step"], content["evidence"]) == (0, 1, {"share": shown})
    assert content["severity"] == "warning"
