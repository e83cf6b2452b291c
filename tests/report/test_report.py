import io
import math
import os
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.cells import cell_len
from rich.console import Console, RenderableType

from gradscope.records import Coverage, Finding, Flight, Layer, Ledger, Metric, Overhead, Run, Severity
from gradscope.report import Overview, Report
from gradscope.report.page import shortened
from tests.hand_written_runs import COLUMNS, empty_run, run_of, sick_findings, sick_run, sound_run

GOLDEN = Path(__file__).parent / "golden"
HOSTILE = "[red]x[/red]\x1b[31m\x07\r\n\u202e:smile:[link=http://x]" + "y" * 200


class Ascii(io.StringIO):
    encoding = "ascii"


def render(*renderables: RenderableType, width: int = 100, file: io.StringIO | None = None) -> str:
    file = file or io.StringIO()
    console = Console(file=file, width=width, color_system=None)
    for renderable in renderables:
        console.print(renderable)
    return "".join(f"{line.rstrip(' ')}\n" for line in file.getvalue().splitlines())


def hostile_run(names: Sequence[str]) -> tuple[Run, tuple[Finding, ...]]:
    """Return a run in which `names` stand wherever a name can come from a log."""
    layers = [Layer(f"{name}.{i}", name, name) for i, name in enumerate(names)]
    columns = (*COLUMNS, Metric(names[0], names[0], names[0], {names[0]: (0.0, 1e-9)}))
    run = run_of(
        names[0],
        layers,
        {column.name: 10.0 ** np.arange(-38, -38 + len(layers)) for column in columns},
        columns=columns,
        coverage=Coverage({name: name for name in names}),
        notes=tuple(names),
    )
    severities = (Severity.CRITICAL, Severity.WARNING, Severity.INFO)
    findings = [
        Finding(name, severities[i % 3], tuple(la.name for la in layers), 0, 390, name, name)
        for i, name in enumerate(names)
    ]
    return run, tuple(findings)


RUNS: dict[str, tuple[Run, tuple[Finding, ...]]] = {
    "sick": (sick_run(), sick_findings()),
    "sound": (sound_run(), ()),
    "empty": (empty_run(), ()),
    "no layers": (run_of("r", (), {}, globals={"loss": np.arange(40.0)}), ()),
    "one record": (sound_run(1), ()),
    "no records": (run_of("r", [Layer("fc", "Linear", "linear")], {}, records=0), ()),
    "nothing measured": (run_of("r", [Layer("fc", "Linear", "linear")], {}), ()),
    "200 layers": (
        run_of("r", [Layer(f"blocks.{i}.fc", "Linear", "linear") for i in range(200)], {"grad_norm": np.ones(200)}),
        (),
    ),
    "hostile": hostile_run([HOSTILE, "[/]", "\x9b31m", "\\[bold]", "é" * 90, "\u200d" * 50, "a" + "\u0301" * 40]),
    "wide": hostile_run(["編碼器" * 30, "層.層.層.層.層.層.層.層.層.層.層.層.層.層.層", "활성화" * 9]),
    "infinite": (
        run_of(
            "r",
            [Layer("fc", "Linear", "linear")],
            {c.name: math.inf for c in COLUMNS},
            globals={g: np.full(40, math.inf) for g in ("loss", "total_norm", "clip_coefficient")},
        ),
        (),
    ),
}


@pytest.mark.parametrize("width", [100, 60])
@pytest.mark.parametrize("name", ["sick", "sound"])
def test_golden(name: str, width: int) -> None:
    """To accept what is printed now as right: GRADSCOPE_UPDATE_GOLDEN=1 pytest tests/test_report.py; then read it."""
    path = GOLDEN / f"{name}_{width}.txt"
    text = render(Report(*RUNS[name]), width=width)
    if os.environ.get("GRADSCOPE_UPDATE_GOLDEN"):
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name == "200 layers" else []) for name in RUNS]
)
def test_no_line_exceeds_the_width(name: str) -> None:
    report = Report(*RUNS[name])
    for width in (*range(40, 201, 7), 41, 59, 60, 61, 200):
        lines = render(report, Overview([report, report]), width=width).splitlines()
        assert max(map(cell_len, lines)) <= width
        assert lines[0]


@pytest.mark.parametrize("name", RUNS)
@pytest.mark.parametrize("width", [40, 57, 80, 120, 200])
def test_every_layer_takes_one_line(name: str, width: int) -> None:
    run, findings = RUNS[name]
    lines = render(Report(run, findings), width=width).splitlines()
    if not run.layers:
        return
    header = next(i for i, line in enumerate(lines) if re.match(r"^(  |   )?layer( |$)", line))
    table = lines[header + 1 :]
    end = next((i for i, line in enumerate(table) if not line or line.startswith(("! ", "no room"))), len(table))
    assert end == len(run.layers)


