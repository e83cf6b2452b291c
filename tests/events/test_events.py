import json
import math
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import DATA_CLASS_TENSOR, Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter
from tensorboard.util import tensor_util
from torch.utils.tensorboard import SummaryWriter

from gradscope.events.encoding import Encoder
from gradscope.events.reading import load
from gradscope.records import (
    Coverage,
    Finding,
    Flight,
    InitialWeights,
    InputMoments,
    Layer,
    Ledger,
    Metric,
    Origin,
    OutputActivation,
    Overhead,
    Record,
    Run,
    SaturatingStack,
    Setup,
    Severity,
)
from gradscope.thresholds import Thresholds
from tests.event_logs import (
    ACT_MEAN,
    COLUMNS,
    LAYERS,
    described,
    event,
    floats,
    frame_ends,
    load_one,
    record,
    write_frames,
    write_records,
)

FLIGHT = Flight(
    np.array([10, 11, 12]),
    np.array([0.5, 1e30, math.nan]),
    ("a", "b"),
    np.array([[1, 2], [3, math.inf], [math.nan, 0]], dtype=np.float32),
)


SETUP = Setup(
    selu_weights=(InitialWeights("features.0", 0.01, 0.97, 144, 16),),
    selu_input=InputMoments("features.0", math.nan, math.inf),
    plain_dropouts={"drop": 0.5},
    normalized_selus=("act",),
    saturating_stack=SaturatingStack(("a", "b"), 1e-4),
    output_activation=OutputActivation("fc.relu#2", "relu", 10),
    in_no_optimizer=("head",),
    never_called=("idle",),
)


def run_without_records(**rest: Any) -> Run:
    return Run.from_records("run", [], COLUMNS, **rest)


