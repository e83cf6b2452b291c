"""The heat map of characters: what is drawn of known cells, at any width, with colour and without."""

import io
import os
from pathlib import Path

import numpy as np
import pytest
from rich.cells import cell_len
from rich.console import Console
from rich.style import Style

from gradscope.grid import EXACT_ZERO, NON_FINITE, colours_of, measured_of
from gradscope.records import Layer, Metric, Run
from gradscope.report import Report
from gradscope.report.page import Page
from gradscope.report.terminal_map import MOST_LINES, terminal_map
from tests.hand_written_runs import COLUMNS, run_of, sick_findings, sick_run

GOLDEN = Path(__file__).parent / "golden"
GRAD_NORM = COLUMNS[0]


@pytest.fixture(autouse=True)
def _styles_of_their_own() -> None:
    """Rich gives the terminal that a style was first used with to whoever uses an equal one: that of another test."""
    Style._add.cache_clear()


def drawn(run: Run, column: Metric = GRAD_NORM, width: int = 80, colour: bool = False, encoding: str = "utf-8") -> str:
    file = io.StringIO()
    console = Console(
        file=file, width=width, color_system="truecolor" if colour else None, force_terminal=colour, no_color=not colour
    )
    for line in terminal_map(Page(width, encoding), run, column, colour):
        console.print(line)
    return file.getvalue()


def layers(number: int) -> list[Layer]:
    return [Layer(f"fc{i}", "Linear", "linear") for i in range(number)]


def test_low_is_low_and_high_is_high_on_one_scale_for_all_layers() -> None:
    norms = np.logspace(-7, 0, 8)
    lines = drawn(run_of("r", layers(8), {"grad_norm": norms})).splitlines()
    assert [line.split()[1][0] for line in lines[1:9]] == list("▁▂▃▄▅▆▇█")
    assert lines[-1].startswith("1e-07 ▁▂▃▄▅▆▇█ 1e+00")


def test_what_has_no_place_on_the_scale_has_a_sign_of_its_own() -> None:
    cells = np.array([[1.0, 0.0, np.inf, np.nan]] * 40)
    cells[0, 3] = 1e-3
    text = drawn(run_of("r", layers(4), {"grad_norm": cells}))
    rows = text.splitlines()[1:5]
    assert set(rows[1].split()[1]) == {"0"}
    assert set(rows[2].split()[1]) == {"!"}
    assert rows[3].endswith("·")
    assert "! NaN or infinite   0 exactly zero   · not measured" in text


def test_colours_are_those_of_the_picture() -> None:
    run = run_of("r", layers(3), {"grad_norm": np.array([1e-4, 1.0, 0.0])})
    text = drawn(run, colour=True)
    measured = measured_of(run, GRAD_NORM)
    for colour in [*colours_of(measured.cells[0, :2], measured.scale).tolist(), EXACT_ZERO]:
        assert "\x1b[38;2;{};{};{}m".format(*colour) in text
    assert "\x1b[38;2;{};{};{}m".format(*NON_FINITE) not in text


def test_a_lone_sick_layer_among_thousands_is_drawn() -> None:
    norms = np.ones(2400)
    norms[1234] = 1e-9
    rows = drawn(run_of("r", layers(2400), {"grad_norm": norms})).splitlines()[1 : MOST_LINES + 1]
    assert [i for i, row in enumerate(rows) if "▁" in row] == [1234 * MOST_LINES // 2400]


def test_a_lone_sick_record_among_thousands_is_drawn() -> None:
    norms = np.ones((5000, 2))
    norms[3333, 0] = 1e-9
    first = drawn(run_of("r", layers(2), {"grad_norm": norms}, records=5000)).splitlines()[1]
    assert first.count("▁") == 1


def test_a_metric_that_was_not_measured_says_so() -> None:
    run = run_of("r", layers(2), {})
    assert drawn(run, Metric("dead_fraction", "dead units", "fraction")) == "dead units: not measured in any layer\n"


@pytest.mark.parametrize("width", [20, 60, 80, 120, 300])
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_no_line_is_longer_than_the_page(width: int, encoding: str) -> None:
    run = run_of("r", [Layer("編碼器.\x1b[31m" + "x" * 300, "L", "linear"), *layers(2)], {"grad_norm": [1.0, 2.0, 3.0]})
    text = drawn(run, width=width, encoding=encoding)
    assert max(map(cell_len, text.splitlines())) <= width
    assert "\x1b" not in text
    text.encode(encoding)


@pytest.mark.parametrize("width", [60, 80, 120])
@pytest.mark.parametrize("colour", [False, True], ids=["plain", "colour"])
def test_golden_of_the_whole_report(width: int, colour: bool) -> None:
    """To accept what is printed now as right: GRADSCOPE_UPDATE_GOLDEN=1 pytest tests/report; then read it."""
    path = GOLDEN / f"summary_{width}{'_colour' if colour else ''}.txt"
    file = io.StringIO()
    console = Console(file=file, width=width, color_system="truecolor" if colour else None, force_terminal=colour)
    console.print(Report(sick_run(), sick_findings(), heat_map="grad_norm"))
    text = "".join(f"{line.rstrip(' ')}\n" for line in file.getvalue().splitlines())
    if os.environ.get("GRADSCOPE_UPDATE_GOLDEN"):
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")
