"""The check: what is new beside a baseline, how it is printed, and with which status it ends."""

import json
import re
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

import gradscope.events.reading
import gradscope.rules
from gradscope.check.annotations import annotations
from gradscope.check.baseline import (
    DamagedBaselineError,
    Judged,
    Known,
    baseline_of,
    judged,
    read,
    verdict,
    written,
)
from gradscope.check.sarif import sarif
from gradscope.cli import main
from gradscope.explanations import EXPLANATIONS
from gradscope.records import Finding, Run, Severity
from tests.hand_written_runs import sick_findings, sick_run, sound_run

REMARK, WARNING, CRITICAL = sick_findings()
HOSTILE = "a:b,c%\r\n::error::\x1b[31m\u202e"


def of_layers(*layers: str) -> Finding:
    return replace(WARNING, layers=layers)


@pytest.mark.parametrize(
    ("layers", "baseline", "known"),
    [
        (("a",), ["a"], True),
        (("a",), ["a", "b"], True),
        (("a", "b"), ["a"], False),
        (("a",), [], True),
        ((), [], True),
        ((), ["a"], False),
    ],
)
def test_a_finding_is_known_with_all_its_layers(layers: tuple[str, ...], baseline: list[str], known: bool) -> None:
    result = judged({"r": [of_layers(*layers)]}, [Known("r", "dead_relu", tuple(baseline))])
    assert (result.known, result.fails) == ((frozenset([0]), frozenset()) if known else (frozenset(), frozenset([0])))


def test_the_layers_of_several_entries_add_up() -> None:
    entries = [Known("r", "dead_relu", ("a",)), Known("r", "dead_relu", ("b",))]
    assert judged({"r": [of_layers("a", "b")]}, entries).known == {0}


def test_another_run_and_another_code_are_not_known() -> None:
    for entry in (Known("s", "dead_relu", ("a",)), Known("r", "selu_drift", ("a",))):
        assert judged({"r": [of_layers("a")]}, [entry]).fails == {0}


def test_what_is_gone_and_what_is_not_here() -> None:
    entries = [
        Known("r", "selu_drift", ("a",)),
        Known("r", "dead_relu", ("a", "b")),
        Known("r", "clipping_dominates", ()),
        Known("away", "dead_relu", ("a",)),
    ]
    result = judged({"r": [of_layers("b"), replace(REMARK, severity=Severity.INFO)]}, entries)
    assert result.gone == [entries[0], Known("r", "dead_relu", ("a",)), entries[2]]
    assert result.missing_runs == ("away",)


@pytest.mark.parametrize(("fail_on", "fails"), [(Severity.WARNING, {1, 2}), (Severity.CRITICAL, {2})])
def test_only_what_is_severe_enough_fails(fail_on: Severity, fails: set[int]) -> None:
    assert judged({"r": sick_findings()}, [], fail_on).fails == fails


def test_a_baseline_is_read_as_it_was_written_and_holds_no_remarks() -> None:
    baseline = baseline_of({"r": sick_findings(), HOSTILE: [of_layers(HOSTILE)], "sound": []})
    assert [entry.code for entry in baseline] == ["dead_relu", "vanishing_gradient", "dead_relu"]
    assert read(written(baseline)) == baseline
    assert written(baseline).isascii()
    assert read(written([])) == []
    assert not judged({"r": sick_findings()}, baseline).fails


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", "no baseline of gradscope"),
        ('{"version": 1, "findings": []}', "no baseline of gradscope"),
        ('{"format": "gradscope-baseline", "version": 2, "findings": 7}', "format 2, written by a newer GradScope"),
        ('{"format": "gradscope-baseline", "version": true, "findings": []}', "is damaged"),
        ('{"format": "gradscope-baseline", "version": "1", "findings": []}', "is damaged"),
        ('{"format": "gradscope-baseline", "version": 1}', "is damaged"),
        ('{"format": "gradscope-baseline", "version": 1, "findings": [{"run": "r", "code": "c"}]}', "is damaged"),
        (written([Known("r", "c", ("a",))]).replace('"a"', "7"), "is damaged"),
        (written([Known("r", "c", ("a",))]).replace('"r"', "null"), "is damaged"),
    ],
)
def test_a_damaged_baseline_says_why(text: str, why: str) -> None:
    with pytest.raises(DamagedBaselineError, match=why):
        read(text)


def test_annotations_cannot_be_broken_out_of() -> None:
    finding = replace(CRITICAL, message=HOSTILE, hint="100 %", layers=(HOSTILE, "b"))
    (line,) = annotations(judged({HOSTILE: [finding]}, []))
    assert all(c.isprintable() for c in line)
    match = re.fullmatch(r"::error title=([^:,\r\n]*)::(.*)", line)
    assert match is not None
    assert match[1] == "critical vanishing_gradient in 2 layers of a%3Ab%2Cc%25  %3A%3Aerror%3A%3A [31m "
    assert match[2] == "a:b,c%25  ::error:: [31m %0A100 %25%0ALayers: a:b,c%25  ::error:: [31m , b"