class TestRoundTrip:
    def test_every_bit_survives(self, tmp_path: Path) -> None:
        hard = floats(math.nan, math.inf, -math.inf, 0.0, -0.0, 1e-45, 1.17e-38, 3.4e38, 0.1)
        layers = tuple(Layer(f"layer{i}", "Linear", "linear") for i in range(hard.size))
        run = load_one(write_records(tmp_path / "events.tfevents.1", [record(7, *hard, layers=layers)]))
        assert run.metrics["grad_norm"].dtype == np.float32
        assert run.metrics["grad_norm"].tobytes() == hard.tobytes()
        assert run.steps.tolist() == [7]
        assert run.wall_times.tolist() == [1007.0]
        assert run.layers == layers
        assert run.notes == ()

    def test_columns_come_back_with_title_unit_and_healthy_range(self, tmp_path: Path) -> None:
        unheard_of = Metric("spectral_gap", "Spectral gap", "ratio", {"linear": (0.25, math.inf)})
        measured = Record(0, 1.0, LAYERS, {"act_mean": floats(1, 2, 3), "spectral_gap": floats(4, 5, 6)})
        run = load_one(write_records(tmp_path / "tfevents", [measured], (*COLUMNS, unheard_of)))
        assert run.columns == (ACT_MEAN, unheard_of)
        np.testing.assert_array_equal(run.metric("spectral_gap"), [[4, 5, 6]])

    def test_globals_come_back_and_absent_ones_stay_absent(self, tmp_path: Path) -> None:
        path = write_records(
            tmp_path / "tfevents",
            [
                Record(0, 1.0, LAYERS, {}, {"loss": 0.5, "total_norm": 1e300}),
                Record(1, 2.0, LAYERS, {}, {"clip_coefficient": 0.25}),
            ],
        )
        run = load_one(path)
        np.testing.assert_array_equal(run.series("loss"), [0.5, math.nan])
        np.testing.assert_array_equal(run.series("total_norm"), [math.inf, math.nan])
        np.testing.assert_array_equal(run.series("clip_coefficient"), [math.nan, 0.25])
        assert np.isnan(run.series("skipped")).all()

    def test_the_last_status_wins(self, tmp_path: Path) -> None:
        changed = Thresholds(dead_fraction=0.6, selu_mean=(-0.2, 0.3), exploding_ratio=math.inf)
        coverage = Coverage({"F.relu": "called as a function"}, {"activation modules": 3})
        run = load_one(
            write_records(
                tmp_path / "tfevents",
                [record(0)],
                COLUMNS,
                lambda encoder: encoder.status(run_without_records()),
                lambda encoder: encoder.status(
                    run_without_records(
                        thresholds=changed,
                        coverage=coverage,
                        overhead=Overhead(3, 0.5, 20.0, 7),
                        ledger=Ledger(40, 2),
                        setup=SETUP,
                        origin=Origin(12, "encoder.log", "forward", "log"),
                        flights={"non_finite": FLIGHT},
                    )
                ),
            )
        )
        assert run.thresholds == changed
        assert run.coverage == coverage
        assert run.overhead == Overhead(3, 0.5, 20.0, 7)
        assert run.ledger == Ledger(40, 2)
        assert repr(run.setup) == repr(SETUP), "NaN equals nothing"
        assert run.origin == Origin(12, "encoder.log", "forward", "log")
        (flight,) = run.flights.values()
        assert flight.steps.tolist() == [10, 11, 12]
        assert flight.layers == ("a", "b")
        np.testing.assert_array_equal(flight.loss, FLIGHT.loss)
        np.testing.assert_array_equal(flight.grad_norm, FLIGHT.grad_norm)

    def test_the_layers_may_change_midway(self, tmp_path: Path) -> None:
        grown = (*LAYERS, Layer("head", "Linear", "linear"))
        path = write_records(
            tmp_path / "tfevents", [record(0), record(1), record(2, 7, 8, 9, 10, layers=grown), record(3, layers=grown)]
        )
        run = load_one(path)
        assert run.layers == grown
        np.testing.assert_array_equal(run.metric("grad_norm")[1:3], [[1.5, 2.5, 3.5, math.nan], [7, 8, 9, 10]])

    def test_layers_are_written_only_when_they_change(self) -> None:
        encoder = Encoder(COLUMNS)
        tags = [
            [value.tag for value in encoder.record(r).value]
            for r in (record(0), record(1), record(2, layers=LAYERS[:2]))
        ]
        assert tags[0] == tags[2] == ["gradscope/layers", "gradscope/grad_norm", "gradscope/globals"]
        assert tags[1] == ["gradscope/grad_norm", "gradscope/globals"]

    def test_metadata_goes_with_the_first_value_only(self) -> None:
        encoder = Encoder(COLUMNS)
        described = [[v.HasField("metadata") for v in encoder.record(record(step)).value] for step in range(2)]
        assert described == [[True, True, True], [False, False]]

    def test_each_tag_says_of_what_kind_it_is(self) -> None:
        encoder = Encoder(COLUMNS)
        made = (
            encoder.record(record(0)),
            encoder.status(run_without_records()),
            encoder.resumed(),
            encoder.verdicts([]),
        )
        described = {value.tag: value.metadata.plugin_data for summary in made for value in summary.value}
        assert {plugin_data.plugin_name for plugin_data in described.values()} == {"gradscope"}
        assert {tag: json.loads(plugin_data.content)["kind"] for tag, plugin_data in described.items()} == {
            "gradscope/layers": "layers",
            "gradscope/grad_norm": "matrix",
            "gradscope/globals": "globals",
            "gradscope/status": "status",
            "gradscope/resumed": "resumed",
            "gradscope/verdicts": "verdicts",
        }

    def test_strange_names_survive(self, tmp_path: Path) -> None:
        layers = (Layer("", "Net", "parameters"), Layer('a|b`<i>\n"слой', "Linear", "linear"))
        run = load_one(write_records(tmp_path / "tfevents", [record(0, layers=layers)]))
        assert run.layers == layers

    def test_through_the_summary_writer_of_torch(self, tmp_path: Path) -> None:
        encoder = Encoder(COLUMNS)
        with SummaryWriter(tmp_path) as writer:
            for step in range(3):
                writer.add_scalar("train_loss", 1.0 / (step + 1), step)
                writer.file_writer.add_summary(encoder.record(record(step)), step, 5.0 + step)
        run = load_one(tmp_path)
        assert run.wall_times.tolist() == [5.0, 6.0, 7.0]
        np.testing.assert_array_equal(run.metric("grad_norm")[2], [2.5, 3.5, 4.5])

    def test_a_run_with_verdicts_alone_has_no_records(self, tmp_path: Path) -> None:
        run = load_one(write_frames(tmp_path / "tfevents", event(Encoder(COLUMNS).verdicts([]))))
        assert (run.steps.size, run.layers, run.notes) == (0, (), ())

    def test_a_metric_without_a_column_is_refused(self) -> None:
        with pytest.raises(ValueError, match=r"`record.metrics` must hold .*\['act_mean'\], got 'grad_norm'; give its"):
            Encoder([ACT_MEAN]).record(record(0))


