"""What was measured as rows: which there are, and that each format gives them back."""

import csv
import io
import json
import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gradscope.events.reading
import gradscope.export.tidy
from gradscope import Layer, Run
from gradscope.cli import main
from gradscope.export.tables import MissingExtraError, to_dataframe, write_parquet
from gradscope.export.text import csv_lines, json_lines, shortest
from gradscope.export.tidy import FIELDS, Choice, Table
from tests.hand_written_runs import empty_run, run_of, sick_run, sound_run

Row = tuple[Any, ...]
NAN = math.nan

LAYERS = (Layer("fc", "Linear", "linear"), Layer("act", "ReLU", "rectifier"))
SMALL = run_of(
    "small",
    LAYERS,
    {
        "grad_norm": [[0.1, NAN], [math.inf, NAN], [NAN, NAN]],
        "nonfinite": [[0, NAN], [0, NAN], [1, NAN]],
        "dead_fraction": [[NAN, 0.25], [NAN, NAN], [NAN, 1]],
    },
    records=3,
    globals={"loss": np.array([0.1, NAN, NAN]), "nonfinite_loss": np.array([0.0, 0.0, 1.0])},
)
TENTH = float(np.float32(0.1))
ROWS: list[Row] = [
    ("small", 0, 0.0, "", "", "", "loss", 0.1),
    ("small", 0, 0.0, "", "", "", "nonfinite_loss", 0.0),
    ("small", 0, 0.0, "fc", "Linear", "linear", "grad_norm", TENTH),
    ("small", 0, 0.0, "fc", "Linear", "linear", "nonfinite", 0.0),
    ("small", 0, 0.0, "act", "ReLU", "rectifier", "dead_fraction", 0.25),
    ("small", 10, 1.0, "", "", "", "nonfinite_loss", 0.0),
    ("small", 10, 1.0, "fc", "Linear", "linear", "grad_norm", math.inf),
    ("small", 10, 1.0, "fc", "Linear", "linear", "nonfinite", 0.0),
    ("small", 20, 2.0, "", "", "", "loss", NAN),
    ("small", 20, 2.0, "", "", "", "nonfinite_loss", 1.0),
    ("small", 20, 2.0, "fc", "Linear", "linear", "grad_norm", NAN),
    ("small", 20, 2.0, "fc", "Linear", "linear", "nonfinite", 1.0),
    ("small", 20, 2.0, "act", "ReLU", "rectifier", "dead_fraction", 1.0),
]
"""What was not measured has no row; the NaN of step 20 was, in loss and gradient."""

HOSTILE = 'a\x1b[31m,"\n\u202e=\ud800'


def hostile() -> Run:
    return replace(SMALL, name=HOSTILE, layers=(Layer(HOSTILE, HOSTILE, HOSTILE), LAYERS[1]))


def same(rows: list[Row], expected: list[Row]) -> bool:
    return list(map(repr, rows)) == list(map(repr, expected))


def from_csv(text: str) -> list[Row]:
    head, *lines = csv.reader(io.StringIO(text))
    assert tuple(head) == FIELDS
    return [(line[0], int(line[1]), float(line[2]), *line[3:7], float(line[7])) for line in lines]


def from_json(text: str) -> list[Row]:
    rows = json.loads(text)["rows"]
    assert all(tuple(row) == FIELDS for row in rows)
    return [(*list(row.values())[:7], float(row["value"])) for row in rows]


def as_float32(rows: list[Row]) -> list[Row]:
    return [(*row[:7], float(np.float32(row[7]))) for row in rows]


@pytest.mark.parametrize("block", [1, 10, 65_536])
def test_csv_and_json_hold_what_was_measured(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gradscope.export.tidy, "BLOCK", block)
    assert same(as_float32(from_csv("".join(csv_lines([Table(SMALL)])))), as_float32(ROWS))
    assert same(as_float32(from_json("".join(json_lines([Table(SMALL)])))), as_float32(ROWS))


def test_blocks_do_not_grow_with_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gradscope.export.tidy, "BLOCK", 100)
    blocks = list(Table(sound_run(200)).rows())
    assert len(blocks) > 100
    assert max(len(block.values) for block in blocks) <= 100


def test_numbers_are_as_short_as_they_can_be() -> None:
    values = np.array([TENTH, 0.1, 1e-7, math.inf, -math.inf, NAN, 3.0])
    texts = shortest(values)
    assert texts == ["0.1", "0.1", "1e-07", "inf", "-inf", "nan", "3.0"]
    assert "1e+300" in shortest(np.array([1e300])), "beyond float32"


def test_several_runs_and_none() -> None:
    tables = [Table(empty_run()), Table(SMALL), Table(sick_run())]
    both = from_json("".join(json_lines(tables)))
    assert same(both, from_json("".join(json_lines(tables[1:2]))) + from_json("".join(json_lines(tables[2:]))))
    assert from_json("".join(json_lines(tables[:1]))) == from_csv("".join(csv_lines(tables[:1]))) == []


