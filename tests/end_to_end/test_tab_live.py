"""The tab while a run is being written, and while its server is away."""

import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
from playwright.sync_api import Browser, expect

from tests.dashboard.served import Log, record
from tests.end_to_end import expected_colours
from tests.end_to_end.gradscope_page import GradScopePage
from tests.end_to_end.tensorboard_server import listed_runs, tensorboard, wait_until

pytestmark = pytest.mark.slow

# Looks at every frame drawn whether there is a picture, and whether the canvas is still the same.
WATCH = """() => {
  const theCanvas = () => document.querySelectorAll('.heatmap canvas.cells')[1];
  const canvas = theCanvas();
  window.flickered = [];
  window.frames_seen = 0;
  const look = () => {
    const now = theCanvas();
    const copy = new OffscreenCanvas(1, 1).getContext('2d', {willReadFrequently: true});
    copy.drawImage(canvas, canvas.width / 2, 10, 1, 1, 0, 0, 1, 1);
    if (now !== canvas || !canvas.checkVisibility()) window.flickered.push('canvas');
    else if (copy.getImageData(0, 0, 1, 1).data[3] !== 255) window.flickered.push('empty');
    if (document.querySelector('.sentence').textContent.includes('Reading')) window.flickered.push('verdict');
    window.frames_seen += 1;
    requestAnimationFrame(look);
  };
  new MutationObserver((changes) => {
    for (const {removedNodes} of changes) {
      for (const node of removedNodes) if (node.contains(canvas)) window.flickered.push('removed');
    }
  }).observe(document.body, {childList: true, subtree: true});
  look();
}"""


class Live:
    """A TensorBoard that can be stopped and started, over a run that grows and one that does not."""

    def __init__(self, logdir: Path) -> None:
        self.logdir = logdir
        self.growing = Log(logdir / "growing" / "events.out.tfevents.1.host").add(*(record(s) for s in range(1, 6)))
        self.done = Log(logdir / "done" / "events.out.tfevents.1.host").add(*(record(s) for s in range(1, 4)))
        self.running = ExitStack()
        self.address = self.start({"growing": 5, "done": 3})

    def start(self, last_steps: Mapping[str, int], port: int | None = None) -> str:
        address = self.running.enter_context(tensorboard(self.logdir, port=port, every=1))
        wait_until(lambda: self.last_steps(address) == last_steps)
        return address

    def stop(self) -> None:
        self.running.close()

    def last_steps(self, address: str) -> dict[str, int]:
        return {name: run["last_step"] for name, run in listed_runs(address).items()}


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    server = Live(tmp_path_factory.mktemp("live"))
    yield server
    server.stop()


@pytest.fixture(scope="module")
def server(live: Live) -> str:
    return live.address


@pytest.fixture
def shown(tab: GradScopePage) -> GradScopePage:
    tab.show(runs="done,growing")
    return tab


def norms(last: int) -> expected_colours.Colours:
    cells = np.array([[s, s + 0.25, s + 0.5] for s in range(1, last + 1)], dtype=np.float32)
    return expected_colours.of_norms(cells)


def asked_for(tab: GradScopePage) -> list[dict[str, str]]:
    """Return the queries to ./matrix since the page was told to forget them."""
    routes = [urlsplit(url) for url in tab.complaints.requests]
    return [{k: v[0] for k, v in parse_qs(url.query).items()} for url in routes if url.path.endswith("/matrix")]


def test_records_appear_by_themselves_and_nothing_flickers(shown: GradScopePage, live: Live) -> None:
    np.testing.assert_allclose(shown.map(1).colours(), norms(5), atol=3)
    shown.complaints.requests.clear()
    shown.evaluate(WATCH)
    live.growing.add(record(6), record(7))
    frame = shown.frame
    frame.locator(".heatmap[aria-label*='growing'][aria-label*='7 records']").wait_for(timeout=20_000)
    shown.settle()
    np.testing.assert_allclose(shown.map(1).colours(), norms(7), atol=3)
    expect(shown.get(".verdict").filter(has_text="growing")).to_contain_text("7 records · steps 1 to 7")
    assert shown.evaluate("window.flickered") == []
    assert shown.evaluate("window.frames_seen") > 20
    asked = asked_for(shown)
    assert {query["run"] for query in asked} == {"growing"}
    assert all(re.fullmatch("[0-9]+_[0-9a-f]{16}", query["after"]) for query in asked)
    assert len(asked) <= 2


def test_a_new_run_is_offered(shown: GradScopePage, live: Live) -> None:
    expect(shown.get(".run-chooser summary")).to_have_text("Runs: 2 of 2")
    Log(live.logdir / "another" / "events.out.tfevents.1.host").add(record(0))
    expect(shown.get(".run-chooser summary")).to_have_text("Runs: 2 of 3", timeout=20_000)
    assert [row.inner_text() for row in shown.get(".maps > figure figcaption").all()] == ["done", "growing"]


def test_a_server_that_goes_away_is_told_and_the_picture_stays(shown: GradScopePage, live: Live) -> None:
    shown.complaints.expect("ERR_CONNECTION_REFUSED")
    shown.complaints.expect("ERR_CONNECTION_RESET")
    shown.complaints.expect("Failed to fetch")
    before = shown.map(1).pixels()
    port, last_steps = urlsplit(live.address).port, live.last_steps(live.address)
    live.stop()
    words = "TensorBoard does not answer; this page goes on trying."
    expect(shown.get(".message.error")).to_have_text(words, timeout=20_000)
    shown.settle()
    assert (shown.map(1).pixels() == before).all()
    assert shown.get(".verdict").count() == 2
    live.start(last_steps, port)
    expect(shown.get(".message")).to_be_hidden(timeout=30_000)
    shown.settle()
    assert (shown.map(1).pixels() == before).all()


def test_without_data_the_page_says_what_to_do(browser: Browser, live: Live) -> None:
    # Where a logdir has none TensorBoard offers no tab, but an address may still lead there.
    with browser.new_page() as page:
        page.route("**/gradscope/runs", lambda route: route.fulfill(json={"runs": []}))
        page.goto(f"{live.address}/#gradscope")
        message = page.frame_locator("iframe[src*='plugin_entry']").locator(".message")
        expect(message).to_contain_text("No run with GradScope data yet. Add GradScope() to the Trainer’s callbacks")
