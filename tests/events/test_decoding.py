"""What a decoder makes of values that no file of ours holds; what files hold is tested with their reader."""

import json

import numpy as np

from gradscope import diagnose
from gradscope.events.decoding import Decoder
from gradscope.events.status import status_of
from gradscope.records import Floats, Layer, Run, Setup

MATRIX = b'{"v":1,"kind":"matrix","metric":"grad_norm","title":"gradient norm","unit":"L2 norm","healthy":{}}'
TABLE = [b"a", b"Linear", b"linear", b"b", b"ReLU", b"rectifier"]


def described() -> Decoder:
    decoder = Decoder()
    decoder.describe("gradscope/grad_norm", MATRIX)
    decoder.describe("gradscope/layers", b'{"v":1,"kind":"layers"}')
    decoder.describe("gradscope/globals", b'{"v":1,"kind":"globals","names":["loss","of_tomorrow"]}')
    decoder.describe("gradscope/status", b'{"v":1,"kind":"status"}')
    return decoder


def floats(*values: float) -> Floats:
    return np.array(values, dtype=np.float32)


def test_nothing_read_is_a_run_without_records() -> None:
    decoder = Decoder()
    assert decoder.is_empty
    assert decoder.run("run").steps.size == 0
    assert not described().is_empty
    assert [metric.name for metric in described().columns] == ["grad_norm"]


def test_an_event_is_a_record_of_the_layers_before_it() -> None:
    decoder = described()
    decoder.read(3, 1.5, [("unknown", floats(7)), ("gradscope/layers", TABLE), ("gradscope/grad_norm", floats(1, 2))])
    decoder.read(4, 2.5, [("gradscope/globals", floats(0.5, 9)), ("gradscope/grad_norm", floats(3, 4))])
    run = decoder.run("run")
    assert run.layers == (Layer("a", "Linear", "linear"), Layer("b", "ReLU", "rectifier"))
    assert run.steps.tolist() == [3, 4]
    assert run.wall_times.tolist() == [1.5, 2.5]
    assert run.metric("grad_norm").tolist() == [[1, 2], [3, 4]]
    np.testing.assert_array_equal(run.series("loss"), [np.nan, 0.5])
    assert run.notes == ()


def test_strings_for_numbers_and_numbers_for_strings_are_left_out() -> None:
    decoder = described()
    decoder.read(0, 1.0, [("gradscope/layers", TABLE), ("gradscope/grad_norm", [b"1", b"2"])])
    decoder.read(1, 2.0, [("gradscope/status", floats(1)), ("gradscope/globals", [b"x"])])
    run = decoder.run("run")
    assert np.isnan(run.metric("grad_norm")).all()
    assert run.notes == (
        "gradscope/status: could not be read, so the thresholds are the defaults or those written before",
        "grad_norm: left out of 1 record from step 0 on, because the number of values is not that of the layers",
    )


def test_a_status_that_no_run_can_have_is_left_out_and_the_run_can_be_judged() -> None:
    for part in (
        {"saturating_stack": {"layers": [], "gradient_gain": 1e-9}},
        {"selu_weights": [{"layer": "a", "omega": 0.0, "tau": 1.0, "weights": 0, "units": 1}]},
    ):
        status = status_of(Run.from_records("run", [], [])) | {"setup": part}
        decoder = described()
        decoder.read(1, 2.0, [("gradscope/status", [json.dumps(status).encode()])])
        run = decoder.run("run")
        assert run.setup == Setup()
        assert any(note.startswith("gradscope/status: could not be read") for note in run.notes)
        assert diagnose(run) == ()


def test_a_tag_described_anew_is_what_was_said_last() -> None:
    decoder = described()
    decoder.describe("gradscope/grad_norm", b"{")
    decoder.read(0, 1.0, [("gradscope/layers", TABLE), ("gradscope/grad_norm", floats(1, 2))])
    assert not decoder.records
    assert decoder.run("run").notes == ("gradscope/grad_norm: its description could not be read, so it is left out",)


def test_layers_that_come_behind_the_metrics_are_theirs() -> None:
    decoder = described()
    decoder.read(0, 1.0, [("gradscope/layers", TABLE), ("gradscope/grad_norm", floats(1, 2))])
    decoder.read(1, 2.0, [("gradscope/grad_norm", floats(3, 4)), ("gradscope/layers", TABLE[:3])])
    decoder.read(2, 3.0, [("gradscope/grad_norm", floats(5, 6)), ("gradscope/layers", TABLE)])
    run = decoder.run("run")
    assert (run.steps.tolist(), run.metrics["grad_norm"].tolist()) == ([0, 2], [[1, 2], [5, 6]])
    assert len(run.notes) == 1
    assert "left out of 1 record from step 1 on" in run.notes[0]
