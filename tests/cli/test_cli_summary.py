"""What `gradscope summary` shows of a run: which layers, which records, in which order, and which picture."""

import json
from dataclasses import replace

import numpy as np
import pytest

import gradscope.events.reading
from gradscope.cli import main
from gradscope.records import Layer, Run
from tests.hand_written_runs import run_of, sick_run, sound_run

Captured = pytest.CaptureFixture[str]


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The directories that were read: each holds an old sick run and a new sound one."""
    directories: list[str] = []
    runs = {"version_0": replace(sick_run(), wall_times=np.arange(57.0)), "version_1": later(sound_run())}

    def load(logdir: str) -> dict[str, Run]:
        directories.append(logdir)
        return runs

    monkeypatch.setattr(gradscope.events.reading, "load", load)
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
        (["--metric", "size"], "`--metric` must be one that was recorded, got 'size'; there are grad_norm, "),
        (["--metric", "dead_fracton"], "got 'dead_fracton'; did you mean dead_fraction?"),
        (
            ["--sort", "size"],
            "`--sort` must be an order or a metric, got 'size'; there are model, severity, name, grad_norm, ",
        ),
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


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--layer", "encoder.*", "--layer", "nothing"], "`--layer` must match a layer, got 'nothing'"),
        (["--steps", "5000:"], "`--steps` must hold a record, got 5000:"),
        (["--steps", "9:5"], "`--steps` must hold a record, got 9:5"),
    ],
)
def test_nothing_left_to_show_is_bad_input(
    options: list[str], complaint: str, read: list[str], capsys: Captured
) -> None:
    assert main(["summary", "runs", *options]) == 2
    out, err = capsys.readouterr()
    assert (out, complaint in err) == ("", True)


def test_of_a_large_net_sixty_layers_are_listed_the_sick_ones_first(
    capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    layers = [Layer(f"fc.{i}", "Linear", "linear") for i in range(300)]
    norms = np.where(np.arange(300) < 2, 1e-9, 1.0) * np.linspace(1, 2, 40)[:, None]
    run = run_of("large", layers, {"grad_norm": norms}, globals={"loss": np.full(40, 2.3)})
    monkeypatch.setattr(gradscope.events.reading, "load", lambda logdir: {"large": run})
    assert main(["summary", "runs", "--width", "100"]) == 0
    text = capsys.readouterr().out
    listed = rows(text)
    assert len(listed) == 60
    assert listed[:2] == ["fc.0", "fc.1"]
    assert "and 240 more layers" in text
    assert main(["summary", "runs", "--width", "100", "--all-layers"]) == 0
    assert len(rows(capsys.readouterr().out)) == 300
