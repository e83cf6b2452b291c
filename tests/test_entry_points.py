"""What Lightning and TensorBoard load at their start: whatever lies under the name `gradscope`, they start."""

import os
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from gradscope import lightning_gradscope as offered
from gradscope.dashboard.entry import GradScopeLoader
from gradscope.lightning.attached import AttachedGradScope
from tests.project import PROJECT

POINTS = {group: named["gradscope"] for group, named in PROJECT["entry-points"].items()}

STRANGERS = {
    "another package": {"gradscope/__init__.py": "def vanish(): ..."},
    "a module": {"gradscope.py": ""},
    "what cannot be imported": {"gradscope/__init__.py": "raise ImportError('a bug')"},
    "what is broken": {"gradscope/__init__.py": "1 / 0"},
    "another version": {
        "gradscope/__init__.py": "",
        "gradscope/lightning/environment.py": "",
        "gradscope/dashboard/entry.py": "",
    },
}
"""What stands on the path before the package that was installed: files, and what is in them."""

START = """
import pytorch_lightning
trainer = pytorch_lightning.Trainer(logger=False, enable_checkpointing=False, accelerator="cpu")
print(*[type(c).__name__ for c in trainer.callbacks if "GradScope" in type(c).__name__])
from tensorboard.backend.application import make_plugin_loader
from tensorboard.default import get_dynamic_plugins
loaders = [type(make_plugin_loader(loader)).__name__ for loader in get_dynamic_plugins()]
print(*[name for name in loaders if name in ("GradScopeLoader", "TBLoader")])
"""


def started(folder: Path, files: dict[str, str], **environ: str) -> subprocess.CompletedProcess[str]:
    """Start a Trainer, and load TensorBoard's plug-ins, where this version's metadata lies beside `files`."""
    installed = {
        "lightning_gradscope-99.dist-info/METADATA": "Metadata-Version: 2.1\nName: lightning-gradscope\nVersion: 99\n",
        "lightning_gradscope-99.dist-info/entry_points.txt": "\n".join(
            f"[{group}]\ngradscope = {value}" for group, value in POINTS.items()
        ),
        "lightning_gradscope.py": Path(offered.__file__).read_text(encoding="utf-8"),
    }
    for name, text in {**installed, **files}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    plain = {name: value for name, value in os.environ.items() if not name.startswith("GRADSCOPE")}
    script = f"import sys; sys.path.insert(0, {str(folder)!r})\n{START}"
    return subprocess.run(
        [sys.executable, "-c", script],
        cwd=folder,
        env={**plain, **environ},
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "what", [pytest.param(what, marks=pytest.mark.slow) if number else what for number, what in enumerate(STRANGERS)]
)
def test_lightning_and_tensorboard_start_without_the_package_that_the_metadata_means(what: str, tmp_path: Path) -> None:
    done = started(tmp_path, STRANGERS[what], GRADSCOPE="1")
    assert (done.returncode, done.stdout) == (0, "\nTBLoader\n"), done.stderr
    assert done.stderr.count("GradScope: is off although the environment asks for it (") == 1
    assert done.stderr.count("GradScope: has no tab in TensorBoard (") == 1
    assert done.stderr.count("reinstall lightning-gradscope") == 2


@pytest.mark.slow
def test_a_trainer_that_nobody_asked_to_watch_does_not_touch_the_package(tmp_path: Path) -> None:
    trainer_only = {"gradscope/__init__.py": "print('imported')"}
    done = started(tmp_path, trainer_only)
    assert done.stdout.splitlines()[0] == "", "imported by TensorBoard alone, later"


@pytest.mark.slow
def test_both_find_what_is_there(tmp_path: Path) -> None:
    done = started(tmp_path, {}, GRADSCOPE="1")
    assert (done.returncode, done.stdout) == (0, "AttachedGradScope\nGradScopeLoader\n"), done.stderr


@pytest.mark.parametrize("switch", ["", " ", "0", "off", " No "])
def test_an_environment_that_does_not_ask_gets_nothing(
    switch: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("GRADSCOPE", switch)
    assert offered.callbacks() == []
    assert not caplog.records


@pytest.mark.parametrize("switch", ["1", "true", " ON "])
def test_an_environment_that_asks_gets_a_gradscope_with_its_options(
    switch: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRADSCOPE", switch)
    monkeypatch.setenv("GRADSCOPE_OPTIONS", '{"thresholds": {"dead_fraction": 0.6}}')
    (scope,) = offered.callbacks()
    assert isinstance(scope, AttachedGradScope)
    assert scope.thresholds.dead_fraction == 0.6


@pytest.mark.parametrize(
    ("switch", "options", "told"),
    [
        ("2", "", "`GRADSCOPE` must be 1 or 0, got '2'"),
        ("1", "[]", "`GRADSCOPE_OPTIONS` must be a JSON object, got '[]'"),
        ("1", "{", "`GRADSCOPE_OPTIONS` must be a JSON object, got '{'"),
        ("1", '{"every_n_steps": 0}', "`every_n_steps` must be"),
        ("1", '{"thresholds": {"dead_fractoin": 1}}', "dead_fractoin"),
    ],
)
def test_an_environment_that_asks_for_what_cannot_be_is_told_and_ends_nothing(
    switch: str, options: str, told: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("GRADSCOPE", switch)
    monkeypatch.setenv("GRADSCOPE_OPTIONS", options)
    assert offered.callbacks() == []
    (record,) = caplog.records
    assert record.getMessage().startswith("GradScope: is off, because the environment cannot be followed: ")
    assert told in record.getMessage()


def test_the_metadata_names_nothing_but_the_module_that_stays() -> None:
    assert POINTS == {
        "pytorch_lightning.callbacks_factory": "lightning_gradscope:callbacks",
        "lightning.pytorch.callbacks_factory": "lightning_gradscope:callbacks",
        "tensorboard_plugins": "lightning_gradscope:GradScopeLoader",
    }


def test_what_earlier_metadata_names_is_still_there() -> None:
    # Of an installation that is editable the metadata stays what it was when it was installed.
    for value in ("gradscope.lightning.environment:callbacks", "gradscope.dashboard.entry:GradScopeLoader"):
        assert callable(EntryPoint("gradscope", value, "").load())


def test_the_module_has_what_is_asked_of_it_and_nothing_else() -> None:
    assert offered.GradScopeLoader is GradScopeLoader
    with pytest.raises(AttributeError, match="has no attribute 'tab'"):
        offered.tab  # noqa: B018