@pytest.mark.parametrize("width", [1, 5, 20])
def test_a_console_too_narrow_for_anything_still_renders(width: int) -> None:
    assert render(Report(*RUNS["sick"]), Overview([Report(*RUNS["sick"])]), width=width)


@pytest.mark.parametrize("name", RUNS)
def test_an_ascii_console_gets_ascii(name: str) -> None:
    text = render(Report(*RUNS[name]), Overview([Report(*RUNS[name])]), width=90, file=Ascii())
    assert text.isascii()
    assert max(map(len, text.splitlines())) <= 90


@pytest.mark.parametrize("name", RUNS)
def test_nothing_in_a_log_steers_the_terminal(name: str) -> None:
    text = render(Report(*RUNS[name]), Overview([Report(*RUNS[name])]))
    assert all(c.isprintable() or c == "\n" for c in text)


def test_markup_is_shown_verbatim() -> None:
    name = "[red]x[/red]"
    run, findings = hostile_run([name])
    text = render(Report(run, findings), Overview([Report(run, findings)]), width=160)
    lines_with_it = [line for line in text.splitlines() if name in line]
    assert len(lines_with_it) >= 8, "run, layer and type, code, layers, message, hint, coverage, note, overview"
    assert text.count("x[/red]") == text.count(name)


def test_escapes_are_made_visible() -> None:
    run, findings = hostile_run(["\x1b[31m\u202e"])
    assert r"\x1b[31m\u202e" in render(Report(run, findings))


def test_what_is_left_out_for_width_is_said_and_the_rest_is_shown() -> None:
    run, findings = RUNS["sick"]
    headings = {"type", "gradient", "history", "update", "mean", "variance", "dead", "zero", "saturated"}
    headings |= {"NaN/inf", "weight", "clipped"}
    for width in (40, 57, 80, 100, 130, 200):
        lines = render(Report(run, findings), width=width)
        shown = set(next(line for line in lines.splitlines() if line.strip().startswith("layer ")).split())
        sentence = re.search(r"no room at this width for: ([\w/,\s]+?)\n\n", lines)
        left_out = set(re.split(r",\s+", sentence[1])) if sentence else set()
        assert shown - {"layer"} | left_out == headings
        assert not shown & left_out
    assert not left_out, "200 columns are enough for all"


def test_rows_are_marked_without_colour() -> None:
    lines = render(Report(*RUNS["sick"])).splitlines()
    table = lines[lines.index("") + 1 :]
    row = {name: line for line in reversed(table[:13]) for name in line.split()[:2]}
    assert row["encoder.blocks.0.conv"].startswith("✖")
    assert row["encoder.blocks.1.relu"].startswith("▲")
    assert row["head.linear"].startswith(" ")
    assert "57 %!" in row["encoder.blocks.1.relu"]
    assert "28 %!" not in row["encoder.blocks.3.relu"]


def test_numbers_are_aligned_whether_marked_or_not() -> None:
    lines = render(Report(*RUNS["sick"])).splitlines()
    assert len({line.index(" %") for line in lines if re.search(r"\.relu .* %", line)}) == 1
    header = next(line for line in lines if "dead" in line)
    assert header.index("dead") + 4 == next(line for line in lines if "71 %!" in line).index("!")


def test_findings_come_most_severe_first() -> None:
    text = render(Report(*RUNS["sick"]))
    assert re.findall(r"^(?:✖|▲|●) (critical|warning|info) ", text, re.MULTILINE) == ["critical", "warning", "info"]


def test_a_sound_run_is_quiet() -> None:
    text = render(Report(*RUNS["sound"]))
    assert "✔ no disease found in 5 layers over 40 records" in text
    assert not set("✖▲●!") & set(text)


@pytest.mark.parametrize("name", ["empty", "one record"])
def test_a_run_too_short_to_judge_is_not_ticked_off(name: str) -> None:
    assert "✔" not in render(Report(*RUNS[name]), Overview([Report(*RUNS[name])]))


def test_mishaps_are_counted() -> None:
    globals_ = {"skipped": np.array([0, 1, math.nan, 1.0]), "nonfinite_loss": np.array([0, 0, 1.0, math.nan])}
    text = render(Report(run_of("r", (), {}, records=4, globals=globals_), ()))
    assert "optimizer step skipped in 2 records" in text
    assert "loss not finite in 1 record\n" in text.replace("   ", "\n")
    assert "skipped" not in render(Report(*RUNS["sound"]))


