"""A page without TensorBoard, from which a test imports the module it is about."""

import shutil
from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Browser, sync_playwright

from tests.dashboard.modules import Module, served_modules

FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("needs a Chromium: apt-get install chromium")
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        yield launched
        launched.close()


@pytest.fixture(scope="package")
def address() -> Iterator[str]:
    with served_modules() as served:
        yield served


@pytest.fixture(scope="module")
def module_of(browser: Browser, address: str) -> Iterator[Callable[[str], Module]]:
    """Gives a module of the page by the name of its file."""
    page = browser.new_page()
    page.goto(f"{address}/style.css")  # any address of the server's will do: modules are imported from there
    yield lambda name: Module(page, f"/{name}")
    page.close()
