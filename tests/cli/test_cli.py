import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.summary.writer.event_file_writer import EventFileWriter

import gradscope.events.reading
import gradscope.rules
from gradscope import __version__
from gradscope.cli import main
from gradscope.cli.completion import SHELLS
from gradscope.cli.version import _is_installed
from gradscope.events.encoding import Encoder
from gradscope.events.reading import load
from gradscope.records import Finding, Record, Run
from gradscope.rules import diagnose
from gradscope.summary import as_json
from tests.hand_written_runs import sick_findings, sick_run, sound_run

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("COLUMNS", "NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def logs(monkeypatch: pytest.MonkeyPatch) -> dict[str, Run]:
    """The runs that any directory holds: those with rectifiers are sick."""
    runs = {"version_0": sick_run()}

    def judge(run: Run) -> tuple[Finding, ...]:
        return sick_findings() if len(run.layers) > 5 else ()

    monkeypatch.setattr(gradscope.events.reading, "load", lambda logdir: runs)
    monkeypatch.setattr(gradscope.rules, "diagnose", judge)
    return runs


def python(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "FORCE_COLOR")}
    return subprocess.run(
        [sys.executable, "-W", "error", *arguments],
        cwd=ROOT,
        env={**environment, "PYTHONIOENCODING": "utf-8", **environ},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )


def test_one_run_is_reported_alone(logs: dict[str, Run], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["summary", "anywhere", "--width", "120"]) == 0
    out, err = capsys.readouterr()
    golden = (ROOT / "tests" / "report" / "golden" / "summary_120.txt").read_text(encoding="utf-8")
    assert [line.rstrip() for line in out.splitlines()] == golden.splitlines()
    assert err == ""


