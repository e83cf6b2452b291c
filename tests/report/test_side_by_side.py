"""Experiments and checks as they are printed: at any width, with colour or without, whatever the names are."""

import io
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.cells import cell_len
from rich.console import Console, RenderableType

from gradscope.check.baseline import Known, judged
from gradscope.compare.comparison import Comparison, Parting, compare
from gradscope.compare.experiments import Experiment
from gradscope.compare.hparams import Hparams
from gradscope.compare.scalars import Curve
from gradscope.records import Finding, Layer, Severity
from gradscope.report.checked import Checked
from gradscope.report.side_by_side import SideBySide
from tests.hand_written_runs import empty_run, run_of, sick_findings, sick_run, sound_run
from tests.report.test_report import HOSTILE, Ascii

GOLDEN = Path(__file__).parent / "golden"


def render(renderable: RenderableType, width: int, colour: bool = False, file: io.StringIO | None = None) -> str:
    file = file or io.StringIO()
    system = "standard" if colour else None
    Console(file=file, width=width, color_system=system, force_terminal=colour, legacy_windows=False).print(renderable)  # type: ignore[arg-type]
    return "".join(f"{line.rstrip(' ')}\n" for line in file.getvalue().splitlines())


def experiments() -> list[Experiment]:
    sick = Experiment(
        sick_run(),
        sick_findings(),
        {"val_acc": Curve(0.11, 0.09, 0.131), "val_loss": Curve(2.31, 2.29, 2.4)},
        Hparams({"activation": "sigmoid", "lr": "0.1", "optimizer.betas.0": "0.9"}),
    )
    sound = Experiment(
        sound_run(),
        (),
        {"val_acc": Curve(0.93, 0.1, 0.951), "val_loss": Curve(0.2, 0.17, 2.3)},
        Hparams({"activation": "selu", "lr": "0.001", "optimizer.betas.0": "0.9"}),
    )
    damaged = Experiment(replace(empty_run(), name="version_2"), (), {}, Hparams(note="hparams.yaml: is damaged"))
    return [sick, sound, damaged]


def comparisons() -> list[Comparison]:
    parting = Parting(120, "encoder.blocks.0.conv", "grad_norm", 1e-6, 0.25, ("encoder.blocks.0.conv", "b"))
    types = {"act1": ("Sigmoid", "SELU")}
    return [
        Comparison("version_0", "version_1", 40, 5, ("head.linear",), ("classifier",), types, parting),
        Comparison("version_2", "version_1", 0, 0, (), ("features.0",), {}, None),
    ]


def check() -> Checked:
    known = [Known("version_0", "dead_relu", sick_findings()[1].layers), Known("version_0", "selu_drift", ("a",))]
    result = judged({"version_0": sick_findings(), "version_1": ()}, [*known, Known("version_7", "dead_relu", ())])
    return Checked(result, 2, Severity.WARNING)


PRINTED: dict[str, RenderableType] = {"compare": SideBySide(experiments(), comparisons()), "check": check()}


@pytest.mark.parametrize("colour", [False, True], ids=["plain", "colour"])
@pytest.mark.parametrize("width", [60, 80, 120])
@pytest.mark.parametrize("name", PRINTED)
def test_golden(name: str, width: int, colour: bool) -> None:
    """To accept what is printed now as right: GRADSCOPE_UPDATE_GOLDEN=1 pytest tests/report; then read it."""
    path = GOLDEN / f"{name}_{width}{'_colour' if colour else ''}.txt"
    text = render(PRINTED[name], width, colour)
    if os.environ.get("GRADSCOPE_UPDATE_GOLDEN"):
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")
    assert ("\x1b" in text) == colour


@pytest.mark.parametrize("width", [60, 80, 120, 300])
def test_every_number_is_shown_at_any_width(width: int) -> None:
    text = render(PRINTED["compare"], width)
    headings = ("loss (lowest)", "val_acc (best)", "val_loss (lowest)", "gradient range", "dead", "update", "records")
    for words in (*headings, "last step", "time", "GradScope", "activation", "2.28 (2.28)", "0.93 (0.951)", "7.9e+03"):
        assert words in text
    assert "betas" not in text, "what is the same in all runs tells nothing"


def hostile() -> list[RenderableType]:
    names = [HOSTILE, "[/]" + "層" * 40, "\x9b31m"]
    several = [
        Experiment(
            run_of(name, [Layer(HOSTILE, name, "linear")], {"grad_norm": 1.0}, globals={"loss": np.full(40, np.inf)}),
            (Finding(name, Severity.WARNING, (name,), 0, 9, name, name),),
            {f"{name}acc{i}": Curve(1.0, 1.0, 1.0) for i in range(9)},
            Hparams({f"{name}{i}": f"{i}{name}" for i in range(20)}, note=""),
        )
        for name in names
    ]
    strange = Comparison(names[1], names[0], 9, 9, (HOSTILE,), (HOSTILE,), {HOSTILE: (HOSTILE, HOSTILE)}, None)
    parting = Parting(1, HOSTILE, HOSTILE, np.inf, 1.0, (HOSTILE,))
    result = judged(
        {name: e.findings for name, e in zip(names, several, strict=True)}, [Known(HOSTILE, "c", (HOSTILE,))]
    )
    return [
        SideBySide(several, [strange, replace(strange, run=names[2], parting=parting)]),
        SideBySide([*several[:1], replace(several[1], hparams=Hparams(note=HOSTILE))]),
        Checked(replace(result, missing_runs=(HOSTILE,)), 3, Severity.CRITICAL),
    ]


@pytest.mark.parametrize("width", [20, 40, 60, 80, 120])
def test_nothing_in_a_log_steers_the_terminal_or_breaks_a_line(width: int) -> None:
    for renderable in hostile():
        for line in render(renderable, width).splitlines():
            assert all(c.isprintable() for c in line)
            assert cell_len(line) <= width
        assert render(renderable, width, file=Ascii()).isascii()


def test_a_check_has_one_line_for_each_finding() -> None:
    lines = render(check(), 60).splitlines()
    assert len(lines) == 6
    assert [line.split()[1] for line in lines[:3]] == ["info", "known", "critical"]
    assert lines[-1] == "failed: 1 new finding in 2 runs, 1 lighter, 1 known, 1 gone"


def test_a_baseline_that_is_sick_itself_is_said_to_be() -> None:
    sick, sound, _ = experiments()
    text = render(SideBySide([sick, sound], [compare(sound.run, sick.run)]), 120)
    assert "version_0 itself has findings: what parts from it may be the sounder one" in text
    assert "itself has findings" not in render(SideBySide([sick, sound], [compare(sick.run, sound.run)]), 120)