class TestTensorBoardsOwnReader:
    def test_reads_the_same_values_and_metadata(self, tmp_path: Path) -> None:
        finding = Finding("no_gradient", Severity.WARNING, ("fc",), 0, 1, "none", "check", {"norm": math.nan})
        encoder = Encoder(COLUMNS)
        writer = EventFileWriter(str(tmp_path))
        for step in range(2):
            measured = record(step)
            writer.add_event(Event(step=step, wall_time=measured.wall_time, summary=encoder.record(measured)))
        writer.add_event(Event(step=2, summary=encoder.verdicts([])))
        writer.add_event(Event(step=3, summary=encoder.verdicts([finding])))
        writer.close()
        reader = EventAccumulator(str(tmp_path))
        reader.Reload()

        norms = [tensor_util.make_ndarray(e.tensor_proto) for e in reader.Tensors("gradscope/grad_norm")]
        np.testing.assert_array_equal(norms, load_one(tmp_path).metrics["grad_norm"])
        (table,) = reader.Tensors("gradscope/layers")
        expected = [[layer.name, layer.type, layer.kind] for layer in LAYERS]
        assert tensor_util.make_ndarray(table.tensor_proto).astype(str).tolist() == expected
        none, one = (tensor_util.make_ndarray(e.tensor_proto) for e in reader.Tensors("gradscope/verdicts"))
        assert none.shape == (0,)
        assert json.loads(one[0]) == finding.as_dict()

        metadata = reader.SummaryMetadata("gradscope/grad_norm")
        assert metadata.data_class == DATA_CLASS_TENSOR
        assert metadata.plugin_data.plugin_name == "gradscope"
        assert json.loads(metadata.plugin_data.content) == {
            "v": 1,
            "kind": "matrix",
            "metric": "grad_norm",
            "title": "Gradient norm",
            "unit": "L2 norm",
            "healthy": {},
        }


