"""A fit under GradScope, as a person sees it: TensorBoard's stock dashboards in a real browser."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page
from playwright.sync_api import TimeoutError as NotThere
from pytorch_lightning.loggers import TensorBoardLogger
from torch import nn

from gradscope import GradScope
from tests.end_to_end.tensorboard_server import tensorboard
from tests.models import Batches, Classifier, mlp, trainer

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    logdir = tmp_path_factory.mktemp("logs")
    deep = mlp(nn.Sigmoid, (20, *[16] * 8, 4))
    logger = TensorBoardLogger(logdir, name="", version="fit")
    trainer(GradScope(summary=False), logger=logger).fit(Classifier(deep), Batches(number=20))
    with tensorboard(logdir) as served:
        yield served


def dashboard(browser: Browser, address: str, fragment: str, text: str) -> Page:
    """Open a dashboard and wait until it shows `text`: the server lags a few seconds behind the log."""
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    for _ in range(20):
        page.goto(f"{address}/#{fragment}")
        page.reload()
        try:
            page.get_by_text(text, exact=True).first.wait_for(timeout=3000)
        except NotThere:
            continue
        return page
    raise AssertionError(f"{fragment} never showed {text!r}")


@pytest.mark.parametrize("tag", ["gradscope/grad_norm/median", "gradscope_grad_norm/net.0"])
def test_scalars_are_drawn(tag: str, browser: Browser, address: str) -> None:
    page = dashboard(browser, address, f"scalars&tagFilter={tag}", tag)
    page.locator("path.line, svg path, canvas").first.wait_for(timeout=10_000, state="attached")


def test_the_distribution_is_drawn(browser: Browser, address: str) -> None:
    page = dashboard(browser, address, "distributions", "gradscope/log10_grad_norm_over_layers")
    page.locator("vz-distribution-chart path.area").first.wait_for(timeout=10_000, state="attached")


def test_the_heat_map_is_a_picture(browser: Browser, address: str) -> None:
    page = dashboard(browser, address, "images", "gradscope/heat_map/grad_norm")
    picture = page.locator("img").first
    picture.wait_for(timeout=10_000)
    page.wait_for_function("element => element.naturalWidth > 300", arg=picture.element_handle(), timeout=10_000)


def test_the_verdict_is_a_table(browser: Browser, address: str) -> None:
    page = dashboard(browser, address, "text", "gradscope/verdict")
    table = page.locator("table").first
    table.wait_for(timeout=10_000)
    words = " ".join(table.inner_text().split())
    assert "what happened" in words
    assert "critical vanishing_gradient" in words
    assert "The gradient is lost on the way back: net.0" in words