def test_several_runs_have_an_overview_and_rules_between(
    logs: dict[str, Run], capsys: pytest.CaptureFixture[str]
) -> None:
    logs["version_1"] = sound_run()
    assert main(["summary", "anywhere", "--width", "80"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["run", "verdict", "records", "loss"]
    assert lines[1].startswith("✖  version_0  3 findings")
    assert lines[2].startswith("✔  version_1  no disease found")
    rules = [i for i, line in enumerate(lines) if line == "─" * 80]
    assert [lines[i + 1].split()[0] for i in rules] == ["version_0", "version_1"]


@pytest.mark.parametrize("width", [40, 72])
def test_width_is_kept(width: int, logs: dict[str, Run], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["summary", "anywhere", "--width", str(width)]) == 0
    assert max(map(len, capsys.readouterr().out.splitlines())) <= width


def test_piped_output_is_120_wide_unless_columns_says_otherwise(
    logs: dict[str, Run], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    logs["version_1"] = sound_run()
    monkeypatch.setattr(sys, "stdin", None)
    main(["summary", "anywhere"])
    assert "─" * 120 in capsys.readouterr().out.splitlines()
    monkeypatch.setenv("COLUMNS", "66")
    main(["summary", "anywhere"])
    assert "─" * 66 in capsys.readouterr().out.splitlines()


@pytest.mark.parametrize("environ", [{}, {"NO_COLOR": "1"}, {"TERM": "xterm-256color"}])
def test_piped_output_has_no_escape_codes(
    environ: dict[str, str],
    logs: dict[str, Run],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    main(["summary"])
    assert "\x1b" not in capsys.readouterr().out


def test_a_terminal_gets_colour_unless_no_color_is_set(
    logs: dict[str, Run], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # what rich takes for a terminal
    monkeypatch.setenv("TERM", "xterm-256color")
    main(["summary"])
    assert "\x1b[1;31m" in capsys.readouterr().out
    monkeypatch.setenv("NO_COLOR", "1")
    main(["summary"])
    out = capsys.readouterr().out
    assert "✖" in out
    assert "31m" not in out


def test_json_is_one_object_and_nothing_else(logs: dict[str, Run], capsys: pytest.CaptureFixture[str]) -> None:
    logs["version_1"] = sound_run()
    assert main(["summary", "anywhere", "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out) == {"runs": [as_json(sick_run(), sick_findings()), as_json(sound_run(), ())]}
    assert err == ""


def test_the_log_directory_is_passed_on(logs: dict[str, Run], monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def remember(logdir: str) -> dict[str, Run]:
        asked.append(logdir)
        return logs

    monkeypatch.setattr(gradscope.events.reading, "load", remember)
    main(["summary"])
    main(["summary", "runs/a"])
    assert asked == ["lightning_logs", "runs/a"]


@pytest.mark.parametrize(
    ("argv", "complaint"),
    [
        (["summary", "--width", "0"], "argument --width: expected a number of columns from 20 to 1000, got '0'"),
        (["summary", "--width", "-5"], "argument --width: expected one argument|got '-5'"),
        (["summary", "--width", "wide"], "from 20 to 1000, got 'wide'"),
        (["summary", "--width", "٤٢x"], "from 20 to 1000, got"),
        (["summary", "--width", "1000000000"], "from 20 to 1000, got '1000000000'"),
        (["summary", "a", "b"], "unrecognized arguments: b"),
        (["summary", "--colour"], "unrecognized arguments: --colour"),
        (["sumary"], "invalid choice: 'sumary'"),
    ],
)
def test_a_wrong_command_line_is_one_line_and_2(
    argv: list[str], complaint: str, logs: dict[str, Run], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(argv) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("gradscope: error: ")
    assert any(part in err for part in complaint.split("|"))
    assert "--help`\n" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("error", [FileNotFoundError, ValueError, PermissionError, IsADirectoryError])
@pytest.mark.parametrize("options", [[], ["--json"]])
def test_a_log_that_cannot_be_read_is_one_line_and_2(
    error: type[Exception], options: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(logdir: str) -> dict[str, Run]:
        raise error(f"`{logdir}` is no good\n\x1b[31m")

    monkeypatch.setattr(gradscope.events.reading, "load", fail)
    assert main(["summary", "x", *options]) == 2
    assert capsys.readouterr() == ("", "gradscope: error: `x` is no good  [31m\n")


def test_a_fault_of_our_own_is_not_taken_for_bad_input(logs: dict[str, Run], monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(run: Run) -> tuple[Finding, ...]:
        raise ValueError("a rule is broken")

    monkeypatch.setattr(gradscope.rules, "diagnose", broken)
    with pytest.raises(ValueError, match="a rule is broken"):
        main(["summary"])


def test_without_a_command_it_helps_and_fails(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "gradscope summary runs --json" in err


@pytest.mark.parametrize(
    ("argv", "text"),
    [
        (["--version"], f"gradscope {__version__} (lightning-gradscope)\n"),
        (["--help"], "examples:"),
        (["summary", "--help"], "--width N"),
    ],
)
def test_version_and_help(argv: list[str], text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(argv)
    assert stop.value.code == 0
    assert text in capsys.readouterr().out


@pytest.mark.parametrize("runs", [1, 50], ids=["within the buffer", "beyond the buffer"])
def test_a_closed_pipe_ends_quietly(runs: int, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import sys, gradscope.events.reading, gradscope.rules\n"
        "from tests.hand_written_runs import sound_run\n"
        f"gradscope.events.reading.load = lambda logdir: {{str(i): sound_run() for i in range({runs})}}\n"
        "gradscope.rules.diagnose = lambda run: ()\n"
        "from gradscope.cli import main\n"
        "sys.exit(main(['summary']))\n"
    )
    read, write = os.pipe()
    os.close(read)
    process = subprocess.run(
        [sys.executable, str(script)],
        stdout=write,
        stderr=subprocess.PIPE,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8", "PYTHONUNBUFFERED": ""},
        check=False,
    )
    os.close(write)
    assert (process.returncode, process.stderr) == (0, b"")


def test_an_ascii_terminal_is_no_obstacle(tmp_path: Path) -> None:
    script = "import gradscope.events.reading, gradscope.rules, tests.hand_written_runs as h\n"
    script += "gradscope.events.reading.load = lambda logdir: {'a': h.sick_run(), 'b': h.sound_run()}\n"
    script += "gradscope.rules.diagnose = lambda run: h.sick_findings()\n"
    script += "from gradscope.cli import main; raise SystemExit(main(['summary']))"
    process = python("-c", script, PYTHONIOENCODING="ascii")
    assert (process.returncode, process.stderr) == (0, "")
    assert process.stdout.isascii()
    assert "X critical vanishing_gradient" in process.stdout


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_a_path_without_a_log_is_one_line_and_2(
    options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text").write_text("not an event file")
    (tmp_path / "empty").mkdir()
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "events.out.tfevents.1").write_bytes(os.urandom(300))
    for path in ("missing", "text", "empty", "torn"):
        assert main(["summary", str(tmp_path / path), *options]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith("gradscope: error: `logdir` must ")
        assert path in err
        assert err.count("\n") == 1


def test_the_run_at_the_directory_itself_is_called_after_it(
    logs: dict[str, Run], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    logs.clear()
    logs["."] = replace(sound_run(), name=".")
    main(["summary", f"{tmp_path}/version_7/", "--json"])
    assert json.loads(capsys.readouterr().out)["runs"][0]["name"] == "version_7"


def imports(*argv: str) -> set[str]:
    """Return the top-level modules that ``gradscope argv`` imports."""
    script = (
        "import sys\n"
        "from gradscope.cli import main\n"
        "try:\n    main(sys.argv[1:])\nexcept SystemExit:\n    pass\n"
        "print(*{m.partition('.')[0] for m in sys.modules}, file=sys.stderr)"
    )
    process = python("-c", script, *argv)
    assert process.returncode == 0
    return set(process.stderr.split())


@pytest.fixture
def real_logs(tmp_path: Path) -> Path:
    """A directory with the logs of two runs, as TensorBoard writes them."""
    for run in (sick_run(), sound_run()):
        encoder = Encoder(run.columns)
        writer = EventFileWriter(str(tmp_path / run.name))
        for i, step in enumerate(run.steps):
            metrics = {name: values[i] for name, values in run.metrics.items()}
            totals = {name: float(values[i]) for name, values in run.globals.items()}
            record = Record(int(step), float(run.wall_times[i]), run.layers, metrics, totals)
            writer.add_event(Event(step=record.step, wall_time=record.wall_time, summary=encoder.record(record)))
        writer.add_event(Event(summary=encoder.status(run)))
        writer.close()
    return tmp_path


def test_real_logs_are_judged_by_the_real_rules(real_logs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["summary", str(real_logs), "--json"]) == 0
    sick, sound = json.loads(capsys.readouterr().out)["runs"]
    assert sick == as_json(load(real_logs)["version_0"], diagnose(load(real_logs)["version_0"]))
    assert {"vanishing_gradient", "dead_relu"} <= {finding["code"] for finding in sick["findings"]}
    assert (sound["name"], sound["findings"]) == ("version_1", [])
    assert main(["summary", str(real_logs / "version_1"), "--width", "100"]) == 0
    golden = (ROOT / "tests" / "report" / "golden" / "sound_100.txt").read_text(encoding="utf-8")
    printed = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert printed[: len(golden.splitlines()) - 2] == golden.splitlines()[:-2]
    assert printed[-1] == golden.splitlines()[-1]


def test_summary_does_not_import_torch(real_logs: Path) -> None:
    imported = imports("summary", str(real_logs))
    assert {"tensorboard", "rich"} <= imported
    assert not {"torch", "tensorflow", "lightning", "pytorch_lightning"} & imported


@pytest.mark.parametrize(
    ("argv", "rich"),
    [
        (["compare"], True),
        (["check", "--fail-on", "critical", "--format", "sarif"], False),
        (["export", "--to", "csv"], False),
    ],
)
def test_the_other_readers_of_logs_import_no_more_than_they_need(argv: list[str], rich: bool, real_logs: Path) -> None:
    imported = imports(argv[0], str(real_logs), *argv[1:])
    assert ("tensorboard" in imported, "rich" in imported) == (True, rich)
    assert not {"torch", "tensorflow", "lightning", "pytorch_lightning", "pandas", "pyarrow"} & imported


def test_explain_imports_neither_torch_nor_tensorboard() -> None:
    imported = imports("explain", "dead_relu")
    assert "rich" in imported
    assert not {"torch", "tensorboard", "tensorflow", "lightning", "pytorch_lightning"} & imported


def test_help_imports_nothing_heavy() -> None:
    assert not {"torch", "tensorboard", "rich", "numpy", "lightning", "pytorch_lightning"} & imports("--help")


def test_python_m_gradscope() -> None:
    process = python("-m", "gradscope", "--version")
    assert (process.returncode, process.stdout) == (0, f"gradscope {__version__} (lightning-gradscope)\n")
    process = python("-m", "gradscope", "sumary")
    assert process.returncode == 2


def test_a_report_is_one_file(logs: dict[str, Run], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "report.html"
    assert main(["report", "anywhere", "-o", str(path)]) == 0
    out, err = capsys.readouterr()
    assert (out.startswith(f"{path}: "), err) == (True, "")
    page = path.read_text(encoding="utf-8")
    assert page.startswith("<!doctype html>")
    assert "version_0" in page


def test_a_report_that_cannot_be_written_says_so(
    logs: dict[str, Run], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", "anywhere", "-o", str(tmp_path)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err == (
        f"gradscope: error: `--output` must be a file that can be written, got {str(tmp_path)!r}: Is a directory; "
        "choose another place\n"
    )


def test_the_version_warns_of_a_namesake(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().err == ""
    monkeypatch.setattr("gradscope.cli.version._is_installed", lambda name: name == "gradscope")
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert stop.value.code == 0
    err = capsys.readouterr().err
    assert err.startswith("gradscope: warning: the distribution `gradscope`, by other people, is installed as well")
    assert err.count("\n") == 1


def test_what_is_installed_is_known() -> None:
    assert _is_installed("lightning-gradscope")
    assert not _is_installed("no-such-distribution-anywhere")


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs a bash")
@pytest.mark.parametrize(("typed", "completed"), [("sum", "summary"), ("summary --js", "--json"), ("exp", "explain")])
def test_bash_completes_commands_and_options(typed: str, completed: str, tmp_path: Path) -> None:
    script = tmp_path / "completion"
    script.write_text(python("-m", "gradscope", "completion", "bash").stdout)
    words = ["gradscope", *typed.split()]
    ask = f"source {script}; COMP_WORDS=({' '.join(words)}); COMP_CWORD={len(words) - 1}; _shtab_gradscope"
    done = subprocess.run(
        ["bash", "-c", f'{ask}; echo "${{COMPREPLY[@]}}"'], capture_output=True, text=True, check=True
    )
    assert completed in done.stdout.split()


@pytest.mark.parametrize("shell", SHELLS)
def test_every_shell_has_a_script(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    assert "summary" in capsys.readouterr().out


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
@pytest.mark.parametrize("command", ["explain", "completion bash", "--version"])
def test_a_full_disk_is_one_line_and_2(command: str) -> None:
    arguments = [sys.executable, "-m", "gradscope", *command.split()]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(arguments, stdout=full, stderr=subprocess.PIPE, text=True, check=False, cwd=ROOT)
    assert done.returncode == 2
    assert done.stderr == (
        "gradscope: error: stdout must be a place that can be written to, got one with: No space left on device\n"
    )


def test_what_an_encoding_lacks_is_escaped() -> None:
    done = python("-m", "gradscope", "explain", "selu_misconfigured", "--json", PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["explanations"][0]["code"] == "selu_misconfigured"


def test_ctrl_c_is_no_traceback(logs: dict[str, Run], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(run: Run) -> tuple[Finding, ...]:
        raise KeyboardInterrupt

    monkeypatch.setattr(gradscope.rules, "diagnose", interrupted)
    assert main(["summary", "anywhere"]) == 130