class TestDamage:
    def test_a_cut_at_every_byte_of_the_last_two_events_keeps_what_is_before(self, tmp_path: Path) -> None:
        whole = write_records(tmp_path / "whole.tfevents", [record(step) for step in range(4)])
        data = whole.read_bytes()
        ends = frame_ends(data)
        cut = tmp_path / "cut.tfevents"
        for size in range(ends[-3], ends[-1]):
            cut.write_bytes(data[:size])
            run = load_one(cut)
            kept = sum(end <= size for end in ends[1:])
            assert run.steps.tolist() == list(range(kept))
            np.testing.assert_array_equal(run.metric("grad_norm")[-1], np.arange(3) + kept - 0.5)
            clean = size in ends
            rest = size - max(end for end in ends if end <= size)
            unread = "1 byte" if rest == 1 else f"{rest} bytes"
            why = f"the file ends inside a record, {unread} not read"
            note = f"cut.tfevents: cut off after {kept} records ({why}); everything before is shown"
            assert run.notes == (() if clean else (note,))

    @pytest.mark.parametrize(
        "tail",
        [
            b"\x00",
            b"garbage",
            b"\xff" * 64,
            struct.pack("<Q", 2**63) + b"\x00" * 100,
            b"\x00" * 4096,
            struct.pack("<QI", 20, 0) + b"gradscope: no event." + b"\x00" * 4,
        ],
        ids=["a byte", "a word", "ones", "huge length", "zeros", "no protobuf"],
    )
    def test_garbage_at_the_end_is_noted(self, tmp_path: Path, tail: bytes) -> None:
        path = write_records(tmp_path / "tfevents", [record(0), record(1)])
        path.write_bytes(path.read_bytes() + tail)
        run = load_one(path)
        assert run.steps.tolist() == [0, 1]
        (note,) = run.notes
        assert note.startswith("tfevents: cut off after 2 records (")
        assert note.endswith("); everything before is shown")

    def test_a_value_that_does_not_fit_the_layers_is_dropped_with_one_note(self, tmp_path: Path) -> None:
        encoder = Encoder(COLUMNS)
        good = record(0)
        bad = [Record(step, 1.0, LAYERS, {"grad_norm": floats(1, 2), "act_mean": floats(1, 2, 3)}) for step in (1, 2)]
        path = write_frames(
            tmp_path / "tfevents", *(event(encoder.record(r), r.step, r.wall_time) for r in (good, *bad))
        )
        run = load_one(path)
        np.testing.assert_array_equal(run.metric("grad_norm")[1:], np.full((2, 3), math.nan))
        np.testing.assert_array_equal(run.metric("act_mean")[1:], [[1, 2, 3], [1, 2, 3]])
        assert run.notes == (
            "grad_norm: left out of 2 records from step 1 on, because the number of values is not that of the layers",
        )

    def test_a_newer_format_is_skipped_with_a_note(self, tmp_path: Path) -> None:
        newer = described(b'{"v":2,"kind":"matrix","metric":"grad_norm"}', "gradscope/grad_norm", (1, 2, 3))
        run = load_one(write_frames(tmp_path / "tfevents", event(newer), event(newer)))
        assert run.steps.size == 0
        assert run.notes == (
            "written by a newer GradScope (format 2, this one reads up to 1): "
            "update lightning-gradscope to see all of it",
        )

    @pytest.mark.parametrize(
        "content",
        [
            b"",
            b"null",
            b"[]",
            b"{",
            b"\xff\xfe",
            b"[" * 100_000,
            b'{"v":1}',
            b'{"v":1,"kind":[]}',
            b'{"v":1,"kind":"matrix"}',
            b'{"v":1,"kind":"matrix","metric":7,"title":[],"unit":{},"healthy":3}',
            b'{"v":1,"kind":"matrix","metric":"grad_norm","title":"t","unit":"ratio","healthy":{"linear":[NaN,"x"]}}',
            b'{"v":1,"kind":"matrix","metric":"grad_norm","title":"t","unit":"furlong","healthy":{}}',
            b'{"v":1,"kind":"matrix","metric":"grad_norm","title":"t","unit":"ratio","healthy":{"a":[0,1'
            + b"0" * 999
            + b"]}}",
        ],
    )
    def test_hostile_metadata_gives_a_note(self, tmp_path: Path, content: bytes) -> None:
        layers = Encoder(COLUMNS).record(Record(0, 1.0, LAYERS, {}))
        path = write_frames(tmp_path / "tfevents", event(layers), event(described(content, values=(1, 2, 3)), 1))
        run = load_one(path)
        assert [note.partition(":")[0] for note in run.notes] == ["gradscope/grad_norm"]
        assert all(column.unit in ("value", "ratio") and not column.healthy for column in run.columns)
        assert all(isinstance(column.title, str) for column in run.columns)

    @pytest.mark.parametrize(
        "status",
        [
            "",
            "{}",
            "7",
            '{"thresholds":[],"coverage":{"unseen":{}},"overhead":{}}',
            '{"thresholds":{"dead_fraction":7},"coverage":{"unseen":{}},"overhead":{}}',
            '{"thresholds":{"dead_fraction":"x"},"coverage":{"unseen":{}},"overhead":{}}',
            '{"thresholds":{"selu_mean":["a","b"]},"coverage":{"unseen":{}},"overhead":{}}',
            '{"thresholds":{"dead_fraction":NaN},"coverage":{"unseen":{}},"overhead":{}}',
            '{"thresholds":{},"coverage":{"unseen":[1]},"overhead":{}}',
            '{"thresholds":{},"coverage":{"unseen":{}},"overhead":{"records":"many"}}',
            '{"thresholds":{},"coverage":{"unseen":{},"measured":{"a":"b"}},"overhead":{}}',
            '{"thresholds":{},"coverage":{"unseen":{}},"overhead":{},"ledger":{"steps":"x"}}',
            '{"thresholds":{},"coverage":{"unseen":{}},"overhead":{},"origin":{"step":1}}',
            '{"thresholds":{},"coverage":{"unseen":{}},"overhead":{},"origin":[1]}',
            '{"thresholds":{},"coverage":{"unseen":{}},"overhead":{},"flights":{"a":{"steps":[1e999]}}}',
            '{"thresholds":{},"coverage":{"unseen":{}},"overhead":{},"flights":{"a":{"steps":[1],"layers":["x"],"loss":[1,2],'
            '"grad_norm":[[1]]}}}',
            '{"thresholds":{},"coverage":{"unseen":{}},"overhead":{},"setup":[]}',
            '{"thresholds":{},"coverage":{"unseen":{}},"overhead":{},"setup":{"plain_dropouts":[1]}}',
            '{"thresholds":{},"coverage":{"unseen":{}},"overhead":{},"setup":{"plain_dropouts":{"a":"b"}}}',
            '{"thresholds":{},"coverage":{"unseen":{}},"overhead":{},"setup":{"selu_weights":[{}]}}',
            '{"thresholds":{},"coverage":{"unseen":{}},"overhead":{},"setup":{"selu_weights":3}}',
            '{"thresholds":{},"coverage":{"unseen":{}},"overhead":{},"setup":{"selu_weights":[{"layer":"a","omega":0,"tau":1,"weights":0,"units":1}]}}',
            '{"thresholds":{},"coverage":{"unseen":{}},"overhead":{},"setup":{"selu_input":{}}}',
            '{"thresholds":{},"coverage":{"unseen":{}},"overhead":{},"setup":{"saturating_stack":{"layers":"ab","gradient_gain":1}}}',
            '{"thresholds":{},"coverage":{"unseen":{}},"overhead":{},"setup":{"output_activation":{"layer":"a","type":"b","classes":1e99}}}',
            '{"thresholds":{},"coverage":{"unseen":{}},"overhead":{},"setup":{"never_called":7}}',
            '{"thresholds":{},"coverage":{"unseen":{}},"overhead":{},"setup":{"never_called":-1}}',
        ],
    )
    def test_hostile_status_gives_a_note(self, tmp_path: Path, status: str) -> None:
        encoder = Encoder(COLUMNS)
        summary = encoder.status(run_without_records())
        summary.value[0].tensor.string_val[0] = status.encode()
        run = load_one(write_frames(tmp_path / "tfevents", event(encoder.record(record(0))), event(summary)))
        assert (run.thresholds, run.coverage, run.overhead) == (Thresholds(), Coverage(), Overhead())
        assert run.notes == (
            "gradscope/status: could not be read, so the thresholds are the defaults or those written before",
        )

    def test_a_status_of_tomorrow_is_read_as_far_as_it_is_known(self, tmp_path: Path) -> None:
        encoder = Encoder(COLUMNS)
        summary = encoder.status(run_without_records())
        summary.value[0].tensor.string_val[0] = json.dumps(
            {
                "thresholds": {"dead_fraction": 0.6, "unheard_of": 1},
                "coverage": {"unseen": {}, "seen": 1},
                "overhead": {"records": 4, "device_seconds": 1.0},
            }
        ).encode()
        run = load_one(write_frames(tmp_path / "tfevents", event(summary)))
        assert run.thresholds == Thresholds(dead_fraction=0.6)
        assert run.overhead == Overhead(records=4)
        assert run.notes == ()

    def test_half_a_table_of_layers_gives_a_note(self, tmp_path: Path) -> None:
        summary = Encoder(COLUMNS).record(record(0))
        del summary.value[0].tensor.string_val[-1]
        run = load_one(write_frames(tmp_path / "tfevents", event(summary)))
        assert run.layers == ()
        assert run.notes[0] == ("gradscope/layers: 8 strings are no table of name, type and kind, so it is left out")