def test_max_layers_keeps_those_that_findings_name() -> None:
    lines = render(Report(sick_run(), sick_findings()[1:2], max_layers=3)).splitlines()
    assert [line.split()[:2] for line in lines[6:9]] == [
        ["encoder.blocks.0.conv", "1.00e-06"],
        ["▲", "encoder.blocks.0.relu"],
        ["▲", "encoder.blocks.1.relu"],
    ]
    assert lines[9] == "and 9 more layers"


def test_unseen_layers_are_grouped_by_reason() -> None:
    text = render(Report(*RUNS["sick"]))
    assert "● not seen: decoder.proj, decoder.out (it never ran)\n● not seen: torch.relu (a function)\n" in text


def test_many_names_are_counted() -> None:
    run = run_of("r", (), {}, coverage=Coverage({f"m{i}": "unknown" for i in range(9)}))
    assert "not seen: m0, m1, m2, m3, m4, m5 +3 more (unknown)" in render(Report(run, ()))


def test_overview_has_a_line_each() -> None:
    text = render(Overview([Report(*RUNS["sick"]), Report(*RUNS["sound"]), Report(*RUNS["empty"])]))
    assert [" ".join(line.split()) for line in text.splitlines()] == [
        "run verdict records loss",
        "✖ version_0 3 findings: critical vanishing_gradient in 7 layers 57 2.28",
        "✔ version_1 no disease found in 5 layers over 40 records 40 0.17",
        "○ empty nothing was recorded 0",
    ]


@pytest.mark.parametrize(
    ("name", "width", "short"),
    [
        ("encoder.block.relu", 18, "encoder.block.relu"),
        ("encoder.block.relu", 17, "encoder.….relu"),
        ("encoder.layers.11.attention.self.query", 30, "encoder.….11.….self.query"),
        ("encoder.layers.11.attention.self.query", 20, "encoder.….11.….query"),
        ("encoder.layers.11.attention.self.query", 12, "….11.….query"),
        ("encoder.layers.11.attention.self.query", 10, "enc….query"),
        ("unbrokenname", 10, "unb…enname"),
        ("層層層層層層", 7, "層…層層"),
        ("abc", 1, "…"),
        ("abc", 0, ""),
    ],
)
def test_names_lose_their_middle(name: str, width: int, short: str) -> None:
    assert shortened(name, width, "…") == short
    assert cell_len(short) <= width


def broken_run() -> Run:
    """A run whose loss left the ground at the end, with its last steps and all that a fit knows about itself."""
    norms = np.geomspace(1, 1e6, 12, dtype=np.float32)
    norms[-1] = np.inf
    flight = Flight(
        np.arange(20, 32),
        np.append(np.geomspace(1, 100, 11), np.nan),
        ("fc1", "fc2"),
        np.stack((norms, np.full(12, np.nan, dtype=np.float32)), axis=1),
    )
    return run_of(
        "r",
        [Layer("fc1", "Linear", "linear")],
        {"grad_norm": 1.0},
        globals={"loss_scale": np.full(40, 65536.0)},
        coverage=Coverage({"relu()": "called outside of any module's forward"}, {"activation modules": 1_234}),
        overhead=Overhead(40, 1.0, 100.0, 10),
        ledger=Ledger(1_500, 3),
        flights={"non_finite": flight},
    )


def test_what_a_fit_knows_about_itself_is_told() -> None:
    finding = Finding("non_finite", Severity.CRITICAL, ("fc1",), 31, 31, "Born.", "Clamp.")
    text = render(Report(broken_run(), [finding]), width=80)
    assert "3 of 1,500 optimizer steps skipped" in text
    assert "loss scale 65,536" in text
    assert "– measured: 1,234 activation modules" in text
    assert "GradScope took 1 % of 100 s on the host over 40 records, one every 10 steps" in text
    before = text[text.index("Clamp.") :]
    assert "the 12 steps before, steps 20–31" in before
    assert re.search(r"loss 1 → nan +▁▁▂.*█", before)
    assert re.search(r"gradient norm 1 → inf +▁▁▂", before)


def test_an_empty_flight_is_told_too() -> None:
    empty = Flight(np.empty(0, dtype=np.int64), np.empty(0), (), np.empty((0, 0), dtype=np.float32))
    finding = Finding("non_finite", Severity.CRITICAL, (), 0, 0, "Born.", "Clamp.")
    text = render(Report(replace(broken_run(), flights={"non_finite": empty}), [finding]))
    assert "the 0 steps before, none" in text
