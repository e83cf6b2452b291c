"""``gradscope run`` and GRADSCOPE=1 in real processes: what a script becomes, and that it stays what it was."""

import inspect
import json
import os
import re
import signal
import subprocess
import sys
from argparse import ArgumentParser
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

import gradscope
from gradscope import GradScope
from gradscope.cli.run import add_options
from gradscope.lightning.environment import as_arguments
from gradscope.lightning.options import CHECKS

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "tests" / "unchanged.py"
GROUPS = ("pytorch_lightning.callbacks_factory", "lightning.pytorch.callbacks_factory")
RUN = ("-m", "gradscope", "run")

needs_entry_points = pytest.mark.skipif(
    any("gradscope" not in entry_points(group=group).names for group in GROUPS),
    reason="the installed lightning-gradscope does not offer itself to Lightning: install this one",
)
needs_lightning = pytest.mark.skipif(
    find_spec("lightning") is None, reason="the package `lightning` is not installed beside `pytorch_lightning`"
)


def python(*arguments: str | Path, cwd: Path = ROOT, **environ: str) -> subprocess.CompletedProcess[str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith("GRADSCOPE")}
    path = os.pathsep.join([str(ROOT), kept.pop("PYTHONPATH", "")]).rstrip(os.pathsep)
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env={**kept, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", **environ},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def outcome(folder: Path, done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert done.returncode == 0, done.stderr
    content: dict[str, Any] = json.loads((folder / "outcome.json").read_text())
    return content


# ------------------------------------------------------------------ Trainers of a script that is not changed


@needs_entry_points
@pytest.mark.parametrize(
    "package",
    [
        pytest.param("pytorch_lightning", marks=pytest.mark.slow),
        pytest.param("lightning.pytorch", marks=[needs_lightning, pytest.mark.slow]),
    ],
)
def test_every_trainer_of_a_script_is_watched_and_trains_the_same(package: str, tmp_path: Path) -> None:
    plain, watched = tmp_path / "plain", tmp_path / "watched"
    off = outcome(plain, python(SCRIPT, package, plain))
    done = python(*RUN, "--every-n-steps", "4", SCRIPT, package, watched)
    on = outcome(watched, done)
    for without, with_one in zip(off["fits"], on["fits"], strict=True):
        assert without["callbacks"] == sorted(set(with_one["callbacks"]) - {"AttachedGradScope"})
        assert with_one["callbacks"].count("AttachedGradScope") == 1
        assert with_one["steps"] == [[*range(10), 12]]
        assert with_one["off"] == [{}]
        assert with_one["weights"] == without["weights"]
    assert off["modules"] == [], "Lightning asks, and nothing is imported"
    assert on["argv"] == [str(SCRIPT), package, str(watched)]
    assert [list(run.steps) for run in gradscope.load(watched).values()] == [[*range(10), 12]] * 2
    assert done.stdout.count("net.0") >= 2, "a summary at the end of each fit"
    assert "no Trainer" not in done.stderr


@needs_entry_points
@pytest.mark.slow
@pytest.mark.parametrize("how", ["own", "late", "model"])
def test_a_trainer_that_has_a_gradscope_keeps_that(how: str, tmp_path: Path) -> None:
    done = python(SCRIPT, "pytorch_lightning", tmp_path, how, GRADSCOPE="1")
    for fit in outcome(tmp_path, done)["fits"]:
        assert [name for name in fit["callbacks"] if "GradScope" in name] == ["GradScope"]
        assert fit["steps"] == [[*range(10), 14]]
        assert fit["off"] == [{}]


@needs_entry_points
@pytest.mark.slow
@pytest.mark.parametrize(
    ("environ", "word"),
    [
        ({"GRADSCOPE": "perhaps"}, "`GRADSCOPE` must be 1 or 0, got 'perhaps'"),
        ({"GRADSCOPE": "1", "GRADSCOPE_OPTIONS": "{"}, "`GRADSCOPE_OPTIONS` must be a JSON object, got '{'"),
        ({"GRADSCOPE": "1", "GRADSCOPE_OPTIONS": '{"budget": 7}'}, "`budget` must be a share in (0, 1], got 7"),
    ],
)
def test_an_environment_that_asks_for_nonsense_is_told_and_ends_no_training(
    environ: dict[str, Any], word: str, tmp_path: Path
) -> None:
    done = python(SCRIPT, "pytorch_lightning", tmp_path, **environ)
    assert all("GradScope" not in name for fit in outcome(tmp_path, done)["fits"] for name in fit["callbacks"])
    assert done.stderr.count(word) == 2, "once for each Trainer"


@pytest.mark.slow
@needs_lightning
def test_one_gradscope_sees_the_same_under_both_names_whoever_is_imported_first(tmp_path: Path) -> None:
    def run(package: str, how: str) -> tuple[dict[str, Any], gradscope.Run]:
        folder = tmp_path / f"{package}-{how}"
        result = outcome(folder, python(SCRIPT, package, folder, how))
        assert [fit["off"] for fit in result["fits"]] == [[{}], [{}]]
        header = next((folder / "0" / "csv").rglob("metrics.csv")).read_text().splitlines()[0]
        assert "gradscope/grad_norm/median" in header
        return result, gradscope.load(folder / "0")["."]

    (expected, reference) = run("pytorch_lightning", "own")
    for package, how in [("lightning.pytorch", "own"), ("lightning.pytorch", "first")]:
        result, log = run(package, how)
        assert result["fits"][0]["weights"] == expected["fits"][0]["weights"]
        assert list(log.steps) == list(reference.steps) == [*range(10), 14]
        assert log.metrics.keys() == reference.metrics.keys()
        assert "grad_norm_clipped" in log.metrics
        for name, values in log.metrics.items():
            assert values.tobytes() == reference.metrics[name].tobytes(), name


@pytest.mark.slow
@needs_lightning
@pytest.mark.parametrize("package", ["pytorch_lightning", "lightning.pytorch"])
def test_the_other_package_takes_no_messages_over(package: str) -> None:
    script = (
        f"import {package}, lightning_utilities.core.rank_zero as r; before = r.log; "
        "import gradscope.lightning.callback, sys; "
        "assert {'pytorch_lightning', 'lightning.pytorch'} <= sys.modules.keys(); print(r.log is before, before.name)"
    )
    done = python("-c", script)
    assert (done.returncode, done.stdout) == (0, f"True {package}.utilities.rank_zero\n"), done.stderr


# ------------------------------------------------------------------ a script is what it was


MIRROR = """\
import atexit, pickle, sys
class Thing: pass
def last(): print("last", pickle.dumps(Thing()) is not None, sys.modules["__main__"].__name__)
atexit.register(last)
print(__name__, __file__, sys.argv, sys.path[:2], __spec__ and __spec__.name)
"""
ENDS = {
    "with nothing": "pass",
    "with a status": "sys.exit(7)",
    "with a word": "sys.exit('enough')",
    "with an exception": "def f():\n    1 / 0\ntry:\n    f()\nexcept ZeroDivisionError:\n    {}['key']",
    "with ctrl-c": "raise KeyboardInterrupt",
    "with a hook of its own": "sys.excepthook = lambda *e: print('mine', e[0])\n1 / 0",
    "before it begins": "this is no python",
    "without a good-bye": "import os; sys.stdout.flush(); os._exit(9)",
}


def without_runpy(lines: list[str]) -> list[str]:
    """Return a traceback without the frames of runpy: until Python 3.10 each has a line of source."""
    left_out = {i + j for i, line in enumerate(lines) if re.search(r"[/\\]runpy\.py", line) for j in (0, 1)}
    return [line for i, line in enumerate(lines) if i not in left_out]


@needs_entry_points
@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("as_module", [False, True], ids=["file", "module"])
def test_a_script_ends_as_it_does_by_itself(end: str, as_module: bool, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "train.py").write_text(MIRROR + ENDS[end] + "\n")
    what = ["-m", "folder.train"] if as_module else ["folder/train.py"]
    arguments = ["--every-n-steps", "3", "--", "-m", "--version"]
    expected = python(*what, *arguments, cwd=tmp_path)
    done = python(*RUN, "--exact", *what, *arguments, cwd=tmp_path)
    assert done.returncode == expected.returncode
    assert done.stdout == expected.stdout
    said = "gradscope: no Trainer was made in this process, so that there was nothing to watch\n"
    frames = [line for line in expected.stderr.splitlines(keepends=True) if "<frozen runpy>" not in line]
    if sys.version_info < (3, 11):
        frames = without_runpy(frames)
    assert done.stderr == "".join(frames) + (said if end == "with nothing" else "")


@needs_entry_points
@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGINT to be sent there")
def test_ctrl_c_ends_a_script_as_it_does_by_itself(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text("import time\nprint('ready', flush=True)\ntime.sleep(60)\n")
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    with subprocess.Popen(
        [sys.executable, *RUN, str(script)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environ, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGINT
    assert [line.split(",")[0].strip() for line in err.splitlines() if "File" in line] == [f'File "{script}"']
    assert err.endswith("KeyboardInterrupt\n")


@needs_entry_points
def test_a_folder_with_a_main_is_run_as_python_runs_it(tmp_path: Path) -> None:
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "__main__.py").write_text(
        "import beside, sys\nprint(beside.__file__, sys.argv, __file__, __package__, sys.path[0])\n"
    )
    (tmp_path / "app" / "beside.py").write_text("")
    expected = python("app", "x", cwd=tmp_path)
    done = python(*RUN, "app", "x", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, expected.stdout)
    assert expected.returncode == 0


# ------------------------------------------------------------------ options


def test_there_is_a_flag_for_each_option_and_a_check() -> None:
    parser = ArgumentParser()
    add_options(parser.add_argument_group())
    options = set(inspect.signature(GradScope).parameters)
    assert {action.dest for action in parser._actions} - {"help"} == options
    assert {"every_n_steps", *CHECKS} == options


def test_options_reach_gradscope_through_the_environment() -> None:
    text = '{"thresholds": {"selu_mean": [-1, 1], "dead_fraction": 0.6}, "layers": ["a", "!b"], "log": false}'
    scope = GradScope(**as_arguments(text))
    assert scope.thresholds.selu_mean == (-1, 1)
    assert scope.thresholds.changed() == {"selu_mean": (-1, 1), "dead_fraction": 0.6}
    assert scope._parts == frozenset()


@needs_entry_points
@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ([], "the following arguments are required: SCRIPT; see"),
        (["nothing.py"], "`SCRIPT` must be a Python file that can be read, got 'nothing.py': No such file"),
        (
            ["-m", "no.such.module"],
            "`-m` must be followed by the name of a module that can be run, got 'no.such.module'",
        ),
        (["--every-n-steps", "0", "x.py"], "`every_n_steps` must be at least 1, got 0"),
        (["--every-n-steps", "two", "x.py"], "argument --every-n-steps: invalid int value: 'two'"),
        (["--every-n-steps", "5", "--budget", "0.1", "x.py"], "`every_n_steps` must be left out where `budget`"),
        (["--layers", "!", "x.py"], "`layers` must be a glob pattern or several"),
        (
            ["--thresholds", "dead_fracton=1", "x.py"],
            "`thresholds` must hold fields of gradscope.Thresholds, got 'dead_fracton'; did you mean dead_fraction?",
        ),
        (["--thresholds", "dead_fraction=9", "x.py"], "`dead_fraction` must be a number in (0, 1], got 9"),
        (["--thresholds", "dead_fraction", "x.py"], "expected NAME=VALUE, got 'dead_fraction'"),
        (["--on-finding", "explode", "x.py"], "`on_finding` must name actions among ignore, warn, stop, raise"),
        (["--on-finding", "fatal=stop", "x.py"], "`on_finding` must have keys among info, warning, critical"),
        (["--log", "scalers", "x.py"], "`log` must hold some of tensors"),
        (["--no-log", "--log", "scalars", "x.py"], "argument --log: not allowed with argument --no-log"),
        (["--unknown", "x.py"], "unrecognized arguments: --unknown"),
    ],
)
def test_bad_input_is_one_line_and_2(words: list[str], complaint: str, tmp_path: Path) -> None:
    (tmp_path / "x.py").write_text("print('ran')")
    done = python(*RUN, *words, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert complaint in done.stderr
    assert done.stderr.count("\n") == 1


def test_an_installation_that_lightning_cannot_find_is_told(tmp_path: Path) -> None:
    (tmp_path / "x.py").write_text("print('ran')")
    hidden = "import importlib.metadata as m, sys; m.entry_points = lambda group: m.EntryPoints()"
    done = python("-c", f"{hidden}; from gradscope.cli import main; sys.exit(main(['run', 'x.py']))", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "gradscope: error: Lightning cannot find GradScope among the installed packages; install it anew\n"
    )
