"""The routes, through TensorBoard's own application: what they answer, and what they refuse."""

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.compat.proto.summary_pb2 import Summary

from gradscope import cli, diagnose, load
from gradscope.cells import measured_cells
from gradscope.explanations import EXPLANATIONS
from gradscope.records import Finding, Layer, NonFinite, Record, Run, Severity
from gradscope.thresholds import Thresholds
from tests.dashboard.served import ACT_MEAN, COLUMNS, LAYERS, Log, Tab, floats, record

NAN, INF = math.nan, math.inf
GRADIENT = float(NonFinite.GRADIENT)


def finding(code: str, severity: Severity, *layers: str) -> Finding:
    return Finding(code, severity, layers, 0, 1, "what happened", "what to do")


def vanishing(directory: Path, records: int = 30, **status: object) -> Path:
    """Write a run of ten layers whose gradients vanish towards the input, with verdicts and what it was judged by."""
    layers = [Layer(f"encoder.{i}", "Linear", "linear") for i in range(10)]
    norms = 10.0 ** np.linspace(-8, -1, 10)
    log = Log(directory / "events.out.tfevents.1.host")
    standing = {"loss": 2.3, "skipped": 0.0}
    log.add(*(dataclasses.replace(record(s, *norms, layers=layers), globals=standing) for s in range(records)))
    log.add_summary(log.encoder.status(Run.from_records("run", [], COLUMNS, **status)))
    log.add_summary(log.encoder.verdicts([finding("vanishing_gradient", Severity.CRITICAL)]))
    return directory


class TestRuns:
    def test_each_run_with_data_is_listed_with_its_metrics(self, tmp_path: Path) -> None:
        log = Log(tmp_path / "seed_10" / "tfevents").add(record(0), record(7, act_mean=[NAN, 0.5, NAN]))
        log.add_summary(log.encoder.verdicts([]), 7, 1007.5)
        Log(tmp_path / "seed_2" / "tfevents").add(record(3))
        Log(tmp_path / "other" / "tfevents").add_summary(Summary(value=[Summary.Value(tag="a", simple_value=1)]))
        listed = Tab(tmp_path).json("runs")["runs"]
        assert [run.pop("name") for run in listed] == ["seed_2", "seed_10"]
        versions = [run.pop("version") for run in listed]
        assert len(set(versions)) == 2
        grad_norm = {"name": "grad_norm", "title": "gradient norm", "unit": "L2 norm", "healthy": {}}
        act_mean = {
            "name": "act_mean",
            "title": "activation mean",
            "unit": "value",
            "healthy": {"self_normalizing": [-0.1, 0.1]},
        }
        assert listed == [
            {"last_step": 3, "last_wall_time": 1003.0, "severity": None, "metrics": [grad_norm]},
            {"last_step": 7, "last_wall_time": 1007.5, "severity": "sound", "metrics": [grad_norm, act_mean]},
        ]

    def test_the_severity_is_the_worst_of_the_last_verdicts(self, tmp_path: Path) -> None:
        log = Log(tmp_path / "run" / "tfevents").add(record(0))
        worst = [finding("a", Severity.INFO), finding("b", Severity.CRITICAL), finding("c", Severity.WARNING)]
        for verdicts, step in ((worst, 1), (worst[:1], 2)):
            log.add_summary(log.encoder.verdicts(verdicts), step, 1000.0 + step)
            tab = Tab(tmp_path)
            assert tab.json("runs")["runs"][0]["severity"] == ("critical" if step == 1 else "info")
        assert tab.json("runs")["runs"][0]["last_step"] == 0, "a verdict is no record"

    def test_a_version_changes_exactly_with_new_data(self, tmp_path: Path) -> None:
        logs = [Log(tmp_path / name / "tfevents").add(record(0)) for name in ("a", "b")]
        tab = Tab(tmp_path)
        before = [run["version"] for run in tab.json("runs")["runs"]]
        assert [run["version"] for run in tab.reload().json("runs")["runs"]] == before
        logs[1].add_summary(logs[1].encoder.verdicts([]), 0, 1000.0)
        after = [run["version"] for run in tab.reload().json("runs")["runs"]]
        assert (after[0] == before[0], after[1] == before[1]) == (True, False)
        logs[1].add(record(0, at=2000.0))
        again = [run["version"] for run in tab.reload().json("runs")["runs"]]
        assert (again[0] == after[0], again[1] == after[1]) == (True, False), "written once more: the later time counts"

    def test_no_data_gives_no_runs(self, tmp_path: Path) -> None:
        assert Tab(tmp_path).json("runs") == {"runs": []}

    def test_damaged_verdicts_leave_the_list_whole(self, tmp_path: Path) -> None:
        log = Log(tmp_path / "run" / "tfevents").add(record(0))
        for verdict in (b"{", b"7", b'{"severity":[]}', b"[" * 100_000, b"\xff", b'{"severity":"warning"}'):
            summary = log.encoder.verdicts([finding("a", Severity.INFO)])
            summary.value[0].tensor.string_val[0] = verdict
            log.add_summary(summary, 1)
            expected = "warning" if b"warning" in verdict else "sound"
            assert Tab(tmp_path).json("runs")["runs"][0]["severity"] == expected
        other = Log(tmp_path / "other" / "tfevents").add(record(0))
        other.add_summary(other.encoder.verdicts([finding("a", Severity.CRITICAL)]), 1)
        del summary.value[0].tensor.string_val[:]
        log.add_summary(summary, 1)
        severities = {run["name"]: run["severity"] for run in Tab(tmp_path).json("runs")["runs"]}
        assert severities == {"other": "critical", "run": None}, "of one run alone nothing is known"


