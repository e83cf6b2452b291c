"""What the browser tests share: a Chromium, real logs, TensorBoards over them, and the tab in front."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from tests.chromium import chromium
from tests.end_to_end.gradscope_page import GradScopePage, opened_tab
from tests.end_to_end.tab_logs import write_logs
from tests.end_to_end.tensorboard_server import listed_runs, tensorboard, wait_until


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as launched:
        yield launched


@pytest.fixture(scope="session")
def logdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("logs")
    write_logs(directory)
    return directory


@pytest.fixture(scope="session")
def server(logdir: Path) -> Iterator[str]:
    """The address of a TensorBoard that has read the logs, with its default reader."""
    with tensorboard(logdir) as address:
        _wait_for_all(address)
        yield address


@pytest.fixture(scope="session")
def server_in_python(logdir: Path) -> Iterator[str]:
    """The same with TensorBoard's other reader."""
    with tensorboard(logdir, "false") as address:
        _wait_for_all(address)
        yield address


@pytest.fixture(scope="module")
def _tab_of_module(browser: Browser, server: str) -> Iterator[GradScopePage]:
    with opened_tab(browser, server) as tab:
        yield tab


@pytest.fixture
def tab(_tab_of_module: GradScopePage) -> Iterator[GradScopePage]:
    """The tab in front, to be pointed at something by `show`; whatever it complains of fails the test."""
    _tab_of_module.reset()
    yield _tab_of_module
    _tab_of_module.complaints.check()


def _wait_for_all(address: str) -> None:
    expected = {"cells": 11, "calm": 11, "fit/selu": 19, "fit/sigmoid": 19}
    wait_until(lambda: {name: run["last_step"] for name, run in listed_runs(address).items()} == expected)
    wait_until(lambda: listed_runs(address)["fit/sigmoid"]["severity"] == "critical")