class TestFiles:
    def test_superseded_steps_give_way_to_the_later_wall_time(self, tmp_path: Path) -> None:
        write_records(tmp_path / "events.tfevents.9", [record(s, s, s, s, wall_time=10.0 + s) for s in range(4)])
        write_records(tmp_path / "events.tfevents.10", [record(s, 9, 9, 9, wall_time=20.0 + s) for s in (2, 3, 4)])
        run = load_one(tmp_path)
        assert run.steps.tolist() == [0, 1, 2, 3, 4]
        assert run.metric("grad_norm")[:, 0].tolist() == [0, 1, 9, 9, 9]

    def test_a_file_that_continues_another_needs_no_metadata_of_its_own(self, tmp_path: Path) -> None:
        encoder = Encoder(COLUMNS)
        for number in (9, 10):
            data = event(encoder.record(record(number)), number)
            write_frames(tmp_path / f"events.tfevents.{number}", data)
        assert load_one(tmp_path).steps.tolist() == [9, 10]

    def test_files_are_in_the_order_of_their_times_whatever_comes_before_those(self, tmp_path: Path) -> None:
        encoder = Encoder(COLUMNS)
        for step, name in enumerate(("z.tfevents.9.host", "a.tfevents.10.host")):
            write_frames(tmp_path / name, event(encoder.record(record(step)), step))
        assert load_one(tmp_path).steps.tolist() == [0, 1]

    def test_runs_are_named_after_their_directories_in_natural_order(self, tmp_path: Path) -> None:
        names = ["version_10", "version_2", ".", "sweep/a/version_1"]
        for name in names:
            write_records(tmp_path / name / "events.out.tfevents.1.host", [record(0)])
        write_frames(tmp_path / "other" / "events.out.tfevents.1.host")
        (tmp_path / "version_2" / "hparams.yaml").write_text("a: 1")
        runs = load(str(tmp_path))
        assert list(runs) == [".", "sweep/a/version_1", "version_2", "version_10"]
        assert [run.name for run in runs.values()] == list(runs)

    def test_a_single_file_is_a_run(self, tmp_path: Path) -> None:
        assert list(load(write_records(tmp_path / "run" / "tfevents.1", [record(0)]))) == ["."]

    def test_links_are_followed_and_loops_end(self, tmp_path: Path) -> None:
        write_records(tmp_path / "elsewhere" / "tfevents.1", [record(0)])
        (tmp_path / "logs").mkdir()
        (tmp_path / "logs" / "linked").symlink_to(tmp_path / "elsewhere")
        (tmp_path / "elsewhere" / "back").symlink_to(tmp_path / "logs")
        assert list(load(tmp_path / "logs")) == ["linked"]

    def test_a_file_that_cannot_be_opened_gives_a_note(self, tmp_path: Path) -> None:
        write_records(tmp_path / "tfevents.1", [record(0)])
        (tmp_path / "tfevents.2").symlink_to(tmp_path / "gone")
        run = load_one(tmp_path)
        assert run.steps.tolist() == [0]
        assert run.notes == ("tfevents.2: could not be read (No such file or directory)",)

    def test_a_missing_path_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(
            FileNotFoundError, match=r"^`logdir` must be a directory .* got '.*gone', which does not exist; "
        ):
            load(tmp_path / "gone")

    def test_a_directory_without_event_files_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(
            ValueError, match=r"^`logdir` must hold TensorBoard event files, got '.*' with none in it; give"
        ):
            load(tmp_path)

    def test_a_log_without_gradscope_says_how_to_add_it(self, tmp_path: Path) -> None:
        write_frames(tmp_path / "tfevents", event(Summary(value=[Summary.Value(tag="loss", simple_value=1.0)])))
        with pytest.raises(ValueError, match=r"add `GradScope\(\)` to the Trainer's callbacks .* TensorBoardLogger$"):
            load(tmp_path)