class TestMatrix:
    def test_the_cells_are_those_of_the_run(self, tmp_path: Path) -> None:
        Log(tmp_path / "a" / "run 1" / "tfevents").add(
            record(0, 1, NAN, 3, act_mean=[NAN, -0.25, NAN], nonfinite=[0, 0, 0]),
            record(10, NAN, NAN, INF, nonfinite=[GRADIENT, 0, GRADIENT]),
            record(15, 0, NAN, 1e-45, nonfinite=[0, 0, 0]),
        )
        tab = Tab(tmp_path)
        header, cells = tab.matrix("a/run 1")
        np.testing.assert_array_equal(cells, floats(1, NAN, 3, INF, NAN, INF, 0, NAN, 1e-45).reshape(3, 3))
        assert header.pop("token")
        assert header == {
            "run": "a/run 1",
            "metric": {"name": "grad_norm", "title": "gradient norm", "unit": "L2 norm", "healthy": {}},
            "steps": [0, 10, 15],
            "layers": [{"name": layer.name, "type": layer.type, "kind": layer.kind} for layer in LAYERS],
            "complete": True,
            "appended": False,
        }
        means = tab.matrix("a/run 1", "act_mean")
        assert means.header["metric"]["healthy"] == {"self_normalizing": [-0.1, 0.1]}
        np.testing.assert_array_equal(means.cells[1:], np.full((2, 3), NAN))
        np.testing.assert_array_equal(means.cells[0], [NAN, -0.25, NAN])

    @pytest.mark.parametrize("cached", [False, True])
    def test_about_so_many_records_are_sent_with_the_last(self, tmp_path: Path, cached: bool) -> None:
        Log(tmp_path / "run" / "tfevents").add(*(record(step) for step in range(100)))
        tab = Tab(tmp_path)
        if cached:
            tab.json("summary", run="run")
        for records in (1, 2, 7, 99):
            header, cells = tab.matrix("run", records=records)
            assert records <= len(header["steps"]) <= records + 1
            assert header["steps"][-1] == 99
            assert header["complete"] is False or len(header["steps"]) == 100
            np.testing.assert_array_equal(cells[:, 1], np.array(header["steps"], dtype=np.float32) + 0.25)
        assert tab.matrix("run", records=100).header["complete"]
        assert tab.matrix("run", records=99_999_999).header["steps"] == list(range(100))

    def test_a_choice_of_records_needs_no_other_metric(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        Log(tmp_path / "run" / "tfevents").add(*(record(s, act_mean=[0, 0, 0], nonfinite=[0, 0, 0]) for s in range(9)))
        tab = Tab(tmp_path)
        asked = []
        read = tab.provider.read_tensors

        def remember(*args: object, **query: object) -> object:
            asked.append((sorted(query["run_tag_filter"].tags), query["downsample"]))  # type: ignore[attr-defined]
            return read(*args, **query)

        monkeypatch.setattr(MultiplexerDataProvider, "read_tensors", lambda self, *a, **q: remember(*a, **q))
        assert len(tab.matrix("run", records=4).header["steps"]) == 5
        assert asked[0] == (["gradscope/globals", "gradscope/grad_norm", "gradscope/nonfinite"], 5)
        assert [tags for tags, _ in asked[1:]] == [["gradscope/layers"]]

    def test_where_the_server_chose_other_records_of_each_tag_all_are_read(self, tmp_path: Path) -> None:
        half = [record(s, nonfinite=[GRADIENT if s % 2 else 0, 0, 0]) for s in range(40)]
        rest = [record(s, NAN, 2, 3) for s in range(40, 50)]
        Log(tmp_path / "run" / "tfevents").add(*half, *rest)
        header, cells = Tab(tmp_path).matrix("run", records=20)
        assert header["complete"]
        assert header["steps"] == list(range(50))
        np.testing.assert_array_equal(cells[-1], [NAN, 2, 3])

    def test_later_records_are_appended(self, tmp_path: Path) -> None:
        log = Log(tmp_path / "run" / "tfevents").add(record(0), record(1))
        tab = Tab(tmp_path)
        first = tab.matrix("run").header
        nothing = tab.matrix("run", after=first["token"])
        assert (nothing.header["steps"], nothing.header["appended"], nothing.cells.shape) == ([], True, (0, 3))
        assert nothing.header["token"] == first["token"]
        log.add(record(2), record(4))
        new = tab.reload().matrix("run", after=first["token"])
        assert (new.header["steps"], new.header["appended"]) == ([2, 4], True)
        np.testing.assert_array_equal(new.cells[1], [4, 4.25, 4.5])
        assert tab.matrix("run", after=new.header["token"]).header["steps"] == []
        assert tab.matrix("run", after="").header["steps"] == [0, 1, 2, 4]

    @pytest.mark.parametrize("change", ["resumed before", "resumed up to it", "other layers", "other metric"])
    def test_a_token_of_what_has_changed_gives_everything(self, tmp_path: Path, change: str) -> None:
        log = Log(tmp_path / "run" / "tfevents.1").add(*(record(s, act_mean=[0, 0, 0]) for s in range(6)))
        tab = Tab(tmp_path)
        token = tab.matrix("run").header["token"]
        grown = (*LAYERS, Layer("head", "Linear", "linear"))
        resumed = [record(s, 9, 9, 9, at=2000.0) for s in range(3, 6)]
        if change == "other layers":
            log.add(record(6, layers=grown))
        elif change != "other metric":
            Log(tmp_path / "run" / "tfevents.2").add(*resumed[: 1 if change == "resumed before" else 3])
        metric = "act_mean" if change == "other metric" else "grad_norm"
        header, cells = tab.reload().matrix("run", metric, after=token)
        assert header["appended"] is False
        assert header["steps"] == list(range(7 if change == "other layers" else 6))
        if change.startswith("resumed"):
            assert cells[2:4, 0].tolist() == [2, 9]
            assert cells[5, 0] == (5 if change == "resumed before" else 9)

    def test_the_layers_may_change_midway(self, tmp_path: Path) -> None:
        grown = (*LAYERS, Layer("head", "Linear", "linear"))
        Log(tmp_path / "run" / "tfevents").add(record(0), record(1, layers=grown[1:]), record(2, layers=grown))
        header, cells = Tab(tmp_path).matrix("run")
        assert [layer["name"] for layer in header["layers"]] == ["features.0", "act", "fc", "head"]
        np.testing.assert_array_equal(cells, [[0, 0.25, 0.5, NAN], [NAN, 1, 1.25, 1.5], [2, 2.25, 2.5, 2.75]])
        np.testing.assert_array_equal(cells, load(tmp_path)["run"].metric("grad_norm"))

    def test_a_run_without_the_metric_of_another_has_no_cells(self, tmp_path: Path) -> None:
        Log(tmp_path / "a" / "tfevents").add(record(0), record(1))
        Log(tmp_path / "b" / "tfevents").add(record(0, act_mean=[0, 0, 0]))
        header, cells = Tab(tmp_path).matrix("a", "act_mean")
        assert header["metric"]["title"] == ACT_MEAN.title
        np.testing.assert_array_equal(cells, np.full((2, 3), NAN))

    def test_no_layers_and_a_single_record(self, tmp_path: Path) -> None:
        Log(tmp_path / "bare" / "tfevents").add(Record(5, 1.0, (), {"grad_norm": floats()}, {"loss": 1.0}))
        Log(tmp_path / "one" / "tfevents").add(record(5))
        tab = Tab(tmp_path)
        for records in ({}, {"records": "1"}):
            assert tab.matrix("bare", **records).cells.shape == (1, 0)
            assert tab.matrix("one", **records).cells.tolist() == [[5, 5.25, 5.5]]

    def test_without_records_there_is_only_a_header(self, tmp_path: Path) -> None:
        log = Log(tmp_path / "run" / "tfevents")
        log.add_summary(log.encoder.verdicts([]))
        Log(tmp_path / "other" / "tfevents").add(record(0))
        header, cells = Tab(tmp_path).matrix("run")
        assert (header["steps"], header["layers"], header["token"], cells.shape) == ([], [], "", (0, 0))


class TestSummary:
    def test_the_findings_are_those_of_the_command(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        vanishing(tmp_path / "run", thresholds=Thresholds(dead_fraction=0.6))
        tab = Tab(tmp_path)
        answer = tab.json("summary", run="run")
        assert cli.main(["summary", str(tmp_path), "--json"]) == 0
        (printed,) = json.loads(capsys.readouterr().out)["runs"]
        assert answer["summary"] == printed
        assert [f["code"] for f in printed["findings"]] == ["vanishing_gradient"]
        assert answer["version"] == tab.json("runs")["runs"][0]["version"]
        assert answer["verdict"].startswith("1 finding: critical vanishing_gradient in ")
        assert answer["severity"] == "critical"
        assert answer["layer_severity"] == dict.fromkeys(printed["findings"][0]["layers"], "critical")
        assert answer["steps"] == list(range(30))
        assert answer["globals"]["skipped"] == [0.0] * 30
        assert set(answer["globals"]) == {"loss", "skipped"}
        assert answer["thresholds"]["dead_fraction"] == 0.6
        assert answer["thresholds"]["selu_mean"] == [-0.1, 0.1]
        assert len(answer["thresholds"]) == len(dataclasses.fields(Thresholds))
        assert answer["explanations"]["vanishing_gradient"]["title"] == EXPLANATIONS["vanishing_gradient"].title

    def test_few_records_are_unjudged_and_more_of_them_sound(self, tmp_path: Path) -> None:
        log = Log(tmp_path / "run" / "tfevents").add(record(0, 1, 1, 1))
        assert Tab(tmp_path).json("summary", run="run")["severity"] == "unjudged"
        log.add(*(record(s, 1, 1, 1) for s in range(1, 10)))
        assert Tab(tmp_path).json("summary", run="run")["severity"] == "sound"

    def test_numbers_that_are_none_are_words_or_null(self, tmp_path: Path) -> None:
        log = Log(tmp_path / "run" / "tfevents")
        for step, loss in enumerate((NAN, INF, -INF, 1.5)):
            log.add(dataclasses.replace(record(step), globals={"loss": loss}))
        log.add_summary(
            log.encoder.status(Run.from_records("run", [], COLUMNS, thresholds=Thresholds(exploding_ratio=INF)))
        )
        answer = Tab(tmp_path).json("summary", run="run")
        assert answer["globals"] == {"loss": [None, "inf", "-inf", 1.5]}
        assert answer["thresholds"]["exploding_ratio"] == "inf"

    def test_a_changed_run_is_judged_anew(self, tmp_path: Path) -> None:
        log = Log(tmp_path / "run" / "tfevents").add(record(0))
        tab = Tab(tmp_path)
        assert tab.json("summary", run="run")["steps"] == [0]
        log.add(record(1))
        assert tab.reload().json("summary", run="run")["steps"] == [0, 1]
        assert tab.matrix("run").header["steps"] == [0, 1]


class TestLayer:
    def test_all_that_was_measured_of_it(self, tmp_path: Path) -> None:
        Log(tmp_path / "run" / "tfevents").add(
            record(0, 1, NAN, 3, act_mean=[NAN, 0.5, NAN], nonfinite=[0, 0, 0]),
            record(1, NAN, NAN, 3, act_mean=[NAN, -INF, NAN], nonfinite=[GRADIENT, 4, 0]),
            record(2, NAN, NAN, 3, act_mean=[NAN, NAN, NAN], nonfinite=[0, 0, 0]),
        )
        tab = Tab(tmp_path)
        conv = tab.json("layer", run="run", layer="features.0")
        assert conv["layer"] == {"name": "features.0", "type": "Conv2d", "kind": "convolution"}
        assert conv["steps"] == [0, 1, 2]
        assert conv["metrics"] == {"grad_norm": [1, "inf", None], "nonfinite": [0, 1, 0]}
        selu = tab.json("layer", run="run", layer="act")
        assert selu["metrics"] == {"act_mean": [0.5, "inf", None], "nonfinite": [0, 4, 0]}
        run = load(tmp_path)["run"]
        assert measured_cells(run, "act_mean")[:2, 1].tolist() == [0.5, INF]

    @pytest.mark.parametrize(
        "name", ["", 'a|b`<i>\n"слой', "<script>alert(1)</script>", "x\x00y", "n" * 300, "a/../b&c=d"]
    )
    def test_any_name_finds_its_layer(self, tmp_path: Path, name: str) -> None:
        layers = (Layer("other", "Linear", "linear"), Layer(name, "Net", "parameters"))
        Log(tmp_path / "run" / "tfevents").add(record(0, layers=layers))
        answer = Tab(tmp_path).json("layer", run="run", layer=name)
        assert answer["layer"]["name"] == name
        assert answer["metrics"] == {"grad_norm": [0.25]}


class TestWhatCannotBeRead:
    def test_a_newer_format_is_listed_and_says_so(self, tmp_path: Path) -> None:
        log = Log(tmp_path / "run" / "tfevents")
        summary = log.encoder.record(record(0))
        for value in summary.value:
            value.metadata.plugin_data.content = b'{"v":2,"kind":"matrix","metric":"grad_norm"}'
        log.add_summary(summary)
        tab = Tab(tmp_path)
        assert tab.json("runs")["runs"][0]["metrics"] == []
        answer = tab.json("summary", run="run")
        assert answer["summary"]["notes"][0].startswith(
            "written by a newer GradScope (format 2, this one reads up to 1)"
        )
        assert answer["verdict"] == "nothing was recorded"

    def test_a_tensor_that_is_not_of_its_shape_costs_its_tag_alone(self, tmp_path: Path) -> None:
        log = Log(tmp_path / "run" / "tfevents")
        summary = log.encoder.record(record(0))
        for value in summary.value:
            if value.tag == "gradscope/layers":
                del value.tensor.string_val[-1]
        log.add_summary(summary)
        answer = Tab(tmp_path).json("summary", run="run")
        assert answer["summary"]["notes"][0] == ("gradscope/layers: TensorBoard could not read it, so it is left out")
        assert answer["globals"]["loss"] == [1.0]

    def test_hostile_numbers_in_the_status_leave_the_answer_valid(self, tmp_path: Path) -> None:
        log = Log(tmp_path / "run" / "tfevents").add(record(0))
        summary = log.encoder.status(Run.from_records("run", [], COLUMNS))
        status = '{"thresholds":{},"coverage":{"unseen":{"\\ud800":"<script>"}},"overhead":{"records":1e999}}'
        summary.value[0].tensor.string_val[0] = status.encode()
        log.add_summary(summary)
        told = Tab(tmp_path).json("summary", run="run")["summary"]
        assert told["coverage"]["unseen"] == {"\ud800": "<script>"}
        assert told["overhead"]["records"] == "inf"


def test_tensorboard_shows_the_tab(tmp_path: Path) -> None:
    Log(tmp_path / "run" / "tfevents").add(record(0))
    tab, empty = Tab(tmp_path), Tab(tmp_path / "nothing")
    listing = json.loads(tab.client.get("/data/plugins_listing").get_data())["gradscope"]
    assert listing["enabled"]
    assert listing["tab_name"] == "GradScope"
    assert listing["loading_mechanism"]["module_path"].endswith("/static/index.js")
    assert not json.loads(empty.client.get("/data/plugins_listing").get_data())["gradscope"]["enabled"]


def test_the_rules_say_the_same_of_a_provided_run_and_a_loaded_one(tmp_path: Path) -> None:
    vanishing(tmp_path / "run")
    told = Tab(tmp_path).json("summary", run="run")["summary"]["findings"]
    assert [f["code"] for f in told] == [f.code for f in diagnose(load(tmp_path)["run"])]
