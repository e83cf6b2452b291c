"""Experiments side by side: their numbers, their own scalars, their settings, and the command."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter
from tensorboard.util.tensor_util import make_tensor_proto

from gradscope.cli import main
from gradscope.compare.hparams import LARGEST_FILE, Hparams, differing, read_hparams
from gradscope.compare.key_numbers import key_numbers
from gradscope.compare.naming import short_names
from gradscope.compare.scalars import Curve, read_curves
from gradscope.events.encoding import Encoder
from gradscope.events.event_files import EventFile, LocalFiles
from gradscope.records import Layer, Overhead, Record, Run
from tests.event_logs import event, write_frames
from tests.hand_written_runs import empty_run, run_of, sick_run, sound_run

WEIGHTS = [Layer(f"fc{i}", "Linear", "linear") for i in range(3)]


def test_key_numbers() -> None:
    run = run_of(
        "r",
        [*WEIGHTS, Layer("a", "ReLU", "rectifier"), Layer("b", "ReLU", "rectifier")],
        {
            "grad_norm": [[1.0, 8.0, 2.0, math.nan, math.nan]] * 3 + [[math.inf, math.nan, 50.0, math.nan, math.nan]],
            "dead_fraction": [[math.nan] * 3 + [0.9, 0.1]] * 3 + [[math.nan] * 3 + [0.2, 0.3]],
            "update_ratio": [[1e-3, 2e-3, math.inf, math.nan, math.nan]] * 4,
        },
        records=4,
        globals={"loss": np.array([2.0, 0.5, 0.75, math.nan])},
        overhead=Overhead(4, 1.0, 50.0),
    )
    numbers = key_numbers(run)
    assert (numbers.last_loss, numbers.lowest_loss) == (0.75, 0.5)
    assert numbers.gradient_range == 8.0
    assert (numbers.dead_fraction, numbers.deadest_layer) == (float(np.float32(0.3)), "b")
    assert numbers.update_ratio == pytest.approx(1.5e-3)
    assert (numbers.records, numbers.last_step, numbers.seconds, numbers.cost) == (4, 30, 3.0, 0.02)


def test_a_gradient_of_zero_is_infinitely_far_from_one_that_is_not() -> None:
    assert key_numbers(run_of("r", WEIGHTS, {"grad_norm": [0.0, 1.0, 1.0]})).gradient_range == math.inf
    assert math.isnan(key_numbers(run_of("r", WEIGHTS, {"grad_norm": 0.0})).gradient_range)


def test_key_numbers_of_nothing() -> None:
    numbers = key_numbers(empty_run())
    assert (numbers.records, numbers.last_step, numbers.deadest_layer) == (0, None, "")
    floats = (numbers.last_loss, numbers.gradient_range, numbers.dead_fraction, numbers.update_ratio, numbers.seconds)
    assert all(map(math.isnan, floats))


def settings_of(text: str, folder: Path) -> Hparams:
    (folder / "hparams.yaml").write_text(text, encoding="utf-8")
    return read_hparams(folder)


def test_settings_are_read_as_they_stand(tmp_path: Path) -> None:
    written = yaml.dump({"lr": 1e-3, "betas": (0.9, 0.99), "net": {"act": "relu", "widths": []}, "none": None})
    assert "!!python/tuple" in written, "Lightning writes it for tuples"
    settings = settings_of(written, tmp_path).settings
    assert settings == {
        "betas.0": "0.9",
        "betas.1": "0.99",
        "lr": "0.001",
        "net.act": "relu",
        "net.widths": "[]",
        "none": "null",
    }
    assert read_hparams(tmp_path / "nowhere") == settings_of("", tmp_path) == Hparams()
    assert settings_of("{}", tmp_path).note == ""


BOMB = "a: &a [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{name}: &{name} [{','.join([f'*{before}'] * 10)}]\n" for before, name in zip("abcdefg", "bcdefgh", strict=True)
)


@pytest.mark.parametrize(
    "text", ["a: [", "\x00", "- a\n- b", "just text", "&a [*a]", "x: &a {y: *a}", BOMB, "[" * 5_000, "a: b: c", "a: *b"]
)
def test_damaged_settings_are_said_to_be(text: str, tmp_path: Path) -> None:
    assert settings_of(text, tmp_path) == Hparams(note="hparams.yaml: is damaged, so it is left out")


def test_settings_that_are_too_large_or_no_text_or_no_file_are_said_to_be(tmp_path: Path) -> None:
    assert (
        settings_of("a: " + "x" * LARGEST_FILE, tmp_path).note == "hparams.yaml: 1.0 MB is too large, so it is left out"
    )
    (tmp_path / "hparams.yaml").write_bytes(b"a: \xff")
    assert "is damaged" in read_hparams(tmp_path).note
    (tmp_path / "hparams.yaml").unlink()
    (tmp_path / "hparams.yaml").mkdir()
    assert "is no file" in read_hparams(tmp_path).note


def test_no_object_is_made_of_a_tag(tmp_path: Path) -> None:
    target = tmp_path / "made"
    settings = settings_of(f"a: !!python/object/apply:os.mkdir ['{target}']", tmp_path).settings
    assert settings == {"a.0": str(target)}
    assert not target.exists()


def test_only_what_differs_is_told() -> None:
    several = [{"lr": "1", "act": "relu"}, {"lr": "1", "act": "gelu", "extra": "2"}]
    assert differing(several) == ("act", "extra")
    assert differing([]) == differing(several[:1]) == ()


def test_names_are_as_short_as_tells_them_apart() -> None:
    assert short_names([Path("/l/a/v0"), Path("/l/b/v0")]) == ["a/v0", "b/v0"]
    assert short_names([Path("/l/v0"), Path("/l/v1")]) == ["v0", "v1"]
    assert short_names([Path("/l/v0"), Path("/l/v0/x")]) == ["v0", "v0/x"]
    assert short_names([Path("/l/v0")]) == ["v0"]
    assert short_names([]) == []


def log(folder: Path, run: Run, accuracies: tuple[float, ...] = (), settings: str = "") -> Path:
    """Write `run` as TensorBoard does, with what a training logs and Lightning writes beside it."""
    encoder, writer = Encoder(run.columns), EventFileWriter(str(folder))
    for i, step in enumerate(run.steps):
        metrics = {name: values[i] for name, values in run.metrics.items()}
        totals = {name: float(values[i]) for name, values in run.globals.items()}
        record = Record(int(step), float(run.wall_times[i]), run.layers, metrics, totals)
        writer.add_event(Event(step=record.step, wall_time=record.wall_time, summary=encoder.record(record)))
    for accuracy in accuracies:
        value = Summary.Value(tag="val_acc", simple_value=accuracy)
        other = Summary.Value(tag="epoch", simple_value=7.0)
        tensor = Summary.Value(tag="Loss/val", tensor=make_tensor_proto(1 - accuracy))
        writer.add_event(Event(summary=Summary(value=[value, other, tensor])))
    writer.close()
    if settings:
        (folder / "hparams.yaml").write_text(settings)
    return folder


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    log(tmp_path / "sick", sick_run(), (0.1, 0.25, 0.125), "act: sigmoid\nlr: 0.1\nseed: 1\n")
    log(tmp_path / "sound", sound_run(), (0.5, math.nan, 0.75), "act: selu\nlr: 0.001\nseed: 1\n")
    return tmp_path


def curves_under(directory: Path) -> dict[str, Curve]:
    files = LocalFiles(directory)
    (listed,) = files.runs().values()
    return read_curves(files, listed)


def test_the_scalars_of_the_training_itself_are_read(logs: Path) -> None:
    curves = curves_under(logs / "sick")
    assert curves["val_acc"] == pytest.approx(Curve(0.125, 0.1, 0.25))
    assert curves["Loss/val"] == pytest.approx(Curve(0.875, 0.75, 0.9))
    assert list(curves) == ["val_acc", "Loss/val"]
    assert curves_under(logs / "sound")["val_acc"] == Curve(0.75, 0.5, 0.75)


def test_damaged_scalars_are_left_out(tmp_path: Path) -> None:
    strange = [
        Summary.Value(tag="acc", tensor=make_tensor_proto([1.0, 2.0])),
        Summary.Value(tag="acc2", tensor=make_tensor_proto("text")),
        Summary.Value(tag="acc3"),
        Summary.Value(tag="acc4", simple_value=1.0),
    ]
    writer = EventFileWriter(str(tmp_path))
    writer.add_event(Event(summary=Summary(value=strange)))
    writer.close()
    (path,) = tmp_path.iterdir()
    with path.open("ab") as file:
        file.write(b"torn")
    assert curves_under(tmp_path) == {"acc4": Curve(1.0, 1.0, 1.0)}
    gone = EventFile(str(tmp_path / "none"), "none", 10)
    assert read_curves(LocalFiles(tmp_path), [gone]) == {}


def test_an_event_that_is_none_hides_nothing_behind_it(tmp_path: Path) -> None:
    before, after = (event(Summary(value=[Summary.Value(tag="acc", simple_value=value)])) for value in (0.5, 0.75))
    write_frames(tmp_path / "events.out.tfevents.1", before, b"acc, but no event", after)
    assert curves_under(tmp_path) == {"acc": Curve(0.75, 0.5, 0.75)}


def compared(capsys: pytest.CaptureFixture[str], *argv: str) -> Any:
    assert main(["compare", *argv, "--json"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return json.loads(out)


def test_json_holds_it_all(logs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = compared(capsys, str(logs), "--baseline", "sound")
    sick, sound = content["runs"]
    assert (sick["name"], sound["name"]) == ("sick", "sound")
    assert (sick["severity"], sound["severity"], sound["findings"]) == ("warning", None, [])
    assert {"vanishing_gradient", "dead_relu"} <= {finding["code"] for finding in sick["findings"]}
    assert sick["scalars"]["val_acc"] == {"last": 0.125, "lowest": pytest.approx(0.1), "highest": 0.25}
    assert sound["hparams"] == {"act": "selu", "lr": "0.001", "seed": "1"}
    assert (sound["dead_fraction"], sound["records"]) == (None, 40)
    assert content["hparams_that_differ"] == ["act", "lr"]
    (comparison,) = content["comparisons"]
    assert (content["baseline"], comparison["run"], comparison["layers"]) == ("sound", "sick", 0)


def test_runs_are_taken_from_several_places(logs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log(logs / "deep" / "sick", replace(sick_run(), name="sick"))
    names = [run["name"] for run in compared(capsys, str(logs / "sick"), str(logs / "deep"))["runs"]]
    assert names == ["sick", "deep/sick"]
    content = compared(capsys, str(logs / "sick"), "--baseline", str(logs / "sound"))
    assert [run["name"] for run in content["runs"]] == ["sick", "sound"]
    assert content["baseline"] == "sound"
    content = compared(capsys, str(logs / "sick"), str(logs / "sound"), "--baseline", str(logs / "sick"))
    assert (len(content["runs"]), content["baseline"]) == (2, "sick")


def test_a_sick_twin_is_told_from_the_baseline(logs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gradient = np.array(sound_run().metrics["grad_norm"])
    gradient[20:, 2] *= 1e-6
    log(logs / "twin", replace(sound_run(), metrics={**sound_run().metrics, "grad_norm": gradient}))
    assert main(["compare", str(logs), "--baseline", "sound", "--width", "120"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "✖ twin parts at step 200 in features.2: grad_norm is" in out
    assert "○ sick has too little in common with it to tell" in out


@pytest.mark.parametrize(
    ("argv", "complaint"),
    [
        (["{}/none"], "`logdir` must be a directory"),
        (["{}/sick"], "`RUN` must name two runs or more, got one: sick; `gradscope summary` tells about one"),
        (["{}/sick", "{}/sick"], "/sick' twice; leave one out"),
        (["{}", "{}/sick"], "/sick' twice; leave one out"),
        (["{}", "--baseline", "sond"], "`--baseline` must be a run, got 'sond'; did you mean sound?"),
        (
            ["{}", "--baseline", "\x1b[31m"],
            "`--baseline` must be a run, got '\\x1b[31m'; it is a run's name, or its directory",
        ),
        (["{}/sick", "--baseline", "{}"], "with 2; name the directory of one"),
        (["{}", "--baseline", "{}/empty"], "`logdir` must hold TensorBoard event files"),
        (["{}", "--width", "7"], "expected a number of columns from 20 to 1000, got '7'"),
    ],
)
def test_bad_input_is_one_line_and_2(
    argv: list[str], complaint: str, logs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (logs / "empty").mkdir()
    assert main(["compare", *(argument.replace("{}", str(logs)) for argument in argv)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert complaint in err
    assert err.startswith("gradscope: error: ")
    assert err.count("\n") == 1


def test_a_baseline_that_two_runs_are_called_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for experiment in ("first", "second"):
        for name in ("sound", "other"):
            log(tmp_path / experiment / name, sound_run(), (0.5,), "seed: 1\n")
    paths = [str(tmp_path / "first"), str(tmp_path / "second")]
    assert main(["compare", *paths, "--baseline", "sound"]) == 2
    err = capsys.readouterr().err
    assert "`--baseline` must be one run, got 'sound': that is " in err
    assert "first/sound and second/sound" in err
    assert main(["compare", *paths, "--baseline", "first/sound"]) == 0


def test_no_settings_at_all_are_no_setting(tmp_path: Path) -> None:
    (tmp_path / "hparams.yaml").write_text("{}\n")
    assert read_hparams(tmp_path) == Hparams({})