def test_annotations_have_the_level_of_the_finding_and_known_ones_are_notices() -> None:
    findings = {"r": sick_findings()}
    levels = [line.split()[0] for line in annotations(judged(findings, []))]
    assert levels == ["::notice", "::warning", "::error"]
    known = list(annotations(judged(findings, baseline_of(findings))))
    assert [line.split()[0] for line in known] == ["::notice"] * 3
    assert "title=known%3A critical vanishing_gradient" in known[2]


def required(content: dict[str, Any], *names: str, optional: str = "") -> None:
    """The properties that the standard requires are there, and none that it does not know."""
    assert set(names) <= set(content) <= {*names, *optional.split()}


def test_sarif_has_what_the_standard_requires() -> None:
    """SARIF 2.1.0: sections 3.13 (log), 3.14 (run), 3.19 (driver), 3.49 (rule), 3.27 (result), 3.28 (location)."""
    runs = {"r": sick_findings(), HOSTILE: [replace(CRITICAL, code="of_the_future", layers=())]}
    result = judged(runs, [Known("r", "dead_relu", WARNING.layers)])
    folders = {"r": PurePosixPath("lightning logs/r"), HOSTILE: PurePosixPath("/tmp/é%")}
    log = json.loads(json.dumps(sarif(result, folders, with_baseline=True), allow_nan=False))
    required(log, "version", "runs", optional="$schema")
    assert log["version"] == "2.1.0"
    (run,) = log["runs"]
    required(run, "tool", "results")
    driver = run["tool"]["driver"]
    required(driver, "name", optional="version semanticVersion rules")
    assert [rule["id"] for rule in driver["rules"]] == list(EXPLANATIONS)
    for rule in driver["rules"]:
        required(rule, "id", optional="name shortDescription fullDescription help")
        assert all(rule[part]["text"] for part in ("shortDescription", "fullDescription", "help"))
    for entry in run["results"]:
        required(
            entry, "message", optional="ruleId ruleIndex level locations partialFingerprints baselineState properties"
        )
        assert entry["message"]["text"]
        assert "ruleIndex" not in entry or driver["rules"][entry["ruleIndex"]]["id"] == entry["ruleId"]
        (location,) = entry["locations"]
        assert re.fullmatch(r"[A-Za-z0-9/:%_.~-]+", location["physicalLocation"]["artifactLocation"]["uri"])
    assert [entry["level"] for entry in run["results"]] == ["note", "warning", "error", "error"]
    assert [entry["baselineState"] for entry in run["results"]] == ["new", "unchanged", "new", "new"]
    assert run["results"][0]["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] == "lightning%20logs/r"
    assert run["results"][3]["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] == "file:///tmp/%C3%A9%25"
    layers = run["results"][1]["locations"][0]["logicalLocations"]
    assert [layer["fullyQualifiedName"] for layer in layers] == list(WARNING.layers)
    assert "ruleIndex" not in run["results"][3]


def test_sarif_says_nothing_of_a_baseline_that_there_is_not() -> None:
    log = sarif(judged({"r": [WARNING]}, []), {"r": PurePosixPath("r")}, with_baseline=False)
    assert "baselineState" not in log["runs"][0]["results"][0]


def test_the_verdict_counts() -> None:
    both = judged({"r": sick_findings()}, [Known("r", "dead_relu", WARNING.layers), Known("r", "selu_drift", ("a",))])
    assert verdict(both, 1, Severity.WARNING) == "failed: 1 new finding in 1 run, 1 lighter, 1 known, 1 gone"
    assert verdict(both, 2, Severity.CRITICAL).startswith("failed: 1 new critical finding in 2 runs")
    assert verdict(Judged(), 3, Severity.WARNING) == "passed: no new finding in 3 runs"


@pytest.fixture
def logs(monkeypatch: pytest.MonkeyPatch) -> dict[str, Run]:
    """The runs that any directory holds: those with rectifiers are sick."""
    runs = {"version_0": sick_run(), "version_1": sound_run()}
    monkeypatch.setattr(gradscope.events.reading, "load", lambda logdir: runs)
    monkeypatch.setattr(gradscope.rules, "diagnose", lambda run: sick_findings() if len(run.layers) > 5 else ())
    return runs


@pytest.mark.parametrize("form", ["text", "github", "sarif", "json"])
def test_the_status_is_the_verdict_in_every_format(
    form: str, logs: dict[str, Run], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    known = str(tmp_path / "known.json")
    assert main(["check", "runs", "--format", form]) == 1
    assert main(["check", "runs", "--format", form, "--write-baseline", known]) == 0
    assert main(["check", "runs", "--format", form, "--baseline", known]) == 0
    del logs["version_0"]
    assert main(["check", "runs", "--format", form]) == 0
    assert capsys.readouterr().err == ""


def test_only_critical_findings_fail_if_told_so(
    logs: dict[str, Run], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gradscope.rules, "diagnose", lambda run: (WARNING,))
    assert main(["check", "--fail-on", "critical"]) == 0
    assert main(["check", "--fail-on", "warning"]) == 1
    monkeypatch.setattr(gradscope.rules, "diagnose", lambda run: (CRITICAL,))
    assert main(["check", "--fail-on", "critical"]) == 1


def test_json_tells_what_is_known(logs: dict[str, Run], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "known.json"
    path.write_text(written([Known("version_0", "dead_relu", WARNING.layers), Known("x", "dead_relu", ())]))
    assert main(["check", "--format", "json", "--baseline", str(path)]) == 1
    content = json.loads(capsys.readouterr().out)
    assert [(f["run"], f["code"], f["known"], f["fails"]) for f in content["findings"]] == [
        ("version_0", "clipping_dominates", False, False),
        ("version_0", "dead_relu", True, False),
        ("version_0", "vanishing_gradient", False, True),
    ]
    assert (content["passed"], content["fail_on"], content["gone"]) == (False, "warning", [])
    assert content["missing_runs"] == ["x"]


@pytest.mark.parametrize(
    ("argv", "complaint"),
    [
        (["--fail-on", "info"], "argument --fail-on: invalid choice: 'info'"),
        (["--format", "xml"], "argument --format: invalid choice: 'xml'"),
        (["--baseline", "none.json"], "got 'none.json': No such file or directory"),
        (["--baseline", "."], "got '.': Is a directory"),
        (["--baseline", "{}/damaged"], "it is not JSON; write it anew"),
        (["--baseline", "{}/binary"], "it is not JSON; write it anew"),
        (["--baseline", "{}/newer"], "it has format 2, written by a newer GradScope; this one reads up to 1"),
        (["--write-baseline", "/none/x"], "`--write-baseline` must be a file that can be written, got '/none/x'"),
        (["--baseline", "a", "--write-baseline", "b"], "not allowed with argument"),
    ],
)
def test_bad_input_is_one_line_and_2(
    argv: list[str], complaint: str, logs: dict[str, Run], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "damaged").write_text("{")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "newer").write_text('{"format": "gradscope-baseline", "version": 2}')
    assert main(["check", *(argument.format(tmp_path) for argument in argv)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert complaint in err
    assert err.startswith("gradscope: error: ")
    assert err.count("\n") == 1


def test_a_run_and_one_below_it_of_the_same_name_are_two(
    logs: dict[str, Run], capsys: pytest.CaptureFixture[str]
) -> None:
    logs.clear()
    logs |= {".": replace(sick_run(), name="."), "a": replace(sick_run(), name="a")}
    main(["check", "runs/a", "--format", "sarif"])
    results = json.loads(capsys.readouterr().out)["runs"][0]["results"]
    places = {r["properties"]["run"]: r["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] for r in results}
    assert places == {"a": "runs/a", "a/a": "runs/a/a"}


def test_names_from_a_log_do_not_steer_the_terminal(
    logs: dict[str, Run], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    logs[HOSTILE] = replace(sick_run(), name=HOSTILE)
    hostile = replace(CRITICAL, code=HOSTILE, layers=(HOSTILE,), message=HOSTILE, hint=HOSTILE)
    monkeypatch.setattr(gradscope.rules, "diagnose", lambda run: (hostile,))
    for form in ("text", "github", "sarif", "json"):
        assert main(["check", "--format", form]) == 1
        assert all(c.isprintable() or c == "\n" for c in capsys.readouterr().out)


def test_what_keeps_a_check_from_being_one_is_said(logs: dict[str, Run], capsys: pytest.CaptureFixture[str]) -> None:
    logs["torn"] = replace(sound_run(), name="torn", notes=("events.1: cut off after 40 records\x1b[31m",))
    logs["short"] = sound_run(records=2)
    logs["short"] = replace(logs["short"], name="short")
    remarks = ["torn: events.1: cut off after 40 records [31m", "short: too few records to be judged"]
    for form in ("text", "github"):
        main(["check", "--format", form, "--width", "120"])
        out = capsys.readouterr().out
        assert all(remark in out for remark in remarks)
    main(["check", "--format", "json"])
    assert set(remarks) <= set(json.loads(capsys.readouterr().out)["remarks"])