def test_a_choice_narrows() -> None:
    def rows(**choice: tuple[str, ...]) -> list[Row]:
        return from_json("".join(json_lines([Table(SMALL, Choice(**choice))])))

    every = from_json("".join(json_lines([Table(SMALL)])))
    assert same(rows(metrics=("grad_norm",)), [row for row in every if row[6] == "grad_norm"])
    assert same(rows(layers=("f?", "none*")), [row for row in every if row[3] == "fc"])
    assert same(rows(layers=("*",)), every)
    assert same(rows(layers=("!f?",)), [row for row in every if row[3] != "fc"])
    assert rows(metrics=("grad_norm",), layers=("act",)) == rows(metrics=("strange",)) == []


def test_names_come_back_from_json_and_do_no_harm_in_csv() -> None:
    text = "".join(json_lines([Table(hostile())]))
    assert all(c.isprintable() or c == "\n" for c in text)
    assert {row[3] for row in from_json(text)} == {"", HOSTILE, "act"}
    text = "".join(csv_lines([Table(hostile())]))
    assert all(c.isprintable() or c == "\n" for c in text)
    assert len(text.splitlines()) == len(ROWS) + 1
    assert r"a\x1b[31m," in from_csv(text)[0][0]


def test_pandas_gets_the_same_rows() -> None:
    pytest.importorskip("pandas", reason="pandas is not installed: the extra `export` installs it")
    frame = SMALL.to_dataframe()
    assert tuple(frame.columns) == FIELDS
    assert same([tuple(row) for row in frame.astype(object).itertuples(index=False)], ROWS)
    kinds = {name: str(kind) for name, kind in frame.dtypes.items()}
    assert [kinds[name] for name in ("step", "wall_time", "value", "layer")] == [
        "int64",
        "float64",
        "float64",
        "category",
    ]
    matrix = frame[frame.metric == "dead_fraction"].pivot_table("value", "step", "layer", observed=True)
    assert matrix["act"].tolist() == [0.25, 1.0]
    none = empty_run().to_dataframe()
    assert (len(none), tuple(none.columns)) == (0, FIELDS)
    twins = run_of("r", (LAYERS[0], replace(LAYERS[0], name="fc2")), {"grad_norm": 1.0}, records=1).to_dataframe()
    assert twins["type"].tolist() == ["Linear", "Linear"]


def test_parquet_gives_the_same_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed: the extra `export` installs it")
    monkeypatch.setattr(gradscope.export.tidy, "BLOCK", 10)
    path = tmp_path / "runs.parquet"
    assert write_parquet([Table(SMALL), Table(empty_run()), Table(hostile())], path) == 2 * len(ROWS)
    rows = [tuple(row.values()) for row in parquet.read_table(path).to_pylist()]
    assert same(rows[: len(ROWS)], ROWS)
    assert rows[-3][3] == HOSTILE.replace("\ud800", r"\ud800")


def test_what_is_missing_is_named_with_the_extra_that_installs_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    words = r'extra `export` of the distribution lightning-gradscope, from a checkout: pip install "\.\[export\]"'
    with pytest.raises(MissingExtraError, match=f"pandas is not installed.*{words}"):
        to_dataframe(Table(SMALL))
    with pytest.raises(ImportError, match=f"pyarrow is not installed.*{words}"):
        write_parquet([Table(SMALL)], tmp_path / "x")


@pytest.fixture
def logs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gradscope.events.reading, "load", lambda logdir: {"small": SMALL, HOSTILE: hostile()})


@pytest.mark.parametrize("form", ["csv", "json"])
def test_the_command_writes_to_stdout_or_to_a_file(
    form: str, logs: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", "anywhere", "--to", form, "--metric", "loss", "--metric", "grad_norm"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    rows = from_csv(out) if form == "csv" else from_json(out)
    assert [row[6:] for row in rows[:2]] == [("loss", 0.1), ("grad_norm", 0.1)]
    path = tmp_path / "rows"
    assert main(["export", "--to", form, "--metric", "loss", "--metric", "grad_norm", "-o", str(path)]) == 0
    assert path.read_text(encoding="utf-8") == out
    assert capsys.readouterr().out == f"{path}: 2 runs\n"


@pytest.mark.parametrize(
    ("argv", "complaint"),
    [
        (["--to", "xls"], "argument --to: invalid choice: 'xls'"),
        ([], "the following arguments are required: --to"),
        (["--to", "parquet"], "`--to parquet` writes no text, so it needs a file: give `-o FILE`"),
        (["--to", "csv", "--metric", "grad_nrm"], "got 'grad_nrm'; did you mean grad_norm?"),
        (["--to", "csv", "--metric", "\x1b"], "got '\\x1b'; there are loss, nonfinite_loss, grad_norm"),
        (["--to", "csv", "--layer", "conv*"], "`--layer` must match a layer, got 'conv*'"),
        (["--to", "csv", "-o", "."], "`--output` must be a file that can be written, got '.': Is a directory"),
        (["--to", "json", "-o", "/none/x"], "got '/none/x': No such file or directory"),
    ],
)
def test_bad_input_is_one_line_and_2(
    argv: list[str], complaint: str, logs: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", "anywhere", *argv]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert complaint in err
    assert err.startswith("gradscope: error: ")
    assert err.count("\n") == 1


def test_parquet_without_its_library_is_one_line_and_2(
    logs: None, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert main(["export", "--to", "parquet", "-o", str(tmp_path / "x")]) == 2
    err = capsys.readouterr().err
    assert "`--to parquet` cannot be written: pyarrow is not installed" in err
    assert err.count("\n") == 1
    assert not (tmp_path / "x").exists()
