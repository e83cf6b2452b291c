"""What TensorBoard imports at its start: whatever fails in it, the other tabs stay."""

import argparse
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path
from types import SimpleNamespace

import pytest
from tensorboard.backend.application import TensorBoardWSGIApp
from tensorboard.plugins.base_plugin import TBContext
from tensorboard.plugins.scalar.scalars_plugin import ScalarsPlugin
from werkzeug.test import Client

from gradscope.dashboard.entry import GradScopeLoader
from gradscope.dashboard.plugin import GradScopePlugin
from gradscope.events.decoding import PLUGIN_NAME
from tests.dashboard.served import Tab


def test_the_tab_is_installed() -> None:
    found = [entry for entry in entry_points(group="tensorboard_plugins") if entry.name == "gradscope"]
    assert [entry.load() for entry in found] == [GradScopeLoader]


@pytest.mark.parametrize("module", ["entry", "plugin"])
def test_loads_nothing_that_delays_tensorboard(module: str) -> None:
    script = f"import gradscope.dashboard.{module}, sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    loaded = {name.split(".")[0] for name in done.stdout.split()}
    assert not loaded & {"torch", "pytorch_lightning", "lightning", "rich", "matplotlib"}
    assert ("numpy" in loaded) == (module == "plugin"), "the entry leaves all it can to `load`"


@pytest.mark.parametrize("missing", ["gradscope.dashboard.plugin", "gradscope.records", "numpy"])
def test_a_tab_that_cannot_be_imported_leaves_tensorboard_running(missing: str, tmp_path: Path) -> None:
    script = f"""
import argparse, sys
sys.modules[{missing!r}] = None
from gradscope.dashboard.entry import GradScopeLoader
loader = GradScopeLoader()
flags = argparse.Namespace(samples_per_plugin={{}})
loader.fix_flags(flags)
print(loader.load(argparse.Namespace(data_provider=object(), plugin_name_to_instance={{}})), flags.samples_per_plugin)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "None {'gradscope': 1000}\n"
    assert "GradScope: its tab could not be loaded; all others work" in done.stderr
    assert "ModuleNotFoundError" in done.stderr


def test_a_tab_that_fails_leaves_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: GradScopePlugin, context: TBContext) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(GradScopePlugin, "__init__", fail)
    flags = argparse.Namespace(logdir=str(tmp_path), samples_per_plugin={}, window_title="", path_prefix="")
    app = TensorBoardWSGIApp(flags, [GradScopeLoader(), ScalarsPlugin], Tab(tmp_path).provider)
    client = Client(app)
    assert client.get("/data/plugin/scalars/tags").status_code == 200
    assert client.get("/data/plugin/gradscope/runs").status_code == 404


def test_two_installations_make_one_tab(tmp_path: Path) -> None:
    flags = argparse.Namespace(logdir=str(tmp_path), samples_per_plugin={}, window_title="", path_prefix="")
    app = TensorBoardWSGIApp(flags, [GradScopeLoader(), GradScopeLoader()], Tab(tmp_path).provider)
    assert Client(app).get("/data/plugin/gradscope/runs").status_code == 200


def test_without_a_data_provider_there_is_no_tab() -> None:
    assert GradScopeLoader().load(TBContext(data_provider=None)) is None


@pytest.mark.parametrize(
    ("given", "kept"),
    [({}, {"gradscope": 1000}), ({"gradscope": 5, "images": 3}, {"gradscope": 5, "images": 3})],
)
def test_more_records_are_kept_unless_the_user_said_how_many(given: dict[str, int], kept: dict[str, int]) -> None:
    flags = SimpleNamespace(samples_per_plugin=given)
    GradScopeLoader().fix_flags(flags)
    assert flags.samples_per_plugin == kept


@pytest.mark.parametrize("flags", [None, SimpleNamespace(), SimpleNamespace(samples_per_plugin=None)])
def test_unknown_flags_are_left_alone_which_is_said(flags: object, caplog: pytest.LogCaptureFixture) -> None:
    GradScopeLoader().fix_flags(flags)
    (record,) = caplog.records
    assert record.getMessage().startswith("GradScope: its tab shows few records of each run: AttributeError(")


def test_the_names_agree() -> None:
    assert GradScopePlugin.plugin_name == PLUGIN_NAME
    assert GradScopeLoader.__module__ == "gradscope.dashboard.entry"
