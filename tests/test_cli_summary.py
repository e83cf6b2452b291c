"""What `gradscope summary` shows of a run: which layers, which records, in which order, and which picture."""

import json
from dataclasses import replace

import numpy as np
import pytest

import gradscope.events
from gradscope.cli import main
from gradscope.records import Run
from tests.hand_written_runs import sick_run, sound_run

Captured = pytest.CaptureFixture[str]


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The directories that were read: each holds an old sick run and a new sound one."""
    directories: list[str] = []
    runs = {"version_0": replace(sick_run(), wall_times=np.arange(57.0)), "version_1": later(sound_run())}

    def load(logdir: str) -> dict[str, Run]:
        directories.append(logdir)
        return runs

    monkeypatch.setattr(gradscope.events, "load", load)
    return directories


def later(run: Run) -> Run:
    return replace(run, wall_times=run.wall_times + 1000)


def rows(text: str) -> list[str]:
    """Return the names in the table of layers, in its order."""
    table = text.split("layer ", 1)[1].split("\n\n")[0].splitlines()[1:]
    return [word for line in table for word in line.split() if word[0].isalpha() and "." in word]


def test_without_a_directory_it_is_the_newest_run_of_the_usual_one(read: list[str], capsys: Captured) -> None:
    assert main(["summary", "--json"]) == 0
    assert [run["name"] for run in json.loads(capsys.readouterr().out)["runs"]] == ["version_1"]
    assert read == ["lightning_logs"]


def test_with_a_directory_it_is_all_of_its_runs(read: list[str], capsys: Captured) -> None:
    assert main(["summary", "runs", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["runs"]) == 2
    assert read == ["runs"]


def test_layers_and_steps_are_a_part_and_findings_those_of_all(read: list[str], capsys: Captured) -> None:
    main(["summary", "runs", "--json"])
    whole = json.loads(capsys.readouterr().out)["runs"][0]
    main(["summary", "runs", "--json", "--layer", "*.conv", "--layer", "!*.0.*", "--steps", "100:200"])
    part = json.loads(capsys.readouterr().out)["runs"][0]
    assert [layer["name"] for layer in part["layers"]] == [f"encoder.blocks.{i}.conv" for i in range(1, 5)]
    assert (part["records"], part["first_step"], part["last_step"]) == (11, 100, 200)
    assert part["findings"] == whole["findings"]
    assert len(part["findings"]) >= 1


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        ("name", "encoder.blocks.0.conv encoder.blocks.0.relu encoder.blocks.1.conv"),
        ("model", "encoder.blocks.0.conv encoder.blocks.0.relu encoder.blocks.1.conv"),
        ("grad_norm", "head.linear encoder.blocks.4.conv encoder.blocks.3.conv"),
        ("dead_fraction", "encoder.blocks.0.relu encoder.blocks.1.relu encoder.blocks.2.relu"),
    ],
)
def test_sort(order: str, expected: str, read: list[str], capsys: Captured) -> None:
    main(["summary", "runs", "--width", "120", "--sort", order])
    assert rows(capsys.readouterr().out.split("─" * 120)[1])[:3] == expected.split()


def test_sorted_by_severity_the_sick_come_first(read: list[str], capsys: Captured) -> None:
    main(["summary", "runs", "--width", "120", "--sort", "severity"])
    table = capsys.readouterr().out.split("─" * 120)[1].split("layer ", 1)[1].split("\n\n")[0].splitlines()[1:13]
    signs = [line[0] for line in table]
    assert signs == sorted(signs, key="✖▲ ".index)
    assert len(set(signs)) > 1


def test_one_run_has_a_heat_map_and_several_only_where_one_is_asked_for(read: list[str], capsys: Captured) -> None:
    main(["summary"])
    assert "gradient norm (log10), from input to loss" in capsys.readouterr().out
    main(["summary", "runs"])
    assert "from input to loss" not in capsys.readouterr().out
    main(["summary", "runs", "--metric", "act_var"])
    assert capsys.readouterr().out.count("variance, from input to loss") == 2


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--metric", "grad"], "`--metric` must be one of grad_norm, "),
        (["--sort", "size"], "`--sort` must be one of model, severity, name, grad_norm, "),
        (["--steps", "5"], "expected a range of steps like 100:500, 100: or :500, got '5'"),
        (["--steps", "a:b"], "got 'a:b'"),
        (["--steps", "-5:7"], "got '-5:7'|expected one argument"),
    ],
)
def test_bad_input_is_one_line_and_2(options: list[str], complaint: str, read: list[str], capsys: Captured) -> None:
    assert main(["summary", "runs", *options]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert any(part in err for part in complaint.split("|"))


def test_no_layer_and_no_record_left_are_no_fault(read: list[str], capsys: Captured) -> None:
    assert main(["summary", "runs", "--layer", "nothing", "--steps", "5000:"]) == 0
    assert "version_0" in capsys.readouterr().out
