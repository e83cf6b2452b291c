"""A page without TensorBoard, from which a test imports the module it is about."""

from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Browser

from tests.chromium import chromium
from tests.dashboard.modules import Module, served_modules


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    with chromium() as launched:
        yield launched


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
